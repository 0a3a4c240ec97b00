"""Shell commands for services that several roles have."""

from __future__ import annotations


def restart_and_listen(unit: str, port: int, seconds: int = 30) -> str:
    """Restart a unit, and fail unless it listens at a TCP port in time; then say why."""
    wait = (
        f"until ss -Hltn sport = :{port} | grep -q .; do"
        f" ! systemctl is-failed --quiet {unit} || exit 1; sleep 0.2; done"
    )
    # the exporters write their reasons at the end; systemd's own lines follow
    explain = f"journalctl --unit {unit} --lines 5 --no-pager --output cat"
    return (
        f"systemctl reset-failed {unit} 2>/dev/null\n"
        f"systemctl stop {unit}; systemctl start {unit} && timeout {seconds} sh -c '{wait}'"
        f" || {{ {explain} >&2; exit 1; }}"
    )
