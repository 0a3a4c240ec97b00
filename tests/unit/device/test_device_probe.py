"""``probe``: measurements against a server that really answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from device_stand_ins import Device, device


def check(dev: Device, name: str = "c", path: str = "/echo", **other: Any) -> dict[str, Any]:
    return {"name": name, "type": "http", "path": path, "port": dev.server.port} | other


def probe(dev: Device, *checks: dict[str, Any], **other: Any) -> dict[str, Any]:
    return dev.ok("probe", checks=list(checks), **({"duration": 0, "interval": 1} | other))


def sample(dev: Device, **other: Any) -> dict[str, Any]:
    """The one sample of one check."""
    measured = probe(dev, check(dev, **other))["measurements"]["c"]
    assert len(measured) == 1
    return dict(measured[0])


def test_what_serves_is_measured(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    answer = probe(dev, check(dev, path="/v2/health/ready"))
    assert (answer["generation"], answer["release"], answer["restarts"]) == (1, release.id, 0)
    (measured,) = answer["measurements"]["c"]
    assert measured["status"] == 200
    assert measured["body"] == release.id
    assert measured["error"] is None
    assert measured["latency"] > 0
    assert measured["at"] < 1


def test_every_check_is_measured_at_once_and_then_at_every_interval(dev: Device) -> None:
    answer = probe(dev, check(dev, "a"), check(dev, "b", "/nothing"), duration=3, interval=1)
    for name, status in (("a", 200), ("b", 503)):
        measured = answer["measurements"][name]
        assert [int(one["at"]) for one in measured] == [0, 1, 2, 3]
        assert {one["status"] for one in measured} == {status}


def test_samples_that_a_slow_answer_overran_are_left_out(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(clock: Any, **asked: Any) -> dict[str, Any]:
        clock.sleep(2.5)
        return {"status": 200, "latency": 2.5, "body": "", "error": None}

    monkeypatch.setattr(device, "http_request", slow)
    measured = probe(dev, check(dev), duration=6, interval=1)["measurements"]["c"]
    assert [int(one["at"]) for one in measured] == [0, 3, 6]


def test_a_text_is_sent_as_it_is_and_an_object_as_json(dev: Device) -> None:
    assert sample(dev, method="POST", body="tëxt")["body"] == "tëxt"
    body = {"inputs": [1, "ü"]}
    assert json.loads(sample(dev, method="POST", body=body)["body"]) == body


def test_headers_are_sent(dev: Device) -> None:
    seen = sample(dev, path="/headers", headers={"X-Key": "value"}, body={})["body"]
    assert "X-Key: value" in seen
    assert "Content-Type: application/json" in seen


def test_a_body_is_cut_at_its_limit(dev: Device) -> None:
    measured = sample(dev, path="/large")
    assert measured["status"] == 200
    assert len(measured["body"]) == 64 * 1024


def test_an_answer_has_room_for_so_many_bodies_only(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "BODIES_LIMIT", 100_000)
    measured = probe(dev, check(dev, path="/large"), duration=2)["measurements"]["c"]
    assert [one["body"] is None for one in measured] == [False, True, True]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_nobody_listens(dev: Device, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    measured = sample(dev, port=port)
    assert measured["error"] == "Connection refused"
    assert (measured["status"], measured["latency"], measured["body"]) == (None, None, None)


def test_nobody_answers(dev: Device, listening: socket.socket) -> None:
    measured = sample(dev, port=listening.getsockname()[1], timeout=0.05)
    assert measured["error"] == "no answer within 0.05 s"
    assert measured["status"] is None


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (b"nonsense\r\n\r\n", None, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", None, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, "to the end"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff", 200, "\ufffd"),
        (b"", None, None),
    ],
)
def test_what_servers_may_say(
    dev: Device, listening: socket.socket, said: bytes, status: int | None, body: str | None
) -> None:
    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    measured = sample(dev, port=listening.getsockname()[1])
    thread.join()
    assert (measured["status"], measured["body"]) == (status, body)
    assert (measured["error"] is None) is (status is not None)


def test_an_answer_that_drips_is_bounded(dev: Device, listening: socket.socket) -> None:
    """Every single read is quick, the whole is not."""
    stop = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.01):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    measured = sample(dev, port=listening.getsockname()[1], timeout=0.1)
    stop.set()
    thread.join()
    assert measured["error"] == "no answer within 0.1 s"


def test_restarts_during_the_probe_are_counted(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 3, 5, 0, 1])  # the unit was started anew in between
    monkeypatch.setattr("device_stand_ins.StandInSystemd.restarts", lambda self, unit: next(counts))
    assert probe(dev, check(dev), duration=3, interval=1)["restarts"] == 3


def test_probing_takes_no_lock(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    with device.Model(dev.host, "digits").locked("revert"):
        assert sample(dev)["status"] == 200


def test_a_release_that_was_taken_back_meanwhile_shows(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    dev.switch(new, 2)
    real_request = device.http_request

    def request(clock: Any, *arguments: Any, **asked: Any) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            patch.setattr(device, "http_request", real_request)
            dev.revert(2)
        return real_request(clock, *arguments, **asked)

    monkeypatch.setattr(device, "http_request", request)
    assert probe(dev, check(dev))["release"] == old.id


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"checks": [{"name": "c", "path": "/", "port": 0}]}, "checks[0].port"),
        ({"checks": [{"name": "c", "path": "x y", "port": 1}]}, "checks[0].path"),
        (
            {"checks": [{"name": "c", "path": "/", "port": 1, "headers": {"A": "x\r\nB: y"}}]},
            "headers",
        ),
        ({"checks": [{"name": "c", "path": "/", "port": 1, "method": "get"}]}, "checks[0].method"),
        ({"checks": [{"name": "c", "path": "/", "port": 1}] * 2}, "once"),
        ({"checks": {}}, "checks"),
        ({"duration": -1}, "duration"),
        ({"duration": float("inf")}, "duration"),
        ({"interval": 0}, "interval"),
    ],
)
def test_bad_requests_are_refused(dev: Device, document: dict[str, Any], named: str) -> None:
    error = dev.fails("probe", **({"checks": [], "duration": 0, "interval": 1} | document))
    assert error["code"] == "bad_input"
    assert named in error["message"]
