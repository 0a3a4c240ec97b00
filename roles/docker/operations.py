"""Operations of the role docker."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.docker.facts import DockerState
from roles.facts import FACT_SECONDS


def answers_within(seconds: int) -> str:
    """Shell command that waits until the engine answers, or until systemd has given it up."""
    wait = (
        "until docker info >/dev/null 2>&1; do"
        " ! systemctl is-failed --quiet docker.service || exit 1; sleep 0.2; done"
    )
    explain = (
        "echo 'docker does not answer'; "
        "journalctl --unit docker.service --identifier dockerd --lines 3 --no-pager --output cat"
    )
    return f"timeout {seconds} sh -c '{wait}' || {{ ( {explain} ) >&2; exit 1; }}"


@operation()
def ready(seconds: int) -> Iterator[StringCommand]:
    """
    Have the engine start with the device, and answer now.

    + seconds: bound of waiting for the answer
    """
    state = host.get_fact(DockerState, _timeout=FACT_SECONDS)
    if state["enabled"] and state["ready"]:
        host.noop("docker is enabled and answers")
        return
    script = f"systemctl enable --quiet --now docker.service && {answers_within(seconds)}"
    yield StringCommand("sh", "-s", "start-docker", _stdin=script, _timeout=seconds + 120)
