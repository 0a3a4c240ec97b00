from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from muster.gates import (
    Assessment,
    Gate,
    ReadinessGate,
    Verdict,
    assess,
    assess_probe,
    checks,
    combine,
    could_not_measure,
)

PASSED, FAILED = Verdict.PASSED, Verdict.FAILED
INCONCLUSIVE, ERROR = Verdict.INCONCLUSIVE, Verdict.ERROR

_ADAPTER: TypeAdapter[Gate] = TypeAdapter(Gate)


def gate(kind: str, **fields: Any) -> Gate:
    return _ADAPTER.validate_python({"name": "g", "type": kind, **fields})


def case(label: Any = 7, **output: Any) -> dict[str, Any]:
    inputs = [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}]
    return {"inputs": inputs, "outputs": [{"name": "label", "data": [label], **output}]}


def smoke(*labels: Any, **fields: Any) -> Gate:
    cases = [case(label) for label in labels or (7,)]
    return gate("smoke_inference", **{"path": "/infer", "cases": cases} | fields)


def sample(status: int | None = 200, **fields: Any) -> dict[str, Any]:
    return {"at": 0.0, "status": status, "latency": 0.01, "body": "", "error": None} | fields


def refused(at: float = 0.0) -> dict[str, Any]:
    return sample(None, at=at, latency=None, body=None, error="connection refused")


def answer(data: Any, **fields: Any) -> dict[str, Any]:
    output = {"name": "label", "shape": [1], "datatype": "INT64", "data": data}
    return sample(body=json.dumps({"model_name": "digits", "outputs": [output]}), **fields)


def answers(*labels: Any) -> dict[str, list[dict[str, Any]]]:
    return {f"g/{number}": [answer([label])] for number, label in enumerate(labels, start=1)}


# what to measure


def test_a_readiness_gate_is_one_check() -> None:
    assert checks(gate("readiness", path="/ready"), 8000) == [
        {
            "name": "g",
            "type": "http",
            "method": "GET",
            "headers": {},
            "body": None,
            "path": "/ready",
            "port": 8000,
            "timeout": 5.0,
        }
    ]


def test_an_http_gate_keeps_its_request() -> None:
    wanted = gate("http", path="/x", method="POST", body="hi", port=9000, headers={"A": "b"})
    (check,) = checks(wanted, 8000)
    assert (check["method"], check["body"], check["port"]) == ("POST", "hi", 9000)
    assert check["headers"] == {"A": "b"}


def test_a_smoke_gate_is_one_check_for_each_case() -> None:
    made = checks(smoke(7, 3), 8000)
    assert [check["name"] for check in made] == ["g/1", "g/2"]
    assert json.loads(made[0]["body"]) == {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}]
    }
    assert made[0]["method"] == "POST"
    assert made[0]["headers"] == {"Content-Type": "application/json"}


def test_limits_stand_beside_what_they_limit() -> None:
    """Reports plot a measurement against them."""
    limited = gate("http", path="/", max_latency="2s", latency_percentile=50, max_failures=1)
    figures = assess({"g": [sample(latency=0.5)]}, limited).figures
    assert figures["failures_at_most"] == 1
    assert (figures["latency"], figures["latency_at_most"]) == (0.5, 2.0)
    assert figures["latency_percentile"] == 50
    assert "latency_at_most" not in assess({"g": [sample()]}, gate("http", path="/")).figures


# gate documents


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "ready"},
        {"path": "/a b"},
        {"path": "/a\nb"},
        {"name": "a/b"},
        {"status": 99},
        {"port": 0},
        {"timeout": 0},
        {"max_failures": -1},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"cases": []},
    ],
)
def test_gates_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        gate("readiness", **fields)


def test_a_pattern_must_compile() -> None:
    with pytest.raises(ValidationError, match="expected a regular expression"):
        gate("http", path="/", expect_body="(")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", [1, 3], [1, 2], "expected 3 elements for shape"),
        ("FP32", [2], ["1", 2], "expected only elements of datatype FP32, got '1'"),
        ("FP32", [1], [math.nan], "datatype FP32, got the number nan"),
        ("FP32", [1], [True], "datatype FP32, got true"),
        ("FP32", [1], [None], "datatype FP32, got nothing"),
        ("INT64", [1], [1.5], "datatype INT64"),
        ("BYTES", [1], [1], "datatype BYTES"),
        ("BOOL", [1], [1], "datatype BOOL"),
        ("FLOAT", [1], [1], "datatype"),
    ],
)
def test_inputs_are_checked(datatype: str, shape: Any, data: Any, message: str) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    with pytest.raises(ValidationError, match=message):
        smoke(cases=[{**case(), "inputs": [tensor]}])


