"""Writes the sources of the machine's own mirror, with source packages, for an apt of its own.

usage: PYTHONPATH=tests python -m k3s_stand_in.apt_sources FOLDER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from muster.emulator.sources import distribution_sources, read_apt_files, read_distribution


def write(folder: Path) -> None:
    """Write ``mirror.list`` and ``mirror.sources``; the machine's own settings stay as they are."""
    distribution = read_distribution(Path("/etc/os-release").read_text(encoding="utf-8"))
    lines, stanzas = distribution_sources(read_apt_files(), distribution)
    of_sources = [re.sub(r"^deb\b", "deb-src", line) for line in lines]
    (folder / "mirror.list").write_text("\n".join(lines + of_sources) + "\n", encoding="utf-8")
    with_sources = [
        re.sub("^types: deb$", "types: deb deb-src", stanza, flags=re.M) for stanza in stanzas
    ]
    (folder / "mirror.sources").write_text("\n".join(with_sources), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
