#!/usr/bin/env bash
# Runs Molecule scenarios, all of them if none is named. usage: molecule.sh [SCENARIO...]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/bin:$PATH
names=()
for name in "$@"; do
    names+=(--scenario-name "$name")
done
[ ${#names[@]} -gt 0 ] || names=(--all)
exec molecule --base-config .config/molecule/config.yml test "${names[@]}"
