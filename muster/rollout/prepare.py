"""From a plan to the records with which a rollout begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.planning import Plan
from muster.release import Release, misfits
from muster.rollout import decide
from muster.rollout.journal import new_rollout_id
from muster.rollout.machine import DeviceState
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot, WaveRecord
from muster.strategy import Strategy
from muster.tasks import Task, is_done, task_misfits

D = DeviceState

REQUIRED = "required"
"""``approval`` of a wave that nobody has approved yet."""


def new_rollout(
    release: Release | Task,
    strategy: Strategy,
    plan: Plan,
    inventory: str,
    *,
    limit: str | None = None,
    kind: str = "rollout",
    signature: str | None = None,
    left_out: Mapping[str, decide.Next] | None = None,
    variants: Mapping[str, str] | None = None,
) -> Snapshot:
    """Records of a rollout that has not begun.

    :param variants: variant of each device that has one, by device.
    :param left_out: devices that are in no wave because of what ``triage`` found, and why.
    """
    record = RolloutRecord(
        id=new_rollout_id(),
        kind=kind,
        model=release.model,
        release_id=release.id,
        release_document=release.canonical,
        strategy=strategy.model_dump(mode="json"),
        inventory=inventory,
        limit=limit,
        signature=signature,
    )
    waves = [
        WaveRecord(wave.index, wave.name, wave.soak, approval=REQUIRED if wave.approval else "")
        for wave in plan.waves
    ]
    devices = [
        DeviceRecord(device.name, wave.index, device.variant)
        for wave in plan.waves
        for device in wave.devices
    ]
    for name, found in (left_out or {}).items():
        devices.append(
            DeviceRecord(
                name,
                variant=(variants or {}).get(name, ""),
                state=found.state,
                reason=found.reason,
                failed=found.failed,
                unreachable=found.unreachable,
            )
        )
    for name, reason in plan.rejected.items():
        devices.append(DeviceRecord(name, state=D.REJECTED, reason=reason))
    return Snapshot(record, waves, devices)


def triage(
    release: Release | Task,
    variants: Mapping[str, str],
    seen: Mapping[str, Mapping[str, Any] | str],
    strategy: Strategy,
    *,
    back: bool = False,
    quarantined: Mapping[str, str] | None = None,
    done: Mapping[str, str] | None = None,
) -> dict[str, decide.Next]:
    """Devices that take no part in the waves, from what they said before the rollout.

    :param variants: variant of each device that has one, by device.
    :param seen: answer to ``inspect`` of each device, or why there was none.
    :param back: the release is gone back to.
    :param quarantined: why each device is left alone that could not go back in an earlier rollout.
    :param done: why there is nothing to do on each device that is known to be right.
    """
    left_out = {}
    for name, variant in variants.items():
        answer = seen[name]
        if quarantined and name in quarantined:
            left_out[name] = decide.Next(D.REJECTED, quarantined[name])
            continue
        if isinstance(answer, str):
            left_out[name] = decide.unreachable_before_switch(strategy.offline.policy, answer)
            continue
        attempt = decide.Attempt("", release.id, 0)
        if isinstance(release, Task):
            reasons = task_misfits(release, answer)
            right = (done or {}).get(name) or is_done(release, answer)
        else:
            reasons = misfits(release, variant, answer, mode=strategy.switch, back=back)
            right = ""
        found = decide.preflight(attempt, answer, reasons)
        if right and found.state is D.STAGING:
            found = decide.Next(D.ALREADY_CURRENT, right)
        if found.state is not D.STAGING:
            left_out[name] = found
    return left_out
