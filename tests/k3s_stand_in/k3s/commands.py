"""Commands of the program, but for those that become another program."""

from __future__ import annotations

from collections.abc import Callable

from .processes import FatalError


def _server(arguments: list[str]) -> int:
    from . import config, server

    server.run(config.load("server", arguments))
    return 0


def _agent(arguments: list[str]) -> int:
    from . import agent, config

    agent.run(config.load("agent", arguments))
    return 0


def _crictl(arguments: list[str]) -> int:
    from . import crictl

    return crictl.run(arguments)


def _token(arguments: list[str]) -> int:
    from . import token_command

    return token_command.run(arguments)


def _etcd_snapshot(arguments: list[str]) -> int:
    from . import snapshots

    return snapshots.run(arguments)


def _certificate(arguments: list[str]) -> int:
    from . import certificate_command

    return certificate_command.run(arguments)


def _secrets_encrypt(arguments: list[str]) -> int:
    from . import small_commands

    return small_commands.secrets_encrypt(arguments)


def _check_config(arguments: list[str]) -> int:
    from . import small_commands

    return small_commands.check_config(arguments)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "server": _server,
    "agent": _agent,
    "crictl": _crictl,
    "token": _token,
    "etcd-snapshot": _etcd_snapshot,
    "certificate": _certificate,
    "secrets-encrypt": _secrets_encrypt,
    "check-config": _check_config,
}
NAMES = ("kubectl", "ctr", *_COMMANDS)


def run(name: str, arguments: list[str]) -> int:
    """Run one command.

    :returns: its exit status.
    :raises FatalError: when it fails, or there is no such command.
    """
    command = _COMMANDS.get(name)
    if command is None:
        raise FatalError(f"No help topic for '{name}'")
    return command(arguments)
