"""The supervisor: what a server tells nodes that join, and the client for it."""

from __future__ import annotations

import base64
import hmac
import http.client
import http.server
import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .certificates import authority_hash
from .forwarding import SUPERVISOR_PROTOCOL
from .processes import FatalError, log
from .tokens import Token

PORT = 9346
"""Port of the loopback address; nodes reach it through 6443."""

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class RefusedError(Exception):
    """A request that the supervisor refuses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def serve(
    certificate: Path,
    authority: Path,
    allowed: Callable[[str, str], str | None],
    handlers: Mapping[str, tuple[str, Handler]],
) -> None:
    """Serve from now on.

    :param allowed: role of a user with a password: ``server``, ``node`` or None.
    :param handlers: path to the role that it needs and what answers it.
    """

    class Requests(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            if self.path == "/cacerts":
                self._answer(200, authority.read_bytes(), "text/plain")
            elif self.path == "/ping":
                self._answer(200, b"pong", "text/plain")
            else:
                self._answer(404, b"not found", "text/plain")

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            try:
                role = allowed(*_credentials(self.headers.get("Authorization", "")))
                if role is None:
                    raise RefusedError(401, "Unauthorized")
                needed, handler = handlers.get(self.path, ("node", _unknown))
                if needed == "server" and role != "server":
                    raise RefusedError(403, "Forbidden: expected the server token")
                found = handler(json.loads(content or b"{}"))
                self._answer(200, json.dumps(found).encode(), "application/json")
            except RefusedError as error:
                self._answer(error.status, str(error).encode(), "text/plain")
            except Exception as error:
                log("error", f"supervisor: {self.path}: {error}")
                self._answer(503, str(error).encode(), "text/plain")

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    context.set_alpn_protocols([SUPERVISOR_PROTOCOL])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Requests)
    server.daemon_threads = True
    # the handshake happens in the thread of the request: nobody can hold the others up
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _credentials(header: str) -> tuple[str, str]:
    kind, _, coded = header.partition(" ")
    if kind != "Basic":
        return "", ""
    user, _, password = base64.b64decode(coded).decode().partition(":")
    return user, password


def _unknown(_request: dict[str, Any]) -> dict[str, Any]:
    raise RefusedError(404, "not found")


def same(left: str, right: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


class Client:
    """Talks to the supervisor of a server.

    :param url: of the server, such as ``https://10.0.0.1:6443``.
    :param connect_to: address to connect to instead: a load balancer.
    """

    def __init__(self, url: str, token: Token, connect_to: tuple[str, int] | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 443
        self._token = token
        self._connect_to = connect_to
        self.authority = ""

    def verify(self) -> None:
        """Fetch the cluster's authority and hold it against the token.

        :raises FatalError: when the token names another one.
        :raises OSError: when the server does not answer.
        """
        pem = self._request("GET", "/cacerts", trusted=False)
        found = authority_hash(pem)
        if self._token.ca_hash and not same(found, self._token.ca_hash):
            raise FatalError(
                "token CA hash does not match the Cluster CA certificate hash: "
                f"{self._token.ca_hash} != {found}"
            )
        self.authority = pem

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for something.

        :raises RefusedError: when the server refuses.
        :raises OSError: when it does not answer.
        """
        found: dict[str, Any] = json.loads(self._request("POST", path, json.dumps(body)))
        return found

    def _request(self, method: str, path: str, body: str = "", trusted: bool = True) -> str:
        context = ssl.create_default_context(cadata=self.authority or None)
        context.set_alpn_protocols([SUPERVISOR_PROTOCOL])
        # any address may lead to a server: the authority is of this cluster alone
        context.check_hostname = False
        if not trusted:
            context.verify_mode = ssl.CERT_NONE
        host, port = self._connect_to or (self.host, self.port)
        connection = http.client.HTTPSConnection(host, port, timeout=30, context=context)
        credential = f"{self._token.user}:{self._token.password}".encode()
        headers = {"Content-Type": "application/json"}
        if trusted:
            headers["Authorization"] = f"Basic {base64.b64encode(credential).decode()}"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"https://{self.host}:{self.port}{path}: {error}") from error
        except OSError as error:
            raise OSError(f"https://{self.host}:{self.port}{path}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise RefusedError(answer.status, f"https://{self.host}:{self.port}{path}: {content}")
        return content
