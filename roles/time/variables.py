"""Inputs of the role time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from roles.secrets import CertificateFile
from roles.variables import RoleVariables, variable

Server = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]+$")]


class Variables(RoleVariables):
    """The time of a device."""

    time_servers: Annotated[list[Server], Field(min_length=1)] = variable(
        ["2.debian.pool.ntp.org"],
        "NTP servers or pools; at a site without internet its own",
        shown_type="list of names or addresses",
    )
    time_nts: bool = variable(
        False, "whether the servers have to prove by NTS that they are who they say"
    )
    time_nts_ca: CertificateFile = variable(
        None,
        "certificate of the CA of the site's own NTS servers: a PEM file on the controller; the"
        " device's own list of CAs if null",
        shown_type="path",
    )
    time_set_clock: bool = variable(
        True,
        "whether chrony sets the clock; never done in a container, which has the clock of its host",
    )
    time_fake_hwclock: Literal["auto", "always", "never"] = variable(
        "auto",
        "keep the time over a restart in a file; `auto` does where there is no real-time clock",
        shown_type="`auto`, `always` or `never`",
    )

    @field_validator("time_nts")
    @classmethod
    def _speak_nts(cls, value: bool, info: ValidationInfo) -> bool:
        pools = [s for s in info.data.get("time_servers", ()) if s.endswith("pool.ntp.org")]
        if value and pools:
            raise ValueError(f"expected time_servers that speak NTS, got the pool {pools[0]}")
        return value

    @field_validator("time_nts_ca")
    @classmethod
    def _is_of_use(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("time_nts") is False:
            raise ValueError("expected time_nts to be true where its CA is given, got false")
        return value
