"""What the device program is asked to measure, and reading its answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.gates.documents import Gate, InferenceCase, MetricsGate, SmokeInferenceGate

Check = dict[str, Any]
"""One entry of ``checks`` in the input of the device program's ``probe``."""

Measurements = Mapping[str, Sequence[Mapping[str, Any]]]
"""``measurements`` of the answer: the samples of each check, by the check's name."""

PROMETHEUS = "prometheus"
"""``type`` of a check that the controller asks Prometheus, and never a device."""

BODY_LIMIT = 64 * 1024
"""Bytes of a body that the device program returns."""


def check_names(gate: Gate) -> list[str]:
    """Name the checks of a gate: the gate itself, or each case of it (``smoke/1`` ...)."""
    if isinstance(gate, SmokeInferenceGate):
        return [f"{gate.name}/{number}" for number in range(1, len(gate.cases) + 1)]
    return [gate.name]


def checks(gate: Gate, port: int) -> list[Check]:
    """Say what to measure on a device for a gate.

    :param port: port of the release's endpoint, for a gate that names none.
    """
    if isinstance(gate, MetricsGate):
        source = gate.prometheus
        return [
            {"name": gate.name, "type": PROMETHEUS, "path": "/api/v1/query", "url": source.url}
            | {"query": source.query, "timeout": gate.timeout}
        ]
    common = {"path": gate.path, "port": gate.port or port, "timeout": gate.timeout}
    names = check_names(gate)
    if isinstance(gate, SmokeInferenceGate):
        headers = {"Content-Type": "application/json", **gate.headers}
        return [
            {"name": name, "type": "http", "method": "POST", "headers": headers}
            | {"body": _request(case), **common}
            for name, case in zip(names, gate.cases, strict=True)
        ]
    method, body = ("GET", None) if gate.type == "readiness" else (gate.method, gate.body)
    check = {"name": names[0], "type": "http", "method": method, "headers": dict(gate.headers)}
    return [check | {"body": body, **common}]


def _request(case: InferenceCase) -> str:
    inputs = [tensor.model_dump(mode="json") for tensor in case.inputs]
    return json.dumps({"inputs": inputs}, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Sample:
    """One answer to one check."""

    at: float
    """Seconds since the probe began."""
    status: int | None
    latency: float | None
    """Seconds to the whole answer; None when there was none."""
    body: str
    error: str | None
    """Why there was no answer (refused, timed out ...)."""

    @property
    def truncated(self) -> bool:
        """Whether the body may have been cut off by the device program."""
        return len(self.body.encode(errors="replace")) >= BODY_LIMIT - 3


def read_samples(measurements: Measurements, name: str) -> list[Sample] | None:
    """Give the samples of a check; None when there was no such check or its samples make no
    sense."""
    raw = measurements.get(name)
    if not isinstance(raw, (list, tuple)):
        return None
    samples = [_read_sample(sample) for sample in raw]
    return None if None in samples else [sample for sample in samples if sample is not None]


def _read_sample(raw: Any) -> Sample | None:
    if not isinstance(raw, dict):
        return None
    status, error, body = raw.get("status"), raw.get("error"), raw.get("body")
    if not isinstance(status, int) and not error:
        return None
    return Sample(
        at=_number(raw.get("at")) or 0.0,
        status=status if isinstance(status, int) else None,
        latency=_number(raw.get("latency")),
        body=body if isinstance(body, str) else "",
        error=str(error) if error else None,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
