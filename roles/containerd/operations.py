"""Operations of the role containerd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.containerd.config import CONFIG, config_toml
from roles.containerd.facts import ContainerdState
from roles.facts import FACT_SECONDS
from roles.operations import File, place_files, staged_path


def answers_within(seconds: int) -> str:
    """Shell command that waits until containerd answers, or until systemd has given it up."""
    wait = (
        "until ctr --connect-timeout 2s version >/dev/null 2>&1; do"
        " ! systemctl is-failed --quiet containerd.service || exit 1; sleep 0.2; done"
    )
    explain = (
        "echo 'containerd does not answer'; "
        "journalctl --unit containerd.service --lines 3 --no-pager --output cat"
    )
    return f"timeout {seconds} sh -c '{wait}' || {{ ( {explain} ) >&2; exit 1; }}"


@operation()
def config(
    root: str | None, plugins: str, extra: Mapping[str, Any], seconds: int
) -> Iterator[StringCommand]:
    """
    Make containerd's configuration what it should be, in the form that its version reads.

    + root: folder of images and containers
    + plugins: folder of the CNI plugins
    + extra: further keys, which win
    + seconds: bound of waiting for containerd's answer
    """
    told = host.get_fact(ContainerdState, _timeout=FACT_SECONDS)["version"]
    version = tuple(map(int, told.split("."))) if told else ()
    text = config_toml(version, root=root, plugins=plugins, extra=extra)
    # Containers go on meanwhile: each has a process of its own that looks after it.
    restart = (
        "systemctl reset-failed containerd.service 2>/dev/null\n"
        f"timeout {seconds} systemctl restart containerd.service\n{answers_within(seconds)}"
    )
    yield from place_files._inner(
        files=[File(CONFIG, text)],
        check=f"containerd --config {staged_path(CONFIG)} config dump >/dev/null",
        then=restart,
        seconds=2 * seconds + 120,
    )


@operation()
def ready(seconds: int) -> Iterator[StringCommand]:
    """
    Have containerd start with the device, and answer now.

    + seconds: bound of waiting for the answer
    """
    state = host.get_fact(ContainerdState, _timeout=FACT_SECONDS)
    if state["enabled"] and state["answers"]:
        host.noop("containerd is enabled and answers")
        return
    script = f"systemctl enable --quiet --now containerd.service && {answers_within(seconds)}"
    yield StringCommand("sh", "-s", "start-containerd", _stdin=script, _timeout=seconds + 120)
