"""Programs and a web service that are told what happens in a rollout, or asked before a step.

Hooks are executables in a folder, named after what they are called for. The blocking ones are
asked: the engine goes on when they succeed. All others are told: they change nothing.
``docs/hooks.md`` has what they get.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muster.errors import InputError
from muster.fields import parse_duration
from muster.hooks.delivery import DeliveryQueue
from muster.hooks.interface import HookResult, Hooks
from muster.hooks.program import HookProgram
from muster.hooks.webhook import Webhook, checked_url
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState, WaveState
from muster.rollout.records import Snapshot
from muster.secret import Secret

BLOCKING = ("pre_rollout", "pre_wave")
"""Hooks that the engine waits for; a failing one pauses the rollout."""

NOTICES = (
    "post_wave",
    "post_rollout",
    "on_rollback",
    "on_failure",
    "on_pause",
    "on_approval",
)
"""Hooks that are told what happened."""

TIMEOUT_SECONDS = 30.0
"""How long a hook may take, unless ``$MUSTER_HOOK_TIMEOUT`` says otherwise."""

LONGEST_SECONDS = 86400.0

SWITCHED_OFF = (".sample", ".disabled", ".orig", ".bak", "~")
"""Endings of files that are no hooks, whatever their names look like."""

D, R, W = DeviceState, RolloutState, WaveState


class HookCalls:
    """The hooks of a folder, and a webhook that gets the same. Use ``open_hooks``.

    :param programs: the executable of each hook that there is.
    :param seconds: how long a hook may take.
    :param warn: called, from any thread, with a line for a person.
    """

    def __init__(
        self,
        programs: Mapping[str, Path],
        seconds: float,
        webhook: Webhook | None,
        warn: Callable[[str], None],
    ) -> None:
        self._programs = {hook: HookProgram(hook, path) for hook, path in programs.items()}
        self._seconds, self._webhook, self._warn = seconds, webhook, warn
        self._results: list[HookResult] = []
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._notices = DeliveryQueue(self._tell)

    def call(self, hook: str, event: Mapping[str, Any]) -> None:
        """Start a hook and return at once."""
        body = json.dumps({"at": round(time.time(), 3), **event, "event": hook}).encode()
        rollout = str(event.get("rollout", ""))
        if self._webhook is not None:
            self._webhook.post(hook, body)
        if hook not in BLOCKING:
            if hook in self._programs:
                self._notices.put((hook, rollout, body))
        elif hook in self._programs:
            # One thread each: the engine asks for one at a time.
            asking = threading.Thread(target=self._ask, args=(hook, rollout, body), daemon=True)
            asking.start()
        else:
            self._finish(HookResult(hook, True, ""))

    def finished(self) -> list[HookResult]:
        """How the blocking hooks ended that did since this was last asked."""
        with self._lock:
            results, self._results = self._results, []
        return results

    def close(self) -> None:
        """Let the notices that are under way finish, each within its time limit, and no more.

        A blocking hook that still runs is killed: nobody waits for its word any more.
        """
        for hook in BLOCKING:
            if hook in self._programs:
                self._programs[hook].kill()
        try:
            missed = self._notices.close(self._seconds)
            for program in self._programs.values():
                program.kill()
            if self._webhook is not None:
                self._webhook.close()
        except KeyboardInterrupt:  # the rollout is over; only these last words are cut short
            missed = self._notices.close(0)
            for program in self._programs.values():
                program.kill()
        for hook, number in self._failures.items():
            if number > 1:
                self._warn(f"hook {hook} failed {number} times")
        if missed:
            calls = "1 call of a hook was" if missed == 1 else f"{missed} calls of hooks were"
            self._warn(f"{calls} given up at the end")

    def _ask(self, hook: str, rollout: str, body: bytes) -> None:
        problem = self._programs[hook].run(body, rollout, self._seconds)
        self._finish(HookResult(hook, problem is None, problem or ""))

    def _finish(self, result: HookResult) -> None:
        with self._lock:
            self._results.append(result)

    def _tell(self, notice: tuple[str, str, bytes]) -> None:
        hook, rollout, body = notice
        problem = self._programs[hook].run(body, rollout, self._seconds)
        if problem is None:
            return
        self._failures[hook] += 1
        if self._failures[hook] == 1:
            self._warn(f"hook {hook} failed: {problem}")


@contextmanager
def open_hooks(folder: Path | None, webhook_url: str | None) -> Iterator[HookCalls]:
    """Check what is configured, and make it ready to be called.

    Reads ``$MUSTER_HOOK_TIMEOUT`` and ``$MUSTER_WEBHOOK_SECRET``. At the end, notices that are
    under way have a short while to arrive.

    :param folder: where the hooks are; None for none.
    :param webhook_url: where notices go; None for nowhere.
    :raises InputError: something of the configuration is not valid; nothing was started.
    """
    programs, seconds = check_hooks(folder)
    secret = check_webhook(webhook_url)
    webhook = Webhook(webhook_url, secret, warn) if webhook_url else None
    hooks = HookCalls(programs, seconds, webhook, warn)
    try:
        yield hooks
    finally:
        hooks.close()


def check_hooks(folder: Path | None) -> tuple[dict[str, Path], float]:
    """The hooks of a folder, none for None, and how many seconds each may take.

    :raises InputError: something is wrong with them, or with ``$MUSTER_HOOK_TIMEOUT``.
    """
    return ({} if folder is None else find_hooks(folder)), _time_limit()


def check_webhook(url: str | None) -> Secret | None:
    """The secret of the webhook at ``url``, if there is one.

    :raises InputError: something is wrong with either.
    """
    if not url:
        return None
    checked_url(url)
    return _webhook_secret()


def warn(text: str) -> None:
    """Tell a person about something that changes nothing."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _time_limit() -> float:
    text = os.environ.get("MUSTER_HOOK_TIMEOUT", "")
    if not text:
        return TIMEOUT_SECONDS
    try:
        seconds = parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise InputError(f"$MUSTER_HOOK_TIMEOUT: {error}") from None
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InputError("$MUSTER_HOOK_TIMEOUT: expected a duration above 0 and at most 24h")
    return seconds


