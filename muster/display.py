"""How a rollout is shown while it runs: live on a terminal, as lines, or as JSON events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from muster.live import LOG_LINES, WAVE_ROWS, Picture, View
from muster.live import left as time_left
from muster.rollout.events import Event, EventKind
from muster.rollout.ledger import Observer
from muster.rollout.records import RolloutRecord, Snapshot

STYLES = {
    "committed": "green",
    "already_current": "green",
    "passed": "green",
    "succeeded": "bold green",
    "succeeded_with_deferred": "bold yellow",
    "deferred": "yellow",
    "rejected": "yellow",
    "paused": "bold yellow",
    "awaiting_approval": "bold yellow",
    "inconclusive": "yellow",
    "error": "yellow",
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
# Head, stop, waves with their heading and what is hidden, counts, heading and rest of the devices,
# an empty line, the log, and the line of the cursor.
_OTHER_LINES = 2 + (WAVE_ROWS + 2) + 1 + 2 + 1 + LOG_LINES + 1
_FEWEST_ROWS = 5
_WIDE = 100
_WAVE_NAME = 24
_PIPE_WIDTH = 200


def make_console() -> Console:
    """Standard output; a log or a pipe gets lines as long as they need to be."""
    # Names and reasons come from documents and devices: none of them is markup.
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)


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
    """The state of a rollout on the terminal, kept up to date.

    Use it as a context manager. On a fleet larger than the screen the devices at work and those
    in trouble are shown, the others are counted.

    :param now: wall time in seconds since 1970 UTC.
    """

    def __init__(
        self, console: Console, snapshot: Snapshot, now: Callable[[], float] = time.time
    ) -> None:
        self._console, self._snapshot, self._now = console, snapshot, now
        self._picture = Picture(snapshot, now())
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.tick()
        self._live.__exit__(None, None, None)

    def event(self, event: Event) -> None:
        """Take one event in."""
        self._picture.take(event)

    def tick(self) -> None:
        """Draw it again."""
        self._live.update(self.__rich__(), refresh=True)

    def __rich__(self) -> RenderableType:
        """What it looks like now."""
        room = max(_FEWEST_ROWS, self._console.height - _OTHER_LINES)
        view = self._picture.view(self._now(), room)
        return draw(view, self._snapshot.rollout, self._console.width)


def draw(view: View, rollout: RolloutRecord, width: int) -> RenderableType:
    """Draw what the live display shows, on a screen of so many columns."""
    head = Text.assemble(
        f"{rollout.command} {rollout.id}  {'' if rollout.is_task else rollout.model + ' '}",
        (rollout.about if rollout.is_task else rollout.release_id, "bold"),
        "  ",
        styled(view.state),
        (f"  {time_left(view.seconds)}", "dim"),
    )
    parts: list[RenderableType] = [head]
    if view.stopping:
        under_way = f"; {counted(view.under_way, 'device')} under way" if view.under_way else ""
        parts.append(Text(f"stopping: {view.stopping}{under_way}", style="bold reverse yellow"))
    parts += [_wave_table(view), _counts("devices", view.counts), _device_table(view, width)]
    if view.hidden:
        parts.append(_counts(f"... and {sum(view.hidden.values())} more", view.hidden))
    parts.append(Text())
    parts += [_log_line(at, text) for at, text in view.log]
    return Group(*parts)


def _wave_table(view: View) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("wave", "state", "done", "left"):
        table.add_column(name, no_wrap=True)
    table.add_column("budget", no_wrap=True, overflow="ellipsis", ratio=1)
    for wave in view.waves:
        table.add_row(
            Text(f"{wave.index + 1} {wave.name}"[:_WAVE_NAME]),
            styled(wave.state),
            f"{wave.settled}/{wave.devices}",
            wave.clock,
            wave.budget,
        )
    if view.hidden_waves:
        table.add_row(Text(f"... {view.hidden_waves} more", style="dim"))
    return table


def _device_table(view: View, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    wide = width >= _WIDE
    for name in ("device", "wave", *(["variant"] if wide else []), "state", "s", "left"):
        table.add_column(name, no_wrap=True, justify="right" if name == "s" else "left")
    table.add_column("gates, or why", ratio=1, no_wrap=True, overflow="ellipsis")
    for device in view.devices:
        cells: list[RenderableType] = [
            Text(device.device),
            "" if device.wave is None else str(device.wave + 1),
            *([device.variant] if wide else []),
            styled(device.state),
            "" if device.seconds is None else f"{device.seconds:.0f}",
            ", ".join(device.clocks if wide else device.clocks[:1]),
            Text(device.note, style="dim") if device.note else _gates(device.gates),
        ]
        table.add_row(*cells)
    return table


def _gates(verdicts: Mapping[str, str]) -> Text:
    """The gates that did not pass first: where the line is cut, they are seen."""
    ordered = sorted(verdicts.items(), key=lambda item: item[1] == "passed")
    marks = [Text(f"{name} {verdict}", style=STYLES[verdict]) for name, verdict in ordered]
    return Text("  ").join(marks)


def _counts(label: str, counts: Mapping[str, int]) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis").append(f"{label}: ", style="dim")
    for number, (state, count) in enumerate(sorted(counts.items(), key=lambda item: -item[1])):
        text.append(", " if number else "").append(f"{count} ").append_text(styled(state))
    return text


def _log_line(at: float, text: str) -> Text:
    clock = time.strftime("%H:%M:%S ", time.localtime(at))
    return Text(no_wrap=True, overflow="ellipsis").append(clock, style="dim").append(text)


def observer(console: Console, snapshot: Snapshot, *, as_json: bool) -> Observer:
    """The display that fits where the output goes."""
    if as_json:
        return JsonLines()
    if console.is_terminal:
        return LiveTable(console, snapshot)
    return PlainLines(console, snapshot)
