"""The gate ``metrics``: what is asked, how it is asked, and what the answers mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from muster.fleet.prometheus import apart, ask, request_url
from muster.gates import Gate, Verdict, assess, checks

_ADAPTER: TypeAdapter[Gate] = TypeAdapter(Gate)
QUERY = 'sum(rate(errors{device="$device"}[$window]))'


def gate(**fields: Any) -> Gate:
    known = {"name": "g", "type": "metrics", "prometheus": {"query": QUERY}, "max_value": 0.5}
    return _ADAPTER.validate_python({**known, **fields})


def answered(*values: Any, kind: str = "vector", status: int = 200) -> dict[str, Any]:
    """One sample in which Prometheus gives these values."""
    result: Any = [
        {"metric": {"__name__": "errors", "cell": str(number)}, "value": [1.5, str(value)]}
        for number, value in enumerate(values)
    ]
    if kind == "scalar":
        result = [1.5, str(values[0])]
    data = {"resultType": kind, "result": result}
    body = json.dumps({"status": "success", "data": data})
    return {"at": 1.0, "status": status, "latency": 0.1, "body": body, "error": None}


def verdict(sample: Any, **fields: Any) -> Verdict:
    return assess({"g": [sample]}, gate(**fields)).verdict


# verdicts


@pytest.mark.parametrize(
    ("values", "limits", "expected"),
    [
        (["0.2"], {}, Verdict.PASSED),
        (["0.5"], {}, Verdict.PASSED),
        (["0.51"], {}, Verdict.FAILED),
        (["0.2", "0.7"], {}, Verdict.FAILED),
        (["+Inf"], {}, Verdict.FAILED),
        (["-Inf"], {}, Verdict.PASSED),
        ([], {}, Verdict.INCONCLUSIVE),
        (["NaN"], {}, Verdict.INCONCLUSIVE),
        (["0.2", "NaN"], {}, Verdict.INCONCLUSIVE),
        (["NaN", "0.7"], {}, Verdict.FAILED),
        (["5"], {"max_value": None, "min_value": 6}, Verdict.FAILED),
        (["6"], {"max_value": None, "min_value": 6}, Verdict.PASSED),
        (["5"], {"max_value": 5, "min_value": 5}, Verdict.PASSED),
        (["4.9"], {"max_value": 5, "min_value": 5}, Verdict.FAILED),
    ],
)
def test_values_and_limits(values: list[str], limits: dict[str, Any], expected: Verdict) -> None:
    assert verdict(answered(*values), **limits) is expected


def test_a_scalar_counts_like_one_series() -> None:
    assert verdict(answered("0.2", kind="scalar")) is Verdict.PASSED
    assert verdict(answered("0.9", kind="scalar")) is Verdict.FAILED
    assert verdict(answered("NaN", kind="scalar")) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    "sample",
    [
        {"error": "Prometheus: connection refused"},
        answered(kind="matrix"),
        {"status": 503, "body": "", "error": None},
        {"status": 200, "body": "[]", "error": None},
        {"status": 200, "body": '{"status": "success", "data": {"resultType": "vector"}}'},
        {"status": 400, "body": '{"status": "error", "error": "parse error"}', "error": None},
        {"status": 200, "body": answered("0.1")["body"][:-9], "error": None},
        {"status": 200, "body": answered("0.1")["body"].replace("0.1", "much"), "error": None},
    ],
)
def test_what_could_not_be_measured_is_an_error(sample: dict[str, Any]) -> None:
    assert verdict(sample) is Verdict.ERROR


def test_without_any_measurement_it_is_an_error_and_without_samples_inconclusive() -> None:
    assert assess({}, gate()).verdict is Verdict.ERROR
    assert assess({"g": []}, gate()).verdict is Verdict.INCONCLUSIVE


@given(st.text(max_size=60) | st.binary(max_size=60).map(repr))
def test_no_answer_that_makes_no_sense_passes(body: str) -> None:
    assert verdict({"status": 200, "body": body, "error": None}) is Verdict.ERROR


@given(st.lists(st.floats()))
def test_only_finite_values_within_the_limit_pass(values: list[float]) -> None:
    good = bool(values) and all(value <= 0.5 for value in values)
    assert (verdict(answered(*values)) is Verdict.PASSED) is good


def test_the_reason_names_the_series_and_figures_are_plain_json() -> None:
    assessment = assess({"g": [answered("0.1", "+Inf")]}, gate())
    assert assessment.reason == ('g: inf in errors{cell="1"}, at most 0.5 allowed (1 of 2 series)')
    json.dumps(assessment.to_json(), allow_nan=False)
    assert assess({"g": [answered("0.25")]}, gate()).figures == {
        "series": 1,
        "value": 0.25,
        "value_at_most": 0.5,
    }


# the document


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"max_value": None}, "expected it, or min_value"),
        ({"min_value": 0.6}, "expected at most max_value"),
        ({"prometheus": {"query": "x{d='$devise'}"}}, "expected only $device or $window"),
        ({"prometheus": {"query": ""}}, "at least 1 character"),
        ({"prometheus": {"query": "x", "url": "file:///etc/passwd"}}, "pattern"),
        ({"prometheus": {"query": "x", "url": "http://u:p@h:9090"}}, "pattern"),
        ({"max_value": float("nan")}, "finite"),
        ({"port": 8000}, "Extra inputs"),
    ],
)
def test_wrong_gates(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part.replace("$", r"\$")):
        gate(**fields)


def test_an_end_of_a_regular_expression_is_no_word() -> None:
    assert gate(prometheus={"query": 'up{device=~"cam.*$"}'})


# asking


def check(**source: Any) -> dict[str, Any]:
    (found,) = checks(gate(prometheus={"query": QUERY, **source}), 8000)
    return found


def test_a_device_is_not_told_of_the_checks_that_prometheus_answers() -> None:
    ready = _ADAPTER.validate_python({"name": "r", "type": "readiness"})
    document = {"model": "m", "checks": [*checks(ready, 8000), check()], "duration": 1.0}
    rest, asked = apart(document)
    assert [each["name"] for each in rest["checks"]] == ["r"]
    assert [each["name"] for each in asked] == ["g"]
    assert apart({"model": "m"}) == ({"model": "m"}, [])


def asked_for(url: str | None) -> str:
    assert url is not None
    return parse_qs(urlsplit(url).query)["query"][0]


def test_device_and_window_are_put_in() -> None:
    url = request_url(check(url="http://p:9090/"), 'c"1', 89.5, {})
    assert url is not None
    assert url.startswith("http://p:9090/api/v1/query?query=")
    assert asked_for(url) == 'sum(rate(errors{device="c\\"1"}[90s]))'
    assert "[30s]" in asked_for(request_url(check(url="http://p"), "c", 0.0, {}))


def test_the_inventory_names_prometheus_where_the_gate_does_not() -> None:
    variables = {"muster_prometheus": "https://own:9090"}
    assert (request_url(check(), "c", 0, variables) or "").startswith("https://own:9090/api")
    other = request_url(check(url="http://other"), "c", 0, variables)
    assert (other or "").startswith("http://other/api")
    assert request_url(check(), "c", 0, {}) is None
    assert request_url(check(), "c", 0, {"muster_prometheus": "file:///etc/shadow"}) is None


class Prometheus(HTTPServer):
    """A stand-in that notes what it was asked."""

    status, body = 200, json.loads("{}")

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(server.status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()
                self.wfile.write(json.dumps(server.body).encode())

            def log_message(self, *_arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    server = Prometheus()
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_asked_with_the_password_of_the_inventory(
    prometheus: Prometheus, tmp_path: Path
) -> None:
    prometheus.body = json.loads(answered("0.25")["body"])
    (tmp_path / "password").write_text("word\n")
    variables = {
        "muster_prometheus": prometheus.url,
        "muster_prometheus_user": "gates",
        "muster_prometheus_password_file": str(tmp_path / "password"),
    }
    sample = ask(check(), "cam-1", 60.0, variables)
    assert verdict(sample) is Verdict.PASSED
    ((path, login),) = prometheus.asked
    assert 'device="cam-1"' in asked_for(path)
    assert login == "Basic Z2F0ZXM6d29yZA=="


def test_a_url_of_the_release_gets_no_password(prometheus: Prometheus) -> None:
    variables = {"muster_prometheus_user": "gates", "muster_prometheus_password": "word"}
    ask(check(url=prometheus.url), "cam-1", 60.0, variables)
    assert [login for _, login in prometheus.asked] == [None]


@pytest.mark.parametrize(("status", "part"), [(302, "302"), (401, "401"), (500, "500")])
def test_other_answers_are_no_measurement(prometheus: Prometheus, status: int, part: str) -> None:
    prometheus.status = status
    sample = ask(check(url=prometheus.url), "cam-1", 60.0, {})
    assessment = assess({"g": [sample]}, gate())
    assert assessment.verdict is Verdict.ERROR
    assert f"HTTP {part}" in assessment.reason
    assert len(prometheus.asked) == 1


def test_nobody_there_is_no_measurement() -> None:
    sample = ask(check(url="http://127.0.0.1:1"), "cam-1", 60.0, {})
    assessment = assess({"g": [sample]}, gate())
    assert assessment.verdict is Verdict.ERROR
    assert "refused" in assessment.reason
    missing = assess({"g": [ask(check(), "cam-1", 60.0, {})]}, gate())
    assert "muster_prometheus" in missing.reason
