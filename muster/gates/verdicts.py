"""What a gate can say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Figures = Mapping[str, int | float | str | None]


class Verdict(str, Enum):
    """What measurements mean."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    """There were no samples to judge: neither good nor bad."""
    ERROR = "error"
    """It could not be measured, which says nothing about the model."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Assessment:
    """The verdict of one gate, with what it rests on."""

    gate: str
    verdict: Verdict
    reason: str
    """One plain sentence with figures; begins with the gate's name."""
    figures: Figures = field(default_factory=dict)
    """The numbers behind the verdict; latencies in seconds. The limit of a number stands beside it
    under the same name with ``_at_most`` or ``_at_least`` behind it."""

    def to_json(self) -> dict[str, Any]:
        """Give the assessment as plain JSON values."""
        return {
            "gate": self.gate,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "figures": dict(self.figures),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Assessment:
        """Read back what :meth:`to_json` gave."""
        return cls(value["gate"], Verdict(value["verdict"]), value["reason"], value["figures"])


_WORST_FIRST = (Verdict.FAILED, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASSED)


def combine(assessments: Iterable[Assessment]) -> Verdict:
    """Give the verdict over several gates: failed > error > inconclusive > passed.

    Without any assessment it is inconclusive: what nobody looked at did not pass.
    """
    found = {assessment.verdict for assessment in assessments}
    return next((v for v in _WORST_FIRST if v in found), Verdict.INCONCLUSIVE)
