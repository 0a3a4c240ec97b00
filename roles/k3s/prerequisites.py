"""What K3s needs of a device before it can run there. Decisions are pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from shlex import quote

from pyinfra.api import QuoteString, StringCommand, operation

from muster.k3s.versions import change_problem
from roles.k3s import hardening
from roles.k3s.artifacts import ARCHITECTURES
from roles.k3s.facts import Host, Node
from roles.k3s.inputs import K3sVariables
from roles.k3s.tokens import refusal
from roles.operations import File, run_script

MODULES = "/etc/modules-load.d/muster-k3s.conf"
SYSCTL = "/etc/sysctl.d/90-muster-k3s.conf"
CGROUP_PARAMETERS = ("cgroup_memory=1", "cgroup_enable=memory")
UPGRADE = "MUSTER_K3S_UPGRADE"
"""Environment variable with the version to which ``muster k3s upgrade`` takes a node just now."""

_WRITTEN = "# Written by Muster's K3s roles.\n"
_STOPPED = ("inactive", "failed", "unknown")
_MODULES = ("br_netfilter", "overlay")
_SYSCTL = {
    "net.bridge.bridge-nf-call-ip6tables": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
}


def kernel_files(variables: K3sVariables) -> list[File]:
    """Modules and kernel parameters."""
    parameters = _SYSCTL | (hardening.SYSCTL if variables.k3s_hardening else {})
    lines = [f"{name} = {value}\n" for name, value in sorted(parameters.items())]
    return [
        File(MODULES, _WRITTEN + "".join(f"{name}\n" for name in _MODULES)),
        File(SYSCTL, _WRITTEN + "".join(lines)),
    ]


def kernel_takes_effect(container: bool) -> str | None:
    """Shell command after which modules are loaded and parameters hold.

    :param container: whether the device is one: its kernel belongs to its host.
    """
    if container:
        return None
    modules = " ".join(_MODULES)
    # some kernels have IPv6 turned off: what can't be set is no reason to stop
    return f"modprobe --all {modules}; sysctl -q -e -p {SYSCTL}"


def host_problem(host: Host) -> str:
    """Why a device can't be a node, empty if it can; the cgroup is looked at by itself."""
    if host.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"expected one of the architectures {known}, got {host.architecture or 'no answer'}"
    if not host.route:
        return (
            "expected a default route, there is none: K3s finds its own address by it; a route over"
            " a dummy interface is enough"
        )
    return ""


def change_refused(variables: K3sVariables, node: Node) -> str:
    """Why the installed K3s is not replaced in this run, empty if it may be.

    :param node: what there is of K3s.
    """
    version = variables.k3s_version
    other = "k3s-agent.service" if variables.node_role == "server" else "k3s.service"
    if other in node.units:
        was = "an agent" if variables.node_role == "server" else "a server"
        return (
            f"expected a device that is {was} no more, its unit {other} is there:"
            " reset it first, with `muster k3s reset`"
        )
    if problem := change_problem(node.version, version):
        return problem
    # a K3s that ends and is started anew is mostly `activating`
    runs = any(state not in _STOPPED for state in node.units.values())
    if runs and node.version not in ("", version) and os.environ.get(UPGRADE) != version:
        return (
            f"K3s {node.version} runs here, and {version} is wanted:"
            " run `muster k3s upgrade`, which takes one node after the other"
        )
    return ""


def missing_parameters(host: Host) -> tuple[str, ...]:
    """Kernel parameters that a Raspberry Pi lacks to limit memory of containers."""
    present = host.parameters.split()
    return tuple(each for each in CGROUP_PARAMETERS if each not in present)


def _names_root(host: Host) -> bool:
    return any(each.startswith("root=") for each in host.parameters.split())


@operation()
def memory_cgroup(host_state: Host) -> Iterator[StringCommand]:
    """
    Have the kernel limit memory of containers; on a Raspberry Pi by its command line.

    That takes effect with the next start of the device, which is not this operation's to cause:
    it fails and says how to go on.

    + host_state: what the device said of itself
    """
    if not host_state.cmdline:
        yield refusal(
            "expected a kernel that can limit the memory of containers: there is no controller"
            " memory in /sys/fs/cgroup/cgroup.controllers; see the parameters of its boot loader"
        )
        return
    missing = missing_parameters(host_state)
    if missing and not _names_root(host_state):
        # what is written is what was read, and without a root the device would not start again
        yield refusal(
            f"{host_state.cmdline}: expected root= in its first line, it is not there: add"
            f" {' '.join(missing)} to the kernel's parameters by hand"
        )
        return
    if missing:
        line = " ".join([host_state.parameters.strip(), *missing])
        # the boot partition knows no owners
        script = f"""set -eu
new={quote(host_state.cmdline)}.new
cp {quote(host_state.cmdline)} {quote(host_state.cmdline)}.before-k3s
printf '%s\\n' {quote(line)} >"$new"
sync "$new"
mv -f "$new" {quote(host_state.cmdline)}
sync
"""
        yield run_script("kernel-parameters", script, [QuoteString(host_state.cmdline)], 60)
    yield refusal(
        "the kernel limits the memory of containers after the next start of the device: run"
        " `muster reboot` for it, then provision it again"
    )
