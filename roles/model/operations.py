"""Operations that bring one device to a release, and back.

Call them in this order with one :class:`roles.model.attempt.Attempt` for each device, as
``roles.model.deploy`` does. Each is one or two commands to the device program. A device that fails
gets no later operation; one that failed after its switch is back on its former release by then.
When pyinfra itself dies after a switch, the device goes back by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import gevent
from pyinfra import host as this_host
from pyinfra import logger
from pyinfra.api import FunctionCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_config, ctx_host

from muster.fleet.over_pyinfra import call_device
from muster.rollout.machine import UNCONFIRMED, DeviceState
from muster.strategy import Strategy
from roles.model.attempt import Attempt
from roles.model.going_back import Stays, Way, take_back

OPERATION_SECONDS = 24 * 3600
"""``_timeout`` of these operations. Every order has a bound of its own, from the strategy; the
inventory's bound of a single command would cut off a long pull, or the way back."""

D = DeviceState


def fail(host: Host, reason: str) -> None:
    """Write why a host fails; the caller then fails it."""
    host.log_styled(reason, fg="red", log_func=logger.error)


@operation()
def stage(attempt: Attempt) -> Iterator[FunctionCommand]:
    """
    Fetch the release; what serves is not touched.

    + attempt: of this device
    """
    yield from _advance(attempt, D.STAGED)


@operation()
def switch(attempt: Attempt) -> Iterator[FunctionCommand]:
    """
    Serve the release, with the guard armed; a device on which it does not get ready goes back.

    + attempt: of this device
    """
    yield from _advance(attempt, D.SOAKING)


@operation()
def gate(attempt: Attempt) -> Iterator[FunctionCommand]:
    """
    Watch the release's gates for ``min_healthy_time``; a device that fails one goes back at once.

    + attempt: of this device
    """
    yield from _advance(attempt, D.CONFIRMING)


@operation()
def confirm(attempt: Attempt) -> Iterator[FunctionCommand]:
    """
    Make the switch permanent.

    + attempt: of this device
    """
    yield from _advance(attempt, D.COMMITTED)


@operation()
def go_back(model: str, way: Way | Stays, strategy: Strategy) -> Iterator[FunctionCommand]:
    """
    Take the device back to an earlier release, and wait until that is ready.

    + model: name of the model
    + way: where to, as ``roles.model.going_back.way_back`` says
    + strategy: whose ``healthy_deadline`` counts
    """
    if isinstance(way, Stays):
        this_host.noop(way.reason)
        return
    yield FunctionCommand(_take_back, (model, way, strategy), {})


def _advance(attempt: Attempt, goal: DeviceState) -> Iterator[FunctionCommand]:
    if attempt.state is D.ALREADY_CURRENT:
        this_host.noop(attempt.reason)
        return
    yield FunctionCommand(_lead, (attempt, goal), {})


# pyinfra takes False for a failure of this host alone. An exception would fail it, too, but with a
# traceback; raised in an operation itself, outside of such a function, it would end the whole run.


def _lead(state: State, host: Host, attempt: Attempt, goal: DeviceState) -> bool:
    with ctx_config.use(state.config.copy()):
        reached = attempt.advance(goal)
    if not reached:
        fail(host, attempt.failure)
        return False
    if attempt.state in UNCONFIRMED:
        gevent.spawn(_hold_guard, state, host, attempt, goal)
    return True


def _hold_guard(state: State, host: Host, attempt: Attempt, goal: DeviceState) -> None:
    """Keep the guard waiting while pyinfra is busy with other devices.

    An operation begins when the one before has ended on every device, and a device that got lost
    must not cost the others their release. Without an end, the guard would never act when only the
    run dies, not the process.
    """
    strategy = attempt.orders.strategy
    interval = strategy.confirm_timeout / 3
    with ctx_config.use(state.config.copy()), ctx_host.use(host):
        for _ in range(math.ceil(strategy.progress_deadline / interval)):
            gevent.sleep(interval)
            if not attempt.hold(goal):
                return


def _take_back(state: State, host: Host, model: str, way: Way, strategy: Strategy) -> bool:
    with ctx_config.use(state.config.copy()):
        problem = take_back(host.name, model, way, strategy, partial(call_device, host))
    if problem is not None:
        fail(host, f"COULD NOT GO BACK: {problem}")
    return problem is None
