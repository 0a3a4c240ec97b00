"""``k3s token``."""

from __future__ import annotations

import base64
import json
import re
import secrets
import string
import time
from typing import Any

from . import bootstrap, config, node, tokens
from .api import Api, ApiError
from .config import Settings
from .control_plane import API_PORT
from .etcd import Etcd
from .processes import FatalError, log
from .tokens import Token

_SECRETS = "/api/v1/namespaces/kube-system/secrets"
_ALPHABET = string.ascii_lowercase + string.digits
_UNITS = {"s": 1, "m": 60, "h": 3600}


def run(arguments: list[str]) -> int:
    """Run one command.

    :raises FatalError: when it fails.
    """
    if not arguments or arguments[0] not in _COMMANDS:
        raise FatalError(f"expected one of {', '.join(_COMMANDS)} after token")
    options, rest = _options(arguments[1:])
    settings = config.load("server", [])
    _COMMANDS[arguments[0]](settings, options, rest)
    return 0


def _options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    rest = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            rest.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            if not queue:
                raise FatalError(f"flag needs an argument: -{name}")
            value = queue.pop(0)
        options[{"t": "token", "o": "output"}.get(name, name)] = value
    return options, rest


def _api(settings: Settings) -> Api:
    tls = settings.layout.tls
    return Api(API_PORT, tls / "server-ca.crt", tls / "client-admin.crt")


def seconds_of(text: str) -> int:
    """A duration of Go such as ``24h0m0s``.

    :raises FatalError: when it is none.
    """
    if not re.fullmatch(r"(\d+[smh])+|0", text):
        raise FatalError(f'invalid value "{text}" for flag -ttl: parse error')
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", text))


def _new() -> str:
    parts = [secrets.choice(_ALPHABET) for _ in range(22)]
    return "".join(parts[:6]) + "." + "".join(parts[6:])


def _create(settings: Settings, options: dict[str, str], rest: list[str]) -> None:
    token = rest[0] if rest else _new()
    identifier, _, secret = token.partition(".")
    data = {
        "token-id": identifier,
        "token-secret": secret,
        "description": options.get("description", ""),
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": options.get("groups", "system:bootstrappers:k3s:default-node-token"),
    }
    ttl = seconds_of(options.get("ttl", "24h"))
    if ttl:
        end = time.gmtime(time.time() + ttl)
        data["expiration"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", end)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": f"bootstrap-token-{identifier}"},
        "stringData": data,
    }
    _api(settings).call("POST", _SECRETS, body)
    ca = (settings.layout.tls / "server-ca.crt").read_text(encoding="ascii")
    print(Token("", token).full(ca))


def _listed(settings: Settings) -> list[dict[str, str]]:
    kind = "fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"
    items: list[dict[str, Any]] = _api(settings).get(f"{_SECRETS}?{kind}")["items"]
    return [
        {key: base64.b64decode(value).decode() for key, value in item["data"].items()}
        for item in items
    ]


def _list(settings: Settings, options: dict[str, str], _rest: list[str]) -> None:
    found = _listed(settings)
    if options.get("output") == "json":
        print(json.dumps(found))
        return
    print(f"{'TOKEN':<28}{'EXPIRES':<24}DESCRIPTION")
    for each in found:
        end = each.get("expiration", "<never>")
        print(f"{each['token-id']:<28}{end:<24}{each.get('description') or '<none>'}")


def _delete(settings: Settings, _options: dict[str, str], rest: list[str]) -> None:
    for each in rest:
        identifier = each.rpartition("::")[2].partition(".")[0]
        try:
            _api(settings).call("DELETE", f"{_SECRETS}/bootstrap-token-{identifier}")
        except ApiError as error:
            raise FatalError(f"failed to delete bootstrap token {identifier}: {error}") from None
        print(f'bootstrap token "{identifier}" deleted')


def _generate(_settings: Settings, _options: dict[str, str], _rest: list[str]) -> None:
    print(_new())


def _rotate(settings: Settings, options: dict[str, str], _rest: list[str]) -> None:
    kept = tokens.parse((settings.layout.server / "token").read_text(), "server")
    old = options.get("token") or settings.text("token")
    given = tokens.parse(old, "server") if old else tokens.given(settings, "token", "server")
    if given is None or given.password != kept.password:
        raise FatalError("token rotate: the existing token is missing or wrong")
    fresh = tokens.parse(options.get("new-token") or secrets.token_hex(16), "server")
    etcd = Etcd(settings.layout, node.name(settings), node.address(settings), embedded=True)
    bootstrap.replace(etcd, settings.layout, kept.password, fresh.password)
    new = Token("server", fresh.password)
    own = tokens.given(settings, "agent-token", "node")
    tokens.write_files(settings.layout, new, own or Token("node", fresh.password))
    log("info", "Token rotated, restart k3s nodes with new token")
    print("Token rotated, restart k3s nodes with new token")


_COMMANDS = {
    "create": _create,
    "list": _list,
    "delete": _delete,
    "generate": _generate,
    "rotate": _rotate,
}
