"""Telling a web service what happens in a rollout, without ever waiting for it.

Each notice is a POST of one JSON object. With a secret it carries a signature: the HMAC-SHA256 of
the body, in the header ``X-Muster-Signature-256``, as ``sha256=`` and 64 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import muster
from muster.errors import InputError
from muster.hooks.delivery import DeliveryQueue
from muster.secret import Secret

ANSWER_SECONDS = 10.0
"""How long the service may be silent before an attempt counts as failed."""

FLUSH_SECONDS = 10.0
"""How long notices are still delivered after the rollout has come to its end."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between one attempt and the next."""


@dataclass(frozen=True)
class _Notice:
    hook: str
    body: bytes
    delivery: str


class Webhook:
    """One web service that gets notices. ``close`` when done.

    :param url: where to POST; shown nowhere, as its path is often a secret.
    :param secret: key of the signature; None for no signature.
    :param warn: called, from another thread, with a line for a person; once for a service that
        does not take notices.
    :param pauses: seconds between attempts.
    :raises InputError: ``url`` is no HTTP URL.
    """

    def __init__(
        self,
        url: str,
        secret: Secret | None,
        warn: Callable[[str], None],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._name = checked_url(url)
        self._url, self._secret, self._warn = url, secret, warn
        self._answer_seconds, self._pauses = answer_seconds, pauses
        # Redirections are errors: a POST would become a GET, and may lead to somebody else.
        self._opener = urllib.request.build_opener(_NoRedirection)
        self._closing = threading.Event()
        self._gave_up_at = float("inf")
        self._failed = 0
        self._problem = ""  # the last one
        self._queue = DeliveryQueue(self._deliver)

    def post(self, hook: str, body: bytes) -> None:
        """Have a notice delivered; return at once."""
        self._queue.put(_Notice(hook, body, str(uuid.uuid4())))

    def close(self, limit: float | None = None) -> None:
        """Wait at most ``limit`` seconds for the notices that are under way, then drop them.

        :param limit: None for ``FLUSH_SECONDS``.
        """
        limit = FLUSH_SECONDS if limit is None else limit
        self._gave_up_at = time.monotonic() + limit
        missed = self._queue.close(limit)
        self._closing.set()
        total = missed + self._failed
        if total:
            notices = "1 notice was" if total == 1 else f"{total} notices were"
            why = f"; {self._problem}" if self._problem and not self._failed else ""
            self._warn(f"webhook {self._name}: {notices} not delivered{why}")

    def _deliver(self, notice: _Notice) -> None:
        for pause in (*self._pauses, None):
            problem, again = self._attempt(notice)
            if problem is None:
                return
            self._problem = problem
            if not again or pause is None or time.monotonic() + pause > self._gave_up_at:
                break
            if self._closing.wait(pause):
                return
        self._failed += 1
        if self._failed == 1:
            self._warn(f"webhook {self._name}: {problem}")

    def _attempt(self, notice: _Notice) -> tuple[str | None, bool]:
        """What went wrong, if anything, and whether another attempt may help."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"muster/{muster.__version__}",
            "X-Muster-Hook": notice.hook,
            # The same in every attempt, so that a service can tell a repetition.
            "X-Muster-Delivery": notice.delivery,
        }
        if self._secret is not None:
            headers["X-Muster-Signature-256"] = signature(self._secret, notice.body)
        request = urllib.request.Request(  # noqa: S310 (checked_url lets HTTP through alone)
            self._url, notice.body, headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._answer_seconds):
                return None, False
        except urllib.error.HTTPError as error:
            error.close()
            return f"answered {error.code}", error.code >= 500 or error.code == 429
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return f"no answer in {self._answer_seconds:g} s", True
            text = reason.strerror if isinstance(reason, OSError) else None
            return f"can't be reached: {text or type(reason).__name__}", True


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def signature(secret: Secret, body: bytes) -> str:
    """The value of the signature header for ``body``."""
    digest = hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def checked_url(url: str) -> str:
    """Check the address of a webhook.

    :returns: the part of it that may be shown: scheme, host and port.
    :raises InputError: it is none; the message does not repeat it.
    """
    expected = "webhook: expected a URL such as https://chat.example.com/hooks/42"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"{expected}; its host or port is not valid") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise InputError(f"{expected}, with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{expected}, without a user name and a password in it")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"{expected}, without blanks and letters that a URL can't have")
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
