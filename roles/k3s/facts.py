"""What the K3s roles ask a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from shlex import quote

from pyinfra.api import FactBase

RECORDS = "/usr/local/share/muster-k3s"
"""Folder on a device with the checksums of what was installed."""

NODE_STATE = (
    "{.status.nodeInfo.kubeletVersion}"
    "{range .status.conditions[*]} {.type}={.status}@{.lastHeartbeatTime}{end}"
)
"""What ``kubectl`` is asked to tell of a node: version of the running kubelet, then conditions."""

_SERVER = "/var/lib/rancher/k3s/server"
# An external datastore leaves nothing on the server but the token.
_HAS_DATA = (
    f"{{ [ -d {_SERVER}/db/etcd/member/wal ] || [ -e {_SERVER}/db/state.db ] ||"
    f" {{ [ -s {_SERVER}/token ] &&"
    " grep -qs '^datastore-endpoint:' /etc/rancher/k3s/config.yaml; }; }"
)


@dataclass(frozen=True)
class Host:
    """What K3s needs of a device.

    :param architecture: Debian's name.
    :param container: whether the device is one.
    :param memory_cgroup: whether memory of containers can be limited.
    :param route: whether there is a default route.
    :param cmdline: path of the kernel's command line on a Raspberry Pi, empty elsewhere.
    :param parameters: what is in it.
    """

    architecture: str = ""
    container: bool = False
    memory_cgroup: bool = False
    route: bool = False
    cmdline: str = ""
    parameters: str = ""


class HostState(FactBase[Host]):
    """What K3s needs of a device."""

    def command(self) -> str:
        return (
            'echo "architecture $(dpkg --print-architecture)";'
            ' echo "container $(systemd-detect-virt --container)";'
            " grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null && echo memory;"
            ' awk \'$1 == "memory" && $4 == 1 { print "memory" }\' /proc/cgroups;'
            ' awk \'$2 == "00000000" && $8 == "00000000" { print "route" }\' /proc/net/route;'
            ' awk \'$1 ~ /^0+$/ && $2 == "00" && $10 != "lo" { print "route" }\''
            " /proc/net/ipv6_route 2>/dev/null;"
            " for file in /boot/firmware/cmdline.txt /boot/cmdline.txt; do"
            ' [ ! -f "$file" ] || { echo "cmdline $file $(head -n 1 "$file")"; break; }; done; true'
        )

    @staticmethod
    def default() -> Host:
        return Host()

    def process(self, output: list[str]) -> Host:
        values: dict[str, str] = {}
        for line in output:
            key, _, value = line.partition(" ")
            values[key] = value
        cmdline, _, parameters = values.get("cmdline", "").partition(" ")
        return Host(
            architecture=values.get("architecture", ""),
            container=values.get("container", "none") != "none",
            memory_cgroup="memory" in values,
            route="route" in values,
            cmdline=cmdline,
            parameters=parameters,
        )


@dataclass(frozen=True)
class Node:
    """What there is of K3s on a device.

    :param version: of the binary, empty if there is none.
    :param units: units of K3s that systemd knows, ``active`` or not by name.
    :param has_data: whether it is a server whose datastore has a cluster; a server whose join
        failed is none, though it has a token.
    :param joined: URL that its configuration joins, empty if none.
    :param enabled: names of the units that start with the device.
    """

    version: str = ""
    units: dict[str, str] = field(default_factory=dict)
    enabled: tuple[str, ...] = ()
    has_data: bool = False
    joined: str = ""


class NodeState(FactBase[Node]):
    """What there is of K3s on a device."""

    def command(self) -> str:
        return (
            "timeout 20 /usr/local/bin/k3s --version 2>/dev/null |"
            " sed -n 's/^k3s version /version /p';"
            " for unit in k3s.service k3s-agent.service; do"
            " [ ! -e /etc/systemd/system/$unit ] || echo"
            ' "unit $unit $(systemctl is-active $unit) $(systemctl is-enabled $unit 2>/dev/null)";'
            " done;"
            f" {_HAS_DATA} && echo data;"
            " sed -n 's/^server: */server /p' /etc/rancher/k3s/config.yaml 2>/dev/null; true"
        )

    @staticmethod
    def default() -> Node:
        return Node()

    def process(self, output: list[str]) -> Node:
        version, joined, has_data = "", "", False
        units, enabled = {}, []
        for line in output:
            key, *words = line.split()
            if key == "version" and words:
                version = words[0]
            elif key == "server" and words:
                joined = words[0].strip("'\"")
            elif key == "data":
                has_data = True
            elif key == "unit" and len(words) > 1:
                units[words[0]] = words[1]
                enabled += [words[0]] if words[2:] == ["enabled"] else []
        return Node(version, units, tuple(enabled), has_data, joined)


@dataclass(frozen=True)
class Installed:
    """What of a release is on a device.

    :param binary: SHA-256 of the binary, empty if there is none.
    :param staged: SHA-256 of a new binary that waits, empty if there is none.
    :param sums: checksums that came with a version when it was installed, empty if it was not.
    :param images: SHA-256 of the image archive as it was when it was put there; empty if there is
        none, or if it was changed since.
    """

    binary: str = ""
    staged: str = ""
    sums: str = ""
    images: str = ""


class InstalledArtifacts(FactBase[Installed]):
    """What of a release is on a device."""

    def command(self, version: str) -> str:
        record = quote(f"{RECORDS}/{version}.sums")
        # the archive is large: its size and its time tell whether it is still the one
        return (
            "for file in /usr/local/bin/k3s /usr/local/bin/.k3s.muster-new; do"
            ' [ ! -f $file ] || sha256sum $file | sed "s/^/sum /"; done;'
            f" read -r sum size changed name <{RECORDS}/images 2>/dev/null &&"
            ' [ "$size $changed" = "$(stat -c \'%s %Y\' '
            '"/var/lib/rancher/k3s/agent/images/$name" 2>/dev/null)" ] && echo "images $sum";'
            f' sed "s/^/line /" {record} 2>/dev/null; true'
        )

    @staticmethod
    def default() -> Installed:
        return Installed()

    def process(self, output: list[str]) -> Installed:
        found: dict[str, str] = {}
        lines = []
        for line in output:
            key, _, rest = line.partition(" ")
            if key == "line":
                lines.append(rest)
            elif key == "images":
                found["images"] = rest
            elif key == "sum":
                digest, _, path = rest.partition("  ")
                found["binary" if path == "/usr/local/bin/k3s" else "staged"] = digest
        return Installed(**found, sums="".join(f"{line}\n" for line in lines))


NO_SUCH_NODE = "NotFound"


class Serving(FactBase[str]):
    """What the cluster says of a node, as ``NODE_STATE`` asks; empty if it does not answer.

    ``NO_SUCH_NODE`` if it has no node of that name.
    """

    def command(self, kubeconfig: str, node: str) -> str:
        return (
            f"timeout 15 /usr/local/bin/k3s kubectl --kubeconfig {quote(kubeconfig)}"
            f" get node {quote(node)} --output jsonpath={quote(NODE_STATE)} 2>&1 |"
            f" sed -n -e 's/.*({NO_SUCH_NODE}).*/{NO_SUCH_NODE}/p' -e '/^v[0-9]/p'"
        )

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return output[-1].strip() if output else ""


class Undisturbed(FactBase[bool]):
    """Whether nothing else is done to K3s; what is at work is waited for, for so many seconds.

    What a controller began that has died goes on without it: what is found before its end is stale.
    """

    def command(self, seconds: int) -> str:
        lock = "/run/muster-k3s.lock"
        return (
            f"[ ! -e {lock} ] || flock --shared --timeout {seconds} {lock} true || echo disturbed"
        )

    @staticmethod
    def default() -> bool:
        return True

    def process(self, output: list[str]) -> bool:
        return not output


class DropIns(FactBase[list[str]]):
    """Paths of the files in ``config.yaml.d`` that the role has written.

    Among them those that are gone but kept: their removal was begun, and never found to work.
    """

    def command(self) -> str:
        return (
            "cd /etc/rancher/k3s/config.yaml.d 2>/dev/null &&"
            " ls -d 50-muster-*.yaml .50-muster-*.yaml.muster-before 2>/dev/null; true"
        )

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        names = {line.removeprefix(".").removesuffix(".muster-before") for line in output}
        return [f"/etc/rancher/k3s/config.yaml.d/{name}" for name in sorted(names)]


class StoreSums(FactBase[str]):
    """Checksums that an artifact store has, as the device gets them; empty if it gets none.

    They are fetched with the authorities given as text: the device may not have them yet.
    """

    def command(self, url: str, authorities: str) -> str:
        program = (
            "import ssl, sys, urllib.request as r;"
            " c = ssl.create_default_context(cadata=sys.argv[2] or None);"
            " print(r.urlopen(sys.argv[1], timeout=20, context=c).read(100000).decode())"
        )
        return f"python3 -c {quote(program)} {quote(url)} {quote(authorities)} 2>/dev/null; true"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return "".join(f"{line}\n" for line in output if line.strip())
