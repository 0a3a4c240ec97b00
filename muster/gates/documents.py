"""The gates of a release document."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from muster.fields import Location, PositiveDuration, Problems, Strict, describe
from muster.gates.inference import flatten

GateName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,1000}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[ -~]{0,4000}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
StatusCode = Annotated[int, Field(ge=100, le=599)]
Count = Annotated[int, Field(ge=0)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {pattern!r} ({error})") from None
    return pattern


Regex = Annotated[str, AfterValidator(_compiles), Field(json_schema_extra={"format": "regex"})]


class _Gate(Strict):
    name: GateName
    """Unique within the release; names the gate in reports."""
    port: Port | None = None
    """Port on the device; without it the port of the endpoint."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Request headers."""
    timeout: PositiveDuration = 5.0
    """How long one request may take; longer counts as a failed sample."""


class ReadinessGate(_Gate):
    """The model says that it is ready, at every sample of the window: flapping fails."""

    type: Literal["readiness"]
    path: UrlPath = "/v2/health/ready"
    """Path that answers with ``status`` when the model is ready."""
    status: StatusCode = 200
    """HTTP status that means ready."""
    max_failures: Count = 0
    """How many samples of the window may be not ready."""


class HttpGate(_Gate):
    """An HTTP endpoint answers as expected, at every sample of the window."""

    type: Literal["http"]
    path: UrlPath
    """Path of the request, with its query."""
    method: Literal["GET", "HEAD", "POST"] = "GET"
    """Method of the request."""
    body: str | None = None
    """Text sent as the body of the request."""
    status: StatusCode = 200
    """HTTP status that is right."""
    expect_body: Regex | None = None
    """Regular expression that must be found in the answer's first 64 KiB."""
    max_latency: PositiveDuration | None = None
    """Longest time to the whole answer, at ``latency_percentile``."""
    latency_percentile: Annotated[float, Field(gt=0, le=100)] = 95.0
    """Percentile (nearest rank) to which ``max_latency`` applies; 100 is the slowest sample."""
    max_failures: Count = 0
    """How many samples of the window may be wrong; ``max_latency`` is a limit of its own."""


Datatype = Literal[
    "BOOL",
    "BYTES",
    "FP16",
    "FP32",
    "FP64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
]


def _fits(value: Any, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if datatype.startswith("FP"):
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, int)


class InputTensor(Strict):
    """One input tensor, as the Open Inference Protocol has it."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the input."""
    shape: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Dimensions."""
    datatype: Datatype
    """Open Inference Protocol datatype."""
    data: list[Any]
    """The elements, flat in row-major order or nested like the shape."""

    @model_validator(mode="after")
    def _data_fits(self) -> InputTensor:
        elements = flatten(self.data)
        problems: list[tuple[Location, str]] = []
        if len(elements) != (needed := math.prod(self.shape)):
            text = f"expected {needed} elements for shape {list(self.shape)}, got {len(elements)}"
            problems.append((("data",), text))
        wrong = next((e for e in elements if not _fits(e, self.datatype)), elements)
        if wrong is not elements:
            text = f"expected only elements of datatype {self.datatype}, got {describe(wrong)}"
            problems.append((("data",), text))
        if problems:
            raise Problems(problems)
        return self


class ExpectedOutput(Strict):
    """What one output tensor must hold."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the output."""
    data: Annotated[list[Any], Field(min_length=1)]
    """The elements that are right, flat in row-major order or nested like the shape."""
    shape: tuple[Count, ...] | None = None
    """Dimensions that are right; without it any with as many elements as ``data``."""

    @model_validator(mode="after")
    def _data_is_comparable(self) -> ExpectedOutput:
        elements = flatten(self.data)
        problems: list[tuple[Location, str]] = []
        for element in elements:
            if not isinstance(element, (bool, int, float, str)) or (
                isinstance(element, float) and not math.isfinite(element)
            ):
                text = "expected only finite numbers, booleans and text, got "
                problems.append((("data",), text + describe(element)))
                break
        if self.shape is not None and len(elements) != (needed := math.prod(self.shape)):
            text = f"expected {needed} elements for shape {list(self.shape)}, got {len(elements)}"
            problems.append((("data",), text))
        if problems:
            raise Problems(problems)
        return self


class InferenceCase(Strict):
    """One request with the answer that is right."""

    inputs: Annotated[tuple[InputTensor, ...], Field(min_length=1)]
    """All inputs of the model."""
    outputs: Annotated[tuple[ExpectedOutput, ...], Field(min_length=1)]
    """The outputs to compare; others that the model gives are ignored."""


class SmokeInferenceGate(_Gate):
    """A few known inputs give the right outputs, over the Open Inference Protocol."""

    type: Literal["smoke_inference"]
    path: UrlPath
    """Path of the inference request, such as ``/v2/models/digits/infer``."""
    cases: Annotated[tuple[InferenceCase, ...], Field(min_length=1, max_length=100)]
    """The requests; each is asked at every sample, and its worst answer counts."""
    min_pass_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Least share of the cases that must be right."""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Largest absolute difference between a number and the expected one."""
    max_latency: PositiveDuration | None = None
    """Longest time to the whole answer, at ``latency_percentile`` over all cases."""
    latency_percentile: Annotated[float, Field(gt=0, le=100)] = 95.0
    """Percentile (nearest rank) to which ``max_latency`` applies; 100 is the slowest sample."""


Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
QUERY_WORDS = ("device", "window")
"""What a query may have after a ``$``; Prometheus itself has no such words."""


def _known_words(query: str) -> str:
    for word in re.findall(r"\$([A-Za-z_]\w*)", query):
        if word not in QUERY_WORDS:
            known = " or ".join(f"${known}" for known in QUERY_WORDS)
            raise ValueError(f"expected only {known} after a $, got ${word}")
    return query


class PrometheusSource(Strict):
    """What to ask a site's Prometheus."""

    query: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_known_words)]
    """Instant query in PromQL. ``$device`` becomes the name of the device, ``$window`` the time for
    which it was watched, such as ``60s``: the probe's, and 30 s at least."""
    url: Url | None = None
    """Where Prometheus answers; without it the device's variable ``muster_prometheus``."""


class MetricsGate(Strict):
    """Values that Prometheus has of the device are within limits, at the end of the window."""

    name: GateName
    """Unique within the release; names the gate in reports."""
    type: Literal["metrics"]
    prometheus: PrometheusSource
    """Where the values come from. The controller asks, not the device."""
    max_value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Most that any value may be."""
    min_value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Least that any value may be."""
    timeout: PositiveDuration = 10.0
    """How long Prometheus may take; longer counts as not measured."""

    @model_validator(mode="after")
    def _has_limits(self) -> MetricsGate:
        if self.max_value is None and self.min_value is None:
            raise Problems([(("max_value",), "expected it, or min_value, or both, got none")])
        if None not in (self.max_value, self.min_value) and self.min_value > self.max_value:  # type: ignore[operator]
            text = f"expected at most max_value ({self.max_value:g}), got {self.min_value:g}"
            raise Problems([(("min_value",), text)])
        return self


Gate = Annotated[
    ReadinessGate | HttpGate | SmokeInferenceGate | MetricsGate, Field(discriminator="type")
]
"""Any gate; ``type`` says which."""
