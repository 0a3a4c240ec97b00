"""Host certificates, made by `ssh-keygen` and by this library."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from muster.enrolment.authority import certificate_problem, read_authority
from muster.enrolment.hostkeys import HostKey
from muster.enrolment.session import read_certificates
from muster.errors import InputError

CA, STRANGER, DEVICE, OTHER = (Ed25519PrivateKey.generate() for _ in range(4))
NOW = 1_800_000_000


def line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def host_key(key: Ed25519PrivateKey) -> HostKey:
    import base64

    kind, blob = line(key).split()
    return HostKey(kind, base64.b64decode(blob))


def certificate(
    names: tuple[bytes, ...] = (b"cam-1",),
    kind: SSHCertificateType = SSHCertificateType.HOST,
    signer: Ed25519PrivateKey = CA,
    until: int = NOW + 1000,
) -> str:
    builder = (
        SSHCertificateBuilder()
        .public_key(DEVICE.public_key())
        .serial(1)
        .type(kind)
        .key_id(b"id")
        .valid_after(NOW - 1000)
        .valid_before(until)
    )
    builder = builder.valid_principals(list(names)) if names else builder.valid_for_all_principals()
    return builder.sign(signer).public_bytes().decode()


def problem(text: str, key: Ed25519PrivateKey = DEVICE, now: float = NOW) -> str:
    return certificate_problem(text, host_key(key), ("10.0.0.1", "cam-1"), {line(CA)}, now)


def test_a_good_certificate_vouches() -> None:
    assert problem(certificate()) == ""
    assert problem(certificate(names=())) == ""
    assert problem(certificate(names=(b"x", b"10.0.0.1"))) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (certificate(names=(b"cam-2",)), "for cam-2"),
        (certificate(kind=SSHCertificateType.USER), "of a user"),
        (certificate(signer=STRANGER), "another CA"),
        (line(DEVICE), "without a certificate"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "can't be read"),
        ("", "can't be read"),
    ],
    ids=["other host", "user", "other authority", "plain key", "damaged", "empty"],
)
def test_others_do_not(text: str, expected: str) -> None:
    assert expected in problem(text)


def test_time_and_key_must_fit() -> None:
    assert "not valid at this time" in problem(certificate(until=NOW))
    assert "not valid at this time" in problem(certificate(), now=NOW - 2000)
    assert "another key" in problem(certificate(), key=OTHER)


def test_a_damaged_signature_is_noticed() -> None:
    text = certificate()
    changed = text[:-12] + ("A" if text[-12] != "A" else "B") + text[-11:]
    assert problem(changed) != ""


def test_reading_the_keys_of_a_host_ca(tmp_path: Path) -> None:
    path = tmp_path / "ca.pub"
    path.write_text(f"# ours\n{line(CA)} ca@site\n@cert-authority *.example {line(STRANGER)}\n")
    assert read_authority(path) == {line(CA), line(STRANGER)}
    for text, expected in (("", "it has none"), ("what\n", "line 1: expected the public key")):
        path.write_text(text)
        with pytest.raises(InputError, match=expected):
            read_authority(path)
    with pytest.raises(InputError, match="can't be read"):
        read_authority(tmp_path / "missing")


def test_what_ssh_keyscan_prints() -> None:
    text = certificate()
    assert read_certificates(f"# 10.0.0.1:22 SSH-2.0-x\n{text}\n") == [text]
    assert read_certificates(f"@cert-authority 10.0.0.1 {text}\n") == [text]
    assert read_certificates("") == []
