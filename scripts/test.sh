#!/usr/bin/env bash
# Runs all tests, even after some failed. The last line is the closing line of pytest.
# usage: test.sh, in the environment that setup.sh makes
set -uo pipefail
cd "$(dirname "$0")/.." || exit
PATH=$PWD/.venv/bin:$PATH

failed=()
run() {
    local what=$1
    shift
    printf '\n== %s\n' "$what"
    "$@" || failed+=("$what")
}

run "unit tests" pytest tests/unit -n auto -q
run "Molecule" molecule test --all
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed so far: %s\n' "${failed[*]}"
fi
run "integration tests" pytest tests/integration -q
[ ${#failed[@]} -eq 0 ]
