"""The record of every transition, in a database that controllers may share.

A transition is written before the step that it announces is taken, so that another process can go
on from there. Leases keep two controllers away from the same model on the same device.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from muster.errors import InputError, MusterError
from muster.paths import state_dir
from muster.rollout import database
from muster.rollout.events import Event, EventKind
from muster.rollout.leases import Leases, owner_here
from muster.rollout.machine import (
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    DeviceState,
    RolloutState,
    WaveState,
)
from muster.rollout.records import (
    ControlRequest,
    DeviceRecord,
    RequestKind,
    RolloutRecord,
    Snapshot,
    WaveRecord,
)
from muster.rollout.tables import (
    DEVICES,
    EVENTS,
    REQUESTS,
    ROLLOUTS,
    WAVES,
)


class Latest(NamedTuple):
    """What became of a device in the newest rollout of a model; ``kind`` is the rollout's."""

    rollout: str
    kind: str
    record: DeviceRecord


class Journal(Leases):
    """The store. Use ``open_journal``; ``close`` when done.

    :param url: SQLAlchemy database URL.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        database.make_tables(self._engine)

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    # -- rollouts ---------------------------------------------------------------------------

    def create(self, snapshot: Snapshot) -> None:
        """Write a new rollout with its waves and devices."""
        rollout = snapshot.rollout
        rollout.created = rollout.updated = time.time()
        rollout.controller = rollout.controller or owner_here()
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
            connection.execute(_UPDATE_ROLLOUT, _changes(rollout, _ROLLOUT_CHANGES))
            changed_waves = [
                _changes(wave, _WAVE_CHANGES) | {"key_rollout": rollout.id} for wave in waves
            ]
            if changed_waves:
                connection.execute(_UPDATE_WAVE, changed_waves)
            changed_devices = [
                _changes(device, _DEVICE_CHANGES) | {"key_rollout": rollout.id}
                for device in devices
            ]
            if changed_devices:
                connection.execute(_UPDATE_DEVICE, changed_devices)
            if events:
                connection.execute(
                    _INSERT_EVENT,
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
        if not rollout_id:  # an empty variable of a CI system must not mean the only one there is
            raise MusterError("expected the id of a rollout, got nothing; see `muster history`")
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

    def latest(self, model: str, ignoring: Collection[DeviceState] = ()) -> dict[str, Latest]:
        """For each device of a model, what became of it in the newest rollout that it was in.

        A rollout that ended before it was the device's turn does not count.

        :param ignoring: rollouts that left a device in one of these states do not count either.
        """
        passed_by = DEVICES.c.state.in_(_values(BEFORE_SWITCH)) & ROLLOUTS.c.state.in_(
            _values(FINAL_ROLLOUT)
        )
        newest = (
            sa.select(DEVICES.c.device, sa.func.max(ROLLOUTS.c.created).label("created"))
            .join(ROLLOUTS, ROLLOUTS.c.id == DEVICES.c.rollout)
            .where(
                ROLLOUTS.c.model == model,
                sa.not_(passed_by),
                DEVICES.c.state.not_in(_values(ignoring)),
            )
            .group_by(DEVICES.c.device)
            .subquery()
        )
        query = (
            sa.select(DEVICES, ROLLOUTS.c.kind)
            .join(ROLLOUTS, ROLLOUTS.c.id == DEVICES.c.rollout)
            .join(
                newest,
                (newest.c.device == DEVICES.c.device) & (newest.c.created == ROLLOUTS.c.created),
            )
            .where(ROLLOUTS.c.model == model)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return {
            row.device: Latest(row.rollout, row.kind, _record(DeviceRecord, row)) for row in rows
        }

    def of_device(
        self, device: str, model: str | None = None, limit: int = 50
    ) -> list[tuple[RolloutRecord, DeviceRecord]]:
        """The newest rollouts that a device was in, newest first, with what became of it there."""
        query = (
            sa.select(ROLLOUTS.c.id)
            .join(DEVICES, DEVICES.c.rollout == ROLLOUTS.c.id)
            .where(DEVICES.c.device == device)
            .order_by(ROLLOUTS.c.created.desc())
            .limit(limit)
        )
        if model is not None:
            query = query.where(ROLLOUTS.c.model == model)
        found = []
        with self._engine.connect() as connection:
            for (rollout,) in connection.execute(query).all():
                head = connection.execute(sa.select(ROLLOUTS).where(ROLLOUTS.c.id == rollout)).one()
                row = connection.execute(
                    sa.select(DEVICES).where(
                        DEVICES.c.rollout == rollout, DEVICES.c.device == device
                    )
                ).one()
                found.append((_record(RolloutRecord, head), _record(DeviceRecord, row)))
        return found

    def device_names(self, model: str | None = None) -> list[str]:
        """Every device that was in any rollout, of one model or of all."""
        query = sa.select(DEVICES.c.device).distinct().order_by(DEVICES.c.device)
        if model is not None:
            query = query.join(ROLLOUTS, ROLLOUTS.c.id == DEVICES.c.rollout).where(
                ROLLOUTS.c.model == model
            )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    # -- what people ask of a rollout ---------------------------------------------------------

    def ask(
        self, rollout_id: str, kind: RequestKind, reason: str = "", wave: int | None = None
    ) -> None:
        """Leave a request for whoever drives a rollout.

        :param wave: index of the wave that is approved.
        """
        with self._writer.begin() as connection:
            connection.execute(
                sa.insert(REQUESTS).values(
                    rollout=rollout_id,
                    kind=kind.value,
                    who=owner_here(),
                    reason=reason,
                    at=round(time.time(), 3),
                    wave=wave,
                    handled=False,
                )
            )

    def requests(self, rollout_id: str) -> list[ControlRequest]:
        """What was asked of a rollout and is not handled yet, oldest first."""
        query = (
            sa.select(REQUESTS)
            .where(REQUESTS.c.rollout == rollout_id, REQUESTS.c.handled.is_(False))
            .order_by(REQUESTS.c.id)
        )
        with self._engine.connect() as connection:
            return [
                ControlRequest(
                    row.id,
                    row.rollout,
                    RequestKind(row.kind),
                    row.who,
                    row.reason,
                    row.at,
                    row.wave,
                )
                for row in connection.execute(query)
            ]

    def handled(self, request: ControlRequest) -> None:
        """Note that a request was carried out, or came too late."""
        with self._writer.begin() as connection:
            connection.execute(
                sa.update(REQUESTS).where(REQUESTS.c.id == request.id).values(handled=True)
            )


@contextmanager
def open_journal(url: str | None = None) -> Iterator[Journal]:
    """Open the journal at ``url``, by default an SQLite file under the user's state folder."""
    url = url or os.environ.get("MUSTER_JOURNAL") or default_url()
    try:
        journal = Journal(url)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        raise InputError(
            f"journal {database.without_password(url)}: expected a database that can be read and"
            f" written by its SQLAlchemy URL; {database.reason_of(error)}"
        ) from None
    try:
        yield journal
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise MusterError(
            f"journal {database.without_password(url)}: {database.reason_of(error)}; a rollout"
            " that was under way goes on with `muster resume`"
        ) from error
    finally:
        journal.close()


