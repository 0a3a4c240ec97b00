"""Models run on the processor: nothing to install, but a test and facts for releases."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy

from roles.accelerators.operations import working
from roles.cpu.variables import Variables


@deploy("cpu")
def cpu(variables: Variables) -> None:
    """Find out whether containers can run models on the processor of a device."""
    working(
        name="smoke test",
        kind="cpu",
        test=variables.cpu_smoke_test,
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=variables.muster_device_hardware_root,
    )
