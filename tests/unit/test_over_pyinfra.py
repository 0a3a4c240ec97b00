"""What an order's outcome over SSH means, with a stand-in for pyinfra's host."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import ConnectError

from muster.fleet import over_pyinfra
from muster.fleet.interface import Order, Trouble, Verb
from muster.fleet.over_pyinfra import PROGRAM, call_device

ORDER = Order("d", Verb.INSPECT, {"model": "digits"}, 5.0)


class StandInHost:
    """Answers the calls that ``call_device`` makes, without any connection."""

    def __init__(self, stdout: str = "", stderr: str = "", *, alive: bool = True) -> None:
        self.name, self.connected, self.closed = "d", False, False
        self.stdout, self.stderr, self.alive = stdout, stderr, alive
        self.data = SimpleNamespace(get=lambda key: {"_sudo": True}.get(key))
        self.state = SimpleNamespace(activate_host=lambda _host: None)
        self.connector_data: dict[str, Any] = {}
        transport = SimpleNamespace(
            is_active=lambda: self.alive,
            set_keepalive=lambda _seconds: None,
            sock=SimpleNamespace(setsockopt=lambda *_: None),
        )
        self.connector = SimpleNamespace(
            client=SimpleNamespace(get_transport=lambda: transport, close=self._close)
        )
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def _close(self) -> None:
        self.closed = True

    def get_temp_dir_config(self) -> str:
        return "/tmp"

    def connect(self, raise_exceptions: bool) -> None:
        assert raise_exceptions
        if self.error is not None:
            raise self.error
        self.connected = True

    def run_shell_command(self, command: Any, **arguments: Any) -> tuple[bool, Any]:
        self.commands.append((str(command), arguments))
        output = SimpleNamespace(
            stdout_lines=self.stdout.splitlines(), stderr_lines=self.stderr.splitlines()
        )
        return True, output


def call(host: StandInHost) -> Any:
    return call_device(host, ORDER)  # type: ignore[arg-type]


def test_the_document_goes_through_stdin_and_not_into_the_arguments() -> None:
    host = StandInHost('{"ok": true, "arch": "amd64"}')
    answer = call(host)
    assert answer.trouble is None
    assert answer.document["arch"] == "amd64"
    ((command, arguments),) = host.commands
    assert command == f"{PROGRAM} inspect"
    assert json.loads(arguments["_stdin"]) == {"model": "digits"}
    assert arguments["_sudo"] is True


def test_an_error_of_the_device_program_is_a_refusal() -> None:
    error = {"code": "busy", "message": "at work", "detail": {}}
    answer = call(StandInHost(json.dumps({"ok": False, "error": error})))
    assert (answer.trouble, answer.code) == (Trouble.REFUSED, "busy")
    assert answer.message == "inspect: at work"


@pytest.mark.parametrize("stdout", ["", "not json", "[]", '{"arch": "amd64"}'])
def test_a_living_device_without_an_answer_has_no_program(stdout: str) -> None:
    answer = call(StandInHost(stdout, "sudo: muster-device: command not found\n"))
    assert (answer.trouble, answer.code) == (Trouble.REFUSED, "no_program")
    assert "command not found" in answer.message
    assert "provisioned" in answer.message


def test_a_link_that_broke_leaves_the_outcome_unknown() -> None:
    host = StandInHost("", alive=False)
    host.connected = True
    answer = call(host)
    assert answer.trouble is Trouble.UNREACHABLE
    assert host.closed
    assert not host.connected


@pytest.mark.parametrize(
    "error", [ConnectError("no route"), OSError("reset"), EOFError(), RuntimeError("odd")]
)
def test_whatever_a_connection_raises_is_an_answer(error: Exception) -> None:
    host = StandInHost()
    host.error = error
    answer = call(host)
    assert answer.trouble is Trouble.UNREACHABLE
    assert answer.message
    assert not host.commands


def test_what_a_device_says_can_be_written_and_shown() -> None:
    body = "\x1b[2J"
    said = {"ok": True, "timezone": "\ud800\x1b[2J", "samples": [{"error": "\x07", "body": body}]}
    answer = call(StandInHost(json.dumps(said)))
    assert answer.document["timezone"] == "??[2J"
    assert answer.document["samples"] == [{"error": "?", "body": body}]
    refused = call(StandInHost(json.dumps({"ok": False, "error": {"message": "\ud800"}})))
    assert refused.message == "inspect: ?"


def test_an_error_that_is_no_object_is_no_answer() -> None:
    answer = call(StandInHost(json.dumps({"ok": False, "error": "no"})))
    assert (answer.trouble, answer.code) == (Trouble.REFUSED, "no_program")


def test_what_prometheus_measures_is_added_and_no_business_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(
        check: dict[str, Any], device: str, window: float, variables: dict[str, Any]
    ) -> dict[str, Any]:
        return {"at": window, "status": 200, "body": f"{device} {variables['muster_prometheus']}"}

    monkeypatch.setattr(over_pyinfra, "ask", asked)
    host = StandInHost('{"ok": true, "measurements": {"ready": []}}')
    known = {"inventory_device": "cam-1", "muster_prometheus": "http://p"}
    host.data.dict = lambda: known
    checks = [
        {"name": "ready", "type": "http", "path": "/", "timeout": 5.0},
        {"name": "errors", "type": "prometheus", "query": "x", "timeout": 5.0},
    ]
    order = Order("d", Verb.PROBE, {"checks": checks, "duration": 60.0}, 5.0)
    answer = call_device(host, order)  # type: ignore[arg-type]
    ((_, arguments),) = host.commands
    assert json.loads(arguments["_stdin"])["checks"] == checks[:1]
    assert answer.document["measurements"] == {
        "ready": [],
        "errors": [{"at": 60.0, "status": 200, "body": "cam-1 http://p"}],
    }
