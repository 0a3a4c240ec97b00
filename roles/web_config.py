"""How Prometheus and its exporters protect their HTTP ports: one file of the same form for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

from muster.fields import describe

UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{1,100}$")]


def _bcrypt(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    if text[:4] not in ("$2a$", "$2b$", "$2y$") or len(text) != 60:
        # It may be the password itself: it is not shown.
        shown = "another text" if isinstance(value, str) else describe(value)
        raise ValueError(f"expected a bcrypt hash (htpasswd -nB NAME), got {shown}")
    return text


BcryptHash = Annotated[str, BeforeValidator(_bcrypt)]
"""Hash of a password, as ``htpasswd -nB`` makes it."""


def web_config(
    certificate: str | None,
    key: str | None,
    client_ca: str | None,
    users: Mapping[str, str],
) -> str:
    """Render the file for ``--web.config.file``.

    :param certificate: path on the device; without it HTTP is served.
    :param key: path on the device of its key.
    :param client_ca: path on the device of the CA that signs clients; without it none is asked.
    :param users: bcrypt hash by name; without any nobody is asked for a password.
    """
    document: dict[str, Any] = {}
    if certificate is not None:
        document["tls_server_config"] = {"cert_file": certificate, "key_file": key}
        if client_ca is not None:
            document["tls_server_config"] |= {
                "client_ca_file": client_ca,
                "client_auth_type": "RequireAndVerifyClientCert",
            }
    if users:
        document["basic_auth_users"] = dict(sorted(users.items()))
    return json.dumps(document, indent=2) + "\n"
