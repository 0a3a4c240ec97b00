"""What the models of all documents share: the base class, durations, sizes and shares."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

Location = tuple[str | int, ...]
"""Where in a document: the keys and list indices from its root."""


class Strict(BaseModel):
    """A part of a document: no unknown keys, no changes once it is valid."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _require_header(schema: dict[str, Any]) -> None:
    schema["required"] = ["apiVersion", "kind", *schema.get("required", [])]


class Document(Strict):
    """A whole document. Its header may be left out in code, but not in a file."""

    model_config = ConfigDict(json_schema_extra=_require_header)

    apiVersion: Literal["muster/v1"] = "muster/v1"  # noqa: N815
    """Version of this format."""
    kind: str
    """Kind of document."""


class Problems(ValueError):  # noqa: N818 (it holds several)
    """Several problems that one validator found, each with its place below the model.

    :param problems: pairs of location (relative to the validated model) and text.
    """

    def __init__(self, problems: Sequence[tuple[Location, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(text for _, text in self.problems))


def describe(value: Any) -> str:
    """Name a value of a document in an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value) if isinstance(value, str) else f"the number {value}"
    return text if len(text) <= 80 else text[:77] + "..."


# Durations, in seconds.

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DURATION_UNITS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_DURATION_PATTERN = rf"^({_NUMBER}({'|'.join(_DURATION_UNITS)}))+$"


def parse_duration(value: Any) -> float:
    """Turn ``"90s"``, ``"5m"``, ``"1h30m"``, ``"500ms"`` or a number of seconds into seconds.

    :raises ValueError: not a duration, negative or not finite.
    """
    if isinstance(value, str) and re.fullmatch(_DURATION_PATTERN, value):
        parts = re.findall(r"([\d.]+)([a-z]+)", value)
        return float(sum(Fraction(number) * _DURATION_UNITS[unit] for number, unit in parts))
    # The upper bound also keeps NaN, infinity and huge integers out.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    raise ValueError(
        "expected a duration such as 30s, 5m or 1h30m, or a number of seconds, 0 or more,"
        f" got {describe(value)}"
    )


def _parse_positive_duration(value: Any) -> float:
    if (seconds := parse_duration(value)) > 0:
        return seconds
    raise ValueError(f"expected a duration above 0, got {describe(value)}")


def format_duration(seconds: float) -> str:
    """Write seconds the way a document has them: ``5400.0`` -> ``"1h30m"``."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    rest, text = int(seconds), ""
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _duration_schema(limit: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", limit: 0},
                {"type": "string", "pattern": _DURATION_PATTERN},
            ],
            "examples": ["30s", "5m", "1h30m", 90],
        }
    )


Duration = Annotated[float, BeforeValidator(parse_duration), _duration_schema("minimum")]
"""Seconds, 0 or more."""

PositiveDuration = Annotated[
    float, BeforeValidator(_parse_positive_duration), _duration_schema("exclusiveMinimum")
]
"""Seconds, more than 0."""


# Sizes, in bytes.

_SIZE_UNITS = {"B": 1}
_SIZE_UNITS |= {f"{prefix}iB": 1024**n for n, prefix in enumerate("KMGT", start=1)}
_SIZE_UNITS |= {f"{prefix}B": 1000**n for n, prefix in enumerate("kMGT", start=1)}
_SIZE_PATTERN = rf"^({_NUMBER})({'|'.join(_SIZE_UNITS)})$"


def parse_size(value: Any) -> int:
    """Turn ``"256MiB"``, ``"1GiB"``, ``"500MB"`` or a number of bytes into bytes.

    :raises ValueError: not a size, or less than one byte.
    """
    size = 0
    if isinstance(value, str) and (match := re.fullmatch(_SIZE_PATTERN, value)):
        size = math.ceil(Fraction(match[1]) * _SIZE_UNITS[match[2]])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if 0 < size < 2**63:
        return size
    raise ValueError(
        f"expected a size such as 256MiB or 1GiB, or a number of bytes, got {describe(value)}"
    )


def format_size(size: int) -> str:
    """Write bytes for a person: ``268435456`` -> ``"256 MiB"``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _SIZE_UNITS[unit]:
            return f"{round(size / _SIZE_UNITS[unit], 1):g} {unit}"
    return f"{size} B"


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": _SIZE_PATTERN},
            ],
            "examples": ["256MiB", "1GiB"],
        }
    ),
]
"""Bytes, at least one."""


# Shares of a number of devices: a count or a percentage.

_PERCENT_PATTERN = r"^(100|[0-9]{1,2}(\.[0-9]{1,6})?)%$"


def percentage(value: int | str) -> Fraction | None:
    """Give the percentage (0 to 100) that a share names; None for a count."""
    if isinstance(value, str) and re.fullmatch(_PERCENT_PATTERN, value):
        return Fraction(value[:-1])
    return None


def _parse_share(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and percentage(value) is not None:
        return value
    raise ValueError(
        f"expected a number of devices or a percentage such as 10%, got {describe(value)}"
    )


Share = Annotated[
    int | str,
    BeforeValidator(_parse_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": _PERCENT_PATTERN},
            ],
            "examples": [2, "10%"],
        }
    ),
]
"""A number of devices, or a percentage of them as text (``"10%"``)."""
