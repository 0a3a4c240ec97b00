"""Changes that could lock their operator out: they go back by themselves.

The device arms its own way back before it changes anything. The change stays only if a new
connection from the controller confirms it; otherwise, and also when the power goes in between, the
former files come back. Nobody has to travel to the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from pyinfra import host
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from roles.facts import FACT_SECONDS, PlacedFile, PlacedFiles
from roles.operations import PLACE_FILES, File, is_as_wanted, placing_steps, run_script

UNDO_SECONDS = 60
"""Time that a change waits for its confirmation."""

_GUARD = (Path(__file__).parent / "guarded_files.sh").read_text(encoding="utf-8")
_PAUSE = 1.0


@operation()
def place_guarded(
    title: str,
    files: list[File],
    then: str,
    check: str | None = None,
    seconds: int = UNDO_SECONDS,
) -> Iterator[StringCommand | FunctionCommand]:
    """
    Make text files what they should be, and keep them only if the device can still be reached.

    + title: name of the change on the device: small letters and dashes
    + files: the files
    + then: shell command that makes the files take effect, and also the former ones
    + check: shell command that fails if the staged files must not be used
    + seconds: time after which the former files come back, unless a new connection confirms

    **Example:**

    .. code:: python

        place_guarded(
            name="settings of sshd",
            title="sshd",
            files=[File("/etc/ssh/sshd_config.d/00-muster.conf", "X11Forwarding no\\n")],
            then="systemctl reload ssh.service",
        )
    """
    present = host.get_fact(PlacedFiles, paths=[file.path for file in files], _timeout=FACT_SECONDS)
    wrong = [file for file in files if not is_as_wanted(file, present.get(file.path, PlacedFile()))]
    if not wrong:
        host.noop("the files are as they should be")
        return
    paths = [QuoteString(file.path) for file in wrong]
    script = apply_script(title, files, wrong, then, check, seconds)
    yield run_script(f"change-{title}", script, paths, seconds + 300)
    yield FunctionCommand(connect_again, (seconds,), {})
    yield run_script(f"confirm-{title}", confirm_script(title, files), paths, 60)


def confirm_script(title: str, files: list[File]) -> str:
    """Shell script that makes a change stay; it fails if the device has gone back."""
    words = " ".join(quote(file.path) for file in files)
    return f"{PLACE_FILES}\n{_GUARD}\nname={quote(title)}\nconfirm {words}\n"


def apply_script(
    title: str, files: list[File], wrong: list[File], then: str, check: str | None, seconds: int
) -> str:
    """Shell script that arms the way back and then changes files.

    :param files: all that belong together, so that nothing of an earlier try is left.
    :param wrong: those that have to be replaced.
    """
    every, changed = (" ".join(quote(f.path) for f in some) for some in (files, wrong))
    way_back = (
        f"{PLACE_FILES}\n{_GUARD}\nname={quote(title)}\nwhen=${{1:-}}\n"
        f"take_effect() {{\n{then}\n}}\nundo {every}"
    )
    *stage_and_check, _put = placing_steps(wrong, check, None)
    steps = [
        *stage_and_check,
        f"keep {changed}",
        f"arm {quote(title)} {seconds} <<'end-of-undo'\n{way_back}\nend-of-undo",
        f"put_in_place {changed}",
        f"( {then}\n) || {{ sh $UNDO/{quote(title)} now; fail 'the former files are back'; }}",
    ]
    body = "\n".join(steps)
    return f"{PLACE_FILES}\n{_GUARD}\nplace() {{\n{body}\n}}\nplace </dev/null\n"


def connect_again(state: State, host: Host, seconds: float) -> bool:  # noqa: ARG001
    """Replace the connection of a host by a new one, which is the proof that one can be made.

    The old one is kept if there is no new one in time, to hear what the device made of that.

    :param seconds: after which the device has gone back by itself.
    """
    connector: Any = host.connector
    if not hasattr(connector, "client"):
        return True  # not over SSH: nobody can be locked out
    old = connector.client
    deadline = time.monotonic() + seconds + 5
    while True:
        try:
            connector.connect()
        except (ConnectError, OSError) as error:
            reason = str(error)
        else:
            connector.disconnect()  # forgets file transfers over the old connection
            old.close()
            return True
        if time.monotonic() > deadline:
            host.log_styled(f"no new connection: {reason}", fg="red")
            connector.client = old
            return True
        time.sleep(_PAUSE)


@operation()
def refuse(reason: str) -> Iterator[StringCommand]:
    """
    Fail without touching the device: what was asked for does not fit it.

    + reason: what was expected and what was got
    """
    yield StringCommand("echo", QuoteString(reason), ">&2;", "exit 1")
