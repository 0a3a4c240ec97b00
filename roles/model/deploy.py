"""One release onto a device, or off it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from muster.errors import InputError
from muster.fleet.over_pyinfra import PROGRAM, call_device
from muster.release import select_variant
from muster.rollout.machine import DeviceState
from muster.rollout.orders import Orders
from roles.facts import FACT_SECONDS
from roles.model import operations
from roles.model.attempt import Attempt
from roles.model.facts import Inspect
from roles.model.going_back import Stays, way_back
from roles.model.options import RollbackRequest
from roles.model.variables import Variables

T = TypeVar("T")


def asked(read: Callable[[Mapping[str, Any]], T]) -> T:
    """Read what ``--data`` asks for; the same for all devices.

    :raises PyinfraError: it is wrong; the run ends before anything is touched.
    """
    try:
        return read(ctx_host.get().inventory.get_override_data())
    except InputError as error:
        raise PyinfraError(str(error)) from None


@deploy("model")
def model(variables: Variables, orders: Orders) -> None:
    """Put a release on a device: stage, switch, health gate, confirm.

    A device that can't run it fails before any device is touched.
    """
    host: Host = ctx_host.get()
    attempt = _attempt(host, variables, orders)
    if attempt is None:
        return
    seconds = operations.OPERATION_SECONDS
    operations.stage(name=f"stage {attempt}", attempt=attempt, _timeout=seconds)
    operations.switch(name="switch", attempt=attempt, _timeout=seconds)
    operations.gate(name="health gate", attempt=attempt, _timeout=seconds)
    operations.confirm(name="confirm", attempt=attempt, _timeout=seconds)


def _attempt(host: Host, variables: Variables, orders: Orders) -> Attempt | None:
    release = orders.release
    selected = select_variant(release, set(host.groups))
    if isinstance(selected, str):
        _refuse(host, selected)
        return None
    seen = _inspect(host, release.model)
    if seen is None:
        return None
    if seen["runtime"]["name"] == "k3s":
        _refuse(host, "its models run on K3s, whose cluster is told by `muster rollout` alone")
        return None
    attempt = Attempt(
        host.name,
        selected[0],
        orders,
        partial(call_device, host),
        registry=variables.muster_registry,
        say=host.log,
    )
    attempt.begin(seen)
    if attempt.at_rest and attempt.state is not DeviceState.ALREADY_CURRENT:
        _refuse(host, attempt.failure)
        return None
    if attempt.at_rest:
        host.log(attempt.reason)
    else:
        host.log(f"from {attempt.runs or 'nothing'} to {release.id} ({selected[0]})")
    return attempt


@deploy("model")
def rollback(request: RollbackRequest) -> None:
    """Take a device back to an earlier release; the device waits until that is ready."""
    host: Host = ctx_host.get()
    seen = _inspect(host, request.model)
    if seen is None:
        return
    way = way_back(seen["model"], request.to)
    if isinstance(way, Stays):
        if way.failed:
            _refuse(host, way.reason)
            return
        host.log(way.reason)
    else:
        host.log(f"back from {way.runs or 'nothing'} to {way.to or 'the last good release'}")
    operations.go_back(
        name=f"take {request.model} back",
        model=request.model,
        way=way,
        strategy=request.strategy,
        _timeout=operations.OPERATION_SECONDS,
    )


def _inspect(host: Host, name: str) -> Mapping[str, Any] | None:
    seen = host.get_fact(Inspect, model=name, _timeout=FACT_SECONDS)
    if seen is None:  # a fact that fails gives its default, and everything would go on
        _refuse(host, f"{PROGRAM} inspect failed: was the device provisioned?")
    return seen


def _refuse(host: Host, reason: str) -> None:
    operations.fail(host, reason)
    if host not in host.state.failed_hosts:
        host.state.fail_hosts({host})
