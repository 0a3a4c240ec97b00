"""Operations of the role prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.prometheus.facts import FilesIn


@operation()
def only_files(folder: str, files: list[str], then: str = "") -> Iterator[StringCommand]:
    """
    Leave only these files in a folder.

    + folder: its path
    + files: paths of those that stay
    + then: shell command that makes it take effect

    **Example:**

    .. code:: python

        only_files(
            name="Rules that nobody wants any more",
            folder="/etc/prometheus/rules",
            files=["/etc/prometheus/rules/muster.yml"],
            then="systemctl reload prometheus.service",
        )
    """
    present = host.get_fact(FilesIn, folder=folder, _timeout=FACT_SECONDS)
    left = [path for path in present if path not in files]
    if not left:
        host.noop(f"only wanted files are in {folder}")
        return
    yield StringCommand("rm", "-f", "--", *[QuoteString(path) for path in left])
    if then:
        yield StringCommand("sh", "-s", "take-effect", _stdin=then + "\n")
