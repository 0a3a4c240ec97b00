"""What happens next: pure functions from what is known to the next state and its reason.

Nothing here reads a clock, a disk or the network, so every decision is tested with plain values.
Where the device and the controller disagree, the device is right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.fleet.interface import Answer, Trouble
from muster.gates import Assessment, Verdict
from muster.rollout.machine import GOOD, SETTLED, DeviceState, RolloutState
from muster.rollout.records import DeviceRecord, WaveRecord
from muster.strategy import FailureBudget

D = DeviceState

MAX_TRIES = 3
"""How often a step is repeated after trouble, before the device counts as lost or as failed."""

RUN = "run the release"
"""What devices do that came through, where nothing else is said."""

EXIT_OK = 0
EXIT_OTHER = 1
EXIT_ROLLED_BACK = 3
EXIT_ROLLBACK_FAILED = 4
EXIT_PAUSED = 5
EXIT_DEFERRED = 6

# Refusals after which nothing on the device was touched and no repetition will help.
_STAGE_NEVER = frozenset(
    {"pull_failed", "bad_signature", "digest_mismatch", "bad_input", "no_space"}
)


@dataclass(frozen=True)
class Next:
    """The state that a device goes to, and why.

    :param failed: the device counts against ``max_failed`` from now on.
    :param unreachable: the device counts against ``max_unreachable`` from now on.
    :param pause: the rollout must stop and ask a person.
    :param for_good: a lost device is another controller's now, and not to be watched.
    """

    state: DeviceState
    reason: str = ""
    failed: bool = False
    unreachable: bool = False
    pause: bool = False
    for_good: bool = False


@dataclass(frozen=True)
class Attempt:
    """This rollout's switch on one device, as the controller remembers it."""

    rollout: str
    release_id: str
    generation: int


def preflight(attempt: Attempt, seen: Mapping[str, Any], misfits: Collection[str]) -> Next:
    """Whether a device takes the release, from its answer to ``inspect``.

    :param misfits: reasons why the variant does not fit the device.

    A node of a K3s cluster that runs the release and does not serve takes it again: the cluster may
    have lost what makes its pod.
    """
    model = seen["model"]
    if attempt.generation and _is_ours(attempt, model):
        there = reconcile(D.PREFLIGHT, attempt, seen)
        if there.state is not D.PREFLIGHT:
            return there
    if model["phase"] != "idle":
        return Next(
            D.DEFERRED,
            f"switch {model['generation']} of rollout {model['rollout']} is not finished there",
            unreachable=True,
        )
    current = model["current"]
    on_k3s = (seen.get("runtime") or {}).get("name") == "k3s"
    runs = current is not None and current["id"] == attempt.release_id
    if runs and (current["serving"] or not on_k3s):
        serving = "" if current["serving"] else ", but does not serve: see `muster status`"
        return Next(D.ALREADY_CURRENT, f"runs {attempt.release_id} already{serving}")
    if misfits:
        return Next(D.REJECTED, "; ".join(misfits))
    return Next(D.STAGING)


def reconcile(state: DeviceState, attempt: Attempt, seen: Mapping[str, Any]) -> Next:
    """Where a device really is, after a step whose result is unknown.

    Used when a command broke off, when a rollout is resumed, and when a lost device is seen again.
    """
    model = seen["model"]
    if model["generation"] < attempt.generation:
        return _never_switched(state, "the switch never began there")
    if not _is_ours(attempt, model):
        reason = f"rollout {model['rollout']} took over with generation {model['generation']}"
        if state is D.SWITCHING:  # and refused our switch: nothing of ours was touched
            return Next(D.REJECTED, reason, failed=True)
        return Next(D.LOST, reason, failed=True, for_good=True)
    phase = model["phase"]
    if phase == "idle":
        return _settled(state, attempt, model)
    if phase == "reverting" or state in {D.LOST, D.ROLLING_BACK}:
        return Next(D.ROLLING_BACK, "going back to the last good release", failed=True)
    if phase == "confirming":
        return Next(D.CONFIRMING)
    if phase == "switched":
        return Next(D.SOAKING)
    return Next(D.SWITCHING)


