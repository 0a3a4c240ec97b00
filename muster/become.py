"""Passwords for sudo that never get into the arguments of a process.

pyinfra writes such a password into the command line on the device, where every user there can read
it. It also remembers the program that answers sudo: giving it one of ours, which holds the password
in a file that only the login user can read, keeps the password out of every command line.
"""

from __future__ import annotations

import shlex
from typing import Any

from muster.errors import MusterError

PASSWORD = "muster_become_password"  # noqa: S105
"""Key of pyinfra's host data that holds the :class:`muster.secret.Secret`."""
PLACEHOLDER = "read-from-a-file"
"""What pyinfra is told for a password: it only needs to know that there is one."""

_INSTALL = (
    'file=$(mktemp "{folder}/muster-askpass-XXXXXXXXXX") && chmod 700 "$file"'
    ' && cat >"$file" && echo "$file"'
)


def install_askpass(host: Any) -> None:
    """Put the program that answers sudo on a connected pyinfra host, if it needs a password.

    pyinfra removes the file when it disconnects. Safe to repeat on one connection.

    :raises MusterError: the file can't be written.
    """
    secret = host.data.get(PASSWORD)
    folder = host.get_temp_dir_config()
    remembered = f"sudo_askpass_path__{folder}"
    if secret is None or host.connector_data.get(remembered):
        return
    ok, output = host.run_shell_command(
        _INSTALL.format(folder=folder),
        _stdin=f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(secret.reveal())}",
    )
    if not ok or not output.stdout_lines:
        raise MusterError(f"{host.name}: can't write to {folder}: {output.stderr}")
    host.connector_data[remembered] = output.stdout_lines[-1]
