#!/usr/bin/env bash
# The floor: the same waves with nothing but ssh. One shared connection for each device, one command
# for each step, all devices of a wave at once; a device that fails goes back and stops the rest.
#
# usage: ssh_loop.sh SSH-CONFIG WAVES IMAGE SECONDS
#   WAVES  file with a line for each wave: addresses, separated by spaces
set -uo pipefail
config=$1 waves=$2 image=$3 seconds=$4

on() { ssh -n -F "$config" "$1" sudo /etc/bench/steps "${@:2}"; }

device() {
    on "$1" write "$image" && on "$1" switch && on "$1" check "$seconds" && return
    on "$1" back
    return 1
}

while read -r -a wave; do
    failed=0 under_way=()
    for address in "${wave[@]}"; do
        device "$address" &
        under_way+=($!)
    done
    for process in "${under_way[@]}"; do
        wait "$process" || failed=$((failed + 1))
    done
    if [ "$failed" -gt 0 ]; then
        echo "$failed of ${#wave[@]} devices failed" >&2
        exit 3
    fi
done <"$waves"
