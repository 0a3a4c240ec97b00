"""The files with which nodes join a cluster: made by its first server, copied to the others.

What is in them goes from device to device through the controller's memory: never into a fact,
whose answer could be logged, nor into the arguments of a process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pyinfra import host, inventory
from pyinfra.api import QuoteString, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments

from roles.facts import FACT_SECONDS, PlacedFile, PlacedFiles
from roles.operations import File, placing_steps

_MODE, _OWNER = "600", "root:root"


@dataclass(frozen=True)
class Wanted:
    """A file with a token.

    :param path: on this device.
    :param source: on a server that tells it; None where this device makes it.
    :param servers: names of pyinfra's hosts that may tell it, the best first.
    :param password: instead of one that the device makes.
    """

    path: str
    source: str | None = None
    servers: tuple[str, ...] = ()
    password: str | None = None


def refusal(reason: str) -> StringCommand:
    """Command that fails and says why, and touches nothing."""
    return StringCommand("echo", QuoteString(reason), ">&2;", "exit 1")


def token_steps(tokens: Sequence[Wanted]) -> str:
    """Steps of shell script that write the tokens which are missing or others; empty if none is.

    :raises NoToken: nobody can tell one.
    """
    return "\n".join(step for token in tokens for step in _steps(token))


class NoToken(Exception):  # noqa: N818 (it is an answer)
    """Nobody in this run can tell a token that a device needs."""


def _steps(token: Wanted) -> Iterator[str]:
    here = _placed(host, token.path)
    right = (here.mode, here.owner) == (_MODE, _OWNER)
    if token.source is None:
        if not here.sha256:
            yield from _made(token)
        elif not right:
            yield _protected(token.path)
        return
    for name in token.servers:
        server = inventory.get_host(name)
        if not server.connected:
            continue
        there = _placed(server, token.source)
        if not there.sha256:
            continue
        if there.sha256 != here.sha256:
            yield from _written(token.path, _read(server, token.source))
        elif not right:
            yield _protected(token.path)
        return
    if not here.sha256:
        among = ", ".join(token.servers) or "none of its servers"
        raise NoToken(
            "expected a server of the cluster in this run, as only servers have the token to join;"
            f" got {among}, without one: provision the first server together with this node"
        )
    if not right:
        yield _protected(token.path)


def _placed(device: Any, path: str) -> PlacedFile:
    found = device.get_fact(PlacedFiles, paths=[path], _timeout=FACT_SECONDS)
    return found.get(path, PlacedFile())


def _made(token: Wanted) -> Iterator[str]:
    if token.password is not None:
        yield from _written(token.path, token.password)
        return
    path = quote(token.path)
    yield f"[ -d {quote(token.path.rsplit('/', 1)[0])} ] || mkdir -p -m 755 /etc/rancher/k3s"
    yield (
        f"od -An -v -N32 -tx1 /dev/urandom | tr -d ' \\n' >{path}.new && echo >>{path}.new &&"
        f' sync {path}.new && mv -f -T {path}.new {path} || fail "can\'t make a token"'
    )


def _written(path: str, secret: str) -> Iterator[str]:
    return placing_steps([File(path, secret.rstrip("\n") + "\n", _MODE, _OWNER)], None, None)


def _protected(path: str) -> str:
    return f"chmod {_MODE} {quote(path)} && chown {_OWNER} {quote(path)}"


def _read(server: Any, path: str) -> str:
    arguments, _ = pop_global_arguments(server.state, server, {"_timeout": FACT_SECONDS})
    known = {key: arguments[key] for key in CONNECTOR_ARGUMENT_KEYS if key in arguments}
    status, output = server.run_shell_command(
        StringCommand("cat", QuoteString(path)), print_output=False, print_input=False, **known
    )
    if not status or not output.stdout_lines:
        raise NoToken(f"{server.name} does not tell its token any more")
    return str(output.stdout_lines[0])
