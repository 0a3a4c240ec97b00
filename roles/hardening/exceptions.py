"""What hardening has to leave alone on an edge device, and why.

``docs/hardening.md`` says the same. Common hardening guides turn several of these off.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A kernel parameter that must not change.

    :param value: the one that is needed.
    :param why: completes "as ...".
    """

    value: str
    why: str


_FORWARDING = "containers and the site link reach the network by IP forwarding"

PARAMETERS_KEPT = {
    "net.ipv4.ip_forward": Kept("1", _FORWARDING),
    "net.ipv4.conf.all.forwarding": Kept("1", _FORWARDING),
    "net.ipv6.conf.all.forwarding": Kept("1", _FORWARDING),
    "net.bridge.bridge-nf-call-iptables": Kept("1", "networks of containers are filtered there"),
    "net.bridge.bridge-nf-call-ip6tables": Kept("1", "networks of containers are filtered there"),
    "kernel.modules_disabled": Kept("0", "drivers, WireGuard and filters are loaded later"),
    "kernel.unprivileged_userns_clone": Kept("1", "rootless containers need user namespaces"),
}

MODULES_KEPT = {
    "vfat": "the boot partition of a Raspberry Pi and every EFI partition are FAT",
    "fat": "the boot partition of a Raspberry Pi and every EFI partition are FAT",
    "squashfs": "snaps and read-only system images are squashfs",
    "overlay": "containers are made of overlay filesystems",
    "bridge": "networks of containers are bridges",
    "br_netfilter": "networks of containers are filtered there",
    "veth": "containers are connected by veth",
    "nf_tables": "the firewall and the container runtime filter with it",
    "wireguard": "the site link is made of it",
    "tun": "the site link in user space is made of it",
    "ext4": "disks are formatted with it",
    "usb_storage": "hardening_usb_storage decides about it",
    "uas": "hardening_usb_storage decides about it",
    "can": "machines on site talk over CAN",
}

MODULES_OFF = (
    # filesystems that nobody plugs in for a good reason
    "cramfs", "freevxfs", "hfs", "hfsplus", "jffs2", "udf",
    # network protocols with a history of holes and no use here
    "ax25", "dccp", "netrom", "rds", "rose", "sctp", "tipc", "x25",
    # memory access from outside
    "firewire-core", "firewire-ohci",
)  # fmt: skip

PARAMETERS = {
    "fs.protected_fifos": 1,
    "fs.protected_hardlinks": 1,
    "fs.protected_regular": 2,
    "fs.protected_symlinks": 1,
    "fs.suid_dumpable": 0,
    "kernel.dmesg_restrict": 1,
    "kernel.kptr_restrict": 1,
    "kernel.randomize_va_space": 2,
    # a person on site syncs the disks of a hanging device with it
    "kernel.sysrq": 16,
    "kernel.unprivileged_bpf_disabled": 1,
    "kernel.yama.ptrace_scope": 1,
    "net.core.bpf_jit_harden": 1,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.all.accept_source_route": 0,
    # loose: an answer may leave by another interface (site link, second uplink)
    "net.ipv4.conf.all.rp_filter": 2,
    "net.ipv4.conf.all.secure_redirects": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.accept_redirects": 0,
    "net.ipv4.icmp_echo_ignore_broadcasts": 1,
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv6.conf.all.accept_redirects": 0,
    "net.ipv6.conf.all.accept_source_route": 0,
    "net.ipv6.conf.default.accept_redirects": 0,
}
"""What the role sets. Forwarding is not among them: the container runtime turns it on."""
