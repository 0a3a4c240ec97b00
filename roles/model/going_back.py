"""Taking one device back to a release that it ran before. Nothing here knows pyinfra."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.rollout.decide import MAX_TRIES, after_revert
from muster.strategy import Strategy
from roles.model.attempt import RETRY_SECONDS


@dataclass(frozen=True)
class Way:
    """Where a device goes back to.

    :param to: the release; None for its last good one, from a switch that is not confirmed.
    """

    runs: str | None
    to: str | None
    generation: int


@dataclass(frozen=True)
class Stays:
    """Why a device needs nothing, or why it can't go back."""

    reason: str
    failed: bool = False


def way_back(model: Mapping[str, Any], to: str | None) -> Way | Stays:
    """Say where a device goes back to.

    :param model: ``model`` of its answer to ``inspect``.
    :param to: id of the release; None for what it ran before.
    """
    runs = model["current"]["id"] if model["current"] else None
    held, generation = model["releases"], model["generation"]
    if model["phase"] != "idle":
        if to not in (None, model["last_good"]):
            reason = f"its unfinished switch {generation} goes back to {model['last_good']} first"
            return Stays(reason, failed=True)
        return Way(runs, None, generation)
    if to is not None:
        if to == runs:
            return Stays(f"runs {to} already")
        if to not in held:
            reason = f"release {to} is not there, it has {', '.join(held) or 'none'}"
            return Stays(reason, failed=True)
        return Way(runs, to, generation)
    outcome = model["last_outcome"] or {}
    if outcome.get("outcome") == "reverted":
        # What it ran before is the release that it came back from.
        left = outcome.get("release") or "an unknown release"
        return Stays(f"went back from {left} already ({outcome['reason']}) and runs {runs}")
    if model["previous"] is None:
        return Stays(f"runs {runs or 'nothing'} and knows no earlier release", failed=True)
    return Way(runs, model["previous"], generation)


def take_back(
    device: str,
    model: str,
    way: Way,
    strategy: Strategy,
    call: Callable[[Order], Answer],
    pause: Callable[[float], None] = time.sleep,
) -> str | None:
    """Take a device back; it waits until the earlier release is ready.

    :returns: why that failed; None when it is back.
    """
    document = {
        "model": model,
        # No rollout: it is for a person to take back what any of them brought.
        "generation": way.generation,
        "rollout": None,
        "to": way.to,
        "reason": "taken back with pyinfra",
        "healthy_deadline": strategy.healthy_deadline,
    }
    timeout = strategy.healthy_deadline + strategy.command_margin
    order = Order(device, Verb.REVERT, document, timeout)
    for number in range(1, MAX_TRIES + 1):
        answer = call(order)  # safe to repeat: a device that is back says so
        if answer.trouble is not Trouble.UNREACHABLE and answer.code != "busy":
            break
        if number < MAX_TRIES:
            pause(RETRY_SECONDS)
    following = after_revert(answer)
    if following is None:
        return answer.message
    return following.reason if following.failed else None
