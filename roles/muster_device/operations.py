"""Operations of the role muster_device."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS, InstalledPackages
from roles.operations import packages


@operation()
def proxy_package() -> Iterator[StringCommand]:
    """
    Install HAProxy without its own service: each model has a unit of its own.

    A device that has HAProxy already may need that service, which then stays as it is.

    **Example:**

    .. code:: python

        proxy_package(name="haproxy")
    """
    if host.get_fact(InstalledPackages, packages=["haproxy"], _timeout=FACT_SECONDS):
        host.noop("haproxy is installed")
        return
    yield from packages._inner(names=["haproxy"])
    yield StringCommand("systemctl", "disable", "--quiet", "--now", "haproxy.service")