def test_expected_outputs_must_be_comparable() -> None:
    with pytest.raises(ValidationError, match="expected only finite numbers"):
        smoke(math.nan)
    with pytest.raises(ValidationError, match="expected 2 elements for shape"):
        smoke(cases=[case(shape=[2])])


# readiness


@pytest.mark.parametrize(
    ("samples", "fields", "verdict", "reason"),
    [
        ([sample(), sample()], {}, PASSED, "g: ready in 2 of 2 samples"),
        ([], {}, INCONCLUSIVE, "g: there were no samples"),
        (
            [sample(), sample(503, at=2.0), sample(at=4.0), sample(503, at=6.0)],
            {},
            FAILED,
            "g: 2 of 4 answers not ready, at most 0 allowed; the first after 2.0 s:"
            " HTTP 503 instead of 200",
        ),
        ([sample(), sample(503)], {"max_failures": 1}, PASSED, "g: ready in 1 of 2 samples"),
        (
            [sample(), refused(2.0)],
            {},
            FAILED,
            "g: 1 of 2 answers not ready, at most 0 allowed; the first after 2.0 s:"
            " connection refused",
        ),
        (
            [refused(), refused()],
            {"max_failures": 5},
            FAILED,
            "g: 2 of 2 answers not ready, at most 5 allowed; the first after 0.0 s:"
            " connection refused",
        ),
        ([sample(204)], {"status": 204}, PASSED, "g: ready in 1 of 1 samples"),
    ],
)
def test_readiness(samples: Any, fields: Any, verdict: Verdict, reason: str) -> None:
    found = assess({"g": samples}, gate("readiness", **fields))
    assert (found.verdict, found.reason) == (verdict, reason)


# http


@pytest.mark.parametrize(
    ("samples", "fields", "verdict", "reason"),
    [
        ([sample()], {}, PASSED, "g: 1 of 1 answers right"),
        ([], {}, INCONCLUSIVE, "g: there were no samples"),
        ([refused()], {}, FAILED, "connection refused"),
        ([sample(404)], {}, FAILED, "1 of 1 answers wrong, at most 0 allowed"),
        ([sample(body="a 42")], {"expect_body": r"\d+"}, PASSED, "g: 1 of 1 answers right"),
        ([sample(body="none")], {"expect_body": r"\d+"}, FAILED, r"no match of '\\d+' in none"),
        ([sample(body=None)], {"expect_body": "x"}, FAILED, "no match of 'x' in nothing"),
        ([sample(500), sample()], {"max_failures": 1}, PASSED, "g: 1 of 2 answers right"),
        (
            [sample(latency=0.02)],
            {"max_latency": "2s"},
            PASSED,
            "g: 1 of 1 answers right, p95 latency 20 ms",
        ),
        (
            [sample(latency=0.02), sample(latency=2.5)],
            {"max_latency": "2s"},
            FAILED,
            "g: p95 latency 2.5 s over 2 samples, at most 2 s allowed",
        ),
        (
            [sample(latency=0.02), sample(latency=2.5)],
            {"max_latency": "2s", "latency_percentile": 50},
            PASSED,
            "p50 latency 20 ms",
        ),
        ([sample(latency=None)], {"max_latency": "2s"}, INCONCLUSIVE, "no sample of the latency"),
        (
            [sample(latency=math.nan)],
            {"max_latency": "2s"},
            INCONCLUSIVE,
            "no sample of the latency",
        ),
        (
            [sample(latency=None), sample(latency=0.5)],
            {"max_latency": "1s"},
            PASSED,
            "p95 latency 500 ms",
        ),
    ],
)
def test_http(samples: Any, fields: Any, verdict: Verdict, reason: str) -> None:
    found = assess({"g": samples}, gate("http", path="/live", **fields))
    assert found.verdict is verdict
    assert reason in found.reason


# what was never measured


@pytest.mark.parametrize("wanted", [gate("readiness"), gate("http", path="/"), smoke()])
def test_a_missing_measurement_is_an_error(wanted: Gate) -> None:
    found = assess({}, wanted)
    assert found.verdict is ERROR
    assert "the probe returned no measurement of it" in found.reason


