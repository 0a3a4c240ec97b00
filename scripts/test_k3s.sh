#!/usr/bin/env bash
# Runs the scenarios with K3s on emulated devices, called by `make test-k3s`. On the stand-in for
# K3s, whose first run builds Kubernetes, or on the real program that K3S_BINARY names; arguments go
# to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/bin:$PATH

if [ -z "${K3S_BINARY:-}" ]; then
    tests/k3s_stand_in/build.sh >/dev/null
elif [ ! -x "$K3S_BINARY" ]; then
    printf 'expected an executable file as K3S_BINARY, got %s\n' "$K3S_BINARY" >&2
    exit 2
fi
# Two files at a time: nodes mostly wait for each other.
pytest tests/k3s -q -n 2 --dist loadfile "$@"
