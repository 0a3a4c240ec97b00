"""Passwords and keys that roles take from the inventory: never in an error, never in an argument.

A secret is a variable, which a vault can hold, or a file on the controller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

_LONGEST = 4096


def _secret(value: Any) -> str | None:
    # What was got is never part of these messages.
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ValueError("expected text, got something else")
    if not value.isprintable() or len(value) > _LONGEST:
        raise ValueError(f"expected one line of at most {_LONGEST} characters, got another text")
    return value


SecretText = Annotated[str | None, BeforeValidator(_secret)]
"""A secret as the inventory has it, mostly in a vault."""


def _pem(word: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"expected a PEM file with a {word}, got something else")
    try:
        text = Path(value).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"expected a PEM file with a {word}, got {value} ({reason})") from None
    if "-----BEGIN " not in text or f"{word.upper()}-----" not in text:
        raise ValueError(f"expected a PEM file with a {word}, got {value} without one")
    return value


def _certificate(value: Any) -> str | None:
    return _pem("certificate", value)


def _key(value: Any) -> str | None:
    return _pem("private key", value)


CertificateFile = Annotated[str | None, BeforeValidator(_certificate)]
"""PEM file with certificates, on the controller."""

KeyFile = Annotated[str | None, BeforeValidator(_key)]
"""PEM file with a private key, on the controller."""


def read_pem(file: str) -> str:
    """Give the text of a PEM file on the controller, as a file on a device has it."""
    return Path(file).expanduser().read_text(encoding="ascii").rstrip("\n") + "\n"


def _secret_file(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("expected the path of a file, got something else")
    read_secret_file(value)
    return value


def read_secret_file(file: str) -> str:
    """Give the secret in a file on the controller: its only line.

    :raises ValueError: the file can't be read or holds something else; without its content.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"expected a file with a secret, got {file} ({reason})") from None
    if not text or not text.isprintable():
        raise ValueError(f"expected a file with one line, got {file} with other content")
    return text


SecretFile = Annotated[str | None, BeforeValidator(_secret_file)]
"""File on the controller whose only line is a secret."""


def chosen_secret(value: str | None, file: str | None) -> str | None:
    """Give the secret that a variable or a file holds, None if neither was given."""
    return read_secret_file(file) if value is None and file is not None else value