@pytest.mark.parametrize("samples", [None, "x", [None], [{}], [{"status": "200"}], {"a": 1}])
def test_measurements_that_make_no_sense_are_an_error(samples: Any) -> None:
    assert assess({"g": samples}, gate("readiness")).verdict is ERROR
    assert assess({"g/1": samples}, smoke()).verdict is ERROR


def test_could_not_measure_says_why() -> None:
    found = could_not_measure(gate("readiness"), "internal: out of memory")
    assert found.verdict is ERROR
    assert found.reason == "g: could not be measured, internal: out of memory"


# smoke_inference


def test_all_cases_right() -> None:
    found = assess(answers(7, 3), smoke(7, 3))
    assert (found.verdict, found.reason) == (PASSED, "g: 2 of 2 cases right")
    assert found.figures == {
        "samples": 2,
        "cases": 2,
        "cases_right": 2,
        "cases_right_at_least": 2,
        "latency": 0.01,
    }


def test_a_wrong_case_is_named_with_what_came() -> None:
    found = assess(answers(1, 3, 3), smoke(1, 7, 3))
    assert found.verdict is FAILED
    assert found.reason == (
        "g: 2 of 3 cases right, at least 100 % needed; case 2 expected label [7], got [3]"
    )


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.5, PASSED), (0.75, PASSED), (0.76, FAILED), (1.0, FAILED)]
)
def test_the_share_of_right_cases(ratio: float, verdict: Verdict) -> None:
    found = assess(answers(1, 2, 3, 0), smoke(1, 2, 3, 4, min_pass_ratio=ratio))
    assert found.verdict is verdict


def test_the_worst_sample_of_a_case_counts() -> None:
    measured = {"g/1": [answer([7]), answer([7]), answer([1])]}
    assert assess(measured, smoke(7)).verdict is FAILED


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (sample(500, body="boom"), "case 1 HTTP 500 instead of 200"),
        (refused(), "case 1 connection refused"),
        (sample(body="<html>"), "case 1 got no valid JSON: <html>"),
        (sample(body=""), "case 1 got no valid JSON: nothing"),
        (sample(body="[" * 60000), "case 1 got no valid JSON"),
        (sample(body="[1]"), "case 1 got no outputs: [1]"),
        (sample(body='{"error": "x"}'), 'case 1 got no outputs: {"error": "x"}'),
        (sample(body='{"outputs": []}'), "case 1 expected output label, got nothing"),
        (sample(body='{"outputs": [3, {"name": []}]}'), "case 1 expected output label, got []"),
        (sample(body='{"outputs": [{"name": "a"}]}'), "case 1 expected output label, got a"),
        (
            sample(body='{"outputs": [{"name": "\\u001b[2J\\ud800"}]}'),
            "expected output label, got \ufffd[2J\ufffd",
        ),
        (sample(body='{"outputs": [{"name": "label"}]}'), "expected label [7], got null"),
        (answer([]), "expected label [7], got 0 elements instead of 1"),
        (answer([7, 7]), "expected label [7], got 2 elements instead of 1"),
        (answer(["7"]), 'expected label [7], got ["7"]'),
        (answer([None]), "expected label [7], got [null]"),
        (answer([math.nan]), "expected label [7], got [NaN]"),
        (answer([math.inf]), "expected label [7], got [Infinity]"),
    ],
)
def test_wrong_answers_fail(got: Any, reason: str) -> None:
    found = assess({"g/1": [got]}, smoke(7, tolerance=0.1))
    assert found.verdict is FAILED
    assert reason in found.reason


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "verdict"),
    [
        (7, 7.0, 0, PASSED),
        (7.0, 7, 0, PASSED),
        (0.5, 0.51, 0.02, PASSED),
        (0.5, 0.53, 0.02, FAILED),
        (True, 1, 0, PASSED),
        ("cat", "cat", 0, PASSED),
        ("cat", "dog", 9, FAILED),
        (1.5, 10**400, 1, FAILED),
        (10**400, 10**400, 0, PASSED),
    ],
)
def test_values_are_compared_as_numbers_or_text(
    expected: Any, got: Any, tolerance: float, verdict: Verdict
) -> None:
    assert assess(answers(got), smoke(expected, tolerance=tolerance)).verdict is verdict


def test_nested_and_flat_data_are_the_same() -> None:
    wanted = smoke(cases=[case() | {"outputs": [{"name": "label", "data": [[1, 2], [3, 4]]}]}])
    assert assess({"g/1": [answer([1, 2, 3, 4])]}, wanted).verdict is PASSED
    assert assess({"g/1": [answer([1, 3, 2, 4])]}, wanted).verdict is FAILED


