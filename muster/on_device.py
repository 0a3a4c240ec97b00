"""Running a program of ours on a device without installing it: sent as text, over one command.

The device program comes along as a module, installed or not, so that what it knows about hardware,
releases and guards is written down once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from muster.paths import COLLECTION_ROOT

DEVICE_PROGRAM = COLLECTION_ROOT / "files" / "muster_device.py"

# The classes of a module look their module up by its name, so it has to be known by it.
_BOOTSTRAP = """\
import json, sys, types
sent = json.loads(sys.stdin.buffer.readline())
def load(name):
    module = types.ModuleType(name)
    module.__file__ = name
    sys.modules[name] = module
    exec(compile(sent[name], name, "exec"), module.__dict__)
    return module
try:
    program = load("muster_device_sent")
    answer = {"ok": True, "result": load("muster_task").describe(program, sent["given"])}
except Exception as error:
    answer = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
print("\\n" + json.dumps(answer))
"""

COMMAND = f"python3 -c {shlex.quote(_BOOTSTRAP)}"
"""Shell command that reads what :func:`request` made on its standard input."""


class NoAnswer(ValueError):  # noqa: N818
    """What a device wrote is not the answer of a task."""


def request(task: ModuleType, given: Mapping[str, Any]) -> str:
    """What to send: one line.

    :param task: a module with the function ``describe(program, given)``.
    :param given: plain data for it.
    """
    return (
        json.dumps(
            {
                "muster_device_sent": DEVICE_PROGRAM.read_text(encoding="utf-8"),
                "muster_task": Path(str(task.__file__)).read_text(encoding="utf-8"),
                "given": dict(given),
            }
        )
        + "\n"
    )


def read_answer(output: str) -> dict[str, Any]:
    """What the task returned.

    :param output: everything that the device wrote; what other programs wrote before is skipped.
    :raises NoAnswer: there is none, or the task failed.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    try:
        document = json.loads(lines[-1])
        if document["ok"]:
            result: dict[str, Any] = document["result"]
            return result
        reason = str(document["error"])
    except (IndexError, ValueError, KeyError, TypeError):
        reason = f"no answer: {lines[-1][:200] if lines else 'silence'}"
    raise NoAnswer(reason)
