"""Inputs of the role model: one of the inventory, the others of a single run."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, StringConstraints

from muster.release import ModelName
from roles.variables import RoleVariables, variable

ReleaseId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}$")]


class Variables(RoleVariables):
    """What the inventory says about a device."""

    muster_registry: str | None = variable(
        None,
        "the site's registry, as its devices see it; without it the one that the role"
        " muster_device configured",
        shown_type="`host:port`",
    )


class Options(RoleVariables):
    """Inputs of one run, which only ``--data`` gives: no device has them by itself."""

    # pyinfra reads a number wherever the text of --data looks like one
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class ModelOptions(Options):
    """Inputs of ``deploys/model.py``."""

    release: str = variable(..., "file with the release", shown_type="path")
    strategy: str | None = variable(
        None,
        "file with a strategy; its clocks, `retain_releases` and `switch` count",
        shown_type="path",
    )


class RollbackOptions(Options):
    """Inputs of ``deploys/rollback.py``."""

    model: ModelName = variable(..., "name of a model", shown_type="name")
    to: ReleaseId | None = variable(
        None,
        "release id such as `1.0-0123456789ab`; the device must still have it, and without it"
        " the device goes back to what it ran before",
        shown_type="release id",
    )
    strategy: str | None = variable(
        None, "file with a strategy; its clocks count", shown_type="path"
    )
