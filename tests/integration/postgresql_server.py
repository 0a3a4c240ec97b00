"""A PostgreSQL server in a folder of its own, that only this machine reaches, for the tests."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "not-for:anybody@s/eyes"
"""Of the role ``guarded``, which is the only one that needs a password."""

_ACCESS = """\
local all guarded scram-sha-256
local all all trust
"""


class PostgresqlServer:
    """A server on a Unix socket. ``stop`` when done.

    :raises AssertionError: PostgreSQL is not installed, or does not start.
    """

    def __init__(self) -> None:
        self._bin = _programs()
        # Not pytest's folder, which nobody but its owner may enter; and a short path, as a
        # socket's path has 107 letters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="muster-pg-", dir="/tmp"))
        # The server refuses to be root.
        self._identity: Mapping[str, Any] = {}
        self.user = getpass.getuser()
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self.user = "nobody"
        self._data = self.folder / "data"
        try:
            self._run("initdb", "--encoding=UTF8", "--locale=C", "--no-sync", self._data)
            (self._data / "pg_hba.conf").write_text(_ACCESS)
            self.start()
            self.execute(
                f"create role guarded login password '{PASSWORD.replace(chr(39), chr(39) * 2)}'"
            )
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 100,
            "shared_buffers": "16MB",
            # What a fleet's administrators may have set must not change what the journal does.
            "default_transaction_isolation": "serializable",
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        log = self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop it at once, cutting every connection."""
        self._run("pg_ctl", "stop", "-w", "-D", self._data, "-m", "immediate")

    def remove(self) -> None:
        """Stop it, if it runs, and remove everything."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def execute(self, sql: str) -> None:
        """Run SQL as the owner of the server."""
        self._run("psql", "-h", self.folder, "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qc", sql)

    def new_database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"create database {name} template template0")
        return self.url(name)

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """URL of a database, without a driver's name."""
        who = user or self.user
        if password is not None:
            who += f":{quote(password, safe='')}"
        return f"postgresql://{who}@/{database}?host={self.folder}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        # A file: the server inherits its output, and a pipe would stay open as long as it runs.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [self._bin / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                timeout=120,
                **self._identity,
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode(errors="replace")


def _programs() -> Path:
    """The folder with the newest server's programs."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    assert on_path, "PostgreSQL is not installed; run `make`"
    return Path(on_path).parent
