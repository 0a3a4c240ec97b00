"""From measurements to verdicts.

An answer that is missing or wrong is the model's failure: the device asks itself, so no network
lies between. Only what was never measured is an ``error``, and no samples are ``inconclusive``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from muster.gates.documents import (
    Gate,
    HttpGate,
    MetricsGate,
    ReadinessGate,
    SmokeInferenceGate,
)
from muster.gates.inference import compare_answer, shorten
from muster.gates.metrics import assess_metrics
from muster.gates.probe import Measurements, Sample, check_names, read_samples
from muster.gates.verdicts import Assessment, Figures, Verdict


def assess(measurements: Measurements, gate: Gate) -> Assessment:
    """Say what measurements mean for a gate.

    :param measurements: ``measurements`` of the device program's answer to ``probe``.
    """
    if isinstance(gate, SmokeInferenceGate):
        return _assess_smoke(measurements, gate)
    samples = read_samples(measurements, gate.name)
    if samples is None:
        return could_not_measure(gate, "the probe returned no measurement of it")
    if isinstance(gate, MetricsGate):
        return assess_metrics(samples, gate)
    if isinstance(gate, ReadinessGate):
        return _assess_readiness(samples, gate)
    return _assess_http(samples, gate)


def assess_probe(answer: Mapping[str, Any], gates: Iterable[Gate]) -> list[Assessment]:
    """Say what the device program's answer to ``probe`` means for each gate.

    A container that restarted while it was watched has failed, whatever its gates say.
    """
    assessments = [assess(answer["measurements"], gate) for gate in gates]
    if restarts := int(answer.get("restarts") or 0):
        reason = f"the container restarted {restarts} times while it was watched"
        figures = {"restarts": restarts, "restarts_at_most": 0}
        assessments.append(Assessment("restarts", Verdict.FAILED, reason, figures))
    return assessments


def could_not_measure(gate: Gate, reason: str) -> Assessment:
    """Assess a gate whose measurement did not come about.

    :param reason: what went wrong, such as the message of the device program.
    """
    return Assessment(gate.name, Verdict.ERROR, f"{gate.name}: could not be measured, {reason}")


def _verdict(gate: Gate, verdict: Verdict, text: str, figures: Figures) -> Assessment:
    return Assessment(gate.name, verdict, f"{gate.name}: {text}", figures)


# readiness and http: every sample of the window must be right


def _assess_readiness(samples: Sequence[Sample], gate: ReadinessGate) -> Assessment:
    def wrong(sample: Sample) -> str | None:
        return sample.error or _wrong_status(sample, gate.status)

    if failed := _too_many(samples, gate, wrong, "not ready"):
        return failed
    figures = _figures(samples, gate, wrong)
    text = f"ready in {_right(figures)} of {len(samples)} samples"
    return _verdict(gate, Verdict.PASSED, text, figures)


def _assess_http(samples: Sequence[Sample], gate: HttpGate) -> Assessment:
    pattern = re.compile(gate.expect_body) if gate.expect_body is not None else None

    def wrong(sample: Sample) -> str | None:
        if problem := sample.error or _wrong_status(sample, gate.status):
            return problem
        if pattern is not None and not pattern.search(sample.body):
            return f"no match of {pattern.pattern!r} in {shorten(sample.body)}"
        return None

    if failed := _too_many(samples, gate, wrong, "wrong"):
        return failed
    figures = _figures(samples, gate, wrong)
    text = f"{_right(figures)} of {len(samples)} answers right"
    return _with_latency(samples, gate, text, figures)


def _wrong_status(sample: Sample, status: int) -> str | None:
    return None if sample.status == status else f"HTTP {sample.status} instead of {status}"


def _figures(
    samples: Sequence[Sample],
    gate: ReadinessGate | HttpGate,
    wrong: Callable[[Sample], str | None],
) -> dict[str, int | float | str | None]:
    return {
        "samples": len(samples),
        "failures": sum(wrong(sample) is not None for sample in samples),
        "failures_at_most": gate.max_failures,
    }


def _right(figures: Figures) -> int:
    return int(figures["samples"] or 0) - int(figures["failures"] or 0)


def _too_many(
    samples: Sequence[Sample],
    gate: ReadinessGate | HttpGate,
    wrong: Callable[[Sample], str | None],
    word: str,
) -> Assessment | None:
    figures = _figures(samples, gate, wrong)
    if not samples:
        return _verdict(gate, Verdict.INCONCLUSIVE, "there were no samples", figures)
    problems = [(sample.at, problem) for sample in samples if (problem := wrong(sample))]
    # A window with nothing right in it is no pass, however many failures are tolerated.
    if len(problems) <= gate.max_failures and len(problems) < len(samples):
        return None
    at, problem = problems[0]
    text = (
        f"{len(problems)} of {len(samples)} answers {word}, at most {gate.max_failures} allowed;"
        f" the first after {at:.1f} s: {problem}"
    )
    return _verdict(gate, Verdict.FAILED, text, figures)


def _with_latency(
    samples: Sequence[Sample],
    gate: HttpGate | SmokeInferenceGate,
    text: str,
    figures: dict[str, int | float | str | None],
) -> Assessment:
    """Pass, unless the latency limit says otherwise."""
    latencies = sorted(sample.latency for sample in samples if sample.latency is not None)
    rank = max(1, math.ceil(gate.latency_percentile / 100 * len(latencies)))
    latency = latencies[rank - 1] if latencies else None
    figures["latency"] = latency
    if gate.max_latency is None:
        return _verdict(gate, Verdict.PASSED, text, figures)
    figures["latency_at_most"] = gate.max_latency
    figures["latency_percentile"] = gate.latency_percentile
    name, limit = f"p{gate.latency_percentile:g} latency", _seconds(gate.max_latency)
    if latency is None:
        text += f", but there was no sample of the latency (at most {limit} allowed)"
        return _verdict(gate, Verdict.INCONCLUSIVE, text, figures)
    if latency > gate.max_latency:
        text = f"{name} {_seconds(latency)} over {len(latencies)} samples, at most {limit} allowed"
        return _verdict(gate, Verdict.FAILED, text, figures)
    return _verdict(gate, Verdict.PASSED, f"{text}, {name} {_seconds(latency)}", figures)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.4g} s"


# smoke_inference: enough of the cases must be right, at every sample


def _assess_smoke(measurements: Measurements, gate: SmokeInferenceGate) -> Assessment:
    samples: list[Sample] = []
    wrong: dict[int, str] = {}
    unmeasured: dict[int, str] = {}
    empty: list[int] = []
    for number, name in enumerate(check_names(gate), start=1):
        found = read_samples(measurements, name)
        if found is None:
            unmeasured[number] = "the probe returned no measurement of it"
            continue
        samples += found
        problems = [problem for sample in found if (problem := _wrong_case(sample, gate, number))]
        judged = [text for text, certain in problems if certain]
        if judged:
            wrong[number] = judged[0]
        elif problems:
            unmeasured[number] = problems[0][0]
        elif not found:
            empty.append(number)
    return _smoke_verdict(gate, samples, wrong, unmeasured, empty)


def _wrong_case(sample: Sample, gate: SmokeInferenceGate, number: int) -> tuple[str, bool] | None:
    """Say what is wrong with an answer, and whether that is certain."""
    if problem := sample.error or _wrong_status(sample, 200):
        return problem, True
    if problem := compare_answer(sample.body, gate.cases[number - 1].outputs, gate.tolerance):
        if sample.truncated:
            return "the answer is longer than the 64 KiB which the probe returns", False
        return problem, True
    return None


def _smoke_verdict(
    gate: SmokeInferenceGate,
    samples: Sequence[Sample],
    wrong: dict[int, str],
    unmeasured: dict[int, str],
    empty: Sequence[int],
) -> Assessment:
    total = len(gate.cases)
    needed = max(1, math.ceil(gate.min_pass_ratio * total - 1e-9))
    right = total - len(wrong) - len(unmeasured) - len(empty)
    figures: dict[str, int | float | str | None] = {
        "samples": len(samples),
        "cases": total,
        "cases_right": right,
        "cases_right_at_least": needed,
    }
    share = f"{right} of {total} cases right, at least {gate.min_pass_ratio * 100:g} % needed"
    if total - len(wrong) < needed:
        number, problem = next(iter(wrong.items()))
        return _verdict(gate, Verdict.FAILED, f"{share}; case {number} {problem}", figures)
    assessment = _with_latency(samples, gate, f"{right} of {total} cases right", figures)
    if assessment.verdict is Verdict.FAILED:
        return assessment
    if unmeasured:
        number, problem = next(iter(unmeasured.items()))
        text = f"case {number} could not be measured, {problem}"
        return _verdict(gate, Verdict.ERROR, text, figures)
    if empty:
        text = f"there were no samples of {len(empty)} of {total} cases"
        return _verdict(gate, Verdict.INCONCLUSIVE, text, figures)
    return assessment
