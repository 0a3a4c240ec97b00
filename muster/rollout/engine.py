"""The one loop that drives a rollout.

It waits for answers, lets ``decide`` say what they mean, writes the transitions to the journal in
one transaction, and only then gives the next orders. It knows devices by name and reaches them
through ``fleet.interface`` alone, so the same loop runs over SSH and over simulated devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from muster.fields import format_duration
from muster.fleet.interface import Fleet
from muster.hooks.interface import Hooks
from muster.release import Release
from muster.rollout import decide
from muster.rollout.crew import Crew
from muster.rollout.jobs import job_of
from muster.rollout.journal import Journal
from muster.rollout.leases import Lease
from muster.rollout.ledger import Ledger, Observer
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState, WaveState
from muster.rollout.prepare import REQUIRED
from muster.rollout.records import ControlRequest, RequestKind, Snapshot, WaveRecord
from muster.rollout.turns import Group
from muster.rollout.words import STOPPING
from muster.rollout.work import DeviceFacts
from muster.strategy import Strategy
from muster.tasks import Task

HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 2.0
"""How often a controller looks for what people ask of its rollout."""
HOOK_POLL_SECONDS = 0.1

D, R, W, K = DeviceState, RolloutState, WaveState, RequestKind

_ENDING = {
    K.REJECT: "rejected by {who}",
    K.ABORT: "aborted by {who}",
    K.ROLL_BACK: "aborted and taken back by {who}",
}


class Engine:
    """Drives one rollout to its end, or to where it waits for a person.

    :param snapshot: the rollout as the journal has it, new or unfinished.
    :param release: what is rolled out, a release or a task.
    :param facts: what the inventory says of each device.
    :param hooks: executables that may stop the rollout before it and before each wave.
    :param wait_for_approval: stay until somebody approves, instead of ending the run.
    :param tick: seconds between two calls of the observers' ``tick``; None for none.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        release: Release | Task,
        strategy: Strategy,
        fleet: Fleet,
        journal: Journal,
        lease: Lease,
        *,
        facts: Mapping[str, DeviceFacts] | None = None,
        observers: Sequence[Observer] = (),
        hooks: Hooks | None = None,
        wait_for_approval: bool = False,
        tick: float | None = None,
    ) -> None:
        self._ledger = Ledger(snapshot, journal, observers)
        job = job_of(release, strategy, snapshot.rollout)
        self._crew = Crew(self._ledger, job, strategy, fleet, facts or {})
        self._done = job.done
        self._rollout, self._waves = snapshot.rollout, snapshot.waves
        self._strategy, self._fleet = strategy, fleet
        self._journal, self._lease = journal, lease
        self._hooks, self._wait_for_approval, self._tick = hooks, wait_for_approval, tick
        self._next_heartbeat = self._next_poll = 0.0
        self._wake: float | None = None
        self._handled: list[ControlRequest] = []
        self._awaited_hook = ""
        self._passed_hooks: set[tuple[str, int | None]] = set()
        self._late_until: float | None = None
        self._takes_back = False

    def run(self) -> RolloutState:
        """Go on until the rollout is finished, paused or waiting for approval.

        :returns: the state in which it ended.
        :raises LeaseLostError: another controller took over; nothing more was done.
        """
        self._begin()
        while True:
            before = None
            while before is not self._rollout.state:  # a state may be over as soon as it begins
                before = self._rollout.state
                self._advance()
            self._ledger.write()  # before the orders: a transition is written, then the step taken
            while self._handled:
                self._journal.handled(self._handled.pop())
            for order in self._crew.take_orders():
                self._fleet.submit(order)
            if self._is_over():
                return self._rollout.state
            self._wait()

    def say(self, text: str) -> None:
        """Note what was done ahead of the rollout, in plain words."""
        self._ledger.say(text)

    def stop(self, reason: str) -> None:
        """Start nothing new; pause when every device under way has come to rest."""
        self._crew.stop(reason)
        self._ledger.say(f"{reason}: {STOPPING}")

    def _is_over(self) -> bool:
        if self._rollout.state is R.AWAITING_APPROVAL:
            return not self._wait_for_approval and not self._crew.in_flight()
        return self._rollout.state in FINAL_ROLLOUT | {R.PAUSED}

    def _begin(self) -> None:
        asked = self._journal.requests(self._rollout.id)
        ends = [request for request in asked if request.kind in _ENDING]
        # Who resumes means it: what was asked before to pause is over.
        self._handled += [request for request in asked if request.kind is K.PAUSE]
        if self._rollout.state is R.PAUSED and not ends:
            self._accept_failures()
        if self._rollout.state is R.PLANNED:
            left_out, total = self._crew.group(None).tally, len(self._ledger.devices)
            reason = decide.breach(left_out, self._strategy.failure_budget, total=total)
            if reason is not None:
                self.stop(f"before the first wave: {reason}")
        if self._rollout.state in {R.PLANNED, R.PAUSED}:
            self._ledger.move_rollout(R.RUNNING, "")
        for request in asked:
            if request.kind is K.APPROVE:
                self._approve(request)
                self._handled.append(request)
        for request in ends:
            self._end(request)
        self._crew.resume()

    def _wait(self) -> None:
        times = [HEARTBEAT_SECONDS, POLL_SECONDS, self._tick, self._wake]
        times.append(self._crew.seconds_to_next())
        if self._awaited_hook:
            times.append(HOOK_POLL_SECONDS)
        answer = self._fleet.next_answer(min(time for time in times if time is not None))
        while answer is not None:
            self._crew.handle(answer)
            answer = self._fleet.next_answer(0)
        self._ledger.tell(lambda observer: observer.tick())
        now = self._fleet.now()
        if now >= self._next_heartbeat:
            self._journal.heartbeat(self._lease)
            self._next_heartbeat = now + HEARTBEAT_SECONDS
        if now >= self._next_poll:
            self._obey_requests()
            self._next_poll = now + POLL_SECONDS

    # -- what people ask ----------------------------------------------------------------------

    def _obey_requests(self) -> None:
        for request in self._journal.requests(self._rollout.id):
            if request.kind is K.PAUSE:
                self.stop(f"paused by {request.who}{request.because}")
            elif request.kind is K.APPROVE:
                self._approve(request)
            else:
                self._end(request)
                continue
            self._handled.append(request)

    def _approve(self, request: ControlRequest) -> None:
        # A second approval of one wave must not count for the next.
        waiting = next((w for w in self._waves if w.state is W.AWAITING_APPROVAL), None)
        meant = waiting is not None and request.wave in {None, waiting.index}
        if waiting is None or not meant or waiting.approval != REQUIRED:
            self._ledger.say(f"approval by {request.who} counts for nothing: no wave waits for it")
            return
        waiting.approval = f"approved by {request.who}"
        self._ledger.touch(waiting)
        text = f"wave {waiting.index + 1} approved by {request.who}{request.because}"
        self._ledger.say(text, waiting)

    def _end(self, request: ControlRequest) -> None:
        self._handled.append(request)
        if self._rollout.state not in {R.RUNNING, R.AWAITING_APPROVAL}:
            asked = request.kind.value.replace("_", " ")
            told = self._rollout.state.value.replace("_", " ")
            self._ledger.say(f"{asked} asked by {request.who} comes too late: it is {told}")
            return
        told = _ENDING[request.kind].format(who=request.who) + request.because
        self._fail(told, "roll_back_rollout" if request.kind is K.ROLL_BACK else "abort")

    def _fail(self, told: str, on_breach: str) -> None:
        if on_breach in {"abort", "pause"}:
            self._ledger.move_rollout(R.ABORTING, told)
        else:
            self._rollout.take_back = on_breach
            self._ledger.move_rollout(R.ROLLING_BACK, told)

    # -- waves ------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._crew.give_due_orders()
        self._wake = None
        for work in self._crew.newly_committed():
            if self._takes_back:
                self._take_back(work.record.device)
        if self._rollout.state in {R.RUNNING, R.AWAITING_APPROVAL}:
            if not self._crew.stopping:
                self._advance_waves()
            if self._crew.stopping and not self._crew.in_flight():
                self._ledger.move_rollout(R.PAUSED, self._crew.stopping)
        elif self._rollout.state is R.ROLLING_BACK:
            if not self._takes_back:
                self._takes_back = True
                for device in list(self._ledger.devices):
                    self._take_back(device)
            if self._crew.at_rest():
                self._ledger.move_rollout(*decide.rollback_outcome(self._ledger.devices.values()))
        elif self._rollout.state is R.ABORTING and self._crew.at_rest():
            self._ledger.move_rollout(R.ABORTED, self._rollout.reason)

    def _advance_waves(self) -> None:
        if not self._hook_passed("pre_rollout", None):
            return
        for wave in self._waves:
            if wave.state is W.PASSED:
                continue
            if not self._advance_wave(wave):
                return
        waits = self._waits_for_late()
        if (delay := self._crew.start_late()) is not None:
            self._wake = delay if self._wake is None else min(delay, self._wake)
        if not waits and self._crew.at_rest() and self._crew.tally().is_settled:
            devices = self._ledger.devices.values()
            self._ledger.move_rollout(*decide.rollout_outcome(devices, self._done))

    def _advance_wave(self, wave: WaveRecord) -> bool:
        """Do what a wave needs now; True when it has passed."""
        group = self._crew.group(wave.index)
        if wave.state in {W.PENDING, W.STAGING, W.AWAITING_APPROVAL}:
            if not self._may_begin(wave, group):
                return False
            self._ledger.move_wave(wave, W.UPDATING, "")
            self._crew.last_progress = self._fleet.now()
        self._wake = self._crew.start(group, to_staged_only=False)
        if self._is_breached(wave, group):
            return False
        if not group.tally.is_settled:
            return False
        if wave.state is W.UPDATING and wave.soak > 0 and group.tally.committed:
            self._ledger.move_wave(wave, W.SOAKING, "")
            self._crew.last_progress = self._fleet.now()
        if wave.state is W.SOAKING and not self._soak(wave, group):
            return False
        self._ledger.move_wave(wave, W.PASSED, decide.passed_reason(group.tally, wave, self._done))
        return True

    def _may_begin(self, wave: WaveRecord, group: Group) -> bool:
        """Whether a person and the hook let a wave begin; asks them if they have not been."""
        if wave.approval == REQUIRED:
            if wave.state is not W.AWAITING_APPROVAL:
                self._ledger.move_wave(wave, W.AWAITING_APPROVAL, "")
            if self._rollout.state is not R.AWAITING_APPROVAL:  # also when it was paused meanwhile
                self._ledger.move_rollout(
                    R.AWAITING_APPROVAL, f"wave {wave.index + 1} ({wave.name}) needs approval"
                )
            self._crew.start(group, to_staged_only=True)
            return False
        if self._rollout.state is R.AWAITING_APPROVAL:
            self._ledger.move_rollout(R.RUNNING, wave.approval)
        return self._hook_passed("pre_wave", wave)

    def _hook_passed(self, hook: str, wave: WaveRecord | None) -> bool:
        """Whether a hook has let the rollout go on; one that fails pauses it."""
        key = (hook, None if wave is None else wave.index)
        if self._hooks is None or key in self._passed_hooks:
            return True
        if wave is None and any(each.state is not W.PENDING for each in self._waves):
            return True  # it was asked when the rollout began
        if not self._awaited_hook:
            self._awaited_hook = hook
            self._hooks.call(hook, self._hook_event(hook, wave))
        for result in self._hooks.finished():
            if result.hook != self._awaited_hook:
                continue
            self._awaited_hook = ""
            if result.ok:
                self._passed_hooks.add(key)
                return True
            self.stop(f"hook {hook} failed: {result.message}")
        return False

    def _hook_event(self, hook: str, wave: WaveRecord | None) -> dict[str, Any]:
        devices = [
            record.device
            for record in self._ledger.devices.values()
            if wave is None or record.wave == wave.index
        ]
        return {
            "event": hook,
            "rollout": self._rollout.id,
            "kind": self._rollout.kind,
            "model": self._rollout.model,
            "release": self._rollout.release_id,
            "wave": None if wave is None else {"index": wave.index, "name": wave.name},
            "devices": devices,
        }

    def _soak(self, wave: WaveRecord, group: Group) -> bool:
        """Watch the committed devices of a wave while the next one is staged."""
        while group.committed:
            work = group.committed.pop()
            if work.record.state is D.COMMITTED and not work.soaked:
                group.soaking.add(work.record.device)
                self._crew.soak(work, wave.soak)
        following = wave.index + 1
        if group.soaking and following < len(self._waves):
            upcoming = self._waves[following]
            if upcoming.state is W.PENDING:
                self._ledger.move_wave(upcoming, W.STAGING, "")
            self._crew.start(self._crew.group(following), to_staged_only=True)
        return not group.soaking

    def _is_breached(self, wave: WaveRecord, group: Group) -> bool:
        budget, tally = self._strategy.failure_budget, group.tally
        for_good = reason = decide.cannot_go_back(tally)
        if reason is None:
            reason = decide.breach(tally, budget, wave)
        if reason is None and tally.is_settled:
            reason = decide.nothing_gained(tally, wave, self._done)
        if reason is None and wave.state is W.UPDATING and self._made_no_progress(group):
            limit = format_duration(self._strategy.progress_deadline)
            reason = f"no device got a step further in {limit}"
        if reason is None:
            return False
        told = f"wave {wave.index + 1} failed: {reason}"
        if budget.on_breach == "pause" and not for_good:
            self.stop(told)
            return True
        self._ledger.move_wave(wave, W.FAILED, reason)
        self._fail(told, budget.on_breach)
        return True

    def _made_no_progress(self, group: Group) -> bool:
        # What waits for a window, an application's lock or the rate is not stuck.
        if group.waiting or self._wake is not None or group.tally.is_settled:
            return False
        return self._fleet.now() - self._crew.last_progress > self._strategy.progress_deadline

    def _take_back(self, device: str) -> None:
        failed = next((w.index for w in self._waves if w.state is W.FAILED), None)
        work = self._crew.work(device)
        if work.idle and decide.is_taken_back(work.record, self._rollout.take_back, failed):
            self._crew.take_back(work, f"taken back: {self._rollout.reason}")

    def _waits_for_late(self) -> bool:
        """Whether deferred devices are waited for, after the last wave."""
        deadline = self._strategy.offline.deadline
        if not deadline:
            return False
        tally = self._crew.tally()
        now = self._fleet.now()
        if self._late_until is None and tally.deferred:
            self._late_until = now + deadline
            self._ledger.say(
                f"{tally.deferred} deferred devices are waited for, for {format_duration(deadline)}"
            )
            self._crew.look_for_late()
        if self._late_until is None or not tally.deferred:
            return False
        if now >= self._late_until:
            self._crew.looks_for_late = False
            return False
        self._wake = self._late_until - now
        return True

    def _accept_failures(self) -> None:
        """A person resumed a paused rollout and so accepts what failed until now."""
        for wave in self._waves:
            if wave.state is not W.PASSED:
                tally = self._crew.group(wave.index).tally
                wave.accepted_failed = tally.failed
                wave.accepted_unreachable = tally.unreachable
                self._ledger.touch(wave)
