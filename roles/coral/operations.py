"""Operations of the role coral."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyinfra import host
from pyinfra.api import StringCommand, operation

from muster.accelerators import within
from roles.accelerators.operations import look, pinned_packages, refusal
from roles.accelerators.seen import Seen, find
from roles.facts import FACT_SECONDS

_MODPROBE = "command -v modprobe >/dev/null && modprobe apex\n"


class Choice(NamedTuple):
    """What to do about the kernel modules of a TPU.

    :param install: whether to install the package.
    :param reason: why not, or why the device is refused.
    """

    install: bool
    refused: bool
    reason: str


def gasket(seen: Seen, package: str, limit: str | None) -> Choice:
    """Choose where the kernel modules come from.

    :param package: that has their sources.
    :param limit: first kernel on which it does not build; None if it builds on all.
    """
    if all(found.make != "pcie" for found in find("coral", seen)):
        return Choice(False, False, "a TPU on USB needs no kernel module")
    if "apex" in seen.modules:
        return Choice(False, False, "the kernel has the module apex")
    if limit is None or not within(seen.kernel.partition("-")[0], f">={limit}"):
        return Choice(True, False, "")
    return Choice(
        False,
        True,
        f"kernel {seen.kernel}: {package} does not build on {limit} and newer. Run an older kernel,"
        " or name a package that is built for this one in coral_gasket_package and set"
        " coral_gasket_kernel_limit to null",
    )


@operation()
def kernel_fits(
    package: str, limit: str | None = None, root: str | None = None
) -> Iterator[StringCommand]:
    """
    Fail if the device needs kernel modules that can't be built for its kernel.

    + package: with the modules
    + limit: first kernel on which it does not build, None if it builds on all
    + root: folder in which hardware is looked for, too
    """
    choice = gasket(look(root), package, limit)
    if choice.refused:
        yield refusal(choice.reason)
    else:
        host.noop(choice.reason or "the modules can be built")


@operation()
def kernel_modules(
    package: str, version: str | None = None, limit: str | None = None, root: str | None = None
) -> Iterator[StringCommand]:
    """
    Install and load the kernel modules of a TPU on PCIe where the kernel has none.

    + package: with the modules
    + version: of the package, None for any
    + limit: first kernel on which it does not build, None if it builds on all
    + root: folder in which hardware is looked for, too
    """
    choice = gasket(look(root), package, limit)
    if choice.install:
        yield from pinned_packages._inner(packages={package: version})
        yield StringCommand("sh", "-s", "load-apex", _stdin=_MODPROBE, _timeout=FACT_SECONDS)
    else:
        host.noop(choice.reason)
