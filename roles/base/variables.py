"""Inputs of the role base."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from roles.variables import PackageName, RoleVariables, variable

Parameter = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*/-]+$")]
ParameterValue = Annotated[str, StringConstraints(pattern=r"^[^\n]*$")] | int | float


class Variables(RoleVariables):
    """What every device needs before anything else."""

    base_packages: list[PackageName] = variable(
        ["ca-certificates"], "packages that every device has", shown_type="list of names"
    )
    base_sysctl: dict[Parameter, ParameterValue] = variable(
        {},
        "kernel parameters; written but not applied in a container, which has its host's kernel",
        shown_type="mapping of parameter to value",
    )
