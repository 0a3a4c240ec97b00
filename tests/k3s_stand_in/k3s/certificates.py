"""Certificate authorities and certificates, made with ``openssl``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .paths import write
from .processes import FatalError, output

RENEW_BEFORE = 120
"""Days before its end from which on a certificate is renewed when the program starts."""

_CA_DAYS = 3650


def leaf_days() -> int:
    """How long a new certificate lasts; K3s reads the same variable."""
    return int(os.environ.get("CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS", "365"))


def ensure_authority(certificate: Path, name: str) -> None:
    """Make a certificate authority, with its key beside it, unless it is there."""
    key = certificate.with_suffix(".key")
    if certificate.exists() and key.exists():
        return
    certificate.parent.mkdir(parents=True, exist_ok=True)
    _new_key(key)
    text = output(
        "openssl", "req", "-x509", "-new", "-key", str(key), "-sha256",
        "-days", str(_CA_DAYS), "-subj", f"/CN={name}@{int(time.time())}",
        "-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
    )  # fmt: skip
    write(certificate, text)


def _new_key(path: Path) -> None:
    if not path.exists():
        write(path, output("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"), 0o600)


def expires_soon(certificate: Path, days: float = RENEW_BEFORE) -> bool:
    """Whether a certificate is missing or is to be renewed."""
    if not certificate.exists():
        return True
    limit = min(days, leaf_days() / 2)
    command = ["openssl", "x509", "-noout", "-checkend", str(int(limit * 86400))]
    return subprocess.run([*command, "-in", str(certificate)], capture_output=True).returncode != 0


def issued_by(certificate: Path, authority: Path) -> bool:
    """Whether an authority's key signed a certificate."""
    command = ["openssl", "verify", "-partial_chain", "-no_check_time"]
    command += ["-CAfile", str(authority), str(certificate)]
    return subprocess.run(command, capture_output=True).returncode == 0


def alternative_names(names: Sequence[str]) -> str:
    """The value of ``subjectAltName`` for host names and addresses."""
    parts = []
    for name in dict.fromkeys(names):
        is_address = name.replace(".", "").isdigit() or ":" in name
        parts.append(f"{'IP' if is_address else 'DNS'}:{name}")
    return ",".join(parts)


def sign(request: str, authority: Path, subject: str, usage: str, names: Sequence[str] = ()) -> str:
    """A certificate for the key of a request, followed by the authority's own.

    :param request: PEM; its own subject is not looked at.
    :param usage: ``clientAuth``, ``serverAuth`` or both.
    """
    lines = ["keyUsage=critical,digitalSignature,keyEncipherment", f"extendedKeyUsage={usage}"]
    if names:
        lines.append(f"subjectAltName={alternative_names(names)}")
    with tempfile.TemporaryDirectory() as folder:
        extensions = Path(folder) / "extensions"
        extensions.write_text("\n".join(lines) + "\n", encoding="ascii")
        text = output(
            "openssl", "x509", "-req", "-CA", str(authority),
            "-CAkey", str(authority.with_suffix(".key")), "-set_serial", f"0x{os.urandom(8).hex()}",
            "-days", str(leaf_days()), "-sha256", "-subj", subject,
            "-extfile", str(extensions), stdin=request,
        )  # fmt: skip
    return text + authority.read_text(encoding="ascii")


def request(key: Path) -> str:
    """A signing request for a key, which is made when it is missing."""
    _new_key(key)
    return output("openssl", "req", "-new", "-key", str(key), "-subj", "/CN=node")


def ensure(
    certificate: Path,
    authority: Path,
    subject: str,
    usage: str,
    names: Sequence[str] = (),
) -> None:
    """Make or renew a certificate of this node's own authority."""
    if (
        not expires_soon(certificate)
        and certificate.with_suffix(".key").exists()
        and issued_by(certificate, authority)
        and has_names(certificate, names)
    ):
        return
    text = sign(request(certificate.with_suffix(".key")), authority, subject, usage, names)
    write(certificate, text)


def has_names(certificate: Path, names: Sequence[str]) -> bool:
    """Whether a certificate is for all these host names and addresses."""
    if not names:
        return True
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(certificate)]
    done = subprocess.run(command, capture_output=True, text=True)
    listed = {part.strip().partition(":")[2] for part in done.stdout.replace("\n", ",").split(",")}
    return set(names) <= listed


def authority_hash(pem: str) -> str:
    """What a secure token says about the cluster's certificate authority."""
    return hashlib.sha256(pem.encode()).hexdigest()


def pem_parts(text: str) -> list[str]:
    """The certificates of one file.

    :raises FatalError: when there is none.
    """
    end = "-----END CERTIFICATE-----"
    parts = [part[part.index("-----BEGIN") :] + end + "\n" for part in text.split(end)[:-1]]
    if not parts:
        raise FatalError("no certificate found")
    return parts
