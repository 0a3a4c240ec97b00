#!/usr/bin/env bash
# Runs all tests, even after some failed. The last line is the closing line of pytest.
# Molecule and the integration tests run side by side: both often wait for devices.
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

mkdir -p build/test
molecule=build/test/molecule.log integration=build/test/integration.log
scripts/molecule.sh >"$molecule" 2>&1 &
job=$!
trap 'kill "$job" 2>/dev/null' INT TERM

printf '\n== integration tests\n'
pytest tests/integration -q 2>&1 | tee "$integration" || failed+=("integration tests")

printf '\n== Molecule (%s)\n' "$molecule"
if wait "$job"; then
    sed -n '/SCENARIO RECAP/,$p' "$molecule"
else
    failed+=("Molecule")
    cat "$molecule"
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed: %s\n' "${failed[*]}"
fi
tail -n 1 "$integration"
[ ${#failed[@]} -eq 0 ]
