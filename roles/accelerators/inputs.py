"""Inputs that all roles of accelerators share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator, model_validator

from muster.fields import PositiveDuration
from roles.variables import AbsolutePath, PackageName, RoleVariables, variable

Accelerator = Literal["none", "nvidia", "jetson", "coral", "hailo", "intel", "cpu"]
PackageVersion = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+:~-]*\*?$")]
Packages = dict[PackageName, PackageVersion | None]
Command = Annotated[str, StringConstraints(pattern=r"^\S[^\n\r\x00]*$", max_length=2000)]
Group = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]

PACKAGES_TYPE = "mapping of name to version, null for any"
PACKAGES_TEXT = "; a version may end with `*`; what is installed is held"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$"
_ARMORED = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


class AptRepository(BaseModel):
    """A signed apt repository: a vendor's, or a site's mirror of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    uri: Annotated[str, StringConstraints(pattern=r"^(https?|file|mirror\+https?)://?[^\s]+$")]
    suite: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9./][A-Za-z0-9._/+-]*$")]
    components: list[Annotated[str, StringConstraints(pattern=_WORD)]] = []
    key: str

    @field_validator("key")
    @classmethod
    def _is_key(cls, value: str) -> str:
        try:
            text = Path(value).expanduser().read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise ValueError(f"expected an ASCII-armored OpenPGP public key, {error}") from None
        if "PRIVATE KEY" in text:
            raise ValueError(f"expected a public key, {value} holds a private one")
        if _ARMORED not in text:
            raise ValueError(f"expected an ASCII-armored OpenPGP public key, {value} is none")
        return value

    @model_validator(mode="after")
    def _flat_or_not(self) -> AptRepository:
        flat = self.suite.endswith("/")
        if flat and self.components:
            raise ValueError(f"expected no components with the flat suite {self.suite!r}")
        if not flat and not self.components:
            raise ValueError(f"expected components, or a flat suite such as './', {self.name}")
        return self


class AcceleratorVariables(RoleVariables):
    """Inputs of every role of an accelerator."""

    kind: ClassVar[str]

    muster_accelerator: Accelerator = variable(
        "none",
        "the accelerator of the device, and so which of the roles nvidia, jetson, coral, hailo,"
        " intel and cpu it gets",
        shown_type=", ".join(f"`{name}`" for name in get_args(Accelerator)),
    )
    accelerator_apt_repositories: list[AptRepository] = variable(
        [],
        "where the packages of vendors come from: `key` is a file on the controller with the"
        " ASCII-armored public key; a flat repository has a suite that ends with `/` and no"
        " components",
        shown_type="list of `{name, uri, suite, components, key}`",
    )
    accelerator_test_timeout: PositiveDuration = variable(
        "60s", "time that the smoke test may take", unit="seconds", shown_type="duration"
    )
    muster_device_hardware_root: AbsolutePath | None = variable(
        None,
        "folder in which accelerators are looked for instead of `/`, on emulated devices",
        shown_type="path",
    )

    @field_validator("muster_accelerator", mode="before")
    @classmethod
    def _is_known(cls, value: Any) -> Any:
        known = get_args(Accelerator)
        close = difflib.get_close_matches(str(value), known, n=1)
        if value not in known and close:
            raise ValueError(
                f"expected one of {', '.join(known)}, got {value!r}; did you mean {close[0]}?"
            )
        return value

    @field_validator("accelerator_apt_repositories")
    @classmethod
    def _named_once(cls, value: list[AptRepository]) -> list[AptRepository]:
        names = [repository.name for repository in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"expected each name once, {', '.join(twice)} is there again")
        return value

    @classmethod
    def chosen(cls, variables: Mapping[str, Any]) -> bool:
        """Whether the role runs on a device. A wrong choice counts, so that somebody complains."""
        choice = variables.get("muster_accelerator", "none")
        return choice == cls.kind or choice not in get_args(Accelerator)
