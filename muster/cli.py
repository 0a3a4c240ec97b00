"""The command ``muster``: which commands there are, and how errors end."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click
from rich.console import Console
from rich.text import Text

import muster
from muster.errors import InputError, MusterError

# Imported when they are called: a command does not wait for the libraries of the others.
_COMMANDS = {
    "abort": "muster.commands.control:abort",
    "approve": "muster.commands.control:approve",
    "catch-up": "muster.commands.catch_up:catch_up",
    "configure": "muster.commands.lifecycle:configure",
    "diff": "muster.commands.diff:diff",
    "doctor": "muster.commands.doctor:doctor",
    "emulate": "muster.commands.emulate:emulate",
    "enroll": "muster.commands.enroll:enroll",
    "firmware": "muster.commands.lifecycle:firmware",
    "history": "muster.commands.look:history",
    "inventory": "muster.commands.inventory:inventory",
    "k3s": "muster.commands.k3s:k3s",
    "monitoring": "muster.commands.monitoring:monitoring",
    "pause": "muster.commands.control:pause",
    "plan": "muster.commands.rollout:plan",
    "prefetch": "muster.commands.prefetch:prefetch",
    "provision": "muster.commands.provision:provision",
    "reboot": "muster.commands.lifecycle:reboot",
    "registry": "muster.commands.prefetch:registry",
    "reject": "muster.commands.control:reject",
    "release": "muster.commands.documents:release",
    "report": "muster.commands.report:report",
    "reset": "muster.commands.lifecycle:reset",
    "resume": "muster.commands.rollout:resume",
    "retire": "muster.commands.retire:retire",
    "rollback": "muster.commands.rollout:rollback",
    "rollout": "muster.commands.rollout:rollout",
    "schema": "muster.commands.documents:schema",
    "site": "muster.commands.site:site",
    "status": "muster.commands.look:status",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name]} is not a command")
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(muster.__version__, prog_name="muster")
def cli() -> None:
    """Bring up sites of edge-AI devices and roll models over them in gated batches.

    \b
    Exit codes: 0 succeeded; 2 invalid input, before anything was touched; 3 rolled back;
    4 rollback failed, or a device is quarantined or unaccounted for; 5 paused
    or waiting for approval; 6 finished with deferred devices; 1 anything else.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    :returns: the exit code.
    """
    try:
        result = cli.main(args=list(arguments), prog_name="muster", standalone_mode=False)
    except click.Abort:
        click.echo("aborted", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MusterError as error:
        _show(error)
        return error.exit_code
    except BrokenPipeError:
        return 1
    return result if isinstance(result, int) else 0


def _show(error: MusterError) -> None:
    console = Console(stderr=True)
    lines = error.problems if isinstance(error, InputError) else str(error).splitlines()
    for line in lines:
        console.print(Text("error: ", style="bold red") + Text(line), soft_wrap=True)
