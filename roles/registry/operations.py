"""Operations of the role registry."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.registry.facts import RegistryState

UNIT = "muster-registry.service"
_SECONDS = 30


def serves_within(seconds: int) -> str:
    """Shell command that waits until the registry serves, or until systemd has given it up."""
    wait = (
        "until /usr/local/sbin/muster-registry serving >/dev/null 2>&1; do"
        f" ! systemctl is-failed --quiet {UNIT} || exit 1; sleep 0.2; done"
    )
    explain = (
        "/usr/local/sbin/muster-registry serving;"
        f" journalctl --unit {UNIT} --lines 3 --no-pager --output cat"
    )
    return f"timeout {seconds} sh -c '{wait}' || {{ ( {explain} ) >&2; exit 1; }}"


def restart() -> str:
    """Shell command that restarts the registry where it is installed, and waits for it."""
    return (
        f"systemctl daemon-reload; systemctl reset-failed {UNIT} 2>/dev/null\n"
        f"systemctl restart {UNIT} && {serves_within(_SECONDS)}"
    )


@operation()
def serves() -> Iterator[StringCommand]:
    """Have the registry start with the device, and serve now."""
    state = host.get_fact(RegistryState, _timeout=FACT_SECONDS)
    if state["enabled"] and state["serving"]:
        host.noop("the registry is enabled and serves")
        return
    script = f"systemctl enable --quiet {UNIT}\n{restart()}"
    yield StringCommand("sh", "-s", "start-registry", _stdin=script, _timeout=_SECONDS + 60)
