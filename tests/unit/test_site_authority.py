"""The certificate authority of a site."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from muster import site_authority
from muster.errors import InputError
from muster.site_authority import SiteAuthority, belong_together, days_left


@pytest.fixture
def authority(tmp_path: Path) -> SiteAuthority:
    return SiteAuthority(tmp_path / "pki")


def verified(authority: SiteAuthority, certificate: Path, purpose: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
    command += ["-CAfile", str(authority.certificate), str(certificate)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_openssl_accepts_each_for_its_purpose_alone(authority: SiteAuthority) -> None:
    server = authority.server("reg", ["reg", "10.0.0.1"])
    client = authority.client("cam")
    assert verified(authority, server.certificate, "sslserver")
    assert verified(authority, client.certificate, "sslclient")
    assert not verified(authority, client.certificate, "sslserver")
    assert not verified(authority, server.certificate, "sslclient")
    assert belong_together(client.certificate, client.key)
    assert not belong_together(client.certificate, server.key)


def test_names_and_addresses_are_in_the_certificate(authority: SiteAuthority) -> None:
    pair = authority.server("reg", ["reg", "10.0.0.1"])
    found = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["reg"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


def test_keys_are_for_their_owner_alone_and_not_for_git(authority: SiteAuthority) -> None:
    authority.client("cam")
    for key in authority.folder.rglob("*.key"):
        assert key.stat().st_mode & 0o077 == 0
    assert authority.folder.stat().st_mode & 0o077 == 0
    assert "*.key" in (authority.folder / ".gitignore").read_text().splitlines()


def test_a_second_time_nothing_is_made(authority: SiteAuthority) -> None:
    first = {p: p.read_bytes() for p in _files(authority, "cam")}
    assert {p: p.read_bytes() for p in _files(authority, "cam")} == first


def _files(authority: SiteAuthority, name: str) -> list[Path]:
    client, server = authority.client(name), authority.server(name, ["x"])
    return [authority.ensure(), client.certificate, client.key, server.certificate, server.key]


def test_another_name_or_another_authority_needs_another_certificate(
    authority: SiteAuthority,
) -> None:
    first = authority.server("reg", ["reg"]).certificate.read_bytes()
    second = authority.server("reg", ["reg", "registry"]).certificate.read_bytes()
    assert first != second
    for name in ("ca.pem", "ca.key"):
        (authority.folder / name).unlink()
    pair = authority.server("reg", ["reg", "registry"])
    assert pair.certificate.read_bytes() != second
    assert verified(authority, pair.certificate, "sslserver")


def test_a_certificate_is_renewed_in_time(
    authority: SiteAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.client("cam")
    first = pair.certificate.read_bytes()
    days = site_authority.LIFETIME.days
    assert days - 1 < days_left(pair.certificate) <= days
    _later(monkeypatch, site_authority.LIFETIME * 0.6)
    assert authority.client("cam").certificate.read_bytes() == first
    _later(monkeypatch, site_authority.LIFETIME * 0.7)
    assert authority.client("cam").certificate.read_bytes() != first
    assert belong_together(pair.certificate, pair.key)


def _later(monkeypatch: pytest.MonkeyPatch, by: datetime.timedelta) -> None:
    real = datetime.datetime.now(datetime.timezone.utc)
    monkeypatch.setattr(site_authority, "_now", lambda: real + by)


def test_a_certificate_that_is_damaged_or_lost_its_key_is_made_anew(
    authority: SiteAuthority,
) -> None:
    pair = authority.client("cam")
    pair.key.unlink()
    authority.client("cam")
    assert belong_together(pair.certificate, pair.key)
    pair.certificate.write_text("damaged")
    authority.client("cam")
    assert belong_together(pair.certificate, pair.key)


def test_half_an_authority_is_an_error(authority: SiteAuthority) -> None:
    authority.ensure()
    (authority.folder / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.pem is there without ca\.key"):
        authority.client("cam")


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder to write certificates to"):
        SiteAuthority(tmp_path / "file" / "pki").ensure()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden"])
def test_names_stay_in_the_folder(authority: SiteAuthority, name: str) -> None:
    with pytest.raises(InputError, match="expected a name of a device"):
        authority.client(name)
