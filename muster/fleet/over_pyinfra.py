"""Devices over SSH, through pyinfra. One greenlet works on one order of one device.

gevent must have patched the standard library before this is used: ``muster.__main__`` and pyinfra's
own command do so. One process has one pyinfra state, so it drives one fleet at a time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
import gevent.queue
import pyinfra.connectors.util
from pyinfra.api.arguments import auth_argument_meta
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_state

from muster.become import install_askpass
from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.prometheus import apart, ask

PROGRAM = "/usr/local/sbin/muster-device"

CONNECT_SECONDS = 10
KEEPALIVE_SECONDS = 5
RETURN_POLL_SECONDS = 1.0
"""Pause between two attempts to reach a device that restarts."""
SILENCE_MILLISECONDS = 15_000
"""How long sent data may stay unacknowledged until the link counts as cut."""


def _no_prompt(*_prompt: object) -> str:
    raise ConnectError("sudo wants a password: set ansible_become_password for this device")


class PyinfraFleet:
    """A :class:`muster.fleet.interface.Fleet` of real or emulated devices.

    :param devices: pyinfra data (``ssh_hostname`` ...) of each device by name.

    ``commands`` counts the SSH commands that each device was given.
    """

    def __init__(self, devices: Mapping[str, Mapping[str, Any]]) -> None:
        # pyinfra logs connection errors by itself; ours are answers.
        logging.getLogger("pyinfra").setLevel(logging.CRITICAL)
        # It also asks on the terminal when sudo wants a password; nobody sits there in a rollout.
        pyinfra.connectors.util.getpass = _no_prompt  # type: ignore[attr-defined,assignment]
        inventory = Inventory(([(name, dict(data)) for name, data in devices.items()], {}))  # type: ignore[no-untyped-call]
        config = Config(CONNECT_TIMEOUT=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
        self._state = State(inventory, config)
        self._state.set_stage(StateStage.Execute)
        self._state.is_executing = True
        self._context = contextlib.ExitStack()
        self._context.enter_context(ctx_state.use(self._state))
        self._answers: gevent.queue.Queue = gevent.queue.Queue()
        self._greenlets: set[gevent.Greenlet] = set()
        self.commands: Counter[str] = Counter()

    def submit(self, order: Order) -> None:
        """Start an order in a greenlet of its own."""
        greenlet = gevent.spawn(self._carry_out, order)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer; the greenlets work meanwhile."""
        try:
            if timeout == 0:
                return self._answers.get_nowait()  # type: ignore[no-any-return]
            return self._answers.get(timeout=timeout)  # type: ignore[no-any-return]
        except gevent.queue.Empty:
            return None

    def now(self) -> float:
        """The system's monotonic clock."""
        return time.monotonic()

    def wall_time(self) -> float:
        """The system's time of day."""
        return time.time()

    def close(self) -> None:
        """Abandon what is under way and close every connection."""
        gevent.killall(list(self._greenlets), block=True, timeout=5)
        gevent.joinall([gevent.spawn(_leave, host) for host in self._state.inventory], timeout=5)
        self._context.close()

    def _carry_out(self, order: Order) -> None:
        started = time.monotonic()
        host = self._state.inventory.get_host(order.device)
        with ctx_config.use(self._state.config.copy()), ctx_host.use(host):
            answer = call_device(host, order, self.commands)
            if answer.document.get("reboots"):
                answer = wait_for_return(host, order, answer, started + order.timeout)
        seconds = time.monotonic() - started
        self._answers.put(Answer(**(vars(answer) | {"seconds": seconds})))


def call_device(host: Host, order: Order, commands: Counter[str] | None = None) -> Answer:
    """Give one order to one host, connecting first where there is no living connection.

    To be called in the greenlet of that host, with pyinfra's contexts set.
    """
    document, asked = apart(order.document)
    try:
        with gevent.Timeout(order.timeout):
            _connect(host)
            if commands is not None:
                commands[order.device] += 1
            _, output = host.run_shell_command(
                StringCommand(_program(order), order.verb.value),
                _stdin=json.dumps(document),
                **_escalation(host),
            )
    except gevent.Timeout:
        _drop(host)
        return _unreachable(order, f"no answer to {order.verb.value} in {order.timeout:.0f} s")
    except (ConnectError, PyinfraError, OSError, EOFError) as error:
        _drop(host)
        return _unreachable(order, _one_line(error))
    except Exception as error:  # paramiko and gevent raise what they like when a link breaks
        _drop(host)
        return _unreachable(order, f"{type(error).__name__}: {_one_line(error)}")
    answer = _read_answer(host, order, output.stdout_lines, output.stderr_lines)
    if asked and answer.trouble is None:
        _measure(host, order, asked, answer)
    return answer


