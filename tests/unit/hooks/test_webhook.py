from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from muster.errors import InputError
from muster.hooks.calls import open_hooks
from muster.hooks.delivery import DeliveryQueue
from muster.hooks.webhook import Webhook, checked_url, signature
from muster.secret import Secret

PAUSES = (0.01, 0.02)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_WEBHOOK_SECRET", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


class Service(ThreadingHTTPServer):
    """A web service that gives the answers it was told to, then 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int | Callable[[_Handler], None]] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hooks/s3cret-path?key=s3cret"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0) if self.server.answers else 204
        if callable(answer):
            answer(self)
            return
        self.send_response(answer)
        if 300 <= answer < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.got.append((self.path, {}, b"GET"))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    yield server
    server.shutdown()
    server.server_close()


def deliver(
    service_url: str, *bodies: bytes, secret: Secret | None = None, limit: float = 10, **how: Any
) -> list[str]:
    """Post notices and close; returns the warnings."""
    warnings: list[str] = []
    webhook = Webhook(service_url, secret, warnings.append, **({"pauses": PAUSES} | how))
    for body in bodies:
        webhook.post("post_wave", body)
    webhook.close(limit)
    return warnings


# -- configuration --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/s3cret",
        "file:///s3cret",
        "https:///s3cret",
        "https://[::1/s3cret",
        "https://example.com:99999/s3cret",
        "https://example.com:s3cret/",
        "https://user:s3cret@example.com/",
        "https://example.com/s3 cret",
        "https://example.com/s3cret\nHost: other",
        "https://example.com/s3crét",
    ],
)
def test_a_url_that_is_none_is_an_error_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="webhook: expected a URL such as") as error:
        checked_url(url)
    assert "s3c" not in str(error.value)
    assert error.value.exit_code == 2


def test_of_a_url_the_path_is_never_shown() -> None:
    assert checked_url("https://chat.example.com/hooks/s3cret?k=1") == "https://chat.example.com"
    assert checked_url("http://[::1]:8080/x") == "http://[::1]:8080"


def test_an_empty_secret_does_not_mean_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_WEBHOOK_SECRET", "")
    with (
        pytest.raises(InputError, match="MUSTER_WEBHOOK_SECRET"),
        open_hooks(None, "http://127.0.0.1:1/"),
    ):
        pass
    with open_hooks(None, None):  # it does not matter without a webhook
        pass


# -- delivery -------------------------------------------------------------------------------


def test_every_hook_is_posted_and_signed(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSTER_WEBHOOK_SECRET", "hush")
    with open_hooks(None, service.url) as hooks:
        hooks.call("pre_wave", {"rollout": "r-1", "at": 1.5})
        hooks.call("post_rollout", {"rollout": "r-1", "at": 2.5, "to": "succeeded"})
        assert [result.ok for result in hooks.finished()] == [True]
    assert [json.loads(body) for _, _, body in service.got] == [
        {"event": "pre_wave", "at": 1.5, "rollout": "r-1"},
        {"event": "post_rollout", "at": 2.5, "rollout": "r-1", "to": "succeeded"},
    ]
    path, headers, body = service.got[0]
    assert path == "/hooks/s3cret-path?key=s3cret"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Muster-Hook"] == "pre_wave"
    expected = hmac.new(b"hush", body, hashlib.sha256).hexdigest()
    assert headers["X-Muster-Signature-256"] == f"sha256={expected}"
    assert headers["X-Muster-Delivery"] != service.got[1][1]["X-Muster-Delivery"]
    assert capsys.readouterr() == ("", "")


def test_the_signature_is_that_of_the_known_example() -> None:
    # the example of "Validating webhook deliveries" in GitHub's documentation
    assert signature(Secret("It's a Secret to Everybody"), b"Hello, World!") == (
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    )


def test_without_a_secret_there_is_no_signature(service: Service) -> None:
    assert deliver(service.url, b"{}") == []
    assert "X-Muster-Signature-256" not in service.got[0][1]


def test_what_may_pass_is_tried_again_as_the_same_delivery(service: Service) -> None:
    service.answers = [503, 429, 200]
    assert deliver(service.url, b"1", b"2") == []
    assert [body for _, _, body in service.got] == [b"1", b"1", b"1", b"2"]
    assert len({headers["X-Muster-Delivery"] for _, headers, _ in service.got}) == 2


def test_what_will_not_pass_is_given_up_and_warned_of_once(service: Service) -> None:
    service.answers = [404, 404, 500, 500, 500]
    warnings = deliver(service.url, b"1", b"2", b"3", b"4")
    assert [body for _, _, body in service.got] == [b"1", b"2", b"3", b"3", b"3", b"4"]
    name = f"http://127.0.0.1:{service.server_port}"
    assert warnings == [
        f"webhook {name}: answered 404",
        f"webhook {name}: 3 notices were not delivered",
    ]


def test_a_redirection_is_not_followed(service: Service) -> None:
    service.answers = [302]
    [first, _] = deliver(service.url, b"1", secret=Secret("hush"))
    assert first.endswith("answered 302")
    assert len(service.got) == 1


def test_a_connection_that_breaks_is_tried_again(service: Service) -> None:
    def break_off(handler: _Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    service.answers = [break_off, break_off]
    assert deliver(service.url, b"1") == []
    assert len(service.got) == 3


def test_a_service_that_is_silent_is_given_up(service: Service) -> None:
    service.answers = [lambda _: time.sleep(2)] * 3
    [first, _] = deliver(service.url, b"1", answer_seconds=0.2)
    assert first == f"webhook http://127.0.0.1:{service.server_port}: no answer in 0.2 s"


def test_a_service_that_is_dead_delays_nobody() -> None:
    with socket.socket() as listener:  # a port where nothing listens
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/s3cret"
        warnings: list[str] = []
        webhook = Webhook(url, Secret("hush"), warnings.append)
        begun = time.monotonic()
        for _ in range(2000):
            webhook.post("post_wave", b"x" * 1000)
        assert time.monotonic() - begun < 1
        webhook.close(0.5)
        assert time.monotonic() - begun < 3
    assert warnings == [
        f"webhook {url.removesuffix('/s3cret')}: 2000 notices were not delivered;"
        " can't be reached: Connection refused"
    ]


_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
from muster.hooks import webhook
from muster.hooks.calls import open_hooks
webhook.FLUSH_SECONDS = 1
begun = time.monotonic()
with open_hooks(None, sys.argv[1]) as hooks:
    for n in range(3):
        hooks.call("post_wave", {"n": n})
    assert time.monotonic() - begun < 0.5
    time.sleep(float(sys.argv[2]))
"""


