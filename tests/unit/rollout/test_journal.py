from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drill import Drill, strategy

from muster.errors import MusterError
from muster.fleet.simulated import SimulatedFleet
from muster.rollout import journal as journal_module
from muster.rollout.events import Event, EventKind
from muster.rollout.journal import Journal, LeaseHeldError, LeaseLostError, open_journal
from muster.rollout.machine import DeviceState, RolloutState, WaveState


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
    with pytest.raises(Exception, match="FOREIGN KEY"):
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


def test_an_expired_lease_is_taken_over_and_its_owner_stops(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    monkeypatch.setattr(journal_module, "LEASE_SECONDS", -1.0)
    first = drill.journal.acquire(snapshot.rollout, ["d0000"])
    monkeypatch.setattr(journal_module, "LEASE_SECONDS", 30.0)
    drill.journal.heartbeat(first)  # nobody took it meanwhile
    with pytest.raises(LeaseHeldError):
        drill.journal.acquire(snapshot.rollout, ["d0000"])
    monkeypatch.setattr(journal_module, "LEASE_SECONDS", -1.0)
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
        patch.setattr(journal_module.os, "getpid", lambda: gone.pid)
        drill.journal.acquire(snapshot.rollout, ["d0000"])
    assert drill.journal.lease_owner(snapshot.rollout.id) is None
    drill.journal.acquire(snapshot.rollout, ["d0000"])
    owner = drill.journal.lease_owner(snapshot.rollout.id)
    assert owner is not None
    assert str(os.getpid()) in owner


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
