"""A value that is used but never shown."""

from __future__ import annotations


class Secret:
    """Holds a password so that logs, tracebacks and JSON don't.

    :param value: what to hide.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def to_json(self) -> str:
        """Stand-in for output; pyinfra calls this when it prints host data."""
        return "hidden"
