"""The journal on a real PostgreSQL: everything that holds on SQLite, and what is only true here."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import test_journal
from drill import Drill, bad, strategy
from postgresql_server import PASSWORD, PostgresqlServer

from muster.errors import InputError, MusterError
from muster.fleet.simulated import Quality, SimulatedFleet
from muster.rollout import database
from muster.rollout import leases as leases_module
from muster.rollout.events import Event, EventKind
from muster.rollout.journal import Journal, open_journal
from muster.rollout.leases import LeaseHeldError, LeaseLostError
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import RolloutRecord, Snapshot

D, R = DeviceState, RolloutState
drill = test_journal.drill

# Every case of the journal on SQLite runs here too, with the ``url`` below.
globals().update({k: v for k, v in vars(test_journal).items() if k.startswith("test_")})


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresqlServer]:
    server = PostgresqlServer()
    yield server
    server.remove()


@pytest.fixture
def url(server: PostgresqlServer) -> str:
    return server.new_database()


def in_processes(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Do ``work`` in so many processes that begin at the same moment; returns what they return."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(number), context.Queue()

    def run(index: int) -> None:
        barrier.wait(60)
        try:
            queue.put((index, work(index)))
        except BaseException as error:
            queue.put((index, repr(error)))
        barrier.wait(60)  # live until all are done: what a dead process holds is free

    processes = [context.Process(target=run, args=(index,)) for index in range(number)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=90) for _ in processes)
    for process in processes:
        process.join()
    return [results[index] for index in range(number)]


def a_rollout(number: int = 0) -> RolloutRecord:
    return RolloutRecord(f"r-{number}", "rollout", "digits", "2.0-abc", "{}", {}, "inventory")


# -- leases ---------------------------------------------------------------------------------


@pytest.mark.parametrize("expired", [False, True])
def test_in_a_race_exactly_one_process_gets_the_lease(url: str, expired: bool) -> None:
    names = [f"d{number:04}" for number in range(50)]
    journal = Journal(url)
    for turn in range(5):
        if expired:  # all want to take the same dead lease over
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(leases_module, "LEASE_SECONDS", -1.0)
                journal.acquire(a_rollout(), names)

        def compete(index: int) -> str:
            mine = Journal(url)
            # Devices that overlap in part, in another order each: nobody may wait for ever.
            wanted = names[index % 3 :] if index % 2 else names[: 49 - index % 3][::-1]
            try:
                lease = mine.acquire(a_rollout(index), wanted)
            except LeaseHeldError as error:
                return str(error)
            mine.heartbeat(lease)
            return lease.token

        results = in_processes(6, compete)
        winners = [result for result in results if len(result) == 32]
        losers = [result for result in results if len(result) != 32]
        assert len(winners) == 1, results
        assert all("is held by" in message for message in losers), (turn, losers)
        journal.close()
        with sa.create_engine(database.make_engine(url).url).begin() as connection:
            connection.execute(sa.text("delete from leased_devices"))
            connection.execute(sa.text("delete from leases"))


def test_leases_of_other_devices_do_not_disturb_each_other(url: str) -> None:
    Journal(url).close()

    def work(index: int) -> bool:
        journal = Journal(url)
        for turn in range(20):
            lease = journal.acquire(a_rollout(index), [f"d-{index}-{n}" for n in range(turn)])
            journal.heartbeat(lease)
            journal.release(lease)
        return True

    assert in_processes(5, work) == [True] * 5


def test_an_owner_who_comes_too_late_has_lost_it(url: str) -> None:
    """A heartbeat and a take-over at the same moment: one of the two controllers stops."""
    outcomes = set()
    journal = Journal(url)
    for _ in range(20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases_module, "LEASE_SECONDS", -1.0)
            lease = journal.acquire(a_rollout(), ["d"])

        def compete(index: int, lease: Any = lease) -> bool:
            mine = Journal(url)
            try:
                if index:
                    mine.heartbeat(lease)
                else:
                    mine.acquire(a_rollout(1), ["d"])
            except (LeaseHeldError, LeaseLostError):
                return False
            return True

        result = tuple(in_processes(2, compete))
        assert result in {(True, False), (False, True)}
        outcomes.add(result)
        with journal._writer.begin() as connection:
            connection.execute(sa.text("delete from leased_devices"))
            connection.execute(sa.text("delete from leases"))
    journal.close()


def test_a_controller_whose_clock_is_wrong_takes_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal(url) as first, open_journal(url) as second:
        lease = first.acquire(a_rollout(), ["d"])
        monkeypatch.setattr(time, "time", lambda: 4e9)
        with pytest.raises(LeaseHeldError):
            second.acquire(a_rollout(1), ["d"])
        assert second.lease_owner("r-0") is not None
        first.heartbeat(lease)


def test_a_process_id_counts_in_its_own_container_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal(url) as journal:
        with monkeypatch.context() as patch:  # another container, with the same host name
            patch.setattr(leases_module, "_pid_space", lambda: "boot pid:[1]")
            patch.setattr(leases_module.os, "getpid", lambda: 2**22 + 1)
            journal.acquire(a_rollout(), ["d"])
        with pytest.raises(LeaseHeldError):
            journal.acquire(a_rollout(1), ["d"])


def test_a_controller_that_hangs_in_a_transaction_does_not_block_the_others_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    with open_journal(url) as journal, database.make_engine(url).connect() as hanging:
        database.lock_leases(hanging)
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            journal.acquire(a_rollout(), ["d"])
        hanging.rollback()
        journal.acquire(a_rollout(), ["d"])


# -- what is written ------------------------------------------------------------------------


def test_controllers_that_start_at_once_make_the_tables_once(url: str) -> None:
    def start(_index: int) -> int:
        journal = Journal(url)
        return len(journal.rollouts())

    assert in_processes(6, start) == [0] * 6


def test_a_journal_of_an_older_version_gets_the_columns_that_it_lacks(url: str) -> None:
    with open_journal(url) as journal:
        snapshot = Drill(journal).prepare(SimulatedFleet(Drill(journal).devices(2)), strategy())
    with database.make_engine(url).begin() as connection:
        connection.execute(sa.text("alter table waves drop column approval"))
        connection.execute(sa.text("alter table rollouts drop column take_back"))
        connection.execute(sa.text("drop table requests"))
    with open_journal(url) as journal:
        assert journal.load(snapshot.rollout.id) == snapshot
        assert journal.requests(snapshot.rollout.id) == []


def test_what_postgresql_cannot_store_does_not_end_a_rollout(drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    device = snapshot.devices[0]
    device.reason = "said \0 nothing, \U0001f937"
    data = {"figures": {"p95": float("nan"), "all": [float("inf"), 1.5]}, "message": "a\0b"}
    event = Event(EventKind.GATE, snapshot.rollout.id, 1.0, device.device, 0, data)
    drill.journal.write(snapshot.rollout, [], [device], [event])
    assert drill.records(snapshot)[device.device].reason == "said \ufffd nothing, \U0001f937"
    [read] = drill.journal.events(snapshot.rollout.id)
    assert read.data["figures"] == {"p95": None, "all": [None, 1.5]}
    assert read.data["message"] == "a\0b"


def test_a_rollout_is_read_as_it_was_at_one_moment(url: str, drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(200)), strategy())
    stop = threading.Event()

    def change() -> None:
        with open_journal(url) as other:
            turn = 0
            while not stop.is_set():
                turn += 1
                snapshot.rollout.reason = str(turn)
                for record in (*snapshot.waves, *snapshot.devices):
                    record.reason = str(turn)
                other.write(snapshot.rollout, snapshot.waves, snapshot.devices)

    writer = threading.Thread(target=change)
    writer.start()
    try:
        seen = set()
        end = time.monotonic() + 60
        while len(seen) < 10 and time.monotonic() < end:
            read = drill.journal.load(snapshot.rollout.id)
            records = (read.rollout, *read.waves, *read.devices)
            assert len({record.reason for record in records}) == 1
            seen.add(read.rollout.reason)
    finally:
        stop.set()
        writer.join()
    assert len(seen) >= 10


# -- the server -----------------------------------------------------------------------------


def muster(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "muster", *arguments],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_reads_a_journal_on_postgresql(url: str, drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(2)), strategy())
    for done in (
        muster("history", "--journal", url.replace("postgresql://", "postgresql+psycopg://")),
        muster("history", MUSTER_JOURNAL=url),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert snapshot.rollout.id in done.stdout


def test_a_password_is_used_and_never_shown(server: PostgresqlServer) -> None:
    server.execute("create database guarded owner guarded")
    good = server.url("guarded", "guarded", PASSWORD)
    with open_journal(good) as journal, open_journal(f"{good}&connect_timeout=5"):
        assert journal.rollouts() == []
    wrong = server.url("guarded", "guarded", PASSWORD + "!")
    in_query = server.url("guarded", "guarded") + "&password=wrong-" + quote(PASSWORD)
    nowhere = server.url("no_such_database", "guarded", PASSWORD)
    for bad_url, why in (
        (wrong, "password authentication failed"),
        (in_query, "password authentication failed"),
        (nowhere, "does not exist"),
        (good.replace("?host=", "?host=/nowhere"), "No such file or directory"),
    ):
        with pytest.raises(InputError, match=why) as error, open_journal(bad_url):
            pass
        assert "eyes" not in str(error.value)
    done = muster("history", "--journal", wrong)
    assert done.returncode == 2
    assert "password authentication failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "eyes" not in done.stderr + done.stdout


def test_a_password_may_come_from_libpqs_own_places(
    server: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.execute("create database by_file owner guarded")
    url = server.url("by_file", "guarded")
    with pytest.raises(InputError, match="no password supplied"), open_journal(url):
        pass
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:5432:by_file:guarded:{PASSWORD.replace(':', chr(92) + ':')}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    with open_journal(url) as journal:
        assert journal.rollouts() == []


def test_who_may_only_read_reads(server: PostgresqlServer, url: str, drill: Drill) -> None:
    snapshot = drill.prepare(SimulatedFleet(drill.devices(2)), strategy())
    name = url.partition("/test_")[2].partition("?")[0]
    reader = f"reader_{name}"
    server.execute(f"create role {reader} login in role pg_read_all_data")
    with open_journal(server.url(f"test_{name}", reader)) as journal:
        assert journal.load(snapshot.rollout.id) == snapshot
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            journal.write(snapshot.rollout)


def test_a_server_that_restarts_between_transitions_is_not_noticed() -> None:
    server = PostgresqlServer()
    try:
        with open_journal(server.new_database()) as journal:
            drill = Drill(journal)
            snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
            server.stop()
            server.start()
            assert journal.load(snapshot.rollout.id) == snapshot
            journal.write(snapshot.rollout)
    finally:
        server.remove()


def test_a_server_that_dies_ends_the_command_with_what_to_do() -> None:
    server = PostgresqlServer()

    def lose_the_server() -> None:
        url = server.new_database().replace("@/", ":hush-hush@/")
        with open_journal(url) as journal:
            server.stop()
            journal.rollouts()

    try:
        with pytest.raises(MusterError, match="muster resume") as error:
            lose_the_server()
    finally:
        server.remove()
    assert "hush" not in str(error.value)
    assert error.value.exit_code == 1


# -- a rollout ------------------------------------------------------------------------------


class KilledJournal(Journal):
    """Sends its process SIGKILL at the ``nth`` write, before it or right after."""

    nth, after = 0, False
    about_to_die: Callable[[], None]

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.nth -= 1
        if self.nth == 0 and not self.after:
            self._die()
        super().write(*args, **kwargs)
        if self.nth == 0:
            self._die()

    def _die(self) -> None:
        self.about_to_die()
        os.kill(os.getpid(), signal.SIGKILL)


def killed_at(
    url: str, nth: int, after: bool, snapshot: Snapshot, fleet: SimulatedFleet, file: Path
) -> tuple[int | None, SimulatedFleet]:
    """Drive in a process that is killed; returns its exit code and the devices as it left them."""
    quality = fleet._quality

    def keep() -> None:  # devices outlive their controller
        file.write_bytes(pickle.dumps((fleet.now(), list(fleet.devices.values()))))

    def control() -> None:
        journal = KilledJournal(url)
        journal.nth, journal.after, journal.about_to_die = nth, after, keep
        Drill(journal).drive(snapshot, fleet)
        keep()

    process = multiprocessing.get_context("fork").Process(target=control)
    process.start()
    process.join(120)
    now, devices = pickle.loads(file.read_bytes())
    left = SimulatedFleet(devices, quality)
    left._clock = now
    return process.exitcode, left


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("quality", "state"), [(Quality.GOOD, R.SUCCEEDED), (Quality.WRONG, R.ROLLED_BACK)]
)
def test_a_rollout_whose_controller_is_killed_is_ended_by_another(
    url: str, tmp_path: Path, after: bool, quality: Quality, state: RolloutState
) -> None:
    killed = 0
    for nth in range(1, 100):
        with open_journal(url) as journal:
            drill = Drill(journal)
            fleet = SimulatedFleet(drill.devices(4), bad(drill.release, quality))
            waves = strategy(waves=[{"size": 1, "soak": 20}, {"size": "rest"}])
            snapshot = drill.prepare(fleet, waves)
            code, fleet = killed_at(url, nth, after, snapshot, fleet, tmp_path / "devices")
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
            # The lease of the dead process, which nobody gave back, is free at once.
            assert drill.drive(snapshot, fleet) is state
            release = drill.release if state is R.SUCCEEDED else drill.old
            assert {device.current for device in fleet.devices.values()} == {release.id}
            assert {device.phase for device in fleet.devices.values()} == {"idle"}
    else:
        raise AssertionError("the rollout never ended")
    assert killed >= 5
