"""Operations of the role nvidia."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from muster.accelerators import within
from roles.accelerators.operations import look, refusal
from roles.accelerators.seen import Found, find

TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
"""Packages of the container toolkit, which must be of one version."""


def driver_problem(found: Found, at_least: str | None, *, installs: bool) -> str | None:
    """Say why the driver of a GPU will not do; None if it will.

    :param installs: whether the role brings a driver where there is none.
    """
    if not found.driver:
        if installs:
            return None
        return (
            f"{found.model} has no driver: name its packages in nvidia_driver_packages, or use an"
            " image of the vendor"
        )
    if at_least is None or within(found.driver, f">={at_least}"):
        return None
    return f"driver {found.driver}, expected {at_least} or newer (nvidia_min_driver_version)"


@operation()
def driver(
    at_least: str | None = None, installs: bool = False, root: str | None = None
) -> Iterator[StringCommand]:
    """
    Fail if the GPU has no driver, or one that is too old.

    + at_least: lowest version
    + installs: whether packages of a driver are to be installed
    + root: folder in which hardware is looked for, too
    """
    seen = look(root)
    problems = (driver_problem(each, at_least, installs=installs) for each in find("nvidia", seen))
    reason = next((problem for problem in problems if problem), None)
    if reason:
        yield refusal(reason)
    else:
        host.noop("the driver will do")
