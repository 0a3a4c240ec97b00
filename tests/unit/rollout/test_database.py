from __future__ import annotations

import socket
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from drill import Drill, strategy

from muster.errors import InputError
from muster.fleet.simulated import SimulatedFleet
from muster.rollout import database
from muster.rollout.journal import open_journal


def test_a_journal_of_an_older_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with open_journal(f"sqlite:///{file}") as journal:
        drill = Drill(journal)
        snapshot = drill.prepare(SimulatedFleet(drill.devices(2)), strategy())
    connection = sqlite3.connect(file)
    connection.executescript(
        """
        create table old as select * from waves;
        drop table waves;
        create table waves (
            rollout varchar(40), "index" integer, name varchar(128) not null, soak float not null,
            state varchar(32) not null, reason text not null, primary key (rollout, "index"));
        insert into waves select rollout, "index", name, soak, state, reason from old;
        drop table old;
        drop table requests;
        alter table rollouts drop column take_back;
        """
    )
    connection.close()
    for _ in range(2):
        with open_journal(f"sqlite:///{file}") as journal:
            assert journal.load(snapshot.rollout.id) == snapshot
            assert journal.requests(snapshot.rollout.id) == []


def test_who_may_not_write_may_read(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with open_journal(f"sqlite:///{file}") as journal:
        drill = Drill(journal)
        snapshot = drill.prepare(SimulatedFleet(drill.devices(1)), strategy())
    with open_journal(f"sqlite:///file:{file}?mode=ro&uri=true") as journal:
        assert journal.load(snapshot.rollout.id) == snapshot


@pytest.mark.parametrize(
    "url", ["s3cret", "postgresql://u:s3cret@h:port/db", "://s3cret", "postgresql:s3cret"]
)
def test_what_is_no_url_is_an_error_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="expected an SQLAlchemy URL") as error, open_journal(url):
        pass
    assert "s3cret" not in str(error.value)


def test_an_unknown_kind_of_database_is_an_error() -> None:
    with pytest.raises(InputError, match="nosuchdb") as error, open_journal("nosuchdb://u:s3c@h/d"):
        pass
    assert "s3c" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:s3cret@h/d", "postgres://u:s3cret@h/d", "postgresql+psycopg://u@h/d"]
)
def test_a_driver_that_is_missing_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'muster\[postgresql\]'") as error:
        database.make_engine(url)
    assert "s3cret" not in str(error.value)


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    with socket.socket() as listener:  # a port where nothing listens
        listener.bind(("127.0.0.1", 0))
        url = f"postgresql://u:s3cret@127.0.0.1:{listener.getsockname()[1]}/d?password=s3cret"
        with pytest.raises(InputError, match=r"u:\*\*\*@127.*refused") as error, open_journal(url):
            pass
    assert "s3cret" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_server_that_does_not_answer_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CONNECT_SECONDS", 2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"postgresql://u:s3cret@127.0.0.1:{listener.getsockname()[1]}/d"
        begun = time.monotonic()
        with pytest.raises(InputError, match="timeout") as error, open_journal(url):
            pass
        assert time.monotonic() - begun < 20
    assert "s3cret" not in str(error.value)


def test_no_number_of_a_measurement_makes_invalid_json() -> None:
    data = {"p95": float("nan"), "all": (float("-inf"), 1.5), "text": "NaN"}
    assert database._to_json(data) == '{"p95": null, "all": [null, 1.5], "text": "NaN"}'
    assert database._to_json({"p95": 1.5}) == '{"p95": 1.5}'
