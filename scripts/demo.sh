#!/usr/bin/env bash
# The main job on an emulated fleet, from nothing: called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

inventory=inventories/emulated
releases=.muster/releases
strategy=examples/trial-strategy.yml
export MUSTER_STATE_DIR="$PWD/.muster/state"
export MUSTER_INVENTORY=$inventory
started=$SECONDS
results=()

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# run EXPECTED-EXIT-CODE WHAT COMMAND...: shows the command, and stops the demo when it ends otherwise
run() {
    local expected=$1 what=$2 began=$SECONDS code=0
    shift 2
    printf '\033[2m$ %s\033[0m\n' "$*"
    "$@" || code=$?
    results+=("$(printf '%4d s  exit %d  %s' $((SECONDS - began)) "$code" "$what")")
    if [ "$code" -ne "$expected" ]; then
        echo "demo: expected exit code $expected, got $code from: $*" >&2
        exit 1
    fi
}

# ask VERSION: shows which version answers on every device, and stops when one answers otherwise
ask() {
    local answers
    answers=$(python -m examples.digits ask --inventory "$inventory")
    echo "$answers"
    if echo "$answers" | awk -v want="$1" '$2 != want { exit 1 }'; then return; fi
    echo "demo: expected $1 on every device" >&2
    exit 1
}

step "Bring up the emulated fleet: 8 devices at 2 sites, and a registry"
run 0 "emulated fleet up" muster emulate up

step "Train the model, build its images, push them to the registry of the fleet"
registry=$(muster emulate up --json | python -c 'import json, sys; print(json.load(sys.stdin)["registry"])')
run 0 "model images published" python -m examples.digits publish --registry "$registry" \
    --ca "$inventory/.state/ca.pem" --output "$releases"

step "Provision the devices over SSH"
run 0 "provision" muster provision
step "Provision again: nothing changes"
run 0 "provision again" muster provision --expect-no-change

step "Roll 1.0 out"
run 0 "roll 1.0 out" muster rollout "$releases/digits-1.0.yml" --strategy "$strategy" \
    --accept-no-rollback --yes
ask 1.0
step "Roll 1.1 out in waves"
run 0 "roll 1.1 out" muster rollout "$releases/digits-1.1.yml" --strategy "$strategy" --yes
ask 1.1
step "Roll 1.3 out, which is ready but answers wrongly: the canary goes back by itself"
run 3 "roll 1.3 out: rolled back" muster rollout "$releases/digits-1.3.yml" \
    --strategy "$strategy" --yes
step "Every device still answers with 1.1"
ask 1.1

step "Summary"
printf '%s\n' "${results[@]}"
cat <<END
$(printf '%4d s' $((SECONDS - started)))  in all

Look around (in this folder):
  export PATH=\$PWD/.venv/bin:\$PATH MUSTER_STATE_DIR=\$PWD/.muster/state
  muster status                       what every device runs
  muster history                      the three rollouts; with an id: all that happened
  muster inventory                    devices by site and hardware
  muster plan $releases/digits-1.2.yml    what a rollout would do
  muster rollback                     back to 1.0
  muster emulate fault cut north-pi-1     break something, then roll out
  ansible -i $inventory/hosts.yml all -m ping    the inventory is Ansible's
  muster emulate down                 take it all down again
END