def _under_gevent(url: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _UNDER_GEVENT, url, str(seconds)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"MUSTER_WEBHOOK_SECRET": "hush"},
    )


def test_it_works_with_gevents_patches(service: Service) -> None:
    service.answers = [503]
    done = _under_gevent(service.url, 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(body)["n"] for _, _, body in service.got] == [0, 0, 1, 2]


def test_with_gevents_patches_a_silent_service_does_not_keep_the_process(service: Service) -> None:
    service.answers = [lambda _: time.sleep(30)]
    begun = time.monotonic()
    done = _under_gevent(service.url, 0)
    assert time.monotonic() - begun < 20
    assert done.returncode == 0
    assert "3 notices were not delivered" in done.stderr


# -- the queue ------------------------------------------------------------------------------


def test_of_too_many_items_the_oldest_are_dropped() -> None:
    go, done = threading.Event(), []

    def take(item: int) -> None:
        go.wait(10)
        done.append(item)

    queue = DeliveryQueue(take, room=3)
    queue.put(0)
    while queue._waiting:  # until it is under way
        time.sleep(0.01)
    for item in range(1, 8):
        queue.put(item)
    go.set()
    assert queue.close(10) == 4
    assert done == [0, 5, 6, 7]
    queue.put(9)
    assert done == [0, 5, 6, 7]
