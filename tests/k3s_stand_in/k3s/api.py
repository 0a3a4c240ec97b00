"""The API of Kubernetes, as far as the program itself uses it."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API refused something."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """A client with a certificate.

    :param port: of the loopback address.
    """

    def __init__(self, port: int, authority: Path, certificate: Path) -> None:
        self._port = port
        self._authority = authority
        self._certificate = certificate

    def call(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request.

        :raises ApiError: when the answer is an error.
        """
        context = ssl.create_default_context(cafile=str(self._authority))
        context.load_cert_chain(self._certificate, self._certificate.with_suffix(".key"))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=10, context=context
        )
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(answer.status, content)
        return json.loads(content) if content.startswith("{") else {"text": content}

    def get(self, path: str) -> dict[str, Any]:
        """Read one object or a list."""
        return self.call("GET", path)

    def patch(self, path: str, body: Any) -> None:
        """Merge something into an object."""
        self.call("PATCH", path, body, STRATEGIC)

    def ready(self) -> bool:
        """Whether the API serves."""
        try:
            return self.get("/readyz")["text"] == "ok"
        except (OSError, ApiError, http.client.HTTPException):
            return False
