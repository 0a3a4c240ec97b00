from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drill import Drill, strategy

from muster.errors import MusterError
from muster.fleet.simulated import SimulatedFleet
from muster.rollout import leases as leases_module
from muster.rollout.events import Event, EventKind
from muster.rollout.journal import Journal, open_journal
from muster.rollout.leases import LeaseHeldError, LeaseLostError
from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.rollout.records import RequestKind


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.sqlite'}"


@pytest.fixture
def drill(url: str) -> Iterator[Drill]:
    with open_journal(url) as journal:
        yield Drill(journal)


def test_what_is_written_is_read_again(drill: Drill, url: str) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(3)), strategy(), limit="a:!b")
    rollout, wave, device = snapshot.rollout, snapshot.waves[1], snapshot.devices[2]
    rollout.state, rollout.reason = RolloutState.RUNNING, "because"
    wave.state, wave.accepted_failed = WaveState.SOAKING, 2
    device.state, device.generation, device.previous = DeviceState.SOAKING, 7, "1.0-abc"
    device.failed = True
    event = Event(EventKind.DEVICE, rollout.id, 12.5, device.device, 1, {"to": "soaking"})
    drill.journal.write(rollout, [wave], [device], [event])
    with open_journal(url) as other:
        assert other.load(rollout.id) == snapshot
        assert other.load(rollout.id[:-2]) == snapshot
        assert list(other.events(rollout.id)) == [event]
        assert list(other.events(rollout.id, "nobody")) == []
        assert [r.id for r in other.rollouts("digits")] == [rollout.id]
        assert other.rollouts("other") == []
        assert other.release_document("digits", rollout.release_id) == (
            drill.release.canonical,
            None,
        )


def test_a_signature_is_not_lost_to_an_unsigned_rollout(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(1))
    release_id = drill.prepare(fleet, strategy()).rollout.release_id
    drill.prepare(fleet, strategy(), signature="signed")
    drill.prepare(fleet, strategy())
    assert drill.journal.release_document("digits", release_id) == (
        drill.release.canonical,
        "signed",
    )


def test_an_unknown_or_unclear_rollout_is_an_error(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(1))
    drill.prepare(fleet, strategy())
    drill.prepare(fleet, strategy())
    with pytest.raises(MusterError, match="no such rollout"):
        drill.journal.load("nonsense")
    with pytest.raises(MusterError, match="muster history"):
        drill.journal.load("2")


def test_a_transition_that_fails_leaves_nothing_half_written(drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    snapshot.rollout.state = RolloutState.RUNNING
    bad = Event(EventKind.DEVICE, "no-such-rollout", 0.0)
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        drill.journal.write(snapshot.rollout, [], [], [bad])
    assert drill.journal.load(snapshot.rollout.id).rollout.state is RolloutState.PLANNED


def test_a_lease_keeps_a_second_controller_away_and_names_the_first(drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(3)), strategy())
    names = [d.device for d in snapshot.devices]
    lease = drill.journal.acquire(snapshot.rollout, names[:2])
    with pytest.raises(LeaseHeldError, match=f"process {os.getpid()}.*{snapshot.rollout.id}"):
        drill.journal.acquire(snapshot.rollout, names[1:])
    drill.journal.release(drill.journal.acquire(snapshot.rollout, names[2:]))
    other_model = snapshot.rollout.__class__(**vars(snapshot.rollout) | {"model": "faces"})
    drill.journal.release(drill.journal.acquire(other_model, names))
    drill.journal.release(lease)
    drill.journal.acquire(snapshot.rollout, names)


def test_work_that_is_no_rollout_keeps_rollouts_away_for_as_long_as_it_takes(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(2)), strategy())
    monkeypatch.setattr(leases_module, "LEASE_SECONDS", 3.0)
    beats = threading.Semaphore(0)
    heartbeat = drill.journal.heartbeat
    monkeypatch.setattr(
        drill.journal, "heartbeat", lambda lease: (heartbeat(lease), beats.release())
    )
    with drill.journal.held("k3s restore", ["d0000"]):
        for _ in range(8):  # longer than the lease itself
            assert beats.acquire(timeout=20)
        with pytest.raises(LeaseHeldError, match=f"process {os.getpid()}.*for k3s restore"):
            drill.journal.acquire(snapshot.rollout, ["d0000", "d0001"])
        drill.journal.release(drill.journal.acquire(snapshot.rollout, ["d0001"]))
    lease = drill.journal.acquire(snapshot.rollout, ["d0000"])
    with (
        pytest.raises(LeaseHeldError, match=snapshot.rollout.id),
        drill.journal.held("k3s reset", ["d0000"]),
    ):
        pytest.fail("a rollout is at work there")
    drill.journal.release(lease)


