"""The package sources of this machine's own distribution, for the images of emulated devices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.errors import MusterError

_ONE_LINE = re.compile(r"deb\s+(?P<options>\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)")


@dataclass(frozen=True)
class Distribution:
    """What this machine runs, and so what emulated devices run.

    :param identifier: ``ID`` of os-release.
    :param codename: name of the suite, such as ``bookworm``.
    :param version: ``VERSION_ID``, empty for a release under development.
    """

    identifier: str
    codename: str
    version: str

    @property
    def components(self) -> tuple[str, ...]:
        """Components that the packages of a device come from."""
        return ("main", "universe") if self.identifier == "ubuntu" else ("main",)

    @property
    def has_docker_cli(self) -> bool:
        """Whether ``docker.io`` is the daemon alone and the client a package of its own."""
        return self.identifier == "debian" and (not self.version or float(self.version) >= 13)


def read_distribution(text: str) -> Distribution:
    """Parse os-release.

    :raises MusterError: when this is neither Debian nor Ubuntu.
    """
    fields = {
        key: value.strip("\"'")
        for key, _, value in (line.partition("=") for line in text.splitlines())
    }
    identifier, codename = fields.get("ID", ""), fields.get("VERSION_CODENAME", "")
    if identifier not in ("debian", "ubuntu") or not codename:
        name = fields.get("PRETTY_NAME", "this system")
        raise MusterError(
            f"images of emulated devices are made from the packages of Debian or Ubuntu, not {name}"
        )
    return Distribution(identifier, codename, fields.get("VERSION_ID", ""))


def distribution_sources(
    files: Mapping[str, str], distribution: Distribution
) -> tuple[list[str], list[str]]:
    """Pick the distribution's own sources out of apt's configuration.

    Sources of anybody else are left out: they would bring other packages of the same names.

    :param files: text of each ``*.list`` and ``*.sources`` file by its name.
    :returns: lines for a ``.list`` file, and stanzas for a ``.sources`` file.
    """
    lines: list[str] = []
    stanzas: list[str] = []
    for name, text in files.items():
        if name.endswith(".sources"):
            stanzas += _stanzas(text, distribution)
        else:
            lines += _lines(text, distribution)
    return lines, stanzas


def _suites(suites: Iterable[str], distribution: Distribution) -> list[str]:
    # backports and proposed packages are opt-in on a real device, too
    wanted = {distribution.codename + part for part in ("", "-updates", "-security")}
    return [suite for suite in suites if suite.rstrip("/") in wanted]


def _lines(text: str, distribution: Distribution) -> list[str]:
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        suite, *components = match["rest"].split()
        if _suites([suite], distribution) and "main" in components:
            options = (match["options"] or "").strip()
            parts = ["deb", options, match["uri"], suite, *distribution.components]
            found.append(" ".join(part for part in parts if part))
    return found


def _stanzas(text: str, distribution: Distribution) -> list[str]:
    found = []
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented.strip()):
        fields = _fields(stanza)
        suites = _suites(fields.get("suites", "").split(), distribution)
        if (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
            and fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
            and suites
        ):
            fields |= {
                "types": "deb",
                "suites": " ".join(suites),
                "components": " ".join(distribution.components),
            }
            found.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return found


def _fields(stanza: str) -> dict[str, str]:
    """Fields of one deb822 stanza; lines that continue a value stay as they are."""
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line[:1].isspace() and key:
            fields[key] += "\n" + line
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def read_apt_files(root: Path = Path("/etc/apt")) -> dict[str, str]:
    """Text of every file of apt's sources by its name, in apt's order."""
    paths = [root / "sources.list"]
    for pattern in ("*.list", "*.sources"):
        paths += sorted((root / "sources.list.d").glob(pattern))
    return {
        str(path): path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path.is_file()
    }