def _webhook_secret() -> Secret | None:
    value = os.environ.get("MUSTER_WEBHOOK_SECRET")
    if value == "":  # a secret that a CI system did not hand over must not mean: unsigned
        raise InputError("$MUSTER_WEBHOOK_SECRET: expected a secret, or no such variable")
    return None if value is None else Secret(value)


def find_hooks(folder: Path) -> dict[str, Path]:
    """The hooks of a folder: absolute path of the executable of each.

    :raises InputError: no folder, a hook that can't be executed, or a file that was probably meant
        to be one.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: expected the folder of the hooks; {error.strerror}") from None
    found, problems = {}, []
    for path in entries:
        if path.name in (*BLOCKING, *NOTICES):
            if not path.is_file():
                problems.append(f"{path}: expected an executable file")
            elif not os.access(path, os.X_OK):
                problems.append(f"{path}: expected an executable file; try: chmod +x {path}")
            else:
                found[path.name] = path.resolve().parent / path.resolve().name
        elif (meant := _probably_meant(path.name)) is not None:
            problems.append(
                f"{path}: no hook has this name; expected {meant}. To have it left alone, append"
                f" {SWITCHED_OFF[0]} or {SWITCHED_OFF[1]} to its name"
            )
    if problems:
        raise InputError(problems)
    return found


def _probably_meant(name: str) -> str | None:
    """The hook that a file of this name was probably meant to be."""
    if name.startswith(".") or name.endswith(SWITCHED_OFF):
        return None
    stem = name.partition(".")[0].lower().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(stem, (*BLOCKING, *NOTICES), n=1, cutoff=0.8)
    return close[0] if close else None


class HookObserver:
    """Watches a rollout and calls the hooks that are told what happens.

    :param snapshot: the rollout as it is before the first event.
    """

    def __init__(self, hooks: Hooks, snapshot: Snapshot) -> None:
        self._hooks, self._rollout = hooks, snapshot.rollout
        self._devices = {record.device: record.state for record in snapshot.devices}
        self._wave_of = {record.device: record.wave for record in snapshot.devices}
        self._names = {wave.index: wave.name for wave in snapshot.waves}
        self._waiting = False
        # Failures that came since the last tick make one call, however many devices they are.
        self._failures: dict[int | None, dict[str, str]] = {}
        self._failed_at = 0.0

    def event(self, event: Event) -> None:
        """Take one event in."""
        to = str(event.data.get("to", ""))
        if event.kind is EventKind.DEVICE:
            self._device(event, D(to))
        elif event.kind is EventKind.WAVE:
            self._wave(event, W(to))
        elif event.kind is EventKind.ROLLOUT:
            self._state(event, R(to))

    def tick(self) -> None:
        """Time went by: tell which devices failed meanwhile."""
        failures, self._failures = self._failures, {}
        for wave, reasons in failures.items():
            event = Event(EventKind.DEVICE, self._rollout.id, self._failed_at, wave=wave)
            self._call("on_failure", event, list(reasons), {"reasons": reasons})

    def _device(self, event: Event, to: DeviceState) -> None:
        before = self._devices.get(event.device, D.PENDING)
        self._devices[event.device] = to
        if is_failure(before, to):
            self._failed_at = event.at
            failures = self._failures.setdefault(event.wave, {})
            failures[event.device] = str(event.data.get("reason", ""))

    def _wave(self, event: Event, to: WaveState) -> None:
        self.tick()
        if to is W.AWAITING_APPROVAL:
            self._ask_for_approval(event)
        elif event.data.get("from") == W.AWAITING_APPROVAL.value:
            self._waiting = False
        if to in {W.PASSED, W.FAILED}:
            self._call("post_wave", event, self._members(event.wave))

    def _state(self, event: Event, to: RolloutState) -> None:
        self.tick()
        if to is R.AWAITING_APPROVAL:
            self._ask_for_approval(event)
        elif to is R.PAUSED:
            self._call("on_pause", event, list(self._devices))
        elif to is R.ROLLING_BACK:
            self._call("on_rollback", event, list(self._devices))
        elif to in FINAL_ROLLOUT:
            self._call("post_rollout", event, list(self._devices))

    def _ask_for_approval(self, event: Event) -> None:
        # The wave and the rollout begin to wait together; people are asked once.
        if not self._waiting:
            self._waiting = True
            members = list(self._devices) if event.wave is None else self._members(event.wave)
            self._call("on_approval", event, members)

    def _members(self, wave: int | None) -> list[str]:
        return [device for device, its_wave in self._wave_of.items() if its_wave == wave]

    def _call(
        self,
        hook: str,
        event: Event,
        devices: list[str],
        more: Mapping[str, Any] | None = None,
    ) -> None:
        about: dict[str, Any] = {
            "kind": self._rollout.kind,
            "model": self._rollout.model,
            "release": self._rollout.release_id,
            "wave": None,
            "devices": devices,
            "states": dict(Counter(self._devices[device].value for device in devices)),
        }
        if event.wave is not None:
            about["wave"] = {"index": event.wave, "name": self._names.get(event.wave, "")}
        self._hooks.call(hook, event.to_json() | about | dict(more or {}) | {"event": hook})


def is_failure(before: DeviceState, to: DeviceState) -> bool:
    """Whether a device that takes this step has failed. To be taken back with others is none."""
    if to in {D.LOST, D.QUARANTINED}:
        return True
    if to is D.REJECTED:  # refused, by the device, what it was asked to take
        return before in {D.STAGING, D.SWITCHING}
    known = {D.COMMITTED, D.LOST, D.ROLLING_BACK}
    return to in {D.ROLLING_BACK, D.ROLLED_BACK} and before not in known
