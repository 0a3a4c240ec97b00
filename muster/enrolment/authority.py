"""Host certificates: whether a host CA vouches for the key of a device."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from muster.enrolment.hostkeys import HostKey
from muster.errors import InputError


def read_authority(path: Path) -> frozenset[str]:
    """Read the public keys of a host CA: one on a line, as ``ssh-keygen`` writes them.

    Lines of a known hosts file with ``@cert-authority`` are understood as well.

    :returns: kind and key of each, without comments.
    :raises InputError: the file can't be read or has something else in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"{path}: can't be read, {reason}") from None
    found = set()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "@cert-authority":
            words = words[2:]
        try:
            load_ssh_public_identity(" ".join(words[:2]).encode())
        except (ValueError, UnsupportedAlgorithm):
            raise InputError(
                f"{path}: line {number}: expected the public key of a host CA, such as"
                " ssh-ed25519 AAAA..."
            ) from None
        found.add(" ".join(words[:2]))
    if not found:
        raise InputError(f"{path}: expected the public key of a host CA, it has none")
    return frozenset(found)


def certificate_problem(
    certificate: str, key: HostKey, hosts: Collection[str], authority: Collection[str], now: float
) -> str:
    """Why a host certificate does not vouch for a key, "" if it does.

    :param certificate: one line as ``ssh-keyscan -c`` prints it, without the host.
    :param hosts: names and addresses, any of which the certificate may be for.
    :param authority: what :func:`read_authority` returned.
    :param now: seconds since 1970 UTC.
    """
    try:
        found = load_ssh_public_identity(certificate.encode())
        if not isinstance(found, SSHCertificate):
            return "it shows a key without a certificate"
        signer = _line(found.signature_key())
        found.verify_cert_signature()
    except InvalidSignature:
        return "the signature of its certificate is wrong"
    except (ValueError, UnsupportedAlgorithm):
        return "its certificate can't be read"
    if signer not in authority:
        return "its certificate is signed by another CA"
    if found.type is not SSHCertificateType.HOST:
        return "its certificate is one of a user"
    if _line(found.public_key()) != key.text:
        return "its certificate is for another key"
    if not found.valid_after <= now < found.valid_before:
        return "its certificate is not valid at this time"
    if found.critical_options:
        return "its certificate has conditions that are not known"
    names = [name.decode(errors="replace") for name in found.valid_principals]
    if names and not set(names) & set(hosts):
        return f"its certificate is for {', '.join(names)}"
    return ""


def _line(key: object) -> str:
    encoded: bytes = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)  # type: ignore[attr-defined]
    return encoded.decode()
