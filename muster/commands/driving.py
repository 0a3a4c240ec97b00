"""Driving a rollout from a command: options, display, signals, hooks, reports and exit code."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from muster.commands.options import hooks_option, webhook_option
from muster.commands.prefetch import fill_ahead
from muster.display import counted, make_console, observer, styled
from muster.fleet.interface import Fleet
from muster.hooks.calls import HookObserver, open_hooks
from muster.inventory import Inventory
from muster.prefetch.sites import Ahead
from muster.rollout import controller, report
from muster.rollout.engine import Engine
from muster.rollout.journal import Journal
from muster.rollout.machine import RolloutState
from muster.rollout.records import Snapshot

_TICK_SECONDS = 0.5


def _writable(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Find out before a rollout that its report can't be written."""
    if path is not None:
        try:
            path.open("a").close()
        except OSError as error:
            raise click.BadParameter(f"{path}: {error.strerror}") from None
    return path


junit_option = click.option(
    "--junit",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_writable,
    help="Write JUnit XML to FILE.",
)
events_option = click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON, one a line."
)
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Where a wave needs approval, wait for `muster approve` instead of ending with code 5.",
)


@dataclass(frozen=True)
class Driving:
    """How a rollout is driven and shown.

    :param junit: where JUnit XML goes; None for nowhere.
    :param wait: stay until somebody approves.
    """

    junit: Path | None
    as_json: bool
    hooks_folder: Path | None
    webhook_url: str | None
    wait: bool

    def run(self, journal: Journal, snapshot: Snapshot, fleet: Fleet, inventory: Inventory) -> int:
        """Drive a rollout as far as it goes.

        :returns: the exit code.
        """
        console = make_console()
        ahead = fill_ahead(snapshot, inventory, quiet=self.as_json)
        display = observer(console, snapshot, as_json=self.as_json)
        with contextlib.ExitStack() as stack:
            hooks = stack.enter_context(open_hooks(self.hooks_folder, self.webhook_url))
            if isinstance(display, contextlib.AbstractContextManager):
                stack.enter_context(display)
            record = controller.drive(
                journal,
                snapshot,
                fleet,
                inventory.devices,
                [display, HookObserver(hooks, snapshot)],
                hooks=hooks,
                wait_for_approval=self.wait,
                tick=_TICK_SECONDS if console.is_terminal and not self.as_json else None,
                lacking=ahead.lacking,
                on_engine=lambda engine: _begin(engine, stack, ahead),
            )
        snapshot, events = journal.load(record.id), journal.events(record.id)
        if self.junit is not None:
            self.junit.write_text(report.junit(snapshot, events), encoding="utf-8")
        result = report.summary(snapshot, events)
        if self.as_json:
            click.echo(json.dumps({"event": "result", **result}))
        else:
            _show_result(console, result)
        return record.exit_code if record.exit_code is not None else 1


def driving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ``Driving``, in one argument ``driving``."""

    @functools.wraps(command)
    def wrapper(
        *args: Any,
        junit: Path | None,
        as_json: bool,
        hooks_folder: Path | None,
        webhook_url: str | None,
        wait: bool,
        **others: Any,
    ) -> Any:
        driving = Driving(junit, as_json, hooks_folder, webhook_url, wait)
        return command(*args, driving=driving, **others)

    for option in (events_option, wait_option, webhook_option, hooks_option, junit_option):
        wrapper = option(wrapper)
    return wrapper


def _begin(engine: Engine, stack: contextlib.ExitStack, ahead: Ahead) -> None:
    stack.enter_context(_pause_on_interrupt(engine))
    for text in ahead.told:
        engine.say(text)


@contextmanager
def _pause_on_interrupt(engine: Engine) -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        engine.stop("stopped by the operator")
        signal.signal(signal.SIGINT, leave)

    def leave(_signal: int, _frame: object) -> None:
        # The cursor, which the live display had hidden, and what happens now.
        click.echo(
            "\x1b[?25h\nstopped at once: switches that are not confirmed go back by themselves;"
            " muster resume goes on",
            err=True,
        )
        os._exit(1)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_result(console: Console, result: dict[str, Any]) -> None:
    console.print()
    console.print(
        Text.assemble(
            f"{result['kind']} {result['rollout']}: ",
            styled(result["state"]),
            f"  {result['reason']}",
        ),
        soft_wrap=True,
    )
    for wave in result["waves"]:
        console.print(
            f"  wave {wave['index'] + 1} ({wave['name']}): {counted(wave['devices'], 'device')} in"
            f" {wave['seconds']:.1f} s; its slowest, {wave['slowest_device']},"
            f" took {wave['slowest']:.1f} s"
        )
    most = max((device["commands"] for device in result["devices"]), default=0)
    if most:
        console.print(f"  at most {counted(most, 'SSH command')} on a device")
    for device in result["devices"]:
        if device["reason"] and device["state"] not in {"committed", "already_current"}:
            console.print(
                Text(f"  {device['device']}  ") + styled(device["state"]),
                Text(f" {device['reason']}", style="dim"),
                soft_wrap=True,
            )
    if result["state"] == RolloutState.AWAITING_APPROVAL.value:
        rollout = result["rollout"]
        console.print(f"  to go on: muster approve {rollout} && muster resume {rollout}")
    elif result["exit_code"] == 5:
        console.print(f"  to go on: muster resume {result['rollout']}")
