#!/usr/bin/env bash
# Runs the scenario with an emulated arm64 device, called by `make test-arm64`. The first run makes
# the images of such devices, which takes minutes; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/bin:$PATH

# what was not there before does not stay
if [ "$(scripts/binfmt.sh register)" = registered ]; then
    trap 'scripts/binfmt.sh remove' EXIT
fi
pytest tests/arm64 -q --durations=0 "$@"
