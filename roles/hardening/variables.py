"""Inputs of the role hardening."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator

from muster.fields import describe
from roles.hardening.exceptions import MODULES_KEPT, MODULES_OFF, PARAMETERS_KEPT
from roles.variables import RoleVariables, variable

ParameterValue = Annotated[str, StringConstraints(pattern=r"^[^\n]*$")] | int | None
Parameter = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]+$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Umask = Annotated[str, StringConstraints(pattern=r"^0[0-7]{2,3}$")]


class Variables(RoleVariables):
    """What makes a device harder to break into."""

    switch: ClassVar[str | None] = "hardening_enabled"

    hardening_enabled: bool = variable(False, "whether the device is hardened")
    hardening_ssh_passwords: bool = variable(
        False,
        "whether passwords may log in; they can be turned off only where the login user of this"
        " inventory has a key",
    )
    hardening_ssh_root: Literal["no", "prohibit-password"] = variable(
        "no",
        "whether root may log in by key; `no` is refused where the inventory logs in as root",
        shown_type="`no` or `prohibit-password`",
    )
    hardening_ssh_max_tries: Annotated[int, Field(ge=2, le=20)] = variable(
        4, "keys and passwords that a connection may try"
    )
    hardening_sysctl: dict[Parameter, ParameterValue] = variable(
        {},
        "kernel parameters that differ from the role's own; null leaves one as it is",
        shown_type="mapping of parameter to value",
    )
    hardening_modules: list[ModuleName] = variable(
        list(MODULES_OFF),
        "kernel modules that are never loaded",
        shown_type="list of names",
    )
    hardening_usb_storage: bool = variable(
        True, "whether USB disks may be used; many devices are brought up from one"
    )
    hardening_core_dumps: bool = variable(False, "whether programs that crash leave their memory")
    hardening_umask: Umask = variable(
        "027", "umask of people who log in; text, in quotes", shown_type='`"0NN"`'
    )
    hardening_banner: str = variable(
        "Authorised access only. What is done here is logged.",
        "what is shown before anybody logs in; empty for nothing",
    )

    @field_validator("hardening_sysctl")
    @classmethod
    def _leaves_networks_alive(
        cls, value: dict[str, int | str | None]
    ) -> dict[str, int | str | None]:
        for name, wanted in value.items():
            kept = PARAMETERS_KEPT.get(name)
            if kept is not None and wanted is not None and str(wanted) != kept.value:
                raise ValueError(
                    f"{name}: expected {kept.value} or nothing, as {kept.why},"
                    f" got {describe(wanted)}"
                )
        return value

    @field_validator("hardening_modules")
    @classmethod
    def _leaves_devices_alive(cls, value: list[str]) -> list[str]:
        for name in value:
            if why := MODULES_KEPT.get(name.replace("-", "_")):
                raise ValueError(f"expected no {name}, as {why}, got {describe(name)}")
        return value

    @field_validator("hardening_banner")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if not value.replace("\n", "").isprintable():
            raise ValueError("expected plain text, got control characters")
        return value
