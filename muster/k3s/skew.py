"""Which versions may run side by side in a cluster, and how an upgrade gets there. Pure.

Source of the limits: https://kubernetes.io/releases/version-skew-policy/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from muster.k3s.versions import change_problem, minor, parse

KUBELET_BEHIND = 3
"""How many minor versions a kubelet may be older than the servers."""
_BEHIND_UNTIL_1_27 = 2


@dataclass(frozen=True)
class Member:
    """A node, as far as versions care.

    :param running: version of the kubelet that runs, None where nobody knows.
    :param wanted: ``k3s_version`` of the inventory.
    :param chosen: whether the upgrade is to bring it to the wanted version.
    """

    name: str
    is_server: bool
    running: str | None
    wanted: str
    chosen: bool

    @property
    def after(self) -> str | None:
        """Version when all is done."""
        return self.wanted if self.chosen else self.running

    @property
    def told(self) -> str:
        """Name and running version, for messages."""
        return f"{self.name} (runs {self.running or 'an unknown version'})"


def behind(server: tuple[int, int]) -> int:
    """How many minor versions older than a server a kubelet may be."""
    return KUBELET_BEHIND if server >= (1, 28) else _BEHIND_UNTIL_1_27


def problems(cluster: str, members: Iterable[Member]) -> list[str]:
    """Every rule that an upgrade of a cluster would break; empty if it may begin.

    :param members: all nodes of the cluster, chosen or not.
    """
    members = list(members)
    invalid = [*_invalid(members)]
    if invalid:  # nothing can be compared
        return [f"cluster {cluster}: {text}" for text in invalid]
    found = [*_steps(members), *_servers(members), *_agents(members)]
    return [f"cluster {cluster}: {text}" for text in found]


def _invalid(members: Iterable[Member]) -> Iterator[str]:
    for member in members:
        for version in (member.wanted if member.chosen else None, member.running):
            try:
                parse(version or "v1.0.0+k3s1")
            except ValueError as error:
                yield f"{member.name}: {error}"


def _steps(members: Iterable[Member]) -> Iterator[str]:
    for member in members:
        if member.chosen and (problem := _step(member)):
            yield f"{member.told}: {problem}"


def _step(member: Member) -> str:
    return change_problem(member.running or "", member.wanted)


def _servers(members: Iterable[Member]) -> Iterator[str]:
    """Servers may be one minor version apart, at any moment."""
    servers = [member for member in members if member.is_server]
    unknown = [member for member in servers if member.running is None]
    if any(member.chosen and _step(member) for member in servers):
        return  # told already
    for member in unknown:
        yield f"{member.name}: expected every server to tell its version"
    if unknown or not servers:
        return
    seen = {minor(str(v)): each for each in servers for v in (each.running, each.after)}
    oldest, newest = min(seen), max(seen)
    if newest[0] != oldest[0] or newest[1] - oldest[1] > 1:
        yield (
            f"servers would be more than one minor version apart: {seen[oldest].told},"
            f" {seen[newest].name} comes to v{newest[0]}.{newest[1]}"
        )


def _agents(members: Iterable[Member]) -> Iterator[str]:
    """No kubelet is newer than a server, and none older than Kubernetes allows."""
    members = list(members)
    after = [str(each.after) for each in members if each.is_server and each.after]
    if not after:
        return
    oldest, newest = min(after, key=parse), max(after, key=parse)
    limit = behind(minor(newest))
    for member in members:
        if member.is_server:
            continue
        if member.after and parse(member.after) > parse(oldest):
            yield (
                f"{member.told}: expected no newer version than that of the servers, {oldest},"
                f" got {member.after}"
            )
        if member.running and minor(newest)[1] - minor(member.running)[1] > limit:
            yield (
                f"{member.told}: its kubelet would be more than {limit} minor versions older than"
                f" the servers with {newest}: upgrade it first"
            )
