"""Operations of the role hailo."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.accelerators.operations import look, refusal
from roles.accelerators.seen import Found, Seen, find
from roles.facts import FACT_SECONDS, InstalledPackages
from roles.hailo.variables import GENERATIONS


def collection(found: Sequence[Found], version: str | None) -> dict[str, str | None]:
    """The Raspberry Pi's packages for a device; none for hardware that they do not know.

    :param version: of the packages, None for any.
    """
    models = {each.model for each in found}
    return {name: version for name, fits in GENERATIONS.items() if models & set(fits)}


def package_problem(seen: Seen, wanted: Collection[str], installed: Collection[str]) -> str | None:
    """Say why packages are the wrong ones for a device; None if they are not.

    :param wanted: names of packages that are to be installed.
    :param installed: those that exclude others and are installed.
    """
    for found in find("hailo", seen):
        for name in sorted(GENERATIONS.keys() & set(wanted)):
            if found.model not in GENERATIONS[name]:
                right = [key for key, models in GENERATIONS.items() if found.model in models]
                return (
                    f"this device has a {found.model}: expected {right[0]} in hailo_packages, got"
                    f" {name}"
                )
    for name in sorted(set(installed) - set(wanted)):
        others = sorted((GENERATIONS.keys() - {name}) & set(wanted))
        if others:
            return f"{name} is installed and excludes {others[0]}: remove it first"
    return None


@operation()
def packages_fit(packages: list[str], root: str | None = None) -> Iterator[StringCommand]:
    """
    Fail if packages are for another generation of the hardware, or exclude what is installed.

    + packages: names of the packages that are to be installed
    + root: folder in which hardware is looked for, too
    """
    seen = look(root)
    rivals = sorted(GENERATIONS)
    installed = host.get_fact(InstalledPackages, packages=rivals, _timeout=FACT_SECONDS)
    reason = package_problem(seen, packages, installed)
    if reason:
        yield refusal(reason)
    else:
        host.noop("the packages are for this hardware")
