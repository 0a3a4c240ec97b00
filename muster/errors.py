"""Errors that a person can act on. Anything else that escapes is a defect."""

from __future__ import annotations

from collections.abc import Sequence


class MusterError(Exception):
    """Base of every error with a message meant for the operator."""

    exit_code = 1


class InputError(MusterError):
    """Invalid input, found before anything was touched.

    :param problems: one line each, naming the file, the key or device, and what was expected.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
