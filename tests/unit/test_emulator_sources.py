"""Which of a machine's package sources make the images of emulated devices."""

from __future__ import annotations

import pytest

from muster.emulator.sources import Distribution, distribution_sources, read_distribution
from muster.errors import MusterError

BOOKWORM = Distribution("debian", "bookworm", "12")
NOBLE = Distribution("ubuntu", "noble", "24.04")

DEB822 = """\
# where the snapshot came from
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
Enabled: no

Types: deb
URIs: https://vendor.example/apt
Suites: bookworm
Components: stable
"""


def test_only_the_distributions_own_stanzas_are_taken() -> None:
    lines, stanzas = distribution_sources({"debian.sources": DEB822}, BOOKWORM)
    assert lines == []
    (stanza,) = stanzas
    assert "types: deb\n" in stanza
    assert "suites: bookworm bookworm-updates\n" in stanza
    assert "components: main\n" in stanza
    assert "\n .\n mQ\n -----END" in stanza


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "deb http://m.example/debian bookworm main contrib # all",
            ["deb http://m.example/debian bookworm main"],
        ),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/s bookworm-security main",
            ["deb [arch=amd64 signed-by=/k.gpg] http://m.example/s bookworm-security main"],
        ),
        ("deb-src http://m.example/debian bookworm main", []),
        ("# deb http://m.example/debian bookworm main", []),
        ("deb http://m.example/debian trixie main", []),
        ("deb https://vendor.example/linux bookworm stable", []),
        ("deb https://vendor.example/apt tools-bookworm main", []),
    ],
)
def test_one_line_sources(line: str, expected: list[str]) -> None:
    assert distribution_sources({"sources.list": line + "\n"}, BOOKWORM) == (expected, [])


def test_ubuntu_takes_universe_as_well() -> None:
    text = "deb http://m.example/ubuntu noble main restricted\n"
    lines, _ = distribution_sources({"sources.list": text}, NOBLE)
    assert lines == ["deb http://m.example/ubuntu noble main universe"]


def test_the_docker_client_is_a_package_of_its_own_from_debian_13_on() -> None:
    assert not BOOKWORM.has_docker_cli
    assert not NOBLE.has_docker_cli
    assert Distribution("debian", "trixie", "13").has_docker_cli
    assert Distribution("debian", "forky", "").has_docker_cli


def test_the_distribution_is_read_from_os_release() -> None:
    text = (
        'PRETTY_NAME="Debian GNU/Linux 12"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n'
    )
    assert read_distribution(text) == BOOKWORM


def test_another_system_is_refused_by_name() -> None:
    with pytest.raises(MusterError, match="not Arch Linux"):
        read_distribution('PRETTY_NAME="Arch Linux"\nID=arch\n')
