from __future__ import annotations

from typing import Any

from drill import make_release

from muster.rollout.diff import (
    CHANGES,
    LEFT_OUT,
    NEW,
    NO_ANSWER,
    SAME,
    UNKNOWN,
    Change,
    compare,
    device_diffs,
    gate_summary,
    group,
)

GROUPS = ("site_x", "hw_a")
A, C = ("models/digits@sha256:" + letter * 64 for letter in "ac")


def variant(**changes: Any) -> dict[str, Any]:
    return {"hw_a": {"image": A} | changes}


def test_the_same_document_changes_nothing() -> None:
    assert compare(make_release("1.0"), make_release("2.0"), GROUPS) == ()


def test_every_part_of_a_variant_is_compared() -> None:
    old = make_release(
        "1.0", variants=variant(env={"THREADS": "1", "OLD": "x"}, memory="256MiB", devices=[])
    )
    new = make_release(
        variants=variant(
            image=C, env={"THREADS": "4", "NEW": "y"}, memory="1GiB", devices=["/dev/apex_0"]
        ),
        endpoint={"port": 9000},
    )
    changes = {change.what: change for change in compare(old, new, GROUPS)}
    wanted = (
        Change("image", A, C),
        Change("env.THREADS", "1", "4"),
        Change("env.OLD", "x", None),
        Change("env.NEW", None, "y"),
        Change("memory", 256 * 2**20, 2**30),
        Change("devices", None, ["/dev/apex_0"]),
        Change("endpoint.port", 8000, 9000),
    )
    assert changes == {change.what: change for change in wanted}
    assert changes["memory"].texts() == ("256 MiB", "1 GiB")
    assert changes["devices"].texts() == (None, "/dev/apex_0")


def test_gates_are_compared_by_name() -> None:
    old = make_release(
        "1.0",
        gates=[
            {"name": "ready", "type": "readiness", "timeout": "2s"},
            {"name": "gone", "type": "http", "path": "/"},
        ],
    )
    new = make_release(
        gates=[
            {"name": "added", "type": "http", "path": "/x", "max_latency": "250ms"},
            {"name": "ready", "type": "readiness", "timeout": "3s"},
        ]
    )
    changes = compare(old, new, GROUPS)
    assert Change("gates.ready.timeout", 2.0, 3.0) in changes
    (latency,) = [change for change in changes if change.what == "gates.added.max_latency"]
    assert latency.texts() == (None, "0.25s")
    assert gate_summary(changes) == [
        Change("gates.ready.timeout", 2.0, 3.0),
        Change("gates.gone", "http", None),
        Change("gates.added", None, "http"),
    ]


def test_cases_that_look_alike_are_still_told_as_changed() -> None:
    def smoke(expected: int) -> dict[str, Any]:
        inputs = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
        case = {"inputs": inputs, "outputs": [{"name": "y", "data": [expected]}]}
        ready = {"name": "ready", "type": "readiness"}
        return {
            "gates": [
                ready,
                {"name": "s", "type": "smoke_inference", "path": "/i", "cases": [case]},
            ]
        }

    (change,) = compare(make_release("1.0", **smoke(7)), make_release(**smoke(8)), GROUPS)
    assert change.what == "gates.s.cases"
    assert change.texts() == ("1 case", "1 case (other content)")


def test_a_device_whose_hardware_group_has_another_variant_now() -> None:
    old = make_release("1.0", variants={"hw_a": {"image": A}})
    new = make_release(variants={"hw_b": {"image": A}})
    assert compare(old, new, ("hw_a", "hw_b")) == (Change("variant", "hw_a", "hw_b"),)


def runs(release_id: str | None) -> dict[str, Any]:
    return {"model": {"current": {"id": release_id, "serving": True} if release_id else None}}


def test_each_device_gets_the_comparison_that_is_possible() -> None:
    old, new = (
        make_release("1.0", variants=variant(memory="1GiB")),
        make_release(variants=variant()),
    )
    devices = dict.fromkeys(("old", "same", "new", "unknown", "small", "silent"), GROUPS)
    seen = {
        "old": runs(old.id),
        "same": runs(new.id),
        "new": runs(None),
        "unknown": runs("0.1-0123456789ab"),
        "small": runs(old.id),
        "silent": "the link is cut",
    }
    diffs = device_diffs(
        {**devices, "other": ("hw_z",)}, new, seen, {"small": "memory 1 GiB"}, {old.id: old}
    )
    found = {diff.device: diff for diff in diffs}
    assert {name: diff.status for name, diff in found.items()} == {
        "old": CHANGES,
        "same": SAME,
        "new": NEW,
        "unknown": UNKNOWN,
        "small": LEFT_OUT,
        "silent": NO_ANSWER,
        "other": LEFT_OUT,
    }
    assert found["old"].changes == (Change("memory", 2**30, None),)
    assert found["unknown"].current == "0.1-0123456789ab"
    assert found["unknown"].changes == ()
    assert found["silent"].note == "the link is cut"
    assert "no variant for hw_z" in found["other"].note
    assert Change("image", None, A) in found["new"].changes


def test_devices_with_the_same_change_are_one_group() -> None:
    old, other = make_release("1.0", variants=variant(image=C)), make_release("1.1")
    new = make_release(variants=variant())
    seen = {name: runs(old.id) for name in "abc"} | {"d": runs(other.id), "e": runs(new.id)}
    known = {old.id: old, other.id: other}
    groups = group(device_diffs(dict.fromkeys("eabcd", GROUPS), new, seen, {}, known))
    assert [(g.status, g.devices) for g in groups] == [
        (CHANGES, ("a", "b", "c")),
        (CHANGES, ("d",)),
        (SAME, ("e",)),
    ]
    assert list(groups[0].to_json()["changes"]) == [{"what": "image", "before": C, "after": A}]
