"""The devices of a rollout at work: from an answer to the next state, and to the next order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from muster.fields import format_duration
from muster.fleet.interface import Answer, Fleet, Order, Trouble
from muster.gates import Assessment
from muster.release import running
from muster.rollout import decide
from muster.rollout.decide import Next
from muster.rollout.events import EventKind
from muster.rollout.jobs import Job
from muster.rollout.ledger import Ledger
from muster.rollout.machine import BEFORE_SWITCH, GOOD, UNCONFIRMED, DeviceState, RolloutState
from muster.rollout.turns import Due, Group, Turns
from muster.rollout.work import DeviceFacts, DeviceWork, Step
from muster.strategy import Strategy

RETRY_SECONDS = 2.0
"""Pause before a device is asked again after trouble."""
RECHECK_SECONDS = 5.0
"""Pause between two attempts to reach a lost device."""
LATE_SECONDS = 30.0
"""Pause between two attempts to reach a deferred device that is waited for."""
LOCK_RETRY_SECONDS = 10.0
"""Pause before a device is asked again whose application holds the lock."""
MAX_MOVES = 100
"""Transitions of one device in one run; what makes more goes round in circles."""

D, R = DeviceState, RolloutState


class Crew:
    """Every device of one rollout, each on its own way through the states.

    :param facts: what the inventory says of each device.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        strategy: Strategy,
        fleet: Fleet,
        facts: Mapping[str, DeviceFacts],
    ) -> None:
        self._ledger, self._job, self._strategy = ledger, job, strategy
        self._now = fleet.now
        self.turns = Turns(strategy, fleet.now, fleet.wall_time)
        self._groups: dict[int | None, Group] = {}
        self._works: dict[str, DeviceWork] = {}
        for name, record in ledger.devices.items():
            work = DeviceWork(record, facts.get(name, DeviceFacts()))
            self._works[name] = work
            self._groups.setdefault(record.wave, Group()).add(work)
        self._build = job.orders
        self._orders: list[Order] = []
        self._busy: dict[str, DeviceWork] = {}
        self._due, self._waiting = Due(), Due()
        self._confirmed: list[DeviceWork] = []
        self.stopping = ""
        self.active = sum(work.counts_as_active for work in self._works.values())
        self.looks_for_late = False
        self.last_progress = fleet.now()

    def group(self, wave: int | None) -> Group:
        """The devices of one wave; None: of no wave."""
        return self._groups.setdefault(wave, Group())

    def work(self, device: str) -> DeviceWork:
        """One device."""
        return self._works[device]

    def newly_committed(self) -> list[DeviceWork]:
        """Devices that were confirmed, or whose soak ended, since this was last asked."""
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def tally(self) -> decide.Tally:
        """Count all devices."""
        return decide.tally(work.record for work in self._works.values())

    def stop(self, reason: str) -> None:
        """Start nothing new; what is under way comes to rest."""
        self.stopping = self.stopping or reason

    def resume(self) -> None:
        """Go on where another controller left off: ask every device before anything else."""
        for work in self._works.values():
            state = work.record.state
            if state in UNCONFIRMED | {D.ROLLING_BACK}:
                self._ask_where_it_is(work)
            elif state is D.STAGING and self._may_begin():
                self.move(work, Next(D.PREFLIGHT, "looked at again"))
            elif state is D.PREFLIGHT:
                self._enter(work)
            elif state is D.ROLLBACK_FAILED:
                self.move(work, Next(D.QUARANTINED, work.record.reason, failed=True))
            elif state is D.LOST:
                self._watch_lost(work)

    def in_flight(self) -> bool:
        """Whether a device is under way; one that is lost is not."""
        return any(work.record.state is not D.LOST for work in self._busy.values())

    def at_rest(self) -> bool:
        """Whether nothing is under way, and no lost device may still be seen again."""
        return not self._busy

    def seconds_to_next(self) -> float | None:
        """Seconds until something is due; None when nothing is."""
        times = [at for at in (self._due.first, self._waiting.first) if at is not None]
        return max(0.0, min(times) - self._now()) if times else None

    def start(self, group: Group, *, to_staged_only: bool) -> float | None:
        """Set devices going that wait for their turn, ``max_parallel`` at a time.

        :returns: seconds until a switch may begin that the rate holds back; None for none.
        """
        while self.active < self._strategy.max_parallel and group.staged and not to_staged_only:
            delay = self.turns.rate_delay()
            if delay:
                break
            work = group.staged.popleft()
            if work.record.state is D.STAGED and work.idle:
                self._switch_in_its_window(work)
        while self.active < self._strategy.max_parallel and group.pending:
            work = group.pending.popleft()
            if work.record.state is D.PENDING:
                self.move(work, Next(D.PREFLIGHT))
            elif work.record.state is D.STAGED and work.idle:
                self.move(work, Next(D.PREFLIGHT, "looked at again"))
            elif work.record.state is D.DEFERRED and work.idle:
                self.move(work, Next(D.PREFLIGHT, "it is back"))
        held_back = group.staged and not to_staged_only
        return (self.turns.rate_delay() or None) if held_back else None

    def start_late(self) -> float | None:
        """Set devices going that came back after the last wave; see :meth:`start`."""
        delays = [self.start(group, to_staged_only=False) for group in self._groups.values()]
        return min((delay for delay in delays if delay is not None), default=None)

    def _switch_in_its_window(self, work: DeviceWork) -> None:
        delay = self.turns.window_delay(work)
        if delay:
            self._wait(work, delay, "waits for its maintenance window")
        else:
            self.turns.switch_begins()
            self.move(work, Next(D.SWITCHING))

    def _wait(self, work: DeviceWork, seconds: float, reason: str) -> None:
        """Let a device wait where it is; it does not count as under way."""
        if reason and not work.record.reason.startswith(reason):
            work.record.reason = f"{reason}, for {format_duration(round(seconds))}"
            self._ledger.touch(work.record)
            self._ledger.say(f"{work.record.device} {work.record.reason}", work.record)
        self.group(work.record.wave).waiting += 1
        self._waiting.put(self._now() + seconds, work)

    def _wait_for_lock(self, work: DeviceWork) -> None:
        now = self._now()
        if work.locked_since is None:
            work.locked_since = now
        if now - work.locked_since < self._strategy.lock_deadline:
            self._wait(work, LOCK_RETRY_SECONDS, "")
        else:
            limit = format_duration(self._strategy.lock_deadline)
            self.move(
                work, Next(D.DEFERRED, f"{work.record.reason}, for {limit}", unreachable=True)
            )

    def _end_waits(self) -> None:
        for work in self._waiting.take(self._now()):
            group = self.group(work.record.wave)
            group.waiting -= 1
            self.last_progress = self._now()
            if work.record.state is D.STAGED and work.idle:
                group.staged.append(work)
            elif work.record.state is D.DEFERRED and work.idle and self.looks_for_late:
                self._order(work, Step.RECHECK)

    def look_for_late(self) -> None:
        """Ask deferred devices again and again, and bring those up that are back."""
        self.looks_for_late = True
        for work in self._works.values():
            if work.record.state is D.DEFERRED:
                self._wait(work, LATE_SECONDS, "")

    def take_orders(self) -> list[Order]:
        """The orders to give now that everything noted is in the journal."""
        orders, self._orders = self._orders, []
        return orders

    def soak(self, work: DeviceWork, seconds: float) -> None:
        """Watch a confirmed device."""
        self._order(work, Step.SOAK, seconds)

    def take_back(self, work: DeviceWork, reason: str) -> None:
        """Take a confirmed release back."""
        work.was_confirmed = True
        self.move(work, Next(D.ROLLING_BACK, reason))

    def handle(self, answer: Answer) -> None:
        """Take an answer in."""
        work = self._works[answer.device]
        step, work.step = work.step, None
        if step is None:
            raise AssertionError(f"{answer.device} answered without an order")
        del self._busy[answer.device]
        self._note_answer(work, step, answer)
        handler: Callable[[DeviceWork, Answer], Next | None] = {
            Step.PREFLIGHT: self._after_preflight,
            Step.RECONCILE: self._after_reconcile,
            Step.RECHECK: self._after_recheck,
            Step.STAGE: self._after_stage,
            Step.SWITCH: self._after_switch,
            Step.EXTEND: self._after_extend,
            Step.PROBE: self._after_probe,
            Step.SOAK: self._after_soak,
            Step.CONFIRM: self._after_confirm,
            Step.REVERT: self._after_revert,
        }[step]
        following = handler(work, answer)
        if following is not None:
            self.move(work, following)

    def _after_preflight(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            if self._try_again(work, Step.PREFLIGHT):
                return None
            return decide.unreachable_before_switch(self._strategy.offline.policy, answer.message)
        record = work.record
        if work.facts.timezone is None and answer.document.get("timezone"):
            work.facts = replace(work.facts, timezone=answer.document["timezone"])
        reasons = self._job.misfits(record.variant, answer.document)
        if (problem := self.turns.window_problem(work)) is not None:
            reasons.append(problem)
        following = decide.preflight(self._attempt(work), answer.document, reasons)
        if following.state is D.STAGING:
            record.previous = running(answer.document)
            record.generation = answer.document["model"]["generation"] + 1
        return following

    def _after_recheck(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is None:
            self.group(work.record.wave).pending.append(work)
        else:
            self._wait(work, LATE_SECONDS, "")
        return None

    def _after_reconcile(self, work: DeviceWork, answer: Answer) -> Next | None:
        state = work.record.state
        if answer.trouble is not None:
            if state is D.LOST:
                self._watch_lost(work)
                return None
            if self._may_restart(work, answer):
                self._ask_where_it_is(work, delay=RETRY_SECONDS)
                return None
            if self._try_again(work, Step.RECONCILE):
                return None
            return self._out_of_tries(work, answer)
        work.away_since = None
        following = decide.reconcile(state, self._attempt(work), answer.document)
        if following.state is D.ROLLING_BACK and state is D.LOST and self._job.restarts_for:
            following = replace(following, reason=f"came back too late: {work.record.reason}")
        seen = answer.document["model"]
        work.was_confirmed = seen["last_good"] == self._job.id and seen["phase"] == "idle"
        remaining = seen["guard"]["remaining"]
        needed = self._strategy.min_healthy_time + self._strategy.command_margin
        work.must_extend = remaining is not None and remaining < needed
        following = self._unless_taken_back(following)
        if following.state is D.PREFLIGHT:
            work.rounds += 1
            if work.rounds >= decide.MAX_TRIES:
                reason = work.last_trouble or following.reason
                return Next(D.REJECTED, f"{reason} ({work.rounds} times)", failed=True)
        if following.state is state:
            if following.state is D.LOST and not following.for_good:
                self._watch_lost(work)
            elif following.state is D.LOST:
                work.record.reason = following.reason
                self._ledger.touch(work.record)
            elif work.tries >= decide.MAX_TRIES and state is not D.ROLLING_BACK:
                return Next(D.ROLLING_BACK, f"gave up after {work.tries} tries", failed=True)
            else:
                self._enter(work)
            return None
        return following

    def _after_stage(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is Trouble.UNREACHABLE and self._try_again(work, Step.STAGE):
            return None
        if answer.code == "busy" and self._try_again(work, Step.STAGE):
            return None
        return decide.after_stage(answer, self._strategy.offline.policy, work.facts.lacks)

    def _after_switch(self, work: DeviceWork, answer: Answer) -> Next | None:
        following = decide.after_switch(answer)
        if following is None:
            return self._trouble(work, answer)
        return self._unless_taken_back(following)

    def _after_extend(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            return self._trouble(work, answer)
        work.must_extend = False
        self._order(work, Step.PROBE)
        return None

    def _after_probe(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            return self._trouble(work, answer)
        following = decide.after_probe(self._assess(work, answer), work.tries)
        if following.state is D.SOAKING:
            work.tries += 1
            work.must_extend = True
            self._enter(work, delay=RETRY_SECONDS)
            return None
        if following.pause:
            self.stop(f"{work.record.device}: {following.reason}")
        return self._unless_taken_back(following)

    def _after_soak(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            if self._try_again(work, Step.SOAK):
                return None
            if answer.trouble is Trouble.UNREACHABLE:
                # Confirmed, but nobody can say how it does: the budget decides.
                self._has_soaked(work)
                self._mark(
                    work, f"out of reach during the soak: {answer.message}", unreachable=True
                )
                self._ledger.say(f"{work.record.device} is {work.record.reason}", work.record)
                return None
            assessments = self._job.unmeasured(answer.message)
        else:
            assessments = self._assess(work, answer)
        following = decide.after_probe(assessments, decide.MAX_TRIES)
        work.tries = 0
        self._has_soaked(work)
        if following.state is D.CONFIRMING:
            return None
        if following.pause:
            # It passed its own gates and is confirmed; nobody can say now that it is bad.
            self.stop(f"{work.record.device}: {following.reason}")
            return None
        if work.record.previous is None:
            self._mark(work, following.reason, failed=True)
            self._ledger.say(
                f"{work.record.device} failed its soak and has no earlier release to go back to",
                work.record,
            )
            return None
        work.was_confirmed = True
        return following

    def _after_confirm(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            return self._trouble(work, answer)
        work.was_confirmed = True
        return Next(D.COMMITTED)

    def _after_revert(self, work: DeviceWork, answer: Answer) -> Next | None:
        # A way back that failed goes on there until it is given up; its guard tries it too.
        again = {"busy", "revert_failed", "unfinished_switch"}
        if answer.code in again and self._try_again(work, Step.REVERT):
            return None
        following = decide.after_revert(answer)
        if following is None:
            return self._trouble(work, answer)
        if following.state is D.ROLLBACK_FAILED and work.was_confirmed and not work.fell_back:
            # Once to the last good one, so that the device serves at all.
            work.fell_back = True
            work.record.reason = following.reason
            self._ledger.touch(work.record)
            self._order(work, Step.REVERT)
            return None
        if following.state is D.ROLLED_BACK and work.fell_back:
            reason = f"{work.record.reason}; it serves {answer.document['to']} again"
            return Next(D.ROLLBACK_FAILED, reason, failed=True)
        # What it went back for is what a person wants to read.
        return replace(following, reason=following.reason or work.record.reason)

    def _unless_taken_back(self, following: Next) -> Next:
        """A rollout that is taken back lets no device go further with its release."""
        rollout = self._ledger.rollout
        if rollout.state is R.ROLLING_BACK and following.state in UNCONFIRMED:
            return Next(D.ROLLING_BACK, f"taken back: {rollout.reason}")
        return following

    def _trouble(self, work: DeviceWork, answer: Answer) -> Next | None:
        """A step after the switch has no result: ask the device where it is, or give it up."""
        work.tries += 1
        work.last_trouble = answer.message
        if work.tries > decide.MAX_TRIES:
            return self._out_of_tries(work, answer)
        self._ask_where_it_is(work, delay=RETRY_SECONDS)
        return None

    def _may_restart(self, work: DeviceWork, answer: Answer) -> bool:
        """Whether a device that is out of reach may still come back from a restart."""
        if answer.trouble is not Trouble.UNREACHABLE or work.record.state is not D.SWITCHING:
            return False
        if work.away_since is None:
            work.away_since = self._now()
        return self._now() - work.away_since < self._job.restarts_for

    def _out_of_tries(self, work: DeviceWork, answer: Answer) -> Next:
        guarded = not self._job.restarts_for
        return decide.out_of_tries(work.record.state, answer, guarded=guarded)

    def _assess(self, work: DeviceWork, answer: Answer) -> list[Assessment]:
        assessments = self._job.assess(answer.document)
        for assessment in assessments:
            self._ledger.note(EventKind.GATE, assessment.to_json(), work.record)
        return assessments

    def _has_soaked(self, work: DeviceWork) -> None:
        work.soaked = True
        self.group(work.record.wave).soaking.discard(work.record.device)
        self._confirmed.append(work)  # if all is taken back meanwhile, its turn has come

    def _mark(
        self, work: DeviceWork, reason: str, *, failed: bool = False, unreachable: bool = False
    ) -> None:
        """Count a device against a budget where it is."""
        tally = self.group(work.record.wave).tally
        tally.count(work.record, -1)
        work.record.reason = reason
        work.record.failed |= failed
        work.record.unreachable |= unreachable
        tally.count(work.record, 1)
        self._ledger.touch(work.record)

    def move(self, work: DeviceWork, following: Next) -> None:
        """Take a device to its next state, and order what it needs there."""
        work.moves += work.locked_since is None  # an application's lock has a deadline of its own
        if work.moves > MAX_MOVES:
            following = decide.round_in_circles(work.record.state, following)
        group, old = self.group(work.record.wave), work.record.state
        self.active -= work.counts_as_active
        group.tally.count(work.record, -1)
        work.given_up = following.for_good
        self._ledger.move_device(work.record, following)
        if work.record.state in GOOD:
            work.record.unreachable = False  # it was away, and came back in time
        group.tally.count(work.record, 1)
        self.active += work.counts_as_active
        self.last_progress = self._now()
        if work.record.state in {D.STAGING, D.SWITCHING, D.COMMITTED, D.ROLLING_BACK}:
            work.tries = 0
        if work.record.state is D.COMMITTED:
            self._confirmed.append(work)
        if old is D.STAGING and (freed := self.turns.pulled(work)) is not None:
            self._enter(freed)
        if old is D.SWITCHING and work.record.state is D.STAGED:
            self._wait_for_lock(work)
            return
        group.enqueue(work)
        if work.record.state is D.DEFERRED and self.looks_for_late:
            work.moves = work.rounds = 0
            self._wait(work, LATE_SECONDS, "")
        self._enter(work)

    def _enter(self, work: DeviceWork, delay: float = 0.0) -> None:
        """Give the order that belongs to the state in which a device is."""
        state = work.record.state
        if state is D.SOAKING:
            self._order(work, Step.EXTEND if work.must_extend else Step.PROBE, delay=delay)
        elif state is D.LOST:
            self._watch_lost(work)
        elif state is D.ROLLBACK_FAILED:
            self.move(work, Next(D.QUARANTINED, work.record.reason, failed=True))
        elif state in BEFORE_SWITCH and not self._may_begin():
            # Nothing was touched; it waits for a resume.
            work.record.reason = "stopped before its switch"
            self._ledger.touch(work.record)
        elif state is D.STAGING and not self.turns.may_pull(work):
            pass  # another device of its site gives its place to it
        elif state in _STEPS:
            self._order(work, _STEPS[state], delay=delay)

    def _may_begin(self) -> bool:
        return not self.stopping and self._ledger.rollout.state in {R.RUNNING, R.AWAITING_APPROVAL}

    def _order(
        self, work: DeviceWork, step: Step, duration: float = 0.0, delay: float = 0.0
    ) -> None:
        work.due_step, work.duration = step, duration
        self._busy[work.record.device] = work
        if delay:
            self._due.put(self._now() + delay, work)
        else:
            self._give(work)

    def give_due_orders(self) -> None:
        """Give the orders whose time has come."""
        for work in self._due.take(self._now()):
            if work.due_step is not None:
                self._give(work)
        self._end_waits()

    def _give(self, work: DeviceWork) -> None:
        step, work.due_step = work.due_step, None
        record, build, name = work.record, self._build, work.record.device
        work.step = step
        if step in {Step.PREFLIGHT, Step.RECONCILE, Step.RECHECK}:
            order = build.inspect(name)
        elif step is Step.STAGE:
            order = build.stage(name, record.variant, work.facts.registry)
        elif step is Step.SWITCH:
            order = build.switch(name, record.generation)
        elif step is Step.EXTEND:
            order = build.extend(name, record.generation)
        elif step is Step.PROBE:
            order = build.probe(name, self._strategy.min_healthy_time)
        elif step is Step.SOAK:
            order = build.probe(name, work.duration)
        elif step is Step.CONFIRM:
            order = build.confirm(name, record.generation)
        else:
            to = record.previous if work.was_confirmed else None
            if work.fell_back:
                to = self._job.id  # its last good one until it went back
            order = build.revert(name, record.generation, to, record.reason)
        self._orders.append(order)

    def _try_again(self, work: DeviceWork, step: Step) -> bool:
        work.tries += 1
        if work.tries >= decide.MAX_TRIES:
            work.tries = 0
            return False
        self._order(work, step, work.duration, delay=RETRY_SECONDS)
        return True

    def _ask_where_it_is(self, work: DeviceWork, delay: float = 0.0) -> None:
        self._order(work, Step.RECONCILE, delay=delay)

    def _watch_lost(self, work: DeviceWork) -> None:
        """Ask a lost device again, until its guard must have taken it back."""
        now = self._now()
        if work.given_up:
            return
        if work.watch_until is None:
            patience = self._strategy.confirm_timeout + self._strategy.healthy_deadline
            work.watch_until = now + patience + self._strategy.command_margin
        if now < work.watch_until:
            self._ask_where_it_is(work, delay=RECHECK_SECONDS)

    def _attempt(self, work: DeviceWork) -> decide.Attempt:
        return decide.Attempt(self._ledger.rollout.id, self._job.id, work.record.generation)

    def _note_answer(self, work: DeviceWork, step: Step, answer: Answer) -> None:
        data: dict[str, Any] = {
            "step": step.value,
            "verb": answer.verb.value,
            "seconds": round(answer.seconds, 3),
            "trouble": answer.trouble.value if answer.trouble else None,
            "message": answer.message,
        }
        for fact in ("ready_after", "downtime", "pulled", "pruned", "to"):
            if answer.document.get(fact) is not None:
                data[fact] = answer.document[fact]
        self._ledger.note(EventKind.ANSWER, data, work.record)


_STEPS = {
    D.PREFLIGHT: Step.PREFLIGHT,
    D.STAGING: Step.STAGE,
    D.SWITCHING: Step.SWITCH,
    D.CONFIRMING: Step.CONFIRM,
    D.ROLLING_BACK: Step.REVERT,
}
