"""Operations of the role docker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.docker.facts import DockerState, DockerVersion
from roles.facts import FACT_SECONDS
from roles.operations import File, place_files

DAEMON_JSON = "/etc/docker/daemon.json"
CDI_SINCE = 25


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
def settings(plain: str, with_cdi: str, check: str, then: str, seconds: int) -> Iterator[Any]:
    """
    Make daemon.json what it should be for the version that is installed.

    + plain: content for engines that do not know CDI devices
    + with_cdi: content for those that do
    + check: shell command that fails if the staged file must not be used
    + then: shell command that makes the file take effect
    + seconds: bound of all of it
    """
    version = host.get_fact(DockerVersion, _timeout=FACT_SECONDS)
    knows_cdi = int(version.partition(".")[0] or 0) >= CDI_SINCE
    file = File(DAEMON_JSON, with_cdi if knows_cdi else plain)
    yield from place_files._inner(files=[file], check=check, then=then, seconds=seconds)


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
