"""The one operation that starts K3s, or starts it anew: tokens, files, binary, and then Ready.

All that a start depends on is changed together, so that there is one start for all of it, and so
that all of it can be put back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pyinfra import host, state
from pyinfra.api import QuoteString, StringCommand, operation

from roles.facts import FACT_SECONDS, PlacedFile, PlacedFiles
from roles.k3s.config import BINARY, unit
from roles.k3s.facts import NO_SUCH_NODE, NODE_STATE, DropIns, NodeState, Serving, Undisturbed
from roles.k3s.tokens import NoToken, Wanted, refusal, token_steps
from roles.operations import PLACE_FILES, File, is_as_wanted, placing_steps, run_script

_BRING_UP = (Path(__file__).parent / "bring_up.sh").read_text(encoding="utf-8")
_SPARE_SECONDS = 180


@dataclass(frozen=True)
class Bringing:
    """What a node is brought to.

    :param role: ``server`` or ``agent``.
    :param node: its name in the cluster.
    :param version: that its kubelet must be.
    :param binary: SHA-256 of the binary.
    :param voter: whether it must be a voter of embedded etcd.
    :param seconds: in which it must be Ready after a start.
    :param others: names of pyinfra's hosts in the run that are servers of the cluster, too.
    """

    role: str
    node: str
    version: str
    binary: str
    voter: bool
    seconds: int
    others: tuple[str, ...] = ()

    @property
    def kubeconfig(self) -> str:
        """With what the node is looked at, on the node itself."""
        if self.role == "server":
            return "/etc/rancher/k3s/k3s.yaml"
        return "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"


@operation()
def brought_up(
    bringing: Bringing, tokens: Sequence[Wanted], files: Sequence[File]
) -> Iterator[StringCommand]:
    """
    Have a node run K3s as it should be, with one start at most, and wait until it is Ready.

    When it does not come up, the former binary and files are put back and started; a server that
    has become a member of the others' etcd by its first start stays as it is. What another run has
    begun there is waited for before anything is decided.

    + bringing: what the node is brought to
    + tokens: files with which it joins, or with which others join
    + files: files after whose change K3s has to start again
    """
    name = unit(bringing.role)
    seconds = 2 * bringing.seconds + _SPARE_SECONDS
    if not host.get_fact(Undisturbed, seconds=seconds, _timeout=seconds + FACT_SECONDS):
        busy = f"something else is done to K3s on {bringing.node}"
        yield refusal(f"{busy}, nothing was changed: try again later")
        return
    try:
        missing = token_steps(tokens)
    except NoToken as error:
        yield refusal(str(error))
        return
    if missing:
        words = [QuoteString(token.path) for token in tokens]
        yield run_script("k3s-tokens", f"{PLACE_FILES}\n{missing}", words, FACT_SECONDS)
    paths = [file.path for file in files]
    present = host.get_fact(PlacedFiles, paths=[*paths, BINARY], _timeout=FACT_SECONDS)
    wrong = [file for file in files if not is_as_wanted(file, present.get(file.path, PlacedFile()))]
    obsolete = [p for p in host.get_fact(DropIns, _timeout=FACT_SECONDS) if p not in paths]
    binary = present.get(BINARY, PlacedFile())
    replaced = binary.sha256 != bringing.binary or binary.unfinished
    found = host.get_fact(NodeState, _timeout=FACT_SECONDS)
    runs = found.units.get(name) == "active" and name in found.enabled
    told = host.get_fact(
        Serving, kubeconfig=bringing.kubeconfig, node=bringing.node, _timeout=FACT_SECONDS
    )
    restart = bool(wrong or obsolete or replaced or not runs or is_other(told, bringing))
    if not restart and is_serving(told, bringing):
        host.noop(f"{bringing.node} runs K3s {bringing.version} and is Ready")
        return
    failed = {each.name for each in state.failed_hosts}
    if restart and (problem := others_problem(bringing, failed)):
        yield refusal(problem)
        return
    script = bring_up_script(
        bringing, wrong, obsolete,
        replaced=replaced, restart=restart, lost=told == NO_SUCH_NODE,
    )  # fmt: skip
    yield run_script("bring-up-k3s", script, [QuoteString(bringing.node)], seconds)


@dataclass(frozen=True)
class Start:
    """What a node is brought to, and by what: the arguments of ``brought_up``."""

    bringing: Bringing
    tokens: tuple[Wanted, ...]
    files: tuple[File, ...]


@operation()
def take_turn(start: Start | None) -> Iterator[StringCommand]:
    """
    Bring a node up if it is its turn, and else wait.

    + start: what the node is brought to, None if it is the turn of others
    """
    if start is None:
        host.noop("it is the turn of others")
        return
    yield from brought_up._inner(start.bringing, start.tokens, start.files)


def others_problem(bringing: Bringing, failed: Collection[str]) -> str:
    """Why K3s is not started on a node because of others, empty if it is.

    :param failed: names of the hosts that have failed in this run.
    """
    away = [name for name in bringing.others if name in failed]
    hint = "to go on without it, limit the run to this device"
    if bringing.role == "server" and away:
        # two servers that are away at a time may be too many for etcd
        return f"the server {', '.join(away)} failed before, so this one stays as it is; {hint}"
    if away and len(away) == len(bringing.others):
        return f"no server of the cluster serves ({', '.join(away)} failed), so nothing is changed"
    return ""


def is_serving(told: str, bringing: Bringing) -> bool:
    """Whether a node is what it should be.

    :param told: in the form of ``NODE_STATE``.
    """
    version, *conditions = told.split() or [""]
    states = {each.partition("@")[0] for each in conditions}
    voter = not bringing.voter or "EtcdIsVoter=True" in states
    return version == bringing.version and "Ready=True" in states and voter


def is_other(told: str, bringing: Bringing) -> bool:
    """Whether another version runs than the one that was installed, or for no node of the cluster.

    A kubelet makes its node when it starts, and then never again.
    """
    version = told.partition(" ")[0]
    return version not in ("", bringing.version)


def bring_up_script(
    bringing: Bringing,
    wrong: Sequence[File],
    obsolete: Sequence[str],
    *,
    replaced: bool,
    restart: bool,
    lost: bool,
) -> str:
    """Shell script that changes what has to be changed, starts K3s and waits.

    :param wrong: files to be replaced.
    :param obsolete: paths of files to be removed.
    :param replaced: whether a new binary is to be put in place; it is staged, or already there.
    :param restart: whether K3s has to start; else it is waited for alone.
    :param lost: whether the cluster has no such node any more.
    """
    head = {
        "unit": unit(bringing.role),
        "role": bringing.role,
        "node": bringing.node,
        "kubeconfig": bringing.kubeconfig,
        "seconds": str(bringing.seconds),
        "voter": str(int(bringing.voter)),
        "jsonpath": NODE_STATE,
        "absent": " ".join(obsolete),
        "lost": "yes" if lost else "",
    }
    values = "\n".join(f"{name}={quote(value)}" for name, value in head.items())
    version = quote(bringing.version)
    if not restart:
        lines = [f"wait_until_ready {version} 0 || {{ explain; fail 'nothing was changed'; }}"]
    else:
        *staging, _put = placing_steps(list(wrong), "check_configuration", None)
        paths = " ".join(quote(file.path) for file in wrong)
        gone = " ".join(quote(path) for path in obsolete)
        executable = quote(BINARY) if replaced else ""
        every = " ".join(part for part in (executable, paths, gone) if part)
        lines = [
            "alone",
            f"clear_staged {bringing.binary}",
            *staging,
            f"keep {every}",
            f'[ -z "{executable}" ] || binary_in_place {bringing.binary}',
            f"put_in_place {paths}",
            *([f"rm -f {gone}"] if gone else []),
            "links",
            f"start_and_wait {version} || go_back {every}",
            f"forget {every}",
            *(["ask_for_models"] if lost else []),
        ]
    body = "\n".join(lines)
    return f"{values}\n{PLACE_FILES}\n{_BRING_UP}\nbring_up() {{\n{body}\n}}\nbring_up </dev/null\n"
