"""What the role prometheus asks a device."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class FilesIn(FactBase[list[str]]):
    """Paths of the files in a folder, without hidden ones."""

    def command(self, folder: str) -> str:
        return f"find {quote(folder)} -maxdepth 1 -type f ! -name '.*' 2>/dev/null; true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return sorted(line for line in output if line)
