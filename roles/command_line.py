"""What the command ``pyinfra`` lacks for every deploy of this collection; ``config.py`` calls it.

pyinfra 3.10 exits with 0 when a host failed under ``--no-wait``, when ``--limit`` matches no host
and after Ctrl-C, and it connects to every host before a deploy can read its ``--data``.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from pyinfra import state
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_state
from pyinfra_cli.util import parse_cli_arg

from muster.errors import InputError
from muster.paths import COLLECTION_ROOT


def be_honest() -> None:
    """Let no run exit with 0 that failed, reached no host or was interrupted."""
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(_end)
        signal.signal(signal.SIGINT, _interrupted)


def check_data(readers: Mapping[str, Callable[[Mapping[str, Any]], object]]) -> None:
    """Read the ``--data`` of deploys that take any, before anything connects.

    Wrong input ends the program with status 2.

    :param readers: what reads it and raises ``InputError``, by path of the deploy below the
        collection.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    named = {Path(name).resolve() for name in context.params["operations"]}
    pairs = (text.partition("=") for text in context.params["data"])
    data = {name: parse_cli_arg(value) for name, equals, value in pairs if equals}
    for deploy, read in readers.items():
        if (COLLECTION_ROOT / deploy).resolve() not in named:
            continue
        try:
            read(data)
        except InputError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)


def _end() -> None:
    ending = sys.exc_info()[1]
    if not isinstance(ending, SystemExit) or ending.code or not ctx_state.isset():
        return
    if not state.initialised or state.current_stage <= StateStage.Connect:
        return
    if not state.activated_hosts:
        click.echo("No host was reached: see --limit and the inventory.", err=True)
        sys.exit(1)
    if any(results.error_ops for results in state.results.values()):
        sys.exit(1)


def _interrupted(_number: int, _frame: object) -> None:
    click.echo("Interrupted. A switch that is not confirmed goes back by itself.", err=True)
    sys.exit(128 + signal.SIGINT)
