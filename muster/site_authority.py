"""The certificate authority of a site: a folder on the controller.

``ca.pem`` and ``ca.key`` are made when they are first needed, and so is a certificate with its key
for every server (``servers/``) and every client (``clients/``). Keys are for their owner alone, and
the authority's own never leaves the folder.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.ansible_inventory import write_private
from muster.errors import InputError

AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
LIFETIME = datetime.timedelta(days=731)
"""How long a certificate of a server or a client is valid."""
RENEWED_BEFORE = LIFETIME / 3
"""A certificate that is valid for less than this gets a successor."""
_SKEW = datetime.timedelta(days=1)
"""A device whose clock is a little slow must not find a new certificate to be of the future."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM files on the controller."""

    certificate: Path
    key: Path


class SiteAuthority:
    """The authority in one folder.

    :param folder: made where it is missing, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()
        self.certificate = self.folder / "ca.pem"
        self._key = self.folder / "ca.key"

    def ensure(self) -> Path:
        """Make the authority where it is missing.

        :returns: its certificate.
        :raises InputError: the folder can't be written, or holds a half of it.
        """
        with self._locked():
            self._authority()
        return self.certificate

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """The certificate of a server, valid for ``hosts`` (names and addresses).

        It is made anew when it soon expires, or was made for other hosts or by another authority.

        :raises InputError: the folder can't be used.
        """
        return self._pair("servers", name, ExtendedKeyUsageOID.SERVER_AUTH, tuple(hosts))

    def client(self, name: str) -> Pair:
        """The certificate of a client; see :meth:`server`."""
        return self._pair("clients", name, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _pair(
        self, kind: str, name: str, usage: x509.ObjectIdentifier, hosts: tuple[str, ...]
    ) -> Pair:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(f"{self.folder}: expected a name of a device, got {name!r}")
        folder = self.folder / kind
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        with self._locked():
            ca, ca_key = self._authority()
            if not _is_good(pair, ca, hosts):
                key = ec.generate_private_key(ec.SECP256R1())
                certificate = _certificate(name, key, ca, ca_key, usage, hosts)
                # A certificate without its key is made anew.
                pair.certificate.unlink(missing_ok=True)
                write_private(pair.key, _key_text(key))
                write_private(pair.certificate, _text(certificate))
        return pair

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if self.certificate.exists() != self._key.exists():
            have, lack = ("ca.pem", "ca.key") if self.certificate.exists() else ("ca.key", "ca.pem")
            raise InputError(
                f"{self.folder}: expected ca.pem and ca.key, or none of them; {have} is there"
                f" without {lack}"
            )
        if not self.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self.folder / ".gitignore", "*.key\n.lock\n")
            write_private(self._key, _key_text(key))
            write_private(self.certificate, _text(_own_certificate(self.folder.name, key)))
        try:
            ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            loaded = serialization.load_pem_private_key(self._key.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.folder}: the authority can't be read: {error}") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise InputError(f"{self._key}: expected a key on an elliptic curve")
        return ca, loaded

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(
                f"{self.folder}: expected a folder to write certificates to; {error.strerror}"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def days_left(certificate: Path) -> float:
    """Days that a certificate is still valid, below 0 when it is not any more.

    :raises ValueError: the file holds no certificate.
    """
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return (_end(found) - _now()).total_seconds() / 86400


def belong_together(certificate: Path, key: Path) -> bool:
    """Whether a key is that of a certificate.

    :raises ValueError: one of the files holds something else, or a key with a password.
    """
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except TypeError:
        raise ValueError("expected a key without a password") from None
    return _public(found.public_key()) == _public(private.public_key())


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _is_good(pair: Pair, ca: x509.Certificate, hosts: tuple[str, ...]) -> bool:
    try:
        found = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        if not belong_together(pair.certificate, pair.key):
            return False
        found.verify_directly_issued_by(ca)
    except Exception:  # missing, damaged, or of another authority
        return False
    return _hosts(found) == set(hosts) and _end(found) - _now() > RENEWED_BEFORE


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    usage: x509.ObjectIdentifier,
    hosts: tuple[str, ...],
) -> x509.Certificate:
    builder = (
        _builder(_name(name), ca.subject, key, min(_now() + LIFETIME, _end(ca)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _own_certificate(title: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name(f"Muster {title}"[:64])
    return (
        _builder(name, name, key, _now() + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _SKEW)
        .not_valid_after(end)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _end(certificate: x509.Certificate) -> datetime.datetime:
    return certificate.not_valid_after_utc


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