def _measure(host: Host, order: Order, asked: Iterable[Mapping[str, Any]], answer: Answer) -> None:
    """Add what the site's Prometheus says to what the device measured."""
    variables = host.data.dict()  # type: ignore[no-untyped-call]
    device = str(variables.get("inventory_device") or order.device)
    for check in asked:
        limit = float(check["timeout"])
        sample = {"error": f"Prometheus: no answer within {limit:g} s"}
        # the timeout of a socket is for each part of an answer, not for all of it
        with gevent.Timeout(limit + 1, False):
            sample = ask(check, device, float(order.document["duration"]), variables)
        answer.document["measurements"][check["name"]] = [sample]


def wait_for_return(host: Host, order: Order, answer: Answer, until: float) -> Answer:
    """Wait for a device that restarts: it is back when it names another boot.

    :param answer: what it said before; ``reboots`` names the boot that is about to end.
    :param until: monotonic seconds.
    :returns: the answer, or that the device did not come back.
    """
    question = {"task": order.document["task"]}
    while (left := until - time.monotonic()) > 0:
        gevent.sleep(min(RETURN_POLL_SECONDS, left))
        limit = min(CONNECT_SECONDS + 20.0, left)
        again = Order(order.device, Verb.INSPECT, question, limit, order.program)
        seen = call_device(host, again)
        if seen.trouble is None and seen.document["boot_id"] != answer.document["reboots"]:
            return answer
        _drop(host)
    return _unreachable(order, f"did not come back within {order.timeout:.0f} s")


def _program(order: Order) -> str:
    return f"/usr/local/sbin/{order.program}" if order.program else PROGRAM


def _read_answer(host: Host, order: Order, stdout: Iterable[str], stderr: Iterable[str]) -> Answer:
    text = "\n".join(stdout)
    try:
        document = _printable(json.loads(text))
        error = {} if document["ok"] else dict(document["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        if not _is_alive(host):
            _drop(host)
            return _unreachable(order, f"the link broke during {order.verb.value}")
        said = next((line for line in reversed(list(stderr)) if line.strip()), text[:200])
        return Answer(
            order.device,
            order.verb,
            trouble=Trouble.REFUSED,
            code="no_program",
            message=f"{_program(order)} gave no answer ({said or 'silence'}); was it provisioned?",
        )
    if error:
        return Answer(
            order.device,
            order.verb,
            document,
            trouble=Trouble.REFUSED,
            code=str(error.get("code", "internal")),
            message=f"{order.verb.value}: {error.get('message', 'no reason given')}",
        )
    return Answer(order.device, order.verb, document)


def _printable(value: Any) -> Any:
    """What a device said, without what would harm a terminal or be no text for a journal.

    The bodies of answers are left as they are: the gates read them.
    """
    if isinstance(value, str):
        return "".join(
            letter if letter.isprintable() or letter in "\n\t" else "?" for letter in value
        )
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {
            _printable(key): each if key == "body" else _printable(each)
            for key, each in value.items()
        }
    return value


def _unreachable(order: Order, message: str) -> Answer:
    return Answer(order.device, order.verb, trouble=Trouble.UNREACHABLE, message=message)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _escalation(host: Host) -> dict[str, Any]:
    """How to become root: as the inventory says, else as pyinfra's own command line does."""
    found = {name: host.data.get(name) for name in auth_argument_meta}
    if ctx_config.isset():  # type: ignore[no-untyped-call]
        config = ctx_config.get()  # type: ignore[no-untyped-call]
        defaults = {name: meta.default(config) for name, meta in auth_argument_meta.items()}
        found = {name: defaults[name] if found[name] is None else found[name] for name in found}
    return {name: value for name, value in found.items() if value is not None}


def _connect(host: Host) -> None:
    if host.connected and _is_alive(host):
        return
    _drop(host)
    host.connect(raise_exceptions=True)
    host.state.activate_host(host)
    install_askpass(host)
    transport = _transport(host)
    if transport is not None:
        transport.set_keepalive(KEEPALIVE_SECONDS)
        # A cut link must be noticed although nobody says so; keepalives alone only send.
        with contextlib.suppress(AttributeError, OSError):
            transport.sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MILLISECONDS
            )


def _transport(host: Host) -> Any:
    client = getattr(host.connector, "client", None)
    return client.get_transport() if client is not None else None


def _is_alive(host: Host) -> bool:
    if not hasattr(host.connector, "client"):
        return bool(host.connected)  # not SSH: nothing that can break
    transport = _transport(host)
    return transport is not None and bool(transport.is_active())


def _leave(host: Host) -> None:
    """Clean up on a device that is still connected, and close the connection."""
    with contextlib.suppress(Exception), gevent.Timeout(3, False):
        if host.connected and _is_alive(host):
            host.disconnect()
    _drop(host)


def _drop(host: Host) -> None:
    """Close a connection for good: pyinfra's own disconnect leaves the client open."""
    client = getattr(host.connector, "client", None)
    with contextlib.suppress(Exception):
        if client is not None:
            client.close()
    host.connected = False


__all__ = ["PROGRAM", "PyinfraFleet", "Verb", "call_device"]