def _settled(state: DeviceState, attempt: Attempt, model: Mapping[str, Any]) -> Next:
    outcome = model["last_outcome"] or {}
    kind = outcome.get("outcome") if outcome.get("generation") == attempt.generation else None
    if kind == "reverted":
        return Next(D.ROLLED_BACK, f"went back by itself: {outcome['reason']}", failed=True)
    if kind == "revert_failed":
        return Next(D.ROLLING_BACK, f"could not go back: {outcome['reason']}", failed=True)
    if model["last_good"] == attempt.release_id:
        if state is D.ROLLING_BACK:  # it was confirmed before and is being taken back
            return Next(D.ROLLING_BACK, failed=True)
        return Next(D.COMMITTED)
    return _never_switched(state, "the switch was undone before anything was touched")


def _never_switched(state: DeviceState, reason: str) -> Next:
    if state in {D.PREFLIGHT, D.SWITCHING}:
        return Next(D.PREFLIGHT, reason)
    # It had switched, as far as the controller knew, and is back where it was.
    return Next(D.ROLLED_BACK, reason, failed=True)


def _is_ours(attempt: Attempt, model: Mapping[str, Any]) -> bool:
    return bool(model["generation"] == attempt.generation and model["rollout"] == attempt.rollout)


def unreachable_before_switch(policy: str, message: str) -> Next:
    """A device that does not answer and on which nothing was touched.

    :param policy: ``offline.policy`` of the strategy, ``defer`` or ``fail``.
    """
    failed = policy == "fail"
    return Next(D.DEFERRED, message, failed=failed, unreachable=not failed)


def after_stage(answer: Answer, policy: str, lacks: str = "") -> Next:
    """A device has tried to fetch the release.

    :param lacks: why its site's registry may lack the release: that is not the release's fault.
    """
    if answer.trouble is None:
        return Next(D.STAGED)
    if lacks and answer.code == "pull_failed":
        return unreachable_before_switch(policy, f"{lacks}; {answer.message}")
    if answer.trouble is Trouble.UNREACHABLE:
        return unreachable_before_switch(policy, answer.message)
    if answer.code in _STAGE_NEVER:
        return Next(D.REJECTED, answer.message, failed=True)
    # The registry, the runtime or the lock: not the release's fault.
    return unreachable_before_switch(policy, answer.message)


def after_switch(answer: Answer) -> Next | None:
    """A device has tried to switch; None: ask it where it is."""
    if answer.code == "locked":
        return Next(D.STAGED, f"waits for an application: {answer.message}")
    if answer.trouble is not None:
        return None
    if answer.document["ready"]:
        return Next(D.SOAKING)
    detail = answer.document.get("detail") or "the release did not become ready"
    return Next(D.ROLLING_BACK, str(detail), failed=True)


def after_probe(assessments: Iterable[Assessment], tries: int) -> Next:
    """The gates were measured for ``min_healthy_time``."""
    assessments = list(assessments)
    for verdict in (Verdict.FAILED, Verdict.ERROR, Verdict.INCONCLUSIVE):
        reasons = [a.reason for a in assessments if a.verdict is verdict]
        if not reasons:
            continue
        if verdict is Verdict.FAILED:
            return Next(D.ROLLING_BACK, "; ".join(reasons), failed=True)
        if tries < MAX_TRIES:
            return Next(D.SOAKING, "; ".join(reasons))
        # Never the model's fault, and never a pass: take it back and ask a person.
        return Next(D.ROLLING_BACK, f"could not measure: {'; '.join(reasons)}", pause=True)
    return Next(D.CONFIRMING)