def test_work_tells_that_somebody_else_took_its_devices(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    def lost(_lease: object) -> None:
        told.set()
        raise LeaseLostError("another controller took over")

    monkeypatch.setattr(leases_module, "LEASE_SECONDS", 0.06)
    monkeypatch.setattr(drill.journal, "heartbeat", lost)
    with (
        pytest.raises(LeaseLostError, match="took over"),
        drill.journal.held("k3s reset", ["d0000"]),
    ):
        assert told.wait(20)


def test_an_expired_lease_is_taken_over_and_its_owner_stops(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    monkeypatch.setattr(leases_module, "LEASE_SECONDS", -1.0)
    first = drill.journal.acquire(snapshot.rollout, ["d0000"])
    monkeypatch.setattr(leases_module, "LEASE_SECONDS", 30.0)
    drill.journal.heartbeat(first)  # nobody took it meanwhile
    with pytest.raises(LeaseHeldError):
        drill.journal.acquire(snapshot.rollout, ["d0000"])
    monkeypatch.setattr(leases_module, "LEASE_SECONDS", -1.0)
    drill.journal.heartbeat(first)
    drill.journal.acquire(snapshot.rollout, ["d0000"])
    with pytest.raises(LeaseLostError, match="another controller"):
        drill.journal.heartbeat(first)


def test_the_lease_of_a_dead_process_on_this_host_is_taken_over_at_once(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    gone = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    gone.start()
    gone.join()
    with monkeypatch.context() as patch:
        patch.setattr(leases_module.os, "getpid", lambda: gone.pid)
        drill.journal.acquire(snapshot.rollout, ["d0000"])
    assert drill.journal.lease_owner(snapshot.rollout.id) is None
    drill.journal.acquire(snapshot.rollout, ["d0000"])
    owner = drill.journal.lease_owner(snapshot.rollout.id)
    assert owner is not None
    assert str(os.getpid()) in owner


def test_a_process_that_got_the_id_of_a_dead_controller_holds_no_lease(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    with monkeypatch.context() as patch:
        patch.setattr(leases_module, "_started", lambda _pid: "1")
        drill.journal.acquire(snapshot.rollout, ["d0000"])
        assert drill.journal.lease_owner(snapshot.rollout.id) is not None
    assert drill.journal.lease_owner(snapshot.rollout.id) is None
    drill.journal.acquire(snapshot.rollout, ["d0000"])
    assert drill.journal.lease_owner(snapshot.rollout.id) is not None


def test_of_many_controllers_at_once_one_gets_the_lease(drill: Drill, url: str) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(4)), strategy())
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(5), context.Queue()

    def compete() -> None:
        journal = Journal(url)
        barrier.wait()
        try:
            journal.acquire(snapshot.rollout, ["d0001"])
            queue.put(True)
        except LeaseHeldError:
            queue.put(False)
        barrier.wait()  # live until all have tried: the lease of a dead process is free

    processes = [context.Process(target=compete) for _ in range(5)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(results) == 1


# What people ask of a rollout


def test_what_is_asked_waits_in_order_until_it_is_handled(drill: Drill, url: str) -> None:
    fleet = SimulatedFleet(drill.devices(1))
    mine, other = (drill.prepare(fleet, strategy()).rollout.id for _ in range(2))
    assert drill.journal.requests(mine) == []
    drill.journal.ask(mine, RequestKind.PAUSE, "the line is busy")
    drill.journal.ask(other, RequestKind.APPROVE)
    drill.journal.ask(mine, RequestKind.ROLL_BACK)
    with open_journal(url) as controller:  # another process reads them
        first, second = controller.requests(mine)
        assert (first.kind, first.reason) == (RequestKind.PAUSE, "the line is busy")
        assert (second.kind, second.reason) == (RequestKind.ROLL_BACK, "")
        assert {first.rollout, second.rollout} == {mine}
        assert abs(first.at - time.time()) < 60
        assert first.who.endswith(f"@{socket.gethostname()}")
        controller.handled(first)
        assert controller.requests(mine) == [second]
    assert drill.journal.requests(mine) == [second]
    drill.journal.handled(second)
    drill.journal.handled(second)  # who says so twice does no harm
    assert drill.journal.requests(mine) == []
    assert [request.kind for request in drill.journal.requests(other)] == [RequestKind.APPROVE]


@pytest.mark.parametrize("kind", RequestKind)
def test_every_kind_of_request_is_read_again(drill: Drill, kind: RequestKind) -> None:
    rollout = drill.prepare(SimulatedFleet(drill.devices(1)), strategy()).rollout.id
    drill.journal.ask(rollout, kind, "why")
    assert [request.kind for request in drill.journal.requests(rollout)] == [kind]


def test_nothing_can_be_asked_of_a_rollout_that_there_is_not(drill: Drill) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        drill.journal.ask("no-such-rollout", RequestKind.PAUSE)


# What became of each device


def ended(
    drill: Drill,
    *states: DeviceState,
    rollout: RolloutState = RolloutState.SUCCEEDED,
    kind: str = "rollout",
) -> str:
    """A rollout that left ``d0000``, ``d0001``, ... in these states; its id."""
    snapshot = drill.prepare(SimulatedFleet(drill.devices(len(states))), strategy(), kind=kind)
    for number, state in enumerate(states):
        record = next(d for d in snapshot.devices if d.device == f"d{number:04d}")
        record.state, record.reason = state, f"it is {state.value}"
    snapshot.rollout.state = rollout
    drill.journal.write(snapshot.rollout, devices=snapshot.devices)
    return snapshot.rollout.id


def latest(drill: Drill, **options: Any) -> dict[str, tuple[str, DeviceState]]:
    found = drill.journal.latest("digits", **options)
    return {name: (entry.rollout, entry.record.state) for name, entry in found.items()}


D = DeviceState


def test_the_newest_rollout_of_each_device_counts(drill: Drill) -> None:
    assert latest(drill) == {}
    first = ended(drill, D.COMMITTED, D.DEFERRED, D.DEFERRED)
    second = ended(drill, D.ROLLED_BACK, D.COMMITTED, kind="rollback")
    assert latest(drill) == {
        "d0000": (second, D.ROLLED_BACK),
        "d0001": (second, D.COMMITTED),
        "d0002": (first, D.DEFERRED),
    }
    entries = drill.journal.latest("digits")
    assert (entries["d0000"].kind, entries["d0002"].kind) == ("rollback", "rollout")
    assert entries["d0002"].record.reason == "it is deferred"
    assert drill.journal.latest("faces") == {}


def test_a_rollout_that_ended_before_a_devices_turn_does_not_count_for_it(drill: Drill) -> None:
    first = ended(drill, D.DEFERRED, D.COMMITTED)
    ended(drill, D.PENDING, D.STAGED, rollout=RolloutState.ABORTED)
    assert latest(drill) == {"d0000": (first, D.DEFERRED), "d0001": (first, D.COMMITTED)}
    third = ended(drill, D.PENDING, D.STAGED, rollout=RolloutState.PAUSED)  # its turn may come
    assert latest(drill) == {"d0000": (third, D.PENDING), "d0001": (third, D.STAGED)}


def test_states_that_are_ignored_let_an_earlier_rollout_count(drill: Drill) -> None:
    first = ended(drill, D.QUARANTINED, D.COMMITTED)
    second = ended(drill, D.REJECTED, D.COMMITTED)
    assert latest(drill)["d0000"] == (second, D.REJECTED)
    assert latest(drill, ignoring={D.REJECTED}) == {
        "d0000": (first, D.QUARANTINED),
        "d0001": (second, D.COMMITTED),
    }


def test_an_empty_id_is_no_beginning_of_one(drill: Drill) -> None:
    drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    with pytest.raises(MusterError, match="expected the id of a rollout, got nothing"):
        drill.journal.load("")