def test_the_shape_is_compared_where_one_is_expected() -> None:
    found = assess(answers(7), smoke(cases=[case(shape=[1, 1])]))
    assert found.verdict is FAILED
    assert "expected label of shape [1, 1], got shape [1]" in found.reason


def test_without_samples_of_a_case_it_is_inconclusive() -> None:
    found = assess(answers(7) | {"g/2": []}, smoke(7, 3))
    assert found.verdict is INCONCLUSIVE
    assert found.reason == "g: there were no samples of 1 of 2 cases"


def test_a_failure_that_is_certain_beats_a_missing_measurement() -> None:
    assert assess(answers(1), smoke(7, 3)).verdict is FAILED
    assert assess(answers(1), smoke(7, 3, min_pass_ratio=0.5)).verdict is ERROR


def test_an_answer_that_was_cut_off_is_no_failure_of_the_model() -> None:
    found = assess({"g/1": [sample(body='{"outputs": [' + " " * 65536)]}, smoke())
    assert found.verdict is ERROR
    assert "longer than the 64 KiB" in found.reason


def test_the_latency_limit_of_a_smoke_gate() -> None:
    measured = {"g/1": [answer([7], latency=0.7)]}
    found = assess(measured, smoke(7, max_latency="500ms"))
    assert found.verdict is FAILED
    assert found.reason == "g: p95 latency 700 ms over 1 samples, at most 500 ms allowed"


# properties

gates = st.sampled_from(
    [
        gate("readiness", max_failures=100),
        gate("http", path="/", max_failures=100, max_latency="1h"),
        smoke(7, 3),
        smoke(7, 3, min_pass_ratio=0.01, tolerance=1e9),
    ]
)
names = st.sampled_from(["g", "g/1", "g/2", "other"])
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=8,
)
keys = st.sampled_from(["at", "status", "latency", "body", "error"])
any_samples = st.lists(st.dictionaries(keys, json_values) | json_values, max_size=3)


@given(gates)
def test_no_samples_never_pass(wanted: Gate) -> None:
    nothing: dict[str, list[dict[str, Any]]] = {"g": [], "g/1": [], "g/2": []}
    assert assess(nothing, wanted).verdict is INCONCLUSIVE


@given(gates, st.integers(1, 20))
def test_an_endpoint_that_never_answers_never_passes(wanted: Gate, count: int) -> None:
    silence = [refused(float(at)) for at in range(count)]
    assert assess(dict.fromkeys(["g", "g/1", "g/2"], silence), wanted).verdict is FAILED


@given(st.dictionaries(names, any_samples | json_values), gates)
def test_nothing_a_device_says_breaks_the_assessment(measured: Any, wanted: Gate) -> None:
    found = assess(measured, wanted)
    assert found.reason.startswith("g: ")
    assert "\n" not in found.reason
    json.dumps(found.to_json(), allow_nan=False)


@given(json_values, st.floats(0, 1e300))
def test_nan_never_passes(other: Any, tolerance: float) -> None:
    measured = {"g/1": [answer([math.nan]), answer([other])]}
    assert assess(measured, smoke(7, tolerance=tolerance)).verdict is FAILED


def _assessment(verdict: Verdict) -> Assessment:
    return Assessment("g", verdict, "g: because")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], INCONCLUSIVE),
        ([PASSED, PASSED], PASSED),
        ([PASSED, INCONCLUSIVE], INCONCLUSIVE),
        ([INCONCLUSIVE, ERROR, PASSED], ERROR),
        ([PASSED, ERROR, FAILED, INCONCLUSIVE], FAILED),
    ],
)
def test_combine_takes_the_worst(verdicts: list[Verdict], expected: Verdict) -> None:
    assert combine(map(_assessment, verdicts)) is expected


def test_an_assessment_survives_the_journal() -> None:
    found = assess(answers(7), smoke(7))
    assert Assessment.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_container_that_restarted_while_it_was_watched_has_failed() -> None:
    gate = ReadinessGate(name="ready", type="readiness")
    sample = {"at": 0.0, "status": 200, "latency": 0.01, "body": "", "error": None}
    answer = {"measurements": {"ready": [sample]}, "restarts": 0}
    assert combine(assess_probe(answer, [gate])) is Verdict.PASSED
    assert combine(assess_probe(answer | {"restarts": 2}, [gate])) is Verdict.FAILED
