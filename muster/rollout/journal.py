"""The record of every transition, in a database that controllers may share.

A transition is written before the step that it announces is taken, so that another process can go
on from there. Leases keep two controllers away from the same model on the same device.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from muster.errors import InputError, MusterError
from muster.paths import state_dir
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState, WaveState
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot, WaveRecord
from muster.rollout.tables import (
    DEVICES,
    EVENTS,
    LEASED_DEVICES,
    LEASES,
    METADATA,
    ROLLOUTS,
    WAVES,
)

LEASE_SECONDS = 30.0
"""How long a lease outlives its last heartbeat."""


class LeaseHeldError(MusterError):
    """Another controller is at work on some of the same devices."""


class LeaseLostError(MusterError):
    """This controller's lease expired and is gone; it must touch nothing more."""


@dataclass(frozen=True)
class Lease:
    """The right to drive one model on a set of devices; ``owner`` is ``user@host``."""

    token: str
    rollout: str
    owner: str


class Journal:
    """The store. Use ``open_journal``; ``close`` when done.

    :param url: SQLAlchemy database URL.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        self._writer = self._engine.execution_options(muster_writes=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _tune_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        METADATA.create_all(self._engine)

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    # -- rollouts ---------------------------------------------------------------------------

    def create(self, snapshot: Snapshot) -> None:
        """Write a new rollout with its waves and devices."""
        rollout = snapshot.rollout
        rollout.created = rollout.updated = time.time()
        rollout.controller = rollout.controller or _owner()
        with self._writer.begin() as connection:
            connection.execute(sa.insert(ROLLOUTS), _row(rollout))
            if snapshot.waves:
                connection.execute(
                    sa.insert(WAVES), [{"rollout": rollout.id} | _row(w) for w in snapshot.waves]
                )
            if snapshot.devices:
                connection.execute(
                    sa.insert(DEVICES),
                    [
                        {"rollout": rollout.id, "position": position} | _row(device)
                        for position, device in enumerate(snapshot.devices)
                    ],
                )

    def write(
        self,
        rollout: RolloutRecord,
        waves: Iterable[WaveRecord] = (),
        devices: Iterable[DeviceRecord] = (),
        events: Sequence[Event] = (),
    ) -> None:
        """Write the present form of these records, and ``events``, in one transaction."""
        rollout.updated = time.time()
        with self._writer.begin() as connection:
            connection.execute(
                sa.update(ROLLOUTS).where(ROLLOUTS.c.id == rollout.id).values(_row(rollout))
            )
            for wave in waves:
                connection.execute(
                    sa.update(WAVES)
                    .where(WAVES.c.rollout == rollout.id, WAVES.c.index == wave.index)
                    .values(_row(wave))
                )
            changed = [
                {f"new_{key}": value for key, value in _row(device).items()}
                | {"key_rollout": rollout.id, "key_device": device.device}
                for device in devices
            ]
            if changed:
                connection.execute(_update_device, changed)
            if events:
                connection.execute(
                    sa.insert(EVENTS),
                    [
                        {
                            "rollout": event.rollout,
                            "at": event.at,
                            "kind": event.kind.value,
                            "device": event.device,
                            "wave": event.wave,
                            "data": dict(event.data),
                        }
                        for event in events
                    ],
                )

    def load(self, rollout_id: str) -> Snapshot:
        """Read one rollout; a unique beginning of its id will do.

        :raises MusterError: there is no such rollout, or more than one.
        """
        with self._engine.connect() as connection:
            found = connection.execute(
                sa.select(ROLLOUTS).where(ROLLOUTS.c.id.startswith(rollout_id, autoescape=True))
            ).all()
            if len(found) != 1:
                many = ", ".join(row.id for row in found) or "no such rollout"
                raise MusterError(f"rollout {rollout_id!r}: {many}; see `muster history`")
            rollout = _record(RolloutRecord, found[0])
            waves = connection.execute(
                sa.select(WAVES).where(WAVES.c.rollout == rollout.id).order_by(WAVES.c.index)
            ).all()
            devices = connection.execute(
                sa.select(DEVICES)
                .where(DEVICES.c.rollout == rollout.id)
                .order_by(DEVICES.c.position)
            ).all()
        return Snapshot(
            rollout,
            [_record(WaveRecord, row) for row in waves],
            [_record(DeviceRecord, row) for row in devices],
        )

    def supersede(self, snapshot: Snapshot) -> None:
        """End unfinished rollouts of the same model that share devices with a new one."""
        new, names = snapshot.rollout, {record.device for record in snapshot.devices}
        unfinished = [
            self.load(record.id)
            for record in self.rollouts(new.model, limit=1000)
            if record.id != new.id and record.state not in FINAL_ROLLOUT
        ]
        for old in unfinished:
            if names.isdisjoint(record.device for record in old.devices):
                continue
            data = {"from": old.rollout.state.value, "to": RolloutState.SUPERSEDED.value}
            old.rollout.state = RolloutState.SUPERSEDED
            old.rollout.reason = data["reason"] = f"rollout {new.id} took its place"
            old.rollout.exit_code = 1
            event = Event(EventKind.ROLLOUT, old.rollout.id, round(time.time(), 3), data=data)
            self.write(old.rollout, events=[event])

    def rollouts(self, model: str | None = None, limit: int = 50) -> list[RolloutRecord]:
        """The newest rollouts, newest first, of one model or of all."""
        query = sa.select(ROLLOUTS).order_by(ROLLOUTS.c.created.desc()).limit(limit)
        if model is not None:
            query = query.where(ROLLOUTS.c.model == model)
        with self._engine.connect() as connection:
            return [_record(RolloutRecord, row) for row in connection.execute(query)]

    def events(self, rollout_id: str, device: str | None = None) -> list[Event]:
        """Everything that happened in one rollout, in order; of one device, if given."""
        query = sa.select(EVENTS).where(EVENTS.c.rollout == rollout_id).order_by(EVENTS.c.id)
        if device is not None:
            query = query.where(EVENTS.c.device == device)
        with self._engine.connect() as connection:
            return [
                Event(EventKind(row.kind), row.rollout, row.at, row.device, row.wave, row.data)
                for row in connection.execute(query)
            ]

    def release_document(self, model: str, release_id: str) -> tuple[str, str | None] | None:
        """The canonical document of a release that was rolled out before, and its signature.

        The newest signature counts, also where the release was rolled out unsigned since.
        """
        query = (
            sa.select(ROLLOUTS.c.release_document, ROLLOUTS.c.signature)
            .where(ROLLOUTS.c.model == model, ROLLOUTS.c.release_id == release_id)
            .order_by(ROLLOUTS.c.signature.is_(None), ROLLOUTS.c.created.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return (row.release_document, row.signature) if row else None

    # -- leases -----------------------------------------------------------------------------

    def acquire(self, rollout: RolloutRecord, devices: Sequence[str]) -> Lease:
        """Take the right to drive ``rollout.model`` on ``devices``.

        A lease whose time is over, or whose process on this very host is gone, is taken over.

        :raises LeaseHeldError: somebody else holds one of the devices; the message says who.
        """
        now = time.time()
        lease = Lease(uuid.uuid4().hex, rollout.id, _owner())
        try:
            with self._writer.begin() as connection:
                for token in self._tokens_to_take(connection, rollout.model, set(devices), now):
                    _drop_lease(connection, token)
                connection.execute(
                    sa.insert(LEASES).values(
                        token=lease.token,
                        rollout=rollout.id,
                        owner=lease.owner,
                        host=_host(),
                        pid=os.getpid(),
                        expires=now + LEASE_SECONDS,
                    )
                )
                if devices:
                    connection.execute(
                        sa.insert(LEASED_DEVICES),
                        [
                            {"model": rollout.model, "device": device, "token": lease.token}
                            for device in devices
                        ],
                    )
        except sa.exc.IntegrityError as error:  # somebody was faster, between our read and write
            raise LeaseHeldError(
                f"{rollout.model}: another controller took some of the devices at this moment"
            ) from error
        return lease

    def _tokens_to_take(
        self, connection: sa.Connection, model: str, wanted: set[str], now: float
    ) -> set[str]:
        """Tokens of the leases over ``wanted`` devices that nobody keeps up any more."""
        held = connection.execute(
            sa.select(LEASES, LEASED_DEVICES.c.device)
            .join(LEASED_DEVICES, LEASED_DEVICES.c.token == LEASES.c.token)
            .where(LEASED_DEVICES.c.model == model)
        )
        tokens = set()
        for row in held:
            if row.device not in wanted:
                continue
            if row.expires > now and not _is_dead_here(row.host, row.pid):
                raise LeaseHeldError(
                    f"{model} on {row.device} is held by {row.owner} "
                    f"(process {row.pid} on {row.host}) for rollout {row.rollout}; "
                    f"the lease runs for {row.expires - now:.0f} s more unless renewed"
                )
            tokens.add(row.token)
        return tokens

    def heartbeat(self, lease: Lease) -> None:
        """Keep ``lease`` for another ``LEASE_SECONDS``.

        :raises LeaseLostError: it expired and somebody else took the devices.
        """
        with self._writer.begin() as connection:
            done = connection.execute(
                sa.update(LEASES)
                .where(LEASES.c.token == lease.token)
                .values(expires=time.time() + LEASE_SECONDS)
            )
        if done.rowcount != 1:
            raise LeaseLostError(
                f"rollout {lease.rollout}: another controller took over; this one stops here"
            )

    def release(self, lease: Lease) -> None:
        """Give ``lease`` back; a lease that is gone already is no error."""
        with self._writer.begin() as connection:
            _drop_lease(connection, lease.token)

    def lease_owner(self, rollout_id: str) -> str | None:
        """Who drives a rollout at this moment, None if nobody does."""
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(LEASES).where(
                    LEASES.c.rollout == rollout_id, LEASES.c.expires > time.time()
                )
            ).first()
        if row is None or _is_dead_here(row.host, row.pid):
            return None
        return f"{row.owner} (process {row.pid} on {row.host})"


@contextmanager
def open_journal(url: str | None = None) -> Iterator[Journal]:
    """Open the journal at ``url``, by default an SQLite file under the user's state folder."""
    url = url or os.environ.get("MUSTER_JOURNAL") or default_url()
    try:
        journal = Journal(url)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise InputError(
            f"journal {_without_password(url)}: expected a database that can be read and written"
            f" by its SQLAlchemy URL; {reason}"
        ) from None
    try:
        yield journal
    finally:
        journal.close()


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "(not a URL)"


