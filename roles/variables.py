"""The base of every role's model of variables, and the tables in the roles' READMEs.

``python -m roles.variables`` writes the tables; a test fails when a table and its model differ.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

V = TypeVar("V", bound="RoleVariables")

ROLES = Path(__file__).resolve().parent
BEGIN, END = "<!-- variables: made from variables.py -->", "<!-- end of variables -->"

PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./@:+-]*$")]
HostPort = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]


@dataclass(frozen=True)
class OpenPort:
    """A port that a role serves on a device, for its firewall.

    :param why: what is served there, for people.
    :param sources: networks that may reach it (CIDR); everybody if empty.
    """

    port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    why: str = ""
    sources: tuple[str, ...] = ()


class RoleVariables(BaseModel):
    """Inputs of a role. What else an inventory says is none of its business."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    switch: ClassVar[str | None] = None
    """The variable that turns the role on, where it does not run on every device."""

    @classmethod
    def chosen(cls, variables: Mapping[str, Any]) -> bool:
        """Whether the role runs on a device.

        :param variables: what the inventory says of it, not checked yet. What makes no sense
            counts as chosen: the check then complains.
        """
        return cls.switch is None or _is_true(variables.get(cls.switch, False))

    @classmethod
    def attends(cls, variables: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Whether a device on which the role does not run waits for those on which it does.

        pyinfra keeps the order of operations within a device alone. Who waits calls the role's
        deploy without variables, and with it the operations that it must not overtake.
        """
        return False

    def opens(self) -> tuple[OpenPort, ...]:
        """Ports that others must reach on a device with this role."""
        return ()

    def trusts(self) -> tuple[str, ...]:
        """Interfaces over which a device with this role takes everything; may end with ``*``."""
        return ()

    @classmethod
    def of(cls: type[V], host: Any) -> V:
        """Read the variables of a pyinfra host."""
        return cls.model_validate(host.data.dict())


def _is_true(value: Any) -> bool:
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return True


def variable(default: Any, description: str, *, unit: str = "", shown_type: str = "") -> Any:
    """Declare an input of a role.

    :param default: ``...`` if there is none; shown in the README as an inventory would have it.
    :param unit: what a plain number counts.
    :param shown_type: for the README, where the type itself says too little.
    """
    extra: dict[str, JsonValue] = {"unit": unit, "type_text": shown_type}
    return Field(default, description=description, json_schema_extra=extra, validate_default=True)


def table(model: type[RoleVariables]) -> str:
    """Markdown table of a role's variables."""
    rows = ["| variable | type | default | unit | description |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind = str(extra.get("type_text") or _type_text(field.annotation))
        default = "required" if field.is_required() else f"`{_shown(field.default)}`"
        cells = (f"`{name}`", kind, default, str(extra.get("unit") or ""), field.description or "")
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _type_text(annotation: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))


def _shown(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False)


def with_table(readme: str, model: type[RoleVariables]) -> str:
    """Replace the table in the text of a README.

    :raises ValueError: the README has no place for it.
    """
    pattern = re.compile(rf"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"expected the lines {BEGIN!r} and {END!r}")
    return pattern.sub(lambda _: f"{table(model)}\n", readme)


def main() -> None:
    """Write the tables of all roles."""
    for readme in sorted(ROLES.glob("*/README.md")):
        model = importlib.import_module(f"roles.{readme.parent.name}.variables").Variables
        readme.write_text(with_table(readme.read_text("utf-8"), model), "utf-8")


if __name__ == "__main__":
    main()