def out_of_tries(state: DeviceState, answer: Answer, *, guarded: bool = True) -> Next:
    """A step after the switch could not be finished, in spite of repetition.

    :param guarded: whether a guard on the device takes it back.
    """
    unreachable = answer.trouble is Trouble.UNREACHABLE
    if unreachable:
        guard = "; its guard takes it back unless it was confirmed" if guarded else ""
        return Next(D.LOST, f"{answer.message}{guard}", failed=True)
    if state is D.ROLLING_BACK:
        return Next(D.ROLLBACK_FAILED, answer.message, failed=True)
    return Next(D.ROLLING_BACK, answer.message, failed=True)


def round_in_circles(state: DeviceState, following: Next) -> Next:
    """What becomes of a device that changed its state too often; its guard ends what is open."""
    if following.state in SETTLED or following.state is D.ROLLBACK_FAILED:
        return following
    reason = f"went round in circles, at last to {following.state.value}: {following.reason}"
    if state in {D.SWITCHING, D.SOAKING, D.CONFIRMING, D.ROLLING_BACK, D.PREFLIGHT}:
        return Next(D.LOST, reason, failed=True, for_good=True)
    return Next(following.state, following.reason, failed=following.failed)


def after_revert(answer: Answer) -> Next | None:
    """A device was told to go back; None: ask it where it is."""
    if answer.trouble is Trouble.UNREACHABLE:
        return None
    if answer.trouble is Trouble.REFUSED:
        return Next(D.ROLLBACK_FAILED, answer.message, failed=True)
    target = answer.document["to"]
    if target is not None and not answer.document["ready"]:
        return Next(D.ROLLBACK_FAILED, f"went back to {target}, which is not ready", failed=True)
    return Next(D.ROLLED_BACK)


@dataclass
class Tally:
    """How many devices of a wave are where; kept up as they move, so that it costs nothing.

    :param devices: number of devices of the wave.
    :param settled: need nothing more for the wave to go on.
    :param good: run the release.
    :param failed: count against ``max_failed``; likewise ``unreachable``.
    """

    devices: int = 0
    settled: int = 0
    good: int = 0
    committed: int = 0
    failed: int = 0
    unreachable: int = 0
    deferred: int = 0
    rejected: int = 0
    quarantined: list[str] = field(default_factory=list)

    def count(self, record: DeviceRecord, by: int) -> None:
        """Count a device in (``by`` 1) or out again (-1), as it is now."""
        state = record.state
        self.devices += by
        self.settled += by * (state in SETTLED)
        self.good += by * (state in GOOD)
        self.committed += by * (state is D.COMMITTED)
        self.failed += by * record.failed
        self.unreachable += by * record.unreachable
        self.deferred += by * (state is D.DEFERRED)
        self.rejected += by * (state is D.REJECTED and not record.failed)
        if state is D.QUARANTINED and by > 0:
            self.quarantined.append(record.device)
        elif state is D.QUARANTINED:
            self.quarantined.remove(record.device)

    @property
    def is_settled(self) -> bool:
        """Whether no device needs anything more for the wave to go on."""
        return self.settled == self.devices


def tally(records: Iterable[DeviceRecord]) -> Tally:
    """Count devices."""
    result = Tally()
    for record in records:
        result.count(record, 1)
    return result


def breach(
    count: Tally, budget: FailureBudget, wave: WaveRecord | None = None, total: int | None = None
) -> str | None:
    """Which limit of the budget devices breach, in plain words.

    :param count: the devices of one wave, or those that are in none.
    :param wave: their wave; what a person accepted there by resuming is not counted again.
    :param total: the number of devices that percentages refer to; those counted by default.
    """
    return budget.breach(
        devices=count.devices if total is None else total,
        failed=count.failed - (wave.accepted_failed if wave else 0),
        unreachable=count.unreachable - (wave.accepted_unreachable if wave else 0),
    )


def cannot_go_back(count: Tally) -> str | None:
    """Why a rollout stops whatever its budget: a device could not go back."""
    if not count.quarantined:
        return None
    names = ", ".join(sorted(count.quarantined))
    return f"could not go back, and is quarantined: {names}"


