#!/usr/bin/env bash
# Measures what a rollout costs, called by `make bench`: prints tables, writes figures to build/bench.
# Arguments go to the comparison on emulated devices, such as --rounds 1.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.venv/bin:$PATH PYTHONPATH=$PWD

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

step "The controller alone, over simulated devices"
python tests/benchmarks/controller_scale.py --output build/bench/controller_scale.json

step "One rollout on emulated devices: ssh, Ansible, Muster"
python tests/benchmarks/rollout_means.py --output build/bench/rollout_means.json "$@"
