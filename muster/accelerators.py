"""What has to hold between the parts of an accelerator: pure decisions on their versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

PARTS = ("driver", "library", "firmware")
"""Parts of an accelerator that have a version of their own."""

MUST_MATCH: Mapping[str, tuple[str, ...]] = {
    "hailo": ("driver", "library", "firmware"),
    "nvidia": ("driver", "library"),
}
"""Parts that refuse to work with each other unless they are of one version, by kind."""

_COMPARISON = r"(?P<sign>>=|<=|==|!=|>|<)\s*(?P<version>[0-9]+(?:[.-][0-9]+)*)"
_ONE = re.compile(_COMPARISON)
VERSION_RANGE = re.sub(r"\?P<\w+>", "?:", rf"^{_COMPARISON}(\s*,\s*{_COMPARISON})*$")
"""Pattern of a range of versions, such as ``>=535.104,<560``."""


def numbers(version: str) -> tuple[int, ...]:
    """The numbers in a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def within(version: str | None, wanted: str) -> bool:
    """Whether a version is in a range of versions. One that is not known is in none.

    :param wanted: comparisons with ``>=``, ``>``, ``<=``, ``<``, ``==``, ``!=``, joined by commas;
        ``4.20`` and ``4.20.0`` are the same version.
    """
    has = numbers(version or "")
    if not has:
        return False
    return all(
        _holds(_compare(has, numbers(match["version"])), match["sign"])
        for match in _ONE.finditer(wanted)
    )


def _compare(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    pairs = list(zip_longest(left, right, fillvalue=0))
    one, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return (one > other) - (one < other)


def _holds(order: int, sign: str) -> bool:
    return {
        ">=": order >= 0,
        ">": order > 0,
        "<=": order <= 0,
        "<": order < 0,
        "==": order == 0,
        "!=": order != 0,
    }[sign]


def mismatch(kind: str, versions: Mapping[str, Any]) -> str | None:
    """Say which parts of an accelerator are of different versions although they must not be.

    :param versions: version by part; parts whose version is not known are left out.
    :returns: None when the parts can work with each other.
    """
    known = {part: str(versions[part]) for part in MUST_MATCH.get(kind, ()) if versions.get(part)}
    first = next(iter(known.values()), "")
    if all(_compare(numbers(version), numbers(first)) == 0 for version in known.values()):
        return None
    told = ", ".join(f"{part} {version}" for part, version in known.items())
    return f"{kind} {told}: they must be of the same version"
