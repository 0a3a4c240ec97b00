"""The devices of a rollout at work: from an answer to the next state, and to the next order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from muster.fleet.interface import Answer, Order, Trouble
from muster.gates import Assessment, assess_probe, could_not_measure
from muster.release import Release, fits
from muster.rollout import decide
from muster.rollout.decide import Next
from muster.rollout.events import EventKind
from muster.rollout.ledger import Ledger
from muster.rollout.machine import BEFORE_SWITCH, UNCONFIRMED, DeviceState, RolloutState
from muster.rollout.orders import Orders
from muster.rollout.work import DeviceWork, Step
from muster.strategy import Strategy

RETRY_SECONDS = 2.0
"""Pause before a device is asked again after trouble."""
RECHECK_SECONDS = 5.0
"""Pause between two attempts to reach a lost device."""

D, R = DeviceState, RolloutState


class Crew:
    """Every device of one rollout, each on its own way through the states.

    :param now: the clock of the fleet, in seconds.
    :param registries: address of the registry (``host:port``) for each device that has its own.
    """

    def __init__(
        self,
        ledger: Ledger,
        release: Release,
        strategy: Strategy,
        now: Callable[[], float],
        registries: Mapping[str, str],
    ) -> None:
        self._ledger, self._release, self._strategy = ledger, release, strategy
        self._now, self._registries = now, registries
        self._works = {name: DeviceWork(record) for name, record in ledger.devices.items()}
        self._by_wave: dict[int | None, list[DeviceWork]] = {}
        for work in self._works.values():
            self._by_wave.setdefault(work.record.wave, []).append(work)
        rollout = ledger.rollout
        self._build = Orders(rollout.id, release, strategy, signature=rollout.signature)
        self._orders: list[Order] = []
        self._due: dict[str, DeviceWork] = {}
        self.stopping = ""
        self.active = 0
        self.last_progress = now()

    def of_wave(self, wave: int | None) -> list[DeviceWork]:
        """The devices of one wave; None: of no wave."""
        return self._by_wave.get(wave, [])

    def everybody(self) -> list[DeviceWork]:
        """All devices."""
        return list(self._works.values())

    def stop(self, reason: str) -> None:
        """Start nothing new; what is under way comes to rest."""
        self.stopping = self.stopping or reason

    def resume(self) -> None:
        """Go on where another controller left off: ask every device before anything else."""
        for work in self._works.values():
            state = work.record.state
            if state in UNCONFIRMED | {D.ROLLING_BACK}:
                self._ask_where_it_is(work)
            elif state in {D.STAGING, D.STAGED}:
                self.move(work, Next(D.PREFLIGHT, "its controller went away"))
            elif state is D.PREFLIGHT:
                self._enter(work)
            elif state is D.ROLLBACK_FAILED:
                self.move(work, Next(D.QUARANTINED, work.record.reason, failed=True))
            elif state is D.LOST:
                self._watch_lost(work)

    def in_flight(self) -> bool:
        """Whether a device is under way; one that is lost is not."""
        return any(not w.idle and w.record.state is not D.LOST for w in self._works.values())

    def at_rest(self) -> bool:
        """Whether nothing is under way, and no lost device may still be seen again."""
        return all(work.idle for work in self._works.values())

    def seconds_to_next(self) -> float | None:
        """Seconds until an order is due; None when none is."""
        if not self._due:
            return None
        return max(0.0, min(work.not_before for work in self._due.values()) - self._now())

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
        self._note_answer(work, step, answer)
        handler: Callable[[DeviceWork, Answer], Next | None] = {
            Step.PREFLIGHT: self._after_preflight,
            Step.RECONCILE: self._after_reconcile,
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
        variant = self._release.variants[record.variant]
        misfits = fits(variant, answer.document, self._release.id)
        following = decide.preflight(self._attempt(work), answer.document, misfits)
        if following.state is D.STAGING:
            seen = answer.document["model"]
            record.previous = seen["current"]["id"] if seen["current"] else None
            record.generation = seen["generation"] + 1
        return following

    def _after_reconcile(self, work: DeviceWork, answer: Answer) -> Next | None:
        state = work.record.state
        if answer.trouble is not None:
            if state is D.LOST:
                self._watch_lost(work)
                return None
            if self._try_again(work, Step.RECONCILE):
                return None
            return decide.out_of_tries(state, answer)
        following = decide.reconcile(state, self._attempt(work), answer.document)
        seen = answer.document["model"]
        work.was_confirmed = seen["last_good"] == self._release.id and seen["phase"] == "idle"
        remaining = seen["guard"]["remaining"]
        needed = self._strategy.min_healthy_time + self._strategy.command_margin
        work.must_extend = remaining is not None and remaining < needed
        if self._ledger.rollout.state is R.ROLLING_BACK and following.state in UNCONFIRMED:
            following = Next(D.ROLLING_BACK, f"taken back: {self._ledger.rollout.reason}")
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
        return decide.after_stage(answer, self._strategy.offline.policy)

    def _after_switch(self, work: DeviceWork, answer: Answer) -> Next | None:
        following = decide.after_switch(answer)
        if following is None:
            return self._trouble(work, answer)
        if following.state is D.SOAKING and self._ledger.rollout.state is R.ROLLING_BACK:
            return Next(D.ROLLING_BACK, f"taken back: {self._ledger.rollout.reason}")
        return following

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
        if following.state is D.CONFIRMING and self._ledger.rollout.state is R.ROLLING_BACK:
            return Next(D.ROLLING_BACK, f"taken back: {self._ledger.rollout.reason}")
        if following.pause:
            self.stop(f"{work.record.device}: {following.reason}")
        return following

    def _after_soak(self, work: DeviceWork, answer: Answer) -> Next | None:
        if answer.trouble is not None:
            if self._try_again(work, Step.SOAK):
                return None
            if answer.trouble is Trouble.UNREACHABLE:
                # Confirmed, but nobody can say how it does: the budget decides.
                work.soaked = work.record.unreachable = True
                work.record.reason = f"out of reach during the soak: {answer.message}"
                self._ledger.touch(work.record)
                self._ledger.say(f"{work.record.device} is {work.record.reason}", work.record)
                return None
            assessments = [could_not_measure(g, answer.message) for g in self._release.gates]
        else:
            assessments = self._assess(work, answer)
        following = decide.after_probe(assessments, decide.MAX_TRIES)
        work.tries = 0
        work.soaked = True
        if following.state is D.CONFIRMING:
            return None
        if following.pause:
            # It passed its own gates and is confirmed; nobody can say now that it is bad.
            self.stop(f"{work.record.device}: {following.reason}")
            return None
        if work.record.previous is None:
            work.record.failed = True
            self._ledger.touch(work.record)
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
        if answer.code == "busy" and self._try_again(work, Step.REVERT):
            return None
        following = decide.after_revert(answer)
        if following is None:
            return self._trouble(work, answer)
        # What it went back for is what a person wants to read.
        return replace(following, reason=following.reason or work.record.reason)

    def _trouble(self, work: DeviceWork, answer: Answer) -> Next | None:
        """A step after the switch has no result: ask the device where it is, or give it up."""
        work.tries += 1
        work.last_trouble = answer.message
        if work.tries > decide.MAX_TRIES:
            return decide.out_of_tries(work.record.state, answer)
        self._ask_where_it_is(work, delay=RETRY_SECONDS)
        return None

    def _assess(self, work: DeviceWork, answer: Answer) -> list[Assessment]:
        assessments = assess_probe(answer.document, self._release.gates)
        for assessment in assessments:
            self._ledger.note(EventKind.GATE, assessment.to_json(), work.record)
        return assessments

    def move(self, work: DeviceWork, following: Next) -> None:
        """Take a device to its next state, and order what it needs there."""
        self.active -= work.counts_as_active
        work.given_up = following.for_good
        self._ledger.move_device(work.record, following)
        self.active += work.counts_as_active
        self.last_progress = self._now()
        if work.record.state in {D.STAGING, D.SWITCHING, D.COMMITTED, D.ROLLING_BACK}:
            work.tries = 0
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
        elif state in _STEPS:
            self._order(work, _STEPS[state], delay=delay)

    def _may_begin(self) -> bool:
        return not self.stopping and self._ledger.rollout.state is R.RUNNING

    def _order(
        self, work: DeviceWork, step: Step, duration: float = 0.0, delay: float = 0.0
    ) -> None:
        work.due_step, work.duration = step, duration
        work.not_before = self._now() + delay
        self._due[work.record.device] = work
        if not delay:
            self._give(work)

    def give_due_orders(self) -> None:
        """Give the orders whose time has come."""
        now = self._now()
        for work in list(self._due.values()):
            if work.not_before <= now:
                self._give(work)

    def _give(self, work: DeviceWork) -> None:
        step, work.due_step = work.due_step, None
        self._due.pop(work.record.device, None)
        record, build, name = work.record, self._build, work.record.device
        work.step = step
        if step in {Step.PREFLIGHT, Step.RECONCILE}:
            order = build.inspect(name)
        elif step is Step.STAGE:
            order = build.stage(name, record.variant, self._registries.get(name))
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
        return decide.Attempt(self._ledger.rollout.id, self._release.id, work.record.generation)

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
