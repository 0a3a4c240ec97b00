"""The program: finds the command by its own name or by its first argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import commands, config
from .paths import CONTAINERD_SOCKET, KUBECONFIG, program
from .processes import FatalError, log
from .stamp import VERSION

_LINKS = ("kubectl", "crictl", "ctr")


def main() -> int:
    """Run one command."""
    name = Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    if name not in _LINKS:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(f"k3s {VERSION}, a stand-in for tests\n\ncommands: {', '.join(commands.NAMES)}")
            return 0
        name, *arguments = arguments
    if name in ("--version", "-v"):
        print(f"k3s version {VERSION} (stand-in)\ngo version go1.19")
        return 0
    try:
        return _run(name, arguments)
    except FatalError as error:
        log("fatal", str(error))
        return 1


def _run(name: str, arguments: list[str]) -> int:
    if name == "kubectl":
        if "KUBECONFIG" not in os.environ and KUBECONFIG.exists():
            os.environ["KUBECONFIG"] = str(KUBECONFIG)
        _become("kubectl", arguments)
    if name == "ctr":
        os.environ.setdefault("CONTAINERD_ADDRESS", str(CONTAINERD_SOCKET))
        os.environ.setdefault("CONTAINERD_NAMESPACE", "k8s.io")
        _become("ctr", arguments)
    if name in ("server", "agent") and "--help" in arguments:
        # K3s reads its files and parses their values before it prints its help
        config.parse(name, [each for each in arguments if each != "--help"])
        print(f"usage: k3s {name} [--config FILE] ...")
        return 0
    return commands.run(name, arguments)


def _become(name: str, arguments: list[str]) -> None:
    os.environ["K3S_STAND_IN_VERSION"] = VERSION
    os.execvp(program(name), [name, *arguments])


if __name__ == "__main__":
    sys.exit(main())
