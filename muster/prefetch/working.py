"""Having the registries of sites fill or clear themselves, over SSH.

The work belongs to the registry's host and goes on there when this program dies; asked for again it
goes on where it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.fleet.interface import Answer, Fleet, Order, Trouble, Verb

PROGRAM = "muster-registry"
COMMAND_SECONDS = 30.0
POLL_SECONDS = 0.5
"""Pause between two questions how far a registry is."""
PATIENCE_SECONDS = 60.0
"""How long a registry's host may be out of reach, or at other work, before it is given up."""


@dataclass(frozen=True)
class Outcome:
    """What became of the work on one host.

    :param result: of ``muster-registry``; empty if it failed.
    :param error: why it failed, empty if it did not.
    """

    host: str
    result: Mapping[str, Any]
    error: str = ""
    seconds: float = 0.0


Told = Callable[[str, Mapping[str, Any]], None]
"""Called with a host's name and how far it is."""


def fill_request(images: Sequence[str], *, verify: bool = False) -> dict[str, Any]:
    """Ask for images; they are complete when it is done."""
    return {"task": "fill", "images": list(images), "verify": verify}


def clear_request(digests: Sequence[str], newer: float, *, dry: bool) -> dict[str, Any]:
    """Ask to remove everything but some digests, and what is younger than ``newer`` seconds."""
    return {"task": "clear", "keep": sorted(digests), "newer": newer, "dry": dry}


def carry_out(
    fleet: Fleet, requests: Mapping[str, Mapping[str, Any]], told: Told = lambda _host, _how: None
) -> list[Outcome]:
    """Have work done on several hosts, all at once.

    :param requests: by name of the host.
    """
    works = {host: _Work(host, dict(request), fleet.now()) for host, request in requests.items()}
    for work in works.values():
        fleet.submit(work.order())
    waiting: dict[str, float] = {}
    outcomes: dict[str, Outcome] = {}
    while len(outcomes) < len(works):
        for host in [host for host, at in waiting.items() if at <= fleet.now()]:
            del waiting[host]
            fleet.submit(works[host].order())
        answer = fleet.next_answer(POLL_SECONDS / 5)
        if answer is None:
            continue
        outcome = works[answer.device].take(answer, fleet.now())
        told(answer.device, works[answer.device].progress)
        if outcome is not None:
            outcomes[answer.device] = outcome
        else:
            waiting[answer.device] = fleet.now() + POLL_SECONDS
    return [outcomes[host] for host in works]


class _Work:
    """The work on one host, from one answer to the next question."""

    def __init__(self, host: str, request: dict[str, Any], now: float) -> None:
        self._host, self._request, self._began = host, request, now
        self._request["id"] = uuid.uuid4().hex[:16]
        self._submitted = False
        self._trouble_since: float | None = None
        self.progress: Mapping[str, Any] = {}

    def order(self) -> Order:
        """What to ask next."""
        verb = Verb.STATUS if self._submitted else Verb.SUBMIT
        document = {} if self._submitted else self._request
        return Order(self._host, verb, document, COMMAND_SECONDS, program=PROGRAM)

    def take(self, answer: Answer, now: float) -> Outcome | None:
        """Take an answer in; the outcome when there is one."""
        if answer.trouble is not None:
            return self._trouble(answer, now)
        self._trouble_since = None
        if not self._submitted:
            self._submitted = True
            return None
        progress = answer.document.get("progress") or {}
        if progress.get("id") != self._request["id"]:
            if answer.document.get("working"):
                return None  # it has not begun yet
            # Its unit ended before it could say anything.
            return self._end(now, error=f"{PROGRAM} did not begin: see its journal")
        self.progress = progress
        if progress.get("state") == "done":
            return self._end(now, progress.get("result") or {})
        if progress.get("state") == "failed":
            return self._end(now, error=str(progress.get("error") or "no reason given"))
        return None

    def _trouble(self, answer: Answer, now: float) -> Outcome | None:
        if answer.trouble is Trouble.REFUSED and answer.code != "busy":
            return self._end(now, error=answer.message)
        if self._trouble_since is None:
            self._trouble_since = now
        if answer.code == "busy":  # somebody else's copy comes to its end, however long it takes
            return None
        if now - self._trouble_since > PATIENCE_SECONDS or not self._submitted:
            return self._end(now, error=f"out of reach: {answer.message}")
        return None

    def _end(self, now: float, result: Mapping[str, Any] | None = None, error: str = "") -> Outcome:
        return Outcome(self._host, result or {}, error, round(now - self._began, 3))


def ask_status(fleet: Fleet, hosts: Sequence[str]) -> dict[str, Mapping[str, Any] | str]:
    """What registries hold and do, or why they don't say, by host."""
    for host in hosts:
        order = Order(host, Verb.STATUS, {"store": True}, COMMAND_SECONDS, program=PROGRAM)
        fleet.submit(order)
    seen: dict[str, Mapping[str, Any] | str] = {}
    while len(seen) < len(hosts):
        answer = fleet.next_answer(None)
        if answer is None:
            break
        seen[answer.device] = answer.document if answer.trouble is None else answer.message
    return {host: seen.get(host, "no answer") for host in hosts}
