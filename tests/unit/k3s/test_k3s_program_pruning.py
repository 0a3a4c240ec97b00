"""Which DaemonSets a cluster may forget."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from k3s_stand_ins import Node, node, program

OURS = {"app.kubernetes.io/managed-by": "muster", "muster.model": "digits"}


def daemon_set(release: str, variant: str = "a", at: int = 0, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": f"muster-{release}-{variant}",
            "labels": {**OURS, "muster.release": release, **labels},
            "creationTimestamp": f"2026-01-01T00:00:{at:02d}Z",
        },
    }


def bring(server: Node, release: str, keep: int = 2, **labels: str) -> list[str]:
    answer = server.do(
        "apply",
        manifests=[daemon_set(release, **labels)],
        prune={"model": "digits", "keep": keep},
    )
    return list(answer["pruned"])


def test_the_newest_stay_and_what_a_node_asks_for(server: Node) -> None:
    asks = node("agent-1", labels={"muster.model/digits": "r1"})
    server.tell(nodes=[asks])
    assert [bring(server, f"r{number}") for number in (1, 2, 3)] == [[], [], []]
    assert bring(server, "r4") == ["muster-r2-a"]
    assert bring(server, "r5") == ["muster-r3-a"]


def test_what_a_node_may_go_back_to_stays(server: Node) -> None:
    asks = {
        "muster.model/digits": "r9",
        "muster.last-good/digits": "r1",
        "muster.previous/digits": "r2",
        "muster.previous/faces": "r3",
    }
    server.tell(nodes=[node("agent-1", labels=asks)])
    gone = [name for number in range(1, 6) for name in bring(server, f"r{number}", keep=1)]
    assert gone == ["muster-r3-a", "muster-r4-a"]


def test_other_models_and_hand_written_ones_stay(server: Node) -> None:
    bring(server, "other", **{"muster.model": "faces"})
    bring(server, "written", **{"app.kubernetes.io/managed-by": "somebody"})
    for number in range(4):
        bring(server, f"r{number}", keep=1)
    names = [each["metadata"]["name"] for each in server.seen()["objects"]]
    assert names == ["muster-other-a", "muster-written-a", "muster-r3-a"]


def test_what_is_brought_again_stays_though_it_is_old(server: Node) -> None:
    for release in ("r1", "r2", "r3"):
        bring(server, release)
    found = [daemon_set("r1", at=1), daemon_set("r1", "b", at=9), daemon_set("r2", at=5)]
    assert program.spare(found, {"r2"}, 0) == ["muster-r1-a", "muster-r1-b"]
    assert program.spare(found, set(), 1) == ["muster-r2-a"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 59)), max_size=20),
    st.sets(st.integers(0, 9)),
    st.integers(0, 5),
)
def test_nothing_needed_is_spare(found: list[tuple[int, int]], needed: set[int], keep: int) -> None:
    sets = [daemon_set(f"r{number}", str(at), at) for number, at in found]
    names = program.spare(sets, {f"r{number}" for number in needed}, keep)
    spare = {name.split("-")[1] for name in names}
    assert not spare & {f"r{number}" for number in needed}
    assert len({number for number, _ in found}) - len(spare) >= min(
        keep, len({number for number, _ in found})
    )
