"""The one loop that drives a rollout.

It waits for answers, lets ``decide`` say what they mean, writes the transitions to the journal in
one transaction, and only then gives the next orders. It knows devices by name and reaches them
through ``fleet.interface`` alone, so the same loop runs over SSH and over simulated devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from muster.fleet.interface import Fleet
from muster.release import Release
from muster.rollout import decide
from muster.rollout.crew import Crew
from muster.rollout.decide import Next
from muster.rollout.journal import Journal, Lease
from muster.rollout.ledger import Ledger, Observer
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState, WaveState
from muster.rollout.records import DeviceRecord, Snapshot, WaveRecord
from muster.rollout.work import DeviceWork
from muster.strategy import Strategy

HEARTBEAT_SECONDS = 10.0

D, R, W = DeviceState, RolloutState, WaveState


class Engine:
    """Drives one rollout to its end, or to a pause.

    :param snapshot: the rollout as the journal has it, new or unfinished.
    :param registries: address of the registry (``host:port``) for each device that has its own.
    :param tick: seconds between two calls of the observers' ``tick``; None for none.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        release: Release,
        strategy: Strategy,
        fleet: Fleet,
        journal: Journal,
        lease: Lease,
        *,
        registries: Mapping[str, str] | None = None,
        observers: Sequence[Observer] = (),
        tick: float | None = None,
    ) -> None:
        self._ledger = Ledger(snapshot, journal, observers)
        self._crew = Crew(self._ledger, release, strategy, fleet.now, registries or {})
        self._rollout, self._waves = snapshot.rollout, snapshot.waves
        self._strategy, self._fleet = strategy, fleet
        self._journal, self._lease = journal, lease
        self._tick = tick
        self._next_heartbeat = 0.0

    def run(self) -> RolloutState:
        """Go on until the rollout is finished or paused.

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
            for order in self._crew.take_orders():
                self._fleet.submit(order)
            if self._rollout.state in FINAL_ROLLOUT | {R.PAUSED}:
                return self._rollout.state
            self._wait()

    def stop(self, reason: str) -> None:
        """Start nothing new; pause when every device under way has come to rest."""
        self._crew.stop(reason)
        self._ledger.say(f"{reason}: pausing when the devices under way have come to rest")

    def _begin(self) -> None:
        if self._rollout.state is R.PAUSED:
            self._accept_failures()
        if self._rollout.state is R.PLANNED:
            left_out = [work.record for work in self._crew.of_wave(None)]
            total = len(self._ledger.devices)
            reason = decide.breach(left_out, total, self._strategy.failure_budget)
            if reason is not None:
                self.stop(f"before the first wave: {reason}")
        if self._rollout.state in {R.PLANNED, R.PAUSED}:
            self._ledger.move_rollout(R.RUNNING, "")
        self._crew.resume()

    def _wait(self) -> None:
        timeout = HEARTBEAT_SECONDS
        if self._tick is not None:
            timeout = min(timeout, self._tick)
        due = self._crew.seconds_to_next()
        if due is not None:
            timeout = min(timeout, due)
        answer = self._fleet.next_answer(timeout)
        while answer is not None:
            self._crew.handle(answer)
            answer = self._fleet.next_answer(0)
        self._ledger.tell(lambda observer: observer.tick())
        if self._fleet.now() >= self._next_heartbeat:
            self._journal.heartbeat(self._lease)
            self._next_heartbeat = self._fleet.now() + HEARTBEAT_SECONDS

    # -- waves ------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._crew.give_due_orders()
        if self._rollout.state is R.RUNNING:
            if not self._crew.stopping:
                self._advance_waves()
            if self._crew.stopping and not self._crew.in_flight():
                self._ledger.move_rollout(R.PAUSED, self._crew.stopping)
        elif self._rollout.state is R.ROLLING_BACK:
            self._take_back()
            if self._crew.at_rest():
                self._ledger.move_rollout(*decide.rollback_outcome(self._records()))
        elif self._rollout.state is R.ABORTING and self._crew.at_rest():
            self._ledger.move_rollout(R.ABORTED, self._rollout.reason)

    def _advance_waves(self) -> None:
        for wave in self._waves:
            if wave.state is W.PASSED:
                continue
            if not self._advance_wave(wave):
                return
        if self._crew.at_rest():
            self._ledger.move_rollout(*decide.rollout_outcome(self._records()))

    def _advance_wave(self, wave: WaveRecord) -> bool:
        """Do what a wave needs now; True when it has passed."""
        members = self._crew.of_wave(wave.index)
        if wave.state in {W.PENDING, W.STAGING}:
            self._ledger.move_wave(wave, W.UPDATING, "")
            self._crew.last_progress = self._fleet.now()
        self._start(members, to_staged_only=False)
        records = [work.record for work in members]
        if self._is_breached(wave, records):
            return False
        if not decide.wave_is_settled(records):
            return False
        committed = any(record.state is D.COMMITTED for record in records)
        if wave.state is W.UPDATING and wave.soak > 0 and committed:
            self._ledger.move_wave(wave, W.SOAKING, "")
            self._crew.last_progress = self._fleet.now()
        if wave.state is W.SOAKING and not self._soak(wave, members):
            return False
        self._ledger.move_wave(wave, W.PASSED, decide.passed_reason(records, wave))
        return True

    def _soak(self, wave: WaveRecord, members: Iterable[DeviceWork]) -> bool:
        """Watch the committed devices of a wave while the next one is staged."""
        waiting = [w for w in members if w.record.state is D.COMMITTED and not w.soaked]
        for work in waiting:
            if work.idle:
                self._crew.soak(work, wave.soak)
        following = wave.index + 1
        if waiting and following < len(self._waves):
            upcoming = self._waves[following]
            if upcoming.state is W.PENDING:
                self._ledger.move_wave(upcoming, W.STAGING, "")
            self._start(self._crew.of_wave(following), to_staged_only=True)
        return not waiting

    def _start(self, members: Iterable[DeviceWork], *, to_staged_only: bool) -> None:
        """Set devices going that wait for their turn, ``max_parallel`` at a time."""
        for work in members:
            if self._crew.active >= self._strategy.max_parallel:
                return
            if not work.idle:
                continue
            if work.record.state is D.PENDING:
                self._crew.move(work, Next(D.PREFLIGHT))
            elif work.record.state is D.STAGED and not to_staged_only:
                self._crew.move(work, Next(D.SWITCHING))

    def _is_breached(self, wave: WaveRecord, records: Sequence[DeviceRecord]) -> bool:
        budget = self._strategy.failure_budget
        reason = decide.breach(records, len(records), budget, wave)
        if reason is None and decide.wave_is_settled(records):
            reason = decide.nothing_gained(records, wave)
        if reason is None and wave.state is W.UPDATING and self._made_no_progress(records):
            reason = f"no device got a step further in {self._strategy.progress_deadline:.0f} s"
        if reason is None:
            return False
        told = f"wave {wave.index + 1} failed: {reason}"
        if budget.on_breach == "pause":
            self.stop(told)
            return True
        self._ledger.move_wave(wave, W.FAILED, reason)
        state = R.ABORTING if budget.on_breach == "abort" else R.ROLLING_BACK
        self._ledger.move_rollout(state, told)
        return True

    def _made_no_progress(self, records: Iterable[DeviceRecord]) -> bool:
        late = self._fleet.now() - self._crew.last_progress > self._strategy.progress_deadline
        return late and not decide.wave_is_settled(records)

    def _take_back(self) -> None:
        failed = next((w.index for w in self._waves if w.state is W.FAILED), None)
        on_breach = self._strategy.failure_budget.on_breach
        for work in self._crew.everybody():
            if work.idle and decide.is_taken_back(work.record, on_breach, failed):
                self._crew.take_back(work, f"taken back: {self._rollout.reason}")

    def _accept_failures(self) -> None:
        """A person resumed a paused rollout and so accepts what failed until now."""
        for wave in self._waves:
            if wave.state is not W.PASSED:
                records = [w.record for w in self._crew.of_wave(wave.index)]
                wave.accepted_failed = sum(r.failed for r in records)
                wave.accepted_unreachable = sum(r.unreachable for r in records)
                self._ledger.touch(wave)

    def _records(self) -> list[DeviceRecord]:
        return list(self._ledger.devices.values())
