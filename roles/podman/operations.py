"""Operations of the role podman."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS, PlacedFiles, UnitState
from roles.operations import place_files
from roles.podman.containers import Container, unit_files, unit_name
from roles.podman.facts import PodmanState


@operation()
def answers() -> Iterator[StringCommand]:
    """
    Make sure that Podman works, without the services that devices do not need.

    Its API would let others start containers, and its own updates would replace what runs.
    """
    state = host.get_fact(PodmanState, _timeout=2 * FACT_SECONDS)
    if state["version"] and not state["services"]:
        host.noop("podman answers, and nothing of it runs by itself")
        return
    if state["services"]:
        yield StringCommand("systemctl", "disable", "--quiet", "--now", *state["services"])
    yield StringCommand("timeout 60 podman info >/dev/null")


@operation()
def containers(wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[StringCommand]:
    """
    Have systemd run containers.

    + wanted: settings by name, see ``roles.podman.containers.Container``
    """
    told = host.get_fact(PodmanState, _timeout=2 * FACT_SECONDS)["version"]
    version = tuple(map(int, re.findall(r"\d+", told)[:3]))
    for name, settings in wanted.items():
        file, obsolete = unit_files(name, Container.model_validate(settings), version)
        unit = unit_name(name)
        then = f"systemctl daemon-reload && systemctl restart {quote(unit)}"
        if obsolete in host.get_fact(PlacedFiles, paths=[obsolete], _timeout=FACT_SECONDS):
            # A unit of our own would hide the one that Quadlet makes.
            yield StringCommand("systemctl", "disable", "--quiet", unit, "2>/dev/null;", "true")
            yield StringCommand("rm", "-f", "--", obsolete)
        yield from place_files._inner(files=[file], then=then, seconds=1000)
        # What Quadlet makes is generated, and needs no enabling.
        if file.path.endswith(".service"):
            state = host.get_fact(UnitState, unit=unit, _timeout=FACT_SECONDS)
            if state.get("enabled") != "enabled":
                yield StringCommand("systemctl", "enable", "--quiet", unit)
