"""Asking the program ``muster-k3s`` on nodes, for commands; rollouts go through the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster.errors import MusterError
from muster.inventory import Device, pyinfra_data_by_name

if TYPE_CHECKING:
    from muster.fleet.scripts import Ran, ScriptFleet

PROGRAM = "/usr/local/sbin/muster-k3s"
LOOK_SECONDS = 90.0
"""Bound of a question to a node, with the connection."""

UNREACHABLE, NO_PROGRAM = "unreachable", "no_program"


@dataclass(frozen=True)
class Reply:
    """What a node answered.

    :param document: its answer; empty where there is an error.
    :param error: why there is none, in one line; "" where there is one.
    :param code: what kind of error: one of the program, ``unreachable`` or ``no_program``.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    code: str = ""


def read_reply(ran: Ran) -> Reply:
    """What a node meant, from what its program wrote."""
    if ran.error or not ran.connected:
        return Reply(error=ran.error or "no connection", code=UNREACHABLE)
    lines = [line for line in ran.out.splitlines() if line.strip()]
    try:
        document = json.loads(lines[-1])
        if document["ok"]:
            return Reply({key: value for key, value in document.items() if key != "ok"})
        error = document["error"]
        return Reply(error=_one_line(error["message"]), code=str(error["code"]))
    except (IndexError, ValueError, KeyError, TypeError):
        said = next((line for line in reversed(ran.err.splitlines()) if line.strip()), "silence")
        text = f"{PROGRAM} gave no answer ({_one_line(said)[:200]}); run: muster provision"
        return Reply(error=text, code=NO_PROGRAM)


def _one_line(text: object) -> str:
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(shown.split())


class Nodes:
    """Nodes that can be asked.

    :param fleet: reaches all of them.
    """

    def __init__(self, fleet: ScriptFleet) -> None:
        self._fleet = fleet

    def ask(
        self,
        names: Sequence[str],
        verb: str,
        document: Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None = None,
        seconds: float = LOOK_SECONDS,
        progress: Callable[[str], None] = lambda _name: None,
    ) -> dict[str, Reply]:
        """Ask some nodes, side by side.

        :param document: what to send, or what gives it for each node.
        :param seconds: bound for each node, with the connection.
        """

        def command(name: str) -> tuple[str, str]:
            sent = document(name) if callable(document) else document or {}
            return f"{PROGRAM} {verb}", json.dumps(dict(sent))

        ran = self._fleet.run_everywhere(names, command, seconds, progress=progress)
        return {name: read_reply(ran[name]) for name in names}

    def tell(
        self,
        name: str,
        verb: str,
        document: Mapping[str, Any] | None = None,
        seconds: float = LOOK_SECONDS,
    ) -> Mapping[str, Any]:
        """Have one node do something.

        :raises MusterError: it did not, or there was no answer.
        """
        reply = self.ask([name], verb, document, seconds)[name]
        if reply.error:
            raise NodeError(f"{name}: {verb}: {reply.error}", reply.code)
        return reply.document


class NodeError(MusterError):
    """A node did not do what it was told.

    :param code: see :class:`Reply`.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def connected_nodes(devices: Sequence[Device]) -> Iterator[Nodes]:
    """Reach nodes over SSH.

    :raises InputError: connection variables that can't be used.
    """
    from muster.fleet.scripts import ScriptFleet

    fleet = ScriptFleet(pyinfra_data_by_name(devices))
    try:
        yield Nodes(fleet)
    finally:
        fleet.close()
