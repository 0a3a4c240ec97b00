"""What the role model asks a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyinfra.api import FactBase, QuoteString, StringCommand
from pyinfra.api.exceptions import FactProcessError

from muster.fleet.over_pyinfra import PROGRAM


class Inspect(FactBase[Mapping[str, Any] | None]):
    """
    What a device is, and where a model stands on it.

    + model: name of the model

    None if the device program gave no answer; pyinfra then fails the host.
    """

    def command(self, model: str) -> StringCommand:
        request = QuoteString(json.dumps({"model": model}))
        return StringCommand("echo", request, "|", PROGRAM, "inspect")

    def process(self, output: list[str]) -> Mapping[str, Any]:
        try:
            answer = json.loads("\n".join(output))
            if answer["ok"] and isinstance(answer["model"], dict):
                return dict(answer)
            problem = str(answer["error"]["message"])
        except (ValueError, KeyError, TypeError):
            problem = f"{output[0][:200]!r} is no answer of the device program"
        raise FactProcessError(problem)
