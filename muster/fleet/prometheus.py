"""Gates that a site's Prometheus answers. The controller asks, so devices need not reach it."""

from __future__ import annotations

import base64
import math
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.gates.probe import BODY_LIMIT, PROMETHEUS

LEAST_WINDOW = 30.0
"""Seconds; with less there are too few scrapes for a rate."""


def apart(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Take the checks that are for Prometheus out of the document of an order.

    :returns: the document for the device, and those checks.
    """
    checks = document.get("checks")
    if not isinstance(checks, list):
        return dict(document), []
    asked = [check for check in checks if check.get("type") == PROMETHEUS]
    if not asked:
        return dict(document), []
    return {**document, "checks": [check for check in checks if check not in asked]}, asked


def request_url(
    check: Mapping[str, Any], device: str, window: float, variables: Mapping[str, Any]
) -> str | None:
    """Give the URL of a query.

    :param device: name of the device, put in for ``$device``.
    :param window: seconds, put in for ``$window``.
    :param variables: the device's; ``muster_prometheus`` is asked where the check names none.
    :returns: None where nobody says which Prometheus.
    """
    base = check.get("url") or variables.get("muster_prometheus")
    if not isinstance(base, str) or not base.startswith(("http://", "https://")):
        return None
    known = {
        "device": device.replace("\\", "\\\\").replace('"', '\\"'),
        "window": f"{math.ceil(max(window, LEAST_WINDOW))}s",
    }
    query = re.sub(r"\$(device|window)\b", lambda match: known[match[1]], check["query"])
    return f"{base.rstrip('/')}{check['path']}?{urllib.parse.urlencode({'query': query})}"


def ask(
    check: Mapping[str, Any], device: str, window: float, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Ask Prometheus once.

    :returns: a sample as those of a device's probe: ``at``, ``status``, ``latency``, ``body``,
        ``error``.
    """
    sample: dict[str, Any] = {
        "at": window,
        "status": None,
        "latency": None,
        "body": None,
        "error": None,
    }
    url = request_url(check, device, window, variables)
    if url is None:
        sample["error"] = "expected a URL in the gate or the variable muster_prometheus, got none"
        return sample
    begin = time.monotonic()
    try:
        # a release may name any URL: the password is for the site's own Prometheus
        headers = {} if check.get("url") else _login(variables)
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (it begins with http)
        context = _context(variables.get("muster_prometheus_ca"))
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )
        try:
            with opener.open(request, timeout=float(check["timeout"])) as answer:
                status, body = answer.status, answer.read(BODY_LIMIT)
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read(BODY_LIMIT)
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        late = isinstance(reason, (TimeoutError, socket.timeout))
        text = f"no answer within {check['timeout']:g} s" if late else str(reason)
        sample["error"] = f"Prometheus: {text}"
        return sample
    sample["status"], sample["body"] = status, body.decode("utf-8", "replace")
    sample["latency"] = round(time.monotonic() - begin, 6)
    return sample


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The password must not go anywhere else."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Follow nothing: the answer stands as it is."""


def _context(ca: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if ca is None else str(Path(ca).expanduser()))


def _login(variables: Mapping[str, Any]) -> dict[str, str]:
    user, password = (variables.get(f"muster_prometheus_{word}") for word in ("user", "password"))
    file = variables.get("muster_prometheus_password_file")
    if user is None:
        return {}
    if password is None and file is not None:
        password = Path(file).expanduser().read_text(encoding="utf-8").rstrip("\n")
    pair = f"{user}:{password or ''}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}