def default_url() -> str:
    """The SQLite journal of this user."""
    return f"sqlite:///{state_dir() / 'journal.sqlite'}"


def new_rollout_id() -> str:
    """A short id that sorts by time and does not repeat."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]


_update_device = (
    sa.update(DEVICES)
    .where(
        DEVICES.c.rollout == sa.bindparam("key_rollout"),
        DEVICES.c.device == sa.bindparam("key_device"),
    )
    .values({field.name: sa.bindparam(f"new_{field.name}") for field in fields(DeviceRecord)})
)

_ENUMS = {
    RolloutRecord: RolloutState,
    WaveRecord: WaveState,
    DeviceRecord: DeviceState,
}
T = TypeVar("T", RolloutRecord, WaveRecord, DeviceRecord)


def _row(record: RolloutRecord | WaveRecord | DeviceRecord) -> dict[str, Any]:
    return asdict(record) | {"state": record.state.value}


def _record(kind: type[T], row: sa.Row[Any]) -> T:
    values = {field.name: row._mapping[field.name] for field in fields(kind)}
    values["state"] = _ENUMS[kind](values["state"])
    return kind(**values)


def _drop_lease(connection: sa.Connection, token: str) -> None:
    connection.execute(sa.delete(LEASED_DEVICES).where(LEASED_DEVICES.c.token == token))
    connection.execute(sa.delete(LEASES).where(LEASES.c.token == token))


def _host() -> str:
    return socket.gethostname()


def _owner() -> str:
    try:
        return f"{getpass.getuser()}@{_host()}"
    except (KeyError, OSError):  # a user id without a name, as in many CI containers
        return f"uid {os.getuid()}@{_host()}"


def _is_dead_here(host: str, pid: int) -> bool:
    if host != _host() or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _tune_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction handling is switched off so that BEGIN IMMEDIATE below counts.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL: a transition must survive a power cut before the step that it announces is taken.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # Two controllers that both read a free lease and then write must not both get it.
    writes = connection.get_execution_options().get("muster_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
