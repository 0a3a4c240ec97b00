"""How a rollout is shown while it runs: live on a terminal, as lines, or as JSON events."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from muster.rollout.events import Event, EventKind
from muster.rollout.ledger import Observer
from muster.rollout.machine import SETTLED, DeviceState
from muster.rollout.records import DeviceRecord, Snapshot

D = DeviceState

STYLES = {
    "committed": "green",
    "already_current": "green",
    "passed": "green",
    "succeeded": "bold green",
    "succeeded_with_deferred": "bold yellow",
    "deferred": "yellow",
    "rejected": "yellow",
    "paused": "bold yellow",
    "aborted": "bold red",
    "superseded": "dim",
    "failed": "bold red",
    "lost": "bold red",
    "rolling_back": "magenta",
    "rolled_back": "bold magenta",
    "rollback_failed": "bold red",
    "quarantined": "bold red",
    "pending": "dim",
    "staged": "cyan",
}
_DECISIONS = 6
_SPARE_LINES = 14
_PIPE_WIDTH = 200


def make_console() -> Console:
    """Standard output; a log or a pipe gets lines as long as they need to be."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def plain_table(*columns: str) -> Table:
    """A table without lines whose last column gives way when the terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    return table


def counted(number: int, what: str) -> str:
    """A number with its noun: ``1 device``, ``2 devices``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def styled(state: str) -> Text:
    """A state's name in its colour."""
    return Text(state.replace("_", " "), style=STYLES.get(state, "blue"))


class JsonLines:
    """Every event as one line of JSON."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def event(self, event: Event) -> None:
        """Print one event."""
        print(json.dumps(event.to_json()), file=self._stream, flush=True)

    def tick(self) -> None:
        """Nothing changes with time."""


class PlainLines:
    """One line for every thing that a person wants to know; for logs of CI systems."""

    def __init__(self, console: Console, snapshot: Snapshot) -> None:
        self._console = console
        self._waves = {wave.index: wave.name for wave in snapshot.waves}

    def event(self, event: Event) -> None:
        """Print one event, if it matters to a person."""
        line = describe(event, self._waves)
        if line is not None:
            clock = time.strftime("%H:%M:%S", time.localtime(event.at))
            self._console.print(Text(f"{clock} ", style="dim") + line, soft_wrap=True)

    def tick(self) -> None:
        """Nothing changes with time."""


def describe(event: Event, waves: dict[int, str]) -> Text | None:
    """An event in plain words; None when it is not worth a line."""
    data = event.data
    if event.kind is EventKind.DEVICE:
        text = Text(f"{event.device:<24} ") + styled(str(data["to"]))
    elif event.kind is EventKind.WAVE and event.wave is not None:
        text = Text(f"wave {event.wave + 1} ({waves[event.wave]})  ") + styled(str(data["to"]))
    elif event.kind is EventKind.ROLLOUT:
        text = Text("rollout  ") + styled(str(data["to"]))
    elif event.kind is EventKind.DECISION:
        return Text(str(data["text"]), style="bold")
    elif event.kind is EventKind.ANSWER and data["trouble"]:
        text = Text(f"{event.device:<24} {data['trouble']} in step {data['step']}")
        return text + Text(f"  {data['message']}", style="dim")
    elif event.kind is EventKind.GATE and data["verdict"] != "passed":
        return Text(f"{event.device:<24} gate {data['verdict']}: {data['reason']}", style="red")
    else:
        return None
    return text + Text(f"  {data['reason']}" if data["reason"] else "", style="dim")


class LiveTable:
    """A table on the terminal with a row for each device, kept up to date.

    Use it as a context manager. On a fleet larger than the screen the devices at work and those
    in trouble are shown, the others are counted.
    """

    def __init__(self, console: Console, snapshot: Snapshot) -> None:
        self._console, self._snapshot = console, snapshot
        self._state = {d.device: d.state.value for d in snapshot.devices}
        self._note = {d.device: d.reason for d in snapshot.devices}
        self._since = {d.device: time.monotonic() for d in snapshot.devices}
        self._waves = {w.index: w.state.value for w in snapshot.waves}
        self._names = {w.index: w.name for w in snapshot.waves}
        self._rollout = snapshot.rollout.state.value
        self._log: deque[Text] = deque(maxlen=_DECISIONS)
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.tick()
        self._live.__exit__(None, None, None)

    def event(self, event: Event) -> None:
        """Take one event in."""
        data = event.data
        if event.kind is EventKind.DEVICE:
            self._state[event.device] = str(data["to"])
            self._note[event.device] = str(data["reason"])
            self._since[event.device] = time.monotonic()
        elif event.kind is EventKind.GATE:
            self._note[event.device] = str(data["reason"])
        elif event.kind is EventKind.WAVE and event.wave is not None:
            self._waves[event.wave] = str(data["to"])
        elif event.kind is EventKind.ROLLOUT:
            self._rollout = str(data["to"])
        if event.kind in {EventKind.WAVE, EventKind.DECISION, EventKind.ROLLOUT}:
            line = describe(event, self._names)
            if line is not None:
                self._log.append(line)

    def tick(self) -> None:
        """Draw it again."""
        self._live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        rollout = self._snapshot.rollout
        head = Text.assemble(
            f"{rollout.kind} {rollout.id}  {rollout.model} ",
            (rollout.release_id, "bold"),
            "  ",
            styled(self._rollout),
        )
        waves = Text("waves  ")
        for index, state in self._waves.items():
            waves += Text(f"{index + 1} {self._names[index]}: ") + styled(state) + Text("   ")
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        for name in ("device", "wave", "variant", "state", "s"):
            table.add_column(name, no_wrap=True, justify="right" if name == "s" else "left")
        table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
        shown, hidden = self._rows()
        for device in shown:
            state = self._state[device.device]
            resting = state == "pending" or D(state) in SETTLED
            seconds = "" if resting else f"{time.monotonic() - self._since[device.device]:.0f}"
            wave = "" if device.wave is None else str(device.wave + 1)
            table.add_row(
                device.device,
                wave,
                device.variant,
                styled(state),
                seconds,
                Text(self._note[device.device], style="dim"),
            )
        parts: list[RenderableType] = [head, waves, table]
        if hidden:
            parts.append(Text(f"... and {hidden} more devices", style="dim"))
        return Group(*parts, *self._log)

    def _rows(self) -> tuple[list[DeviceRecord], int]:
        devices = self._snapshot.devices
        room = max(5, self._console.height - _SPARE_LINES)
        if len(devices) <= room:
            return devices, 0
        dull = {"pending", "committed", "already_current", "staged"}
        ordered = sorted(devices, key=lambda d: self._state[d.device] in dull)
        return ordered[:room], len(devices) - room


def observer(console: Console, snapshot: Snapshot, *, as_json: bool) -> Observer:
    """The display that fits where the output goes."""
    if as_json:
        return JsonLines()
    if console.is_terminal:
        return LiveTable(console, snapshot)
    return PlainLines(console, snapshot)
