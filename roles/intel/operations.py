"""Operations of the role intel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.accelerators.operations import look, pinned_packages
from roles.accelerators.seen import find


def smoke_test(makes: Collection[str], tests: Mapping[str, str]) -> str:
    """One command of the tests for what a device has.

    :param makes: ``gpu``, ``npu`` or both.
    :param tests: commands by make.
    """
    return " && ".join(f"( {tests[make]} )" for make in sorted(makes)) or "true"


@operation()
def packages_of_makes(
    packages: dict[str, dict[str, str | None]], root: str | None = None
) -> Iterator[StringCommand]:
    """
    Install the packages for what the device has, and hold them.

    + packages: names to versions, by make: ``gpu``, ``npu``
    + root: folder in which hardware is looked for, too
    """
    makes = [each.make for each in find("intel", look(root))]
    wanted = {name: version for make in makes for name, version in packages[make].items()}
    if not wanted:
        host.noop("the device has neither GPU nor NPU")
        return
    yield from pinned_packages._inner(packages=wanted)
