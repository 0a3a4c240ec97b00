"""Leases: the right of one controller to drive a model on a set of devices."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from muster.errors import MusterError
from muster.rollout import database
from muster.rollout.records import RolloutRecord
from muster.rollout.tables import LEASED_DEVICES, LEASES
from muster.tasks import DEVICE

LEASE_SECONDS = 30.0
"""How long a lease outlives its last heartbeat."""


class LeaseHeldError(MusterError):
    """Another controller is at work on some of the same devices."""


class LeaseLostError(MusterError):
    """This controller's lease expired and is gone; it must touch nothing more."""


@dataclass(frozen=True)
class Lease:
    """The right to drive one model on a set of devices; ``owner`` is ``user@host``.

    :param rollout: the rollout, or what else is done there.
    """

    token: str
    rollout: str
    owner: str


class Leases:
    """The part of the journal that keeps two controllers apart.

    :param url: SQLAlchemy database URL.
    """

    def __init__(self, url: str) -> None:
        self._engine = database.make_engine(url)
        self._writer = database.writer(self._engine)

    def acquire(self, rollout: RolloutRecord, devices: Sequence[str]) -> Lease:
        """Take the right to drive ``rollout.model`` on ``devices``.

        A lease whose time is over, or whose process on this very host is gone, is taken over.
        On PostgreSQL the server's clock counts.

        :raises LeaseHeldError: somebody else holds one of the devices; the message says who.
        """
        return self._acquire(rollout.model, rollout.id, devices)

    @contextmanager
    def held(self, work: str, devices: Sequence[str]) -> Iterator[None]:
        """Keep all others away from devices while something is done that is no rollout.

        :param work: what is done, for those who are kept away; at most 40 characters.
        :raises LeaseHeldError: somebody is at work on one of the devices; the message says who.
        :raises LeaseLostError: at the end, when somebody else took them meanwhile.
        """
        lease, over = self._acquire(DEVICE, work, devices), threading.Event()
        lost: list[LeaseLostError] = []

        def keep() -> None:
            while not (lost or over.wait(LEASE_SECONDS / 6)):
                try:
                    self.heartbeat(lease)
                except LeaseLostError as error:
                    lost.append(error)
                except sa.exc.SQLAlchemyError:
                    continue  # the database may be back before the lease ends

        beats = threading.Thread(target=keep, daemon=True)
        beats.start()
        try:
            yield
        finally:
            over.set()
            beats.join()
            self.release(lease)
        if lost:
            raise lost[0]

    def _acquire(self, model: str, work: str, devices: Sequence[str]) -> Lease:
        lease = Lease(uuid.uuid4().hex, work, owner_here())
        try:
            with self._writer.begin() as connection:
                database.lock_leases(connection)
                now = database.clock(connection)
                for token in self._tokens_to_take(connection, model, set(devices), now):
                    _drop_lease(connection, token)
                connection.execute(
                    sa.insert(LEASES).values(
                        token=lease.token,
                        rollout=work,
                        owner=lease.owner,
                        host=_host(),
                        pid_space=_pid_space(),
                        started=_started(os.getpid()) or "",
                        pid=os.getpid(),
                        expires=now + LEASE_SECONDS,
                    )
                )
                if devices:
                    connection.execute(
                        sa.insert(LEASED_DEVICES),
                        [
                            {"model": model, "device": device, "token": lease.token}
                            for device in devices
                        ],
                    )
        except sa.exc.IntegrityError as error:  # somebody was faster, between our read and write
            raise LeaseHeldError(
                f"{model}: another controller took some of the devices at this moment"
            ) from error
        return lease

    def _tokens_to_take(
        self, connection: sa.Connection, model: str, wanted: set[str], now: float
    ) -> set[str]:
        """Tokens of the leases over ``wanted`` devices that nobody keeps up any more."""
        query = sa.select(LEASES, LEASED_DEVICES.c.device, LEASED_DEVICES.c.model).join(
            LEASED_DEVICES, LEASED_DEVICES.c.token == LEASES.c.token
        )
        if model != DEVICE:  # what is done to a device as a whole excludes everything else there
            query = query.where(LEASED_DEVICES.c.model.in_([model, DEVICE]))
        held = connection.execute(query)
        tokens = set()
        for row in held:
            if row.device not in wanted:
                continue
            if row.expires > now and not _is_dead_here(row):
                raise LeaseHeldError(
                    f"{row.model} on {row.device} is held by {row.owner} "
                    f"(process {row.pid} on {row.host}) for {row.rollout}; "
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
                .values(expires=database.clock(connection) + LEASE_SECONDS)
            )
        if done.rowcount != 1:
            raise LeaseLostError(
                f"{lease.rollout}: another controller took over; this one stops here"
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
                    LEASES.c.rollout == rollout_id,
                    LEASES.c.expires > database.clock(connection),
                )
            ).first()
        if row is None or _is_dead_here(row):
            return None
        return f"{row.owner} (process {row.pid} on {row.host})"


def _drop_lease(connection: sa.Connection, token: str) -> None:
    connection.execute(sa.delete(LEASED_DEVICES).where(LEASED_DEVICES.c.token == token))
    connection.execute(sa.delete(LEASES).where(LEASES.c.token == token))


def _host() -> str:
    return socket.gethostname()


def owner_here() -> str:
    """``user@host`` of this process."""
    try:
        return f"{getpass.getuser()}@{_host()}"
    except (KeyError, OSError):  # a user id without a name, as in many CI containers
        return f"uid {os.getuid()}@{_host()}"


def _pid_space() -> str:
    """What the process ids here are unique in: this boot of this kernel, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None when there is none of that id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _is_dead_here(lease: sa.Row[Any]) -> bool:
    """Whether a lease's process ran here and is gone; its id may be another process's by now."""
    if not lease.pid_space or lease.pid_space != _pid_space():
        return False
    return bool(_started(lease.pid) != lease.started)
