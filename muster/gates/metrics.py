"""From what Prometheus answered to a verdict.

No samples and NaN are never a pass. An answer that makes no sense says nothing about the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from muster.gates.documents import MetricsGate
from muster.gates.inference import shorten
from muster.gates.probe import Sample
from muster.gates.verdicts import Assessment, Verdict


class _Unreadable(Exception):  # noqa: N818
    """Why an answer is none."""


def assess_metrics(samples: Sequence[Sample], gate: MetricsGate) -> Assessment:
    """Say what Prometheus' answers mean.

    :param samples: its answers over HTTP; the last one counts.
    """
    limits: dict[str, int | float | str | None] = {}
    if gate.max_value is not None:
        limits["value_at_most"] = gate.max_value
    if gate.min_value is not None:
        limits["value_at_least"] = gate.min_value
    if not samples:
        return _verdict(gate, Verdict.INCONCLUSIVE, "there were no samples", limits)
    try:
        values = _values(samples[-1])
    except _Unreadable as problem:
        return _verdict(gate, Verdict.ERROR, f"could not be measured, {problem}", limits)
    numbers = [value for value in values.values() if not math.isnan(value)]
    name = max(values, key=lambda name: _excess(values[name], gate), default="")
    worst = values.get(name, math.nan)
    finite = worst if math.isfinite(worst) else None
    figures = {"series": len(values), "value": finite, **limits}
    allowed = _allowed(gate)
    if numbers and _excess(worst, gate) > 0:
        wrong = sum(_excess(value, gate) > 0 for value in numbers)
        text = f"{worst:.4g} in {name}, {allowed} ({wrong} of {len(values)} series)"
        return _verdict(gate, Verdict.FAILED, text, figures)
    if not values:
        text = f"Prometheus has no samples of it ({allowed})"
        return _verdict(gate, Verdict.INCONCLUSIVE, text, figures)
    if len(numbers) < len(values):
        missing = len(values) - len(numbers)
        text = f"{missing} of {len(values)} series are not a number ({allowed})"
        return _verdict(gate, Verdict.INCONCLUSIVE, text, figures)
    text = f"{worst:.4g} over {len(values)} series, {allowed}"
    return _verdict(gate, Verdict.PASSED, text, figures)


def _verdict(
    gate: MetricsGate, verdict: Verdict, text: str, figures: Mapping[str, int | float | str | None]
) -> Assessment:
    return Assessment(gate.name, verdict, f"{gate.name}: {text}", figures)


def _excess(value: float, gate: MetricsGate) -> float:
    """How far a value is beyond the limits; 0 or less if it is within them, least for NaN."""
    if math.isnan(value):
        return -math.inf
    above = -math.inf if gate.max_value is None else value - gate.max_value
    below = -math.inf if gate.min_value is None else gate.min_value - value
    return max(above, below)


def _allowed(gate: MetricsGate) -> str:
    if gate.max_value is None:
        return f"at least {gate.min_value:g} needed"
    if gate.min_value is None:
        return f"at most {gate.max_value:g} allowed"
    return f"{gate.min_value:g} to {gate.max_value:g} allowed"


def _values(sample: Sample) -> dict[str, float]:
    """Give the value of each series by the series' labels.

    :raises _Unreadable: with the reason.
    """
    if sample.error is not None:
        raise _Unreadable(sample.error)
    try:
        answer = json.loads(sample.body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or answer.get("status") != "success":
        said = answer.get("error") if isinstance(answer, dict) else sample.body
        raise _Unreadable(f"HTTP {sample.status} of Prometheus: {shorten(said or '')}")
    data = answer.get("data")
    if not isinstance(data, dict):
        raise _Unreadable("Prometheus' answer has no data")
    kind, result = data.get("resultType"), data.get("result")
    try:
        if kind == "scalar":
            return {"the answer": _number(result)}
        if kind == "vector" and isinstance(result, list):
            return {_labels(each["metric"]): _number(each["value"]) for each in result}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise _Unreadable("Prometheus' answer makes no sense") from None
    raise _Unreadable(f"expected a vector or a scalar of Prometheus, got {shorten(kind or '')}")


def _number(pair: Any) -> float:
    _, text = pair
    return float(text)


def _labels(metric: Mapping[str, Any]) -> str:
    name = str(metric.get("__name__", ""))
    labels = sorted((key, value) for key, value in metric.items() if key != "__name__")
    shown = ", ".join(f'{key}="{value}"' for key, value in labels)
    return shorten(f"{name}{{{shown}}}")
