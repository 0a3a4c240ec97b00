"""Inputs of the role cpu."""

from __future__ import annotations

from typing import ClassVar

from roles.accelerators.inputs import AcceleratorVariables, Command
from roles.variables import variable


class Variables(AcceleratorVariables):
    """Models run on the processor."""

    kind: ClassVar[str] = "cpu"

    cpu_smoke_test: Command = variable(
        "grep -qw memory /sys/fs/cgroup/cgroup.controllers || test -d /sys/fs/cgroup/memory",
        "command that fails unless containers can run models; the default finds out whether their"
        " memory can be limited, which a Raspberry Pi wants in its kernel's command line",
        shown_type="shell command",
    )
