"""The orders of a rollout: pure builders of what the device program reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from muster.fleet.interface import Order, Verb
from muster.gates import checks
from muster.gates.probe import Check
from muster.release import Release
from muster.strategy import Strategy

_REASON_LENGTH = 500
"""Characters; a device refuses texts that are too long, and must not refuse to go back."""


@dataclass(frozen=True)
class Orders:
    """Builds the orders of one rollout.

    :param rollout: its id, which fences the switch on every device.
    :param signature: minisign signature of the release's canonical document, if there is one.
    """

    rollout: str
    release: Release
    strategy: Strategy
    signature: str | None = None

    def inspect(self, device: str) -> Order:
        """Ask a device what it is and where it stands."""
        return self._order(device, Verb.INSPECT, {}, 0.0)

    def stage(self, device: str, variant: str, registry: str | None) -> Order:
        """Fetch the release, touching nothing that serves."""
        deadline = self.strategy.pull_deadline
        document = {
            "release_id": self.release.id,
            "digest": self.release.digest,
            "document": self.release.canonical,
            "signature": self.signature,
            "variant": variant,
            "registry": registry,
            "pull_deadline": deadline,
        }
        return self._order(device, Verb.STAGE, document, deadline)

    def switch(self, device: str, generation: int) -> Order:
        """Start serving the release, with the guard armed."""
        deadline = self.strategy.healthy_deadline
        document = {
            "release_id": self.release.id,
            "generation": generation,
            "rollout": self.rollout,
            "mode": self.strategy.switch,
            "drain_deadline": self.strategy.drain_deadline,
            "healthy_deadline": deadline,
            "confirm_timeout": self.strategy.confirm_timeout,
        }
        return self._order(device, Verb.SWITCH, document, deadline + self._drain)

    def extend(self, device: str, generation: int) -> Order:
        """Give the guard a full ``confirm_timeout`` again."""
        document = {
            "generation": generation,
            "rollout": self.rollout,
            "extend": True,
            "confirm_timeout": self.strategy.confirm_timeout,
        }
        return self._order(device, Verb.SWITCH, document, 0.0)

    def probe(self, device: str, duration: float) -> Order:
        """Measure every gate again and again for ``duration`` seconds."""
        document = {
            "checks": self._checks,
            "duration": duration,
            "interval": self.strategy.probe_interval,
        }
        slowest = sum(float(check["timeout"]) for check in self._checks)
        return self._order(device, Verb.PROBE, document, duration + slowest)

    def confirm(self, device: str, generation: int) -> Order:
        """Make the switch permanent, and drop releases that nothing needs any more."""
        document = {
            "generation": generation,
            "rollout": self.rollout,
            "retain": self.strategy.retain_releases,
        }
        return self._order(device, Verb.CONFIRM, document, 30.0)

    def revert(self, device: str, generation: int, to: str | None, reason: str) -> Order:
        """Go back: to the last good release, or to ``to`` if the switch was confirmed already."""
        deadline = self.strategy.healthy_deadline
        document = {
            "generation": generation,
            "rollout": self.rollout,
            "to": to,
            "reason": reason[:_REASON_LENGTH],
            "healthy_deadline": deadline,
        }
        return self._order(device, Verb.REVERT, document, deadline + self._drain)

    @property
    def _drain(self) -> float:
        """Seconds that open requests may take where both releases run for a while."""
        return self.strategy.drain_deadline if self.strategy.switch == "blue_green" else 0.0

    @cached_property
    def _checks(self) -> list[Check]:
        port = self.release.endpoint.port
        return [check for gate in self.release.gates for check in checks(gate, port)]

    def _order(
        self, device: str, verb: Verb, document: Mapping[str, object], takes: float
    ) -> Order:
        return Order(
            device,
            verb,
            {"model": self.release.model, **document},
            takes + self.strategy.command_margin,
        )
