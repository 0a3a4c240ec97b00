"""Join tokens: ``K10<hash of the CA>::<user>:<password>``, or the password alone."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from .certificates import authority_hash
from .config import Settings
from .paths import Layout, write
from .processes import FatalError

_PREFIX = "K10"


@dataclass(frozen=True)
class Token:
    """A parsed token; ``ca_hash`` is empty in the short form."""

    user: str
    password: str
    ca_hash: str = ""

    def full(self, ca_pem: str) -> str:
        """The secure form."""
        credential = f"{self.user}:{self.password}" if self.user else self.password
        return f"{_PREFIX}{authority_hash(ca_pem)}::{credential}"


def parse(text: str, user: str) -> Token:
    """Parse a token.

    :param user: whom the short form stands for.
    :raises FatalError: when the secure form is damaged.
    """
    text = text.strip()
    ca_hash = ""
    if text.startswith(_PREFIX) and "::" in text:
        ca_hash, _, text = text[len(_PREFIX) :].partition("::")
        if len(ca_hash) != 64:
            raise FatalError("invalid token CA hash length")
    name, colon, password = text.partition(":")
    if colon:
        return Token(name, password, ca_hash)
    if "." in text and len(text) == 23:
        return Token("", text, ca_hash)  # of "k3s token create"
    return Token(user, text, ca_hash)


def given(settings: Settings, key: str, user: str) -> Token | None:
    """The token that a command was told, as a value or as a file.

    :raises FatalError: when the file can't be read.
    """
    text = settings.text(key)
    file = settings.text(f"{key}-file")
    if not text and file:
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise FatalError(f"failed to read {key}-file: {error}") from None
        if not text:
            raise FatalError(f"{key}-file {file} is empty")
    return parse(text, user) if text else None


def of_cluster(settings: Settings) -> Token:
    """The server token: given, kept from an earlier start, or a new one."""
    kept_file = settings.layout.server / "token"
    kept = parse(kept_file.read_text(), "server") if kept_file.exists() else None
    wanted = given(settings, "token", "server")
    return wanted or kept or Token("server", secrets.token_hex(16))


def agent_token(settings: Settings, server: Token) -> Token:
    """The token of agents: one of their own where it was given, else the servers'."""
    own = given(settings, "agent-token", "node")
    return Token("node", own.password if own else server.password)


def write_files(layout: Layout, server: Token, agent: Token) -> None:
    """Write the files that people read tokens from."""
    ca = (layout.tls / "server-ca.crt").read_text(encoding="ascii")
    write(layout.server / "token", Token("server", server.password).full(ca) + "\n", 0o600)
    for name in ("node-token", "agent-token"):
        path = layout.server / name
        own = name == "agent-token" and agent.password != server.password
        if own:
            path.unlink(missing_ok=True)
            write(path, agent.full(ca) + "\n", 0o600)
        elif not path.is_symlink():
            path.unlink(missing_ok=True)
            path.symlink_to("token")
