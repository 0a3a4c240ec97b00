"""Operations of the role jetson."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.jetson.facts import RuntimeMode

_CONFIG = "/etc/nvidia-container-runtime"


@operation()
def runtime_mode(mode: str = "csv") -> Iterator[StringCommand]:
    """
    Have NVIDIA's container runtime take what a container gets from the lists that come with L4T.

    + mode: of the runtime
    """
    if host.get_fact(RuntimeMode, _timeout=FACT_SECONDS) == mode:
        host.noop(f"the runtime is in mode {mode}")
        return
    script = f"""set -u
umask 022
mkdir -p {_CONFIG} && cd {_CONFIG} &&
	made=$(nvidia-ctk config --set nvidia-container-runtime.mode={mode}) && [ -n "$made" ] &&
	printf '%s\\n' "$made" >.config.toml.muster-new && sync .config.toml.muster-new &&
	mv -f -T .config.toml.muster-new config.toml && sync .
"""
    yield StringCommand("sh", "-s", "runtime-mode", mode, _stdin=script, _timeout=FACT_SECONDS)
