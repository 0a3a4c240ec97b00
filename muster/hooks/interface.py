"""What the engine knows of hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class HookResult:
    """How a blocking hook ended.

    :param message: why it failed, in one line for a person; empty when it is ``ok``.
    """

    hook: str
    ok: bool
    message: str


class Hooks(Protocol):
    """What the engine knows of hooks."""

    def call(self, hook: str, event: Mapping[str, Any]) -> None:
        """Start a hook and return at once. Where there is none, an ok result comes at once."""

    def finished(self) -> list[HookResult]:
        """How the blocking hooks ended that did since this was last asked."""
