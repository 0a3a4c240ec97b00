"""Who may use an accelerator: rules of udev, in place of the vendors' that let in everybody."""

from __future__ import annotations

from collections.abc import Sequence

from roles.operations import File


def rules_file(role: str, rules: Sequence[str]) -> File:
    """Rules of udev of a role. The number puts them behind those of vendors, so that they win."""
    text = "\n".join([f"# written by the role {role}", *rules]) + "\n"
    return File(f"/etc/udev/rules.d/99-muster-{role}.rules", text)


def take_up(subsystems: str, group: str, nodes: str) -> str:
    """Shell command that applies new rules to what is there.

    :param subsystems: names of udev, separated by blanks.
    :param nodes: pattern of device nodes; where udev does not run they are changed themselves.
    """
    return f"""
if systemctl is-active --quiet systemd-udevd.service; then
	udevadm control --reload || exit
	for subsystem in {subsystems}; do
		udevadm trigger --subsystem-match=$subsystem || exit
	done
	udevadm settle --timeout=20
fi
for node in {nodes}; do
	[ ! -c "$node" ] || {{ chgrp {group} "$node" && chmod 0660 "$node"; }} || exit
done
true"""