def default_url() -> str:
    """The SQLite journal of this user."""
    return f"sqlite:///{state_dir() / 'journal.sqlite'}"


def new_rollout_id() -> str:
    """A short id that sorts by time and does not repeat."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]


# Statements are made once, and name only what changes after a rollout was made: to name a key would
# have SQLite look through every row that refers to it, at every transition.
_ROLLOUT_CHANGES = ("state", "reason", "updated", "controller", "exit_code", "take_back")
_WAVE_CHANGES = ("state", "reason", "accepted_failed", "accepted_unreachable", "approval")
_DEVICE_CHANGES = (
    "variant", "state", "generation", "previous", "reason", "failed", "unreachable",
)  # fmt: skip


def _update(table: sa.Table, names: Iterable[str], **keys: sa.Column[Any]) -> sa.Update:
    where = [column == sa.bindparam(f"key_{name}") for name, column in keys.items()]
    return sa.update(table).where(*where).values({n: sa.bindparam(f"new_{n}") for n in names})


_UPDATE_ROLLOUT = _update(ROLLOUTS, _ROLLOUT_CHANGES, id=ROLLOUTS.c.id)
_UPDATE_WAVE = _update(WAVES, _WAVE_CHANGES, rollout=WAVES.c.rollout, index=WAVES.c.index)
_UPDATE_DEVICE = _update(
    DEVICES, _DEVICE_CHANGES, rollout=DEVICES.c.rollout, device=DEVICES.c.device
)
_INSERT_EVENT = sa.insert(EVENTS)
_KEYS = {RolloutRecord: "id", WaveRecord: "index", DeviceRecord: "device"}


def _changes(
    record: RolloutRecord | WaveRecord | DeviceRecord, names: Iterable[str]
) -> dict[str, Any]:
    key = _KEYS[type(record)]
    changes = {f"new_{name}": getattr(record, name) for name in names}
    return changes | {"new_state": record.state.value, f"key_{key}": getattr(record, key)}


_ENUMS = {
    RolloutRecord: RolloutState,
    WaveRecord: WaveState,
    DeviceRecord: DeviceState,
}
T = TypeVar("T", RolloutRecord, WaveRecord, DeviceRecord)


def _values(states: Iterable[Enum]) -> list[str]:
    return [state.value for state in states]


def _row(record: RolloutRecord | WaveRecord | DeviceRecord) -> dict[str, Any]:
    return asdict(record) | {"state": record.state.value}


def _record(kind: type[T], row: sa.Row[Any]) -> T:
    values = {field.name: row._mapping[field.name] for field in fields(kind)}
    values["state"] = _ENUMS[kind](values["state"])
    return kind(**values)
