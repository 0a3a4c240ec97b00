#!/bin/sh
# written by the role storage
# /var/log in memory: `start BYTES` puts it there, `save` remembers its folders on the disk.
# Services expect the folders of their logs, so these are the same after each start.
set -eu
DISK=/run/muster-logs-on-disk

copy_folders() {
	(cd "$1" && find . -xdev -type d -print0 | tar --null --no-recursion -T - -cf -) |
		tar -xpf - -C "$2"
}

case ${1:-} in
start)
	mkdir -p "$DISK"
	mount --bind /var/log "$DISK"
	mount -t tmpfs -o "size=$2,mode=755,nosuid,nodev,noexec" muster-logs /var/log
	copy_folders "$DISK" /var/log
	;;
save)
	mountpoint -q "$DISK" || exit 0
	copy_folders /var/log "$DISK"
	;;
*)
	echo "usage: muster-logs start BYTES | save" >&2
	exit 2
	;;
esac
