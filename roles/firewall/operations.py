"""Operations of the role firewall."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.firewall.facts import SUM, LoadedRules

UNIT = "muster-firewall.service"


@operation()
def loaded() -> Iterator[StringCommand]:
    """Load the rules again if somebody took them away or changed them."""
    if host.get_fact(LoadedRules, noted=SUM, _timeout=FACT_SECONDS):
        host.noop("the rules are loaded")
        return
    yield StringCommand("systemctl", "reload-or-restart", UNIT)
