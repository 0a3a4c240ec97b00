#!/usr/bin/env bash
# Runs all tests, even after some failed. The last line is the closing line of pytest.
# Molecule and the integration tests run side by side: both mostly wait for devices.
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

log=build/test/molecule.log
mkdir -p build/test
scripts/molecule.sh >"$log" 2>&1 &
molecule=$!
trap 'kill "$molecule" 2>/dev/null' INT TERM

results=build/test/integration.log
printf '\n== integration tests\n'
pytest tests/integration -q 2>&1 | tee "$results" || failed+=("integration tests")

printf '\n== Molecule (%s)\n' "$log"
wait "$molecule" || failed+=("Molecule")
if [[ " ${failed[*]-} " == *" Molecule "* ]]; then
    cat "$log"
else
    sed -n '/SCENARIO RECAP/,$p' "$log"
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed: %s\n' "${failed[*]}"
fi
tail -n 1 "$results"
[ ${#failed[@]} -eq 0 ]
