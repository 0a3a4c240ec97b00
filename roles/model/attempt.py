"""One release on its way onto one device.

The orders and the decisions are those of a rollout of ``muster``. There an engine leads many
devices from state to state; here each operation of pyinfra leads one device a part of the way.
Nothing in this module knows pyinfra.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from muster.fleet.interface import Answer, Order, Trouble
from muster.gates import assess_probe
from muster.release import misfits, running
from muster.rollout import decide
from muster.rollout.decide import Next
from muster.rollout.machine import DEVICE_TRANSITIONS, DeviceState, allowed
from muster.rollout.orders import Orders

RETRY_SECONDS = 2.0
"""Pause before a device is asked again after trouble."""

D = DeviceState


class Attempt:
    """Where one device stands on its way to a release.

    :param variant: what of the release it runs.
    :param registry: where it pulls from (``host:port``); None for what it is configured with.
    :param call: gives the device an order and waits for its answer.
    :param say: tells a person what happens; one line.

    ``state`` and ``reason`` are those of a device in a rollout; ``runs`` is the id of the release
    that it ran at first, or went back to.
    """

    def __init__(
        self,
        device: str,
        variant: str,
        orders: Orders,
        call: Callable[[Order], Answer],
        *,
        registry: str | None = None,
        say: Callable[[str], None] = lambda _line: None,
        pause: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = D.PENDING
        self.reason = ""
        self.runs: str | None = None
        self._turn = threading.Lock()  # a device gets one order at a time
        self._device, self._variant, self._registry = device, variant, registry
        self.orders, self._call = orders, call
        self._say, self._pause, self._now = say, pause, now
        self._generation = 0
        self._tries = self._rounds = 0
        self._guarded_until = 0.0
        self._cause = ""
        self._steps: Mapping[D, Callable[[], Next]] = {
            D.PENDING: lambda: Next(D.PREFLIGHT),
            D.PREFLIGHT: self._preflight,
            D.STAGING: self._stage,
            D.STAGED: lambda: Next(D.SWITCHING),
            D.SWITCHING: self._switch,
            D.SOAKING: self._watch,
            D.CONFIRMING: self._confirm,
            D.ROLLING_BACK: self._revert,
        }

    def __str__(self) -> str:
        return self.orders.release.id

    def begin(self, seen: Mapping[str, Any]) -> None:
        """Judge what the device says of itself; nothing is touched.

        :param seen: its answer to ``inspect``.
        """
        self._to(Next(D.PREFLIGHT))
        self._to(self._judge(seen))

    def advance(self, goal: DeviceState) -> bool:
        """Go on until the device is at ``goal``, or has come to rest anywhere else.

        A device that fails after its switch goes back at once.

        :returns: whether it is at ``goal``, or proved to be beyond it.
        """
        with self._turn:
            while self.state is not goal and not self.at_rest:
                self._to(self._steps[self.state]())
            return self.state in {goal, D.COMMITTED}

    def hold(self, goal: DeviceState) -> bool:
        """Give the guard its full time again, while the device waits at ``goal``.

        :returns: whether it still waits there.
        """
        with self._turn:
            if self.state is not goal:
                return False
            self._extend()  # in trouble the next step finds out where the device is
            return True

    @property
    def at_rest(self) -> bool:
        """Nothing more will be done to the device."""
        return self.state not in self._steps

    @property
    def failure(self) -> str:
        """Why the device does not run the release, and what it runs; for a device at rest."""
        if self.state is D.ROLLED_BACK and self._cause:
            return f"{self._cause}; it runs {self.runs or 'nothing'} again"
        if self.state is D.ROLLBACK_FAILED:
            return f"{self._cause}; AND IT COULD NOT GO BACK: {self.reason}"
        return self.reason

    # -- steps: each gives an order and says what its answer means ---------------------------

    def _preflight(self) -> Next:
        answer = self._call(self.orders.inspect(self._device))
        if answer.trouble is None:
            return self._judge(answer.document)
        if self._try_again():
            return Next(D.PREFLIGHT)
        return decide.unreachable_before_switch("fail", answer.message)

    def _judge(self, seen: Mapping[str, Any]) -> Next:
        release, model = self.orders.release, seen["model"]
        mode = self.orders.strategy.switch
        reasons = misfits(release, self._variant, seen, mode=mode)
        following = decide.preflight(self._attempt, seen, reasons)
        if following.state is D.STAGING:
            self.runs = running(seen)
            self._generation = model["generation"] + 1
        elif following.state is D.ALREADY_CURRENT and not model["current"]["serving"]:
            return Next(D.REJECTED, following.reason, failed=True)
        return following

    def _stage(self) -> Next:
        answer = self._call(self.orders.stage(self._device, self._variant, self._registry))
        passing = answer.trouble is Trouble.UNREACHABLE or answer.code == "busy"
        if passing and self._try_again():
            return Next(D.STAGING)
        return decide.after_stage(answer, "fail")

    def _switch(self) -> Next:
        self._guarded_until = self._now() + self.orders.strategy.confirm_timeout
        answer = self._call(self.orders.switch(self._device, self._generation))
        if answer.code == "locked":  # nobody waits here: the next run tries again
            return Next(D.REJECTED, answer.message, failed=True)
        return decide.after_switch(answer) or self._where_it_is(answer)

    def _watch(self) -> Next:
        strategy = self.orders.strategy
        if self._guarded_until - self._now() < strategy.min_healthy_time + strategy.command_margin:
            answer = self._extend()
            if answer.trouble is not None:
                return self._where_it_is(answer)
        answer = self._call(self.orders.probe(self._device, strategy.min_healthy_time))
        if answer.trouble is not None:
            return self._where_it_is(answer)
        assessments = assess_probe(answer.document, self.orders.release.gates)
        following = decide.after_probe(assessments, self._tries)
        if following.state is D.SOAKING:
            self._tries += 1
            self._say(f"measured again: {following.reason}")
            self._pause(RETRY_SECONDS)
        elif following.state is D.CONFIRMING:
            self._say(f"passed: {'; '.join(a.reason for a in assessments)}")
        return following

    def _extend(self) -> Answer:
        until = self._now() + self.orders.strategy.confirm_timeout
        answer = self._call(self.orders.extend(self._device, self._generation))
        if answer.trouble is None:
            self._guarded_until = until
        return answer

    def _confirm(self) -> Next:
        answer = self._call(self.orders.confirm(self._device, self._generation))
        return Next(D.COMMITTED) if answer.trouble is None else self._where_it_is(answer)

    def _revert(self) -> Next:
        order = self.orders.revert(self._device, self._generation, None, self._cause)
        answer = self._call(order)
        if answer.code == "busy" and self._try_again():
            return Next(D.ROLLING_BACK)
        following = decide.after_revert(answer)
        if following is None:
            return self._where_it_is(answer)
        if following.state is D.ROLLED_BACK:
            self.runs = answer.document["to"]
        return following

    def _where_it_is(self, answer: Answer) -> Next:
        """A step has no result: the device says where it is, or it is given up."""
        while answer.trouble is not None:
            self._tries += 1
            if self._tries > decide.MAX_TRIES:
                return decide.out_of_tries(self.state, answer)
            self._pause(RETRY_SECONDS)
            answer = self._call(self.orders.inspect(self._device))
        following = decide.reconcile(self.state, self._attempt, answer.document)
        if following.state is D.PREFLIGHT:
            self._rounds += 1
            if self._rounds >= decide.MAX_TRIES:
                return Next(D.REJECTED, f"{following.reason}, {self._rounds} times", failed=True)
        stays = following.state is self.state and self.state is not D.ROLLING_BACK
        if stays and self._tries >= decide.MAX_TRIES:
            return Next(D.ROLLING_BACK, f"gave up after {self._tries} tries", failed=True)
        remaining = answer.document["model"]["guard"]["remaining"]
        self._guarded_until = self._now() + (remaining or 0.0)
        return following

    # -- bookkeeping --------------------------------------------------------------------------

    @property
    def _attempt(self) -> decide.Attempt:
        return decide.Attempt(self.orders.rollout, self.orders.release.id, self._generation)

    def _try_again(self) -> bool:
        self._tries += 1
        if self._tries >= decide.MAX_TRIES:
            self._tries = 0
            return False
        self._pause(RETRY_SECONDS)
        return True

    def _to(self, following: Next) -> None:
        old, new = self.state, following.state
        if new is old:
            return
        if not allowed(DEVICE_TRANSITIONS, old, new):
            raise AssertionError(f"{self._device}: no transition {old} -> {new}")
        self.state, self.reason = new, following.reason
        if new in {D.STAGING, D.SWITCHING, D.ROLLING_BACK}:
            self._tries = 0
        if new is D.ROLLING_BACK:
            self._cause = following.reason
            self._say(f"going back: {following.reason}")
