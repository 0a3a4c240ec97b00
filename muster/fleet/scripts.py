"""One command of any kind on many devices, through pyinfra: for looking, not for rollouts.

As in :mod:`muster.fleet.over_pyinfra`, gevent must have patched the standard library before.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent.pool
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import ctx_config, ctx_host

from muster.errors import MusterError
from muster.fleet.over_pyinfra import PyinfraFleet, _connect, _drop, _escalation, _one_line

AT_ONCE = 64


@dataclass(frozen=True)
class Ran:
    """What came of a command on a device.

    :param connected: whether there was a connection at all.
    :param error: why there is no result, "" if there is one.
    :param began: seconds since 1970 UTC just before the command was sent.
    :param ended: the same just after it had ended.
    """

    connected: bool
    error: str = ""
    ok: bool = False
    out: str = ""
    err: str = ""
    began: float = 0.0
    ended: float = 0.0


class ScriptFleet(PyinfraFleet):
    """Devices that can be given a shell command.

    :param devices: pyinfra data of each device by name.
    """

    def run_everywhere(
        self,
        names: Sequence[str],
        command: Callable[[str], tuple[str, str]],
        seconds: float,
        *,
        as_root: bool = True,
        progress: Callable[[str], None] = lambda _name: None,
    ) -> dict[str, Ran]:
        """Run a command on some devices, side by side.

        :param command: gives the shell command and its standard input for a device.
        :param seconds: bound for one device, with the connection.
        :param as_root: whether to become root as the inventory says, or to stay the login.
        :param progress: called with the name of each device that is done.
        """
        found: dict[str, Ran] = {}

        def work(name: str) -> None:
            text, given = command(name)
            found[name] = self._run(name, text, given, seconds, as_root=as_root)
            progress(name)

        gevent.pool.Pool(AT_ONCE).map(work, names)
        return found

    def _run(self, name: str, command: str, given: str, seconds: float, *, as_root: bool) -> Ran:
        host = self._state.inventory.get_host(name)
        with ctx_config.use(self._state.config.copy()), ctx_host.use(host):
            return _run_on(host, command, given, seconds, as_root=as_root)


def _run_on(host: Host, command: str, given: str, seconds: float, *, as_root: bool) -> Ran:
    connected = False
    began = time.time()
    escalation: Mapping[str, Any] = _escalation(host) if as_root else {}
    try:
        with gevent.Timeout(seconds):
            _connect(host)
            connected = True
            began = time.time()
            ok, output = host.run_shell_command(
                StringCommand("sh", "-c", shlex.quote(command)),
                _stdin=given,
                **escalation,
            )
            ended = time.time()
    except gevent.Timeout:
        _drop(host)
        return Ran(connected, f"no answer within {seconds:.0f} s", began=began, ended=time.time())
    except (ConnectError, PyinfraError, MusterError, OSError, EOFError) as error:
        if not connected:
            _drop(host)
        return Ran(connected, _one_line(error), began=began, ended=time.time())
    except Exception as error:  # paramiko and gevent raise what they like when a link breaks
        _drop(host)
        return Ran(connected, f"{type(error).__name__}: {_one_line(error)}")
    out, err = "\n".join(output.stdout_lines), "\n".join(output.stderr_lines)
    return Ran(True, "", ok, out, err, began, ended)


__all__ = ["AT_ONCE", "Ran", "ScriptFleet"]
