from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from release_documents import release_document

from muster.documents import load_document, parse_document
from muster.errors import InputError
from muster.fields import Document, format_duration, format_size, parse_duration, parse_size
from muster.release import Release
from muster.strategy import Strategy

HEADER = "apiVersion: muster/v1\nkind: Strategy\n"


def problems(text: str, model: type[Document] = Strategy) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_document(text, model, "f.yml")
    return caught.value.problems


def release_problems(**changes: object) -> list[str]:
    return problems(yaml.safe_dump(release_document(**changes), sort_keys=False), Release)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("0s", 0),
        (0, 0),
        (90, 90),
        (0.25, 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["", "10", "s", "-5s", "5 m", "5m\n", "1h30", "٣s", -1, True, None, [], math.nan, 10**400],
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("256MiB", 2**28), ("1GiB", 2**30), ("1.5KiB", 1536), ("500MB", 5 * 10**8), (7, 7)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value", ["", "256", "1 GiB", "1gib", "-1MiB", 0, -1, True, 1.5, None, "0MiB", 10**30, "1GiB\n"]
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(value)


@given(st.integers(min_value=0, max_value=10**7))
def test_a_written_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(float(seconds))) == seconds


def test_sizes_are_written_for_people() -> None:
    assert [format_size(size) for size in (512, 2**28, 3 * 2**29)] == [
        "512 B",
        "256 MiB",
        "1.5 GiB",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yml: expected a Strategy document, got an empty file"),
        ("# nothing\n", "f.yml: expected a Strategy document, got an empty file"),
        ("- a", "f.yml:1: expected a mapping, got a list"),
        ("text", "f.yml:1: expected a mapping, got 'text'"),
        ("a: [", "f.yml:1: not valid YAML, "),
        ("a: b\n---\nc: d", "f.yml:2: not valid YAML, but found another document"),
        ("a: &a [*a]", "f.yml:1: not valid YAML, an alias holds itself"),
        ("a: !!python/object:os.system x", "f.yml:1: not valid YAML, could not determine"),
        ("\x00", "f.yml: not valid YAML, unacceptable character"),
        ("{a: b}: c", "f.yml:1: not valid YAML, found unhashable key"),
        ("[" * 5000, "f.yml: not valid YAML, maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_document(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.yml"
    with pytest.raises(InputError, match=r"missing\.yml: can't be read, No such file"):
        load_document(path, Strategy)
    with pytest.raises(InputError, match="can't be read, Is a directory"):
        load_document(tmp_path, Strategy)
    path.write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="expected text in UTF-8"):
        load_document(path, Strategy)


def test_another_kind_of_document_is_one_problem() -> None:
    text = yaml.safe_dump(release_document(), sort_keys=False)
    assert problems(text) == ["f.yml:2: kind: expected Strategy, got 'Release'"]
    assert problems("kind: Strategy\napiVersion: muster/v2") == [
        "f.yml:2: apiVersion: expected muster/v1, got 'muster/v2'"
    ]
    assert problems("retain_releases: 2") == [
        "f.yml:1: apiVersion: expected muster/v1, got nothing",
        "f.yml:1: kind: expected Strategy, got nothing",
    ]


def test_all_problems_come_at_once_in_order_of_lines() -> None:
    text = """\
max_paralel: 0
waves:
  - size: canary
    soak: soon
  - {size: 110%}
failure_budget:
  max_failed: -1
  on_breach: panic
retain_releases: 0
retain_releases: 2
healthy_deadline: yes
"""
    assert problems(HEADER + text) == [
        "f.yml:3: max_paralel: expected no such key, did you mean max_parallel?",
        "f.yml:6: waves[0].soak: expected a duration such as 30s, 5m or 1h30m,"
        " or a number of seconds, 0 or more, got 'soon'",
        "f.yml:7: waves[1].size: expected a number of devices, a percentage such as 25%,"
        " canary or rest, got '110%'",
        "f.yml:9: failure_budget.max_failed: expected a number of devices or a percentage"
        " such as 10%, got the number -1",
        "f.yml:10: failure_budget.on_breach: expected 'pause', 'abort', 'roll_back_wave' or"
        " 'roll_back_rollout', got 'panic'",
        "f.yml:12: retain_releases: expected every key once, got it again (first in line 11)",
        "f.yml:13: healthy_deadline: expected a duration such as 30s, 5m or 1h30m,"
        " or a number of seconds, 0 or more, got true",
    ]


def test_repeated_keys_alone_are_refused() -> None:
    text = HEADER + "waves:\n- size: rest\n  size: canary\n"
    assert problems(text)[0] == (
        "f.yml:5: waves[0].size: expected every key once, got it again (first in line 4)"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 1.1}, "version: expected text, got the number 1.1 (put it in quotes)"),
        ({"model": None}, "model: expected a value, got nothing"),
        ({"variants": []}, "variants: expected a mapping, got a list"),
        ({"gates": {}}, "gates: expected a list, got a mapping"),
        (
            {"gates": [{"name": "x", "type": "reddy"}]},
            "gates[0].type: expected one of 'readiness',",
        ),
        ({"gates": [{"name": "x"}]}, "gates[0].type: expected a value, got nothing"),
        ({"endpoint": {"prot": 1}}, "endpoint.prot: expected no such key, did you mean port?"),
        (
            {"endpoint": {"xyzzy": 1}},
            "endpoint.xyzzy: expected no such key, known are port, container_port, ready_path",
        ),
        ({"endpoint": {"port": 70000}}, "endpoint.port: expected at most 65535, got the number"),
        ({"endpoint": {"port": "x"}}, "endpoint.port: expected a whole number, got 'x'"),
        (
            {"gates": [{"name": "r", "type": "readiness", "pth": "/"}]},
            "gates[0].pth: expected no such key, did you mean path?",
        ),
    ],
)
def test_messages_name_the_key(changes: dict[str, object], expected: str) -> None:
    (problem,) = release_problems(**changes)
    assert problem.split(": ", 1)[1].startswith(expected)


def test_a_suggestion_inside_a_mapping_of_variants() -> None:
    variants = {"hw_coral": {"image": "m/d@sha256:" + "0" * 64, "memroy": "1GiB"}}
    (problem,) = release_problems(variants=variants)
    assert problem.endswith("variants.hw_coral.memroy: expected no such key, did you mean memory?")


def test_merge_keys_and_anchors_work() -> None:
    text = HEADER + "waves: [&w {size: canary, soak: 5s}, {<<: *w, size: rest}]\n"
    strategy = parse_document(text, Strategy, "f.yml")
    assert [(wave.size, wave.soak) for wave in strategy.waves] == [("canary", 5.0), ("rest", 5.0)]


def test_dates_are_text_and_small_numbers_are_numbers() -> None:
    text = yaml.safe_dump(release_document(version="X")).replace(
        "version: X", "version: 2026-01-31"
    )
    assert parse_document(text, Release, "f.yml").version == "2026-01-31"
    gate = {"name": "s", "type": "smoke_inference", "path": "/", "tolerance": 1e-07}
    gate["cases"] = [
        {
            "inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1e-07]}],
            "outputs": [{"name": "b", "data": [2e-08]}],
        }
    ]
    document = release_document(gates=[{"name": "r", "type": "readiness"}, gate])
    release = parse_document(json.dumps(document), Release, "f.json")
    assert "1e-07" in release.canonical
    assert '"1e-07"' not in release.canonical


@given(st.text(max_size=60))
def test_any_text_is_a_document_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        parse_document(HEADER + text, Strategy, "f.yml")
