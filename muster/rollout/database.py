"""How the journal's database is reached: SQLite and PostgreSQL, each with its own ways to lock."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import sqlalchemy as sa

from muster.errors import InputError
from muster.rollout.tables import LEASED_DEVICES, LEASES, METADATA

CONNECT_SECONDS = 10
"""How long a PostgreSQL server may take to accept a connection."""

LOCK_SECONDS = 10
"""How long a transaction waits for another one that is in its way."""

SILENT_SECONDS = 30
"""How long a transaction may be idle, or a server silent, before its connection is given up."""

_SCHEMA_LOCK = 0x6D75737465  # any number that all controllers agree on


def make_engine(url: str) -> sa.Engine:
    """Make the engine of a database; nothing is connected yet.

    :raises InputError: ``url`` is no URL, or its driver is not installed; the message shows no
        password.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise InputError(
            "journal: expected an SQLAlchemy URL such as sqlite:////srv/muster/journal.sqlite or"
            " postgresql://muster@db.example.com/muster"
        ) from None
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return _postgresql(parsed)
    engine = sa.create_engine(parsed, json_serializer=_to_json)
    if parsed.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _tune_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def writer(engine: sa.Engine) -> sa.Engine:
    """The same database, for transactions that write."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="READ COMMITTED")
    return engine.execution_options(muster_writes=True)


def make_tables(engine: sa.Engine) -> None:
    """Make the tables, and the columns, that a database lacks: an older version may have made it.

    Two controllers that start at the same time do not get into each other's way.
    """
    with engine.connect() as connection:
        if not _is_incomplete(connection):
            return  # which also lets somebody look who may not write
    with writer(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        METADATA.create_all(connection)
        for table, column in _missing_columns(connection):
            connection.exec_driver_sql(_add_column(table, column, engine.dialect))


def lock_leases(connection: sa.Connection) -> None:
    """Keep other controllers from taking, keeping or returning leases until this commits.

    SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        # In the order in which a lease is dropped, or the two would wait for each other.
        tables = f"{LEASED_DEVICES.name}, {LEASES.name}"
        connection.execute(sa.text(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE"))


def clock(connection: sa.Connection) -> float:
    """Wall time that all who share the database agree on, in seconds since 1970 UTC."""
    if connection.dialect.name == "postgresql":
        now = connection.scalar(sa.select(sa.extract("epoch", sa.func.clock_timestamp())))
        return float(now or 0.0)
    return time.time()


def reason_of(error: BaseException) -> str:
    """What a database said, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def without_password(url: str) -> str:
    """A database URL as it may be shown."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return "(not a URL)"
    hidden = {key: "***" for key in parsed.query if "pass" in key.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


# -- PostgreSQL -----------------------------------------------------------------------------


def _postgresql(url: sa.URL) -> sa.Engine:
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "muster",
        "tcp_user_timeout": SILENT_SECONDS * 1000,
    }
    try:
        engine = sa.create_engine(
            url,
            connect_args={key: arguments[key] for key in arguments if key not in url.query},
            json_serializer=_to_json,
            pool_pre_ping=True,  # a server may have been restarted since the last transition
            # A rollout is read in several queries, which must see it at one moment.
            isolation_level="REPEATABLE READ",
        )
    except ImportError as error:
        raise InputError(
            f"journal {without_password(str(url))}: PostgreSQL needs the driver psycopg; try:"
            f" pip install 'muster[postgresql]' ({reason_of(error)})"
        ) from None
    sa.event.listen(engine, "connect", _tune_postgresql)
    return engine


def _tune_postgresql(connection: Any, _record: object) -> None:
    from psycopg.types.string import StrDumperUnknown

    class Text(StrDumperUnknown):
        """PostgreSQL stores no NUL characters, which a device's message may have."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    connection.adapters.register_dumper(str, Text)
    # A controller that hangs in the middle of a transaction must not hold up the others.
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{SILENT_SECONDS}s'")
    connection.commit()


# -- SQLite ---------------------------------------------------------------------------------


def _tune_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction handling is switched off so that BEGIN IMMEDIATE below counts.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL: a transition must survive a power cut before the step that it announces is taken.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # Two controllers that both read a free lease and then write must not both get it.
    writes = connection.get_execution_options().get("muster_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


# -- both -----------------------------------------------------------------------------------


def _is_incomplete(connection: sa.Connection) -> bool:
    there = set(sa.inspect(connection).get_table_names())
    return bool(METADATA.tables.keys() - there or _missing_columns(connection))


def _missing_columns(connection: sa.Connection) -> list[tuple[sa.Table, sa.Column[Any]]]:
    inspector = sa.inspect(connection)
    missing = []
    for table in METADATA.sorted_tables:
        if inspector.has_table(table.name):
            there = {column["name"] for column in inspector.get_columns(table.name)}
            missing += [(table, column) for column in table.columns if column.name not in there]
    return missing


def _add_column(table: sa.Table, column: sa.Column[Any], dialect: sa.Dialect) -> str:
    """SQL that adds a column; rows that are there get an empty text, zero or false."""
    quote = dialect.identifier_preparer.quote
    kind = column.type.compile(dialect)
    sql = f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(column.name)} {kind}"
    if column.nullable:
        return sql
    empty = {str: "''", bool: "false"}.get(column.type.python_type, "0")
    return f"{sql} DEFAULT {empty} NOT NULL"


def _to_json(value: Any) -> str:
    """JSON as it is defined: NaN and infinity, which a measurement may be, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
