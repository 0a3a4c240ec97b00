"""Recording and alert rules for a site, made from limits. Pure functions."""

from __future__ import annotations

from typing import Any

import yaml

from muster.fields import format_duration
from roles.prometheus.variables import Variables

LATENCY = "muster:request_duration_seconds:p95"
ERRORS = "muster:request_failures:ratio"
_GOOD, _BAD = "muster:request_successes:rate5m", "muster:request_failures:rate5m"
_BY = "site, hardware, device, model"

_HISTOGRAMS = {
    # server: metric, and how many of its units a second has
    "infer": ("model_infer_request_duration_bucket", 1),
    "mlserver": ("rest_server_request_duration_seconds_bucket", 1),
    "ovms": ("ovms_request_time_us_bucket", 1_000_000),
    "tensorflow": (":tensorflow:serving:request_latency_bucket", 1_000_000),
}
_COUNTERS = {
    # server: successes, failures
    "infer": ("model_infer_request_success_total", "model_infer_request_failure_total"),
    "triton": ("nv_inference_request_success", "nv_inference_request_failure"),
    "ovms": ("ovms_requests_success", "ovms_requests_fail"),
}


def rules_file(variables: Variables) -> str:
    """Render the rules as Prometheus reads them."""
    groups = [
        {"name": "muster-models", "rules": [*_latencies(), *_errors()]},
        {"name": "muster-alerts", "rules": _alerts(variables)},
    ]
    text = yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)
    return f"# written by the role prometheus\n{text}"


def _latencies() -> list[dict[str, Any]]:
    return [
        {
            "record": LATENCY,
            "expr": f"histogram_quantile(0.95, sum by (le, {_BY}) (rate({metric}[5m])))"
            + ("" if unit == 1 else f" / {unit}"),
            "labels": {"server": server},
        }
        for server, (metric, unit) in _HISTOGRAMS.items()
    ]


def _errors() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "record": record,
            "expr": f"sum by ({_BY}) (rate({metric}[5m]))",
            "labels": {"server": server},
        }
        for server, names in _COUNTERS.items()
        for record, metric in zip((_GOOD, _BAD), names, strict=True)
    ]
    # A server shows a counter only once it has counted something, so each stands in for the other.
    good, bad = f"({_GOOD} or 0 * {_BAD})", f"({_BAD} or 0 * {_GOOD})"
    # without requests there is no ratio
    return [*found, {"record": ERRORS, "expr": f"{bad} / ({good} + {bad} > 0)"}]


def _alerts(variables: Variables) -> list[dict[str, Any]]:
    v = variables
    latency, ratio = f"{v.prometheus_alert_latency:g}", f"{v.prometheus_alert_error_ratio:g}"
    memory, days = f"{v.prometheus_alert_memory:g}", v.prometheus_alert_certificate / 86400
    silent = format_duration(v.prometheus_alert_silent)
    age = f"{v.prometheus_alert_guard:g}"
    rule = _alert
    return [
        rule(
            "ModelSlow",
            f"{LATENCY} > {latency}",
            "5m",
            "warning",
            "{{ $labels.model }} answers slowly on {{ $labels.device }}",
            f"95 % of the requests take up to {{{{ $value | humanizeDuration }}}},"
            f" at most {latency}s are wanted.",
        ),
        rule(
            "ModelFails",
            f"{ERRORS} > {ratio}",
            "5m",
            "critical",
            "{{ $labels.model }} fails on {{ $labels.device }}",
            "{{ $value | humanizePercentage }} of the requests fail.",
        ),
        rule(
            "ModelNotReady",
            "muster_model_ready == 0 and on (device, model) muster_release_info",
            "5m",
            "critical",
            "{{ $labels.model }} is not ready on {{ $labels.device }}",
            "A release is there, but it does not say that it is ready.",
        ),
        rule(
            "DeviceMemoryLow",
            f"node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < {memory}",
            "5m",
            "warning",
            "{{ $labels.device }} runs out of memory",
            "{{ $value | humanizePercentage }} of the memory is left.",
        ),
        rule(
            "DeviceSilent",
            'up{job="devices"} == 0',
            silent,
            "critical",
            "{{ $labels.device }} is silent",
            f"Nothing was heard of it for {silent}.",
        ),
        rule(
            "DeviceFactsOld",
            'time() - node_textfile_mtime_seconds{file=~".*/muster[.]prom"} > 600'
            ' or (up{job="devices"} == 1 unless on (device) muster_device_info) * 0',
            "5m",
            "warning",
            "{{ $labels.device }} tells nothing new of itself",
            "Its metrics of releases and guard are old or missing: see muster-metrics.service.",
        ),
        rule(
            "GuardArmedTooLong",
            f"time() - muster_guard_armed_since_timestamp_seconds > {age}",
            None,
            "warning",
            "A switch of {{ $labels.model }} on {{ $labels.device }} is not confirmed",
            "The guard has been armed for {{ $value | humanizeDuration }}: is its rollout alive?",
        ),
        rule(
            "SwitchTakenBack",
            "muster_reverted == 1",
            None,
            "warning",
            "{{ $labels.device }} took {{ $labels.model }} back",
            "It runs its last good release; `muster report` says why.",
        ),
        rule(
            "RevertFailed",
            "muster_revert_failed == 1",
            None,
            "critical",
            "{{ $labels.device }} could not go back with {{ $labels.model }}",
            "Neither the new nor the last good release of {{ $labels.model }} gets ready.",
        ),
        rule(
            "CertificateEnds",
            f"(muster_certificate_not_after_timestamp_seconds - time()) / 86400 < {days:g}",
            None,
            "warning",
            "A certificate on {{ $labels.device }} ends soon",
            '{{ $labels.path }} is good for another {{ $value | printf "%.1f" }} days.',
        ),
    ]


def _alert(
    name: str, expression: str, wait: str | None, severity: str, summary: str, text: str
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        **({"for": wait} if wait else {}),
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": text},
    }
