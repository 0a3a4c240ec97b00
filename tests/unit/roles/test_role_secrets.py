"""Secrets and PEM files of roles: what is accepted, and what errors tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from roles.secrets import (
    CertificateFile,
    KeyFile,
    SecretFile,
    SecretText,
    chosen_secret,
    read_pem,
    read_secret_file,
)

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----"


def complaint(kind: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(value)
    return str(raised.value.errors()[0]["ctx"]["error"])


def test_a_secret_is_one_line_of_text() -> None:
    for value in (None, "word", "with spaces & 'quotes'"):
        assert TypeAdapter(SecretText).validate_python(value) == value
    for value in ("", 5, ["geheim"], "geheim\nx", "geheim\0", "geheim" * 1000):
        assert "geheim" not in complaint(SecretText, value)


def test_a_secret_in_a_file_is_its_only_line(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("geheim\n")
    assert TypeAdapter(SecretFile).validate_python(str(file)) == str(file)
    assert read_secret_file(str(file)) == "geheim"
    assert chosen_secret(None, str(file)) == "geheim"
    assert chosen_secret("word", None) == "word"
    assert chosen_secret(None, None) is None
    for content in ("", "geheim\ngeheim\n"):
        file.write_text(content)
        text = complaint(SecretFile, str(file))
        assert str(file) in text
        assert "geheim" not in text
    assert "No such file" in complaint(SecretFile, "/nowhere")


def test_pem_files_hold_what_they_are_for(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text(CERTIFICATE)
    assert TypeAdapter(CertificateFile).validate_python(str(file)) == str(file)
    assert read_pem(str(file)) == CERTIFICATE + "\n"
    assert "private key" in complaint(KeyFile, str(file))
    for word in ("", "RSA ", "EC "):
        file.write_text(f"-----BEGIN {word}PRIVATE KEY-----\nMA==\n")
        assert TypeAdapter(KeyFile).validate_python(str(file)) == str(file)
    assert "certificate" in complaint(CertificateFile, str(file))
    assert "No such file" in complaint(CertificateFile, "/nowhere")
