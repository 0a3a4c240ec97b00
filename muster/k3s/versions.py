"""Versions of K3s, and from which to which a node may go. Pure."""

from __future__ import annotations

import re

PATTERN = r"v(\d+)\.(\d+)\.(\d+)(?:-(rc\d+))?\+k3s(\d+)"
"""Such as ``v1.33.4+k3s1`` or ``v1.34.0-rc1+k3s1``."""

Version = tuple[int, int, int, tuple[int, int], int]


def parse(version: str) -> Version:
    """Turn a version into what can be compared.

    :raises ValueError: it is none of K3s.
    """
    match = re.fullmatch(PATTERN, version)
    if not match:
        raise ValueError(f"expected a version of K3s such as v1.33.4+k3s1, got {version!r}")
    major, minor, patch, candidate, build = match.groups()
    before = (0, int(candidate[2:])) if candidate else (1, 0)
    return int(major), int(minor), int(patch), before, int(build)


def minor(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    return parse(version)[:2]


def is_older(version: str, than: str) -> bool:
    """Whether a version comes before another one; where that can't be told, whether it differs."""
    try:
        return parse(version) < parse(than)
    except ValueError:
        return version != than


def change_problem(installed: str, wanted: str) -> str:
    """Why a node may not go from one version to another, empty if it may.

    Kubernetes knows no way back to an older one, and no minor version may be left out.

    :param installed: empty if there is none yet.
    """
    if not installed or installed == wanted:
        return ""
    try:
        before, after = parse(installed), parse(wanted)
    except ValueError as error:
        return str(error)
    if after < before:
        return (
            f"expected no version before {installed}, which is installed, got {wanted}: K3s can't"
            " be downgraded, restore a snapshot with the older version instead"
        )
    if after[0] != before[0] or after[1] > before[1] + 1:
        following = f"v{before[0]}.{before[1] + 1}"
        return (
            f"expected the next minor version, {following}, after {installed}, got {wanted}:"
            " no minor version may be left out"
        )
    return ""
