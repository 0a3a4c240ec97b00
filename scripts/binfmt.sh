#!/usr/bin/env bash
# Lets this machine run programs of arm64, by emulation (qemu-user), or ends that.
#
# This is a setting of the whole machine, until it is removed or the machine restarts. The kernel
# opens the emulator when it is registered (flag F), so that containers need not hold it, and grants
# set-user-id programs their rights (flag C), without which sudo does not work in a device.
#
# usage: binfmt.sh register|remove
#   register  prints "registered" when that was new, nothing when it was there already
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

readonly name=muster-arm64
readonly folder=/proc/sys/fs/binfmt_misc
# the first 20 bytes of every program: 64 bit, little-endian, machine 183 (AArch64); the mask leaves
# out the system's own number and lets programs be position-independent or not
readonly magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
readonly mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

fail() {
    printf 'binfmt: %s\n' "$*" >&2
    exit 1
}

# Run a command as root, or say what a root has to do.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo --non-interactive true 2>/dev/null; }; then
        sudo "$@"
    else
        fail "no rights for this; as root, run: $0 $action"
    fi
}

# Print where the emulator lies. Debian has one that expects the name a program was called by.
emulator() {
    local path
    for path in /usr/libexec/qemu-binfmt/aarch64-binfmt-P /usr/bin/qemu-aarch64-static; do
        if [ -x "$path" ]; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

# Whether some program for arm64 is emulated as devices need it. A later entry wins over older ones.
registered() {
    local entry
    for entry in "$folder"/*; do
        case $entry in */register | */status) continue ;; esac
        if grep -q '^enabled' "$entry" && grep -q '^interpreter .*aarch64' "$entry" &&
            ! grep -q '^interpreter .*aarch64_be' "$entry" &&
            grep -q '^flags:.*C' "$entry" && grep -q '^flags:.*F' "$entry"; then
            return 0
        fi
    done
    return 1
}

register() {
    if [ "$(uname -m)" = aarch64 ]; then return; fi
    if ! emulator >/dev/null || ! command -v arch-test >/dev/null; then
        echo "binfmt: installing qemu-user-static arch-test" >&2
        as_root apt-get --quiet --quiet -o DPkg::Lock::Timeout=300 update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet --yes \
            -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
            install --no-install-recommends qemu-user-static arch-test >&2 ||
            fail "apt-get could not install qemu-user-static and arch-test"
    fi
    if [ ! -e "$folder/register" ]; then
        as_root modprobe --quiet binfmt_misc || true # may be part of the kernel
        as_root mount -t binfmt_misc binfmt_misc "$folder" 2>/dev/null ||
            fail "this kernel has no binfmt_misc, or does not let it be mounted at $folder: arm64 can't be emulated here"
    fi
    if registered; then return; fi
    local path flags=OCF
    path=$(emulator) || fail "qemu-user-static brought no emulator for aarch64"
    case $path in *-P) flags=OCPF ;; esac
    printf ':%s:M::%s:%s:%s:%s' "$name" "$magic" "$mask" "$path" "$flags" |
        as_root tee "$folder/register" >/dev/null ||
        fail "the kernel refuses $path as its emulator for arm64: arm64 can't be emulated here"
    echo registered
}

remove() {
    if [ ! -e "$folder/$name" ]; then return; fi
    echo -1 | as_root tee "$folder/$name" >/dev/null ||
        fail "the kernel keeps $name"
}

action=${1:-}
case $action in
register | remove) "$action" ;;
*) fail "expected register or remove, got ${action:-nothing}" ;;
esac