def nothing_gained(count: Tally, wave: WaveRecord, done: str = RUN) -> str | None:
    """Why a settled wave proves nothing, whatever its budget: no device of it runs the release.

    :param done: what devices do or are that came through.

    Not asked again where a person accepted its failures by resuming.
    """
    bad = count.failed or count.unreachable
    if count.good or not bad or wave.accepted_failed or wave.accepted_unreachable:
        return None
    return f"0 of {count.devices} devices {done}"


def passed_reason(count: Tally, wave: WaveRecord, done: str = RUN) -> str:
    """How a wave passed, in plain words."""
    rest = [
        f"{number} {what}"
        for what, number in (
            ("failed", count.failed),
            ("deferred", count.deferred),
            ("rejected", count.rejected),
        )
        if number
    ]
    how = (
        "accepted by resuming"
        if wave.accepted_failed + wave.accepted_unreachable
        else "within budget"
    )
    within = f", {', '.join(rest)} ({how})" if rest else ""
    return f"{count.good} of {count.devices} devices {done}{within}"


def is_taken_back(device: DeviceRecord, take_back: str | None, wave: int | None) -> bool:
    """Whether a device's confirmed release is taken back after a breach in ``wave``.

    :param take_back: what is taken back, ``roll_back_wave`` or ``roll_back_rollout``.

    A device without an earlier release keeps the one that passed its own gates: there is nothing
    to go back to.
    """
    if device.state is not D.COMMITTED or device.previous is None:
        return False
    return take_back == "roll_back_rollout" or (
        take_back == "roll_back_wave" and device.wave == wave
    )


def rollout_outcome(devices: Collection[DeviceRecord], done: str = RUN) -> tuple[RolloutState, str]:
    """How a rollout ends that came through all its waves."""
    deferred = [d for d in devices if d.state is D.DEFERRED]
    committed = sum(d.state in GOOD for d in devices)
    text = f"{committed} of {len(devices)} devices {done}"
    if deferred:
        names = ", ".join(d.device for d in deferred)
        return RolloutState.SUCCEEDED_WITH_DEFERRED, f"{text}; deferred: {names}"
    return RolloutState.SUCCEEDED, text


def rollback_outcome(devices: Collection[DeviceRecord]) -> tuple[RolloutState, str]:
    """How a rollout ends that was taken back."""
    bad = [d for d in devices if d.state in {D.ROLLBACK_FAILED, D.QUARANTINED, D.LOST}]
    back = sum(d.state is D.ROLLED_BACK for d in devices)
    if bad:
        names = ", ".join(d.device for d in bad)
        return RolloutState.ROLLBACK_FAILED, f"not known to be back: {names}"
    if not back:
        return RolloutState.ROLLED_BACK, "stopped before any device had switched"
    what = "1 device went" if back == 1 else f"{back} devices went"
    return RolloutState.ROLLED_BACK, f"{what} back to what ran before"


def exit_code(state: RolloutState, devices: Collection[DeviceRecord]) -> int:
    """The exit code of ``muster rollout``; a rollback, even of one device, is never 0."""
    states = {d.state for d in devices}
    if state in {RolloutState.PAUSED, RolloutState.AWAITING_APPROVAL}:
        return EXIT_PAUSED
    if state is RolloutState.ROLLBACK_FAILED or states & {D.QUARANTINED, D.ROLLBACK_FAILED, D.LOST}:
        return EXIT_ROLLBACK_FAILED
    if state is RolloutState.ROLLED_BACK or D.ROLLED_BACK in states:
        return EXIT_ROLLED_BACK
    if state is RolloutState.ABORTED:
        return EXIT_OTHER
    if any(d.failed for d in devices):
        return EXIT_OTHER
    if state is RolloutState.SUCCEEDED_WITH_DEFERRED:
        return EXIT_DEFERRED
    if state is RolloutState.SUCCEEDED:
        return EXIT_OK
    return EXIT_OTHER
