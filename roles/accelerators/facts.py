"""What the roles of accelerators ask a device."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from pyinfra.api import FactBase

_LOOK = (Path(__file__).parent / "look.sh").read_text(encoding="utf-8")
_STATE = (Path(__file__).parent / "state.sh").read_text(encoding="utf-8")


class Hardware(FactBase[dict[str, Any]]):
    """What the device shows of its hardware, also below another root (on emulated devices).

    ``roles.accelerators.seen.read`` takes it.
    """

    def command(self, root: str | None = None) -> str:
        return f"{_LOOK}look {quote(root) if root else ''}".rstrip()

    @staticmethod
    def default() -> dict[str, Any]:
        return {}

    def process(self, output: list[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "kernel": "", "pci": [], "usb": [], "nodes": [], "modules": {}, "texts": {}
        }  # fmt: skip
        for line in output:
            what, _, rest = line.partition(" ")
            first, _, more = rest.partition(" ")
            if what == "kernel":
                seen["kernel"] = rest
            elif what == "pci":
                kind, _, driver = more.partition(" ")
                seen["pci"].append({"identity": first, "kind": kind, "driver": driver})
            elif what == "usb":
                seen["usb"].append({"identity": first, "node": more})
            elif what == "module":
                seen["modules"][first] = seen["modules"].get(first) or more
            elif what == "text":
                seen["texts"].setdefault(first, more)
            elif what == "node":
                seen["nodes"].append(rest)
        return seen


class PackageVersions(FactBase[dict[str, dict[str, Any]]]):
    """Those of some Debian packages that are installed: ``version``, and whether they are ``held``
    back from upgrades."""

    def command(self, packages: list[str]) -> str:
        names = " ".join(quote(name) for name in packages)
        form = quote("${db:Status-Status} ${db:Status-Want} ${Package} ${Version}\n")
        return f"dpkg-query --show --showformat={form} -- {names} 2>/dev/null; true"

    @staticmethod
    def default() -> dict[str, dict[str, Any]]:
        return {}

    def process(self, output: list[str]) -> dict[str, dict[str, Any]]:
        rows = [line.split() for line in output if line.startswith("installed ")]
        return {name: {"version": v, "held": want == "hold"} for _, want, name, v in rows}


class AcceleratorState(FactBase[dict[str, Any]]):
    """Runs the smoke test of an accelerator, and asks its software for versions.

    ``status`` of the test (124 if it took too long), the last lines that it ``said``, and
    ``versions`` by part: ``library``, ``firmware``, ``toolkit``.

    + kind: of accelerator
    + test: shell command
    + seconds: bound of the test
    """

    def command(self, kind: str, test: str, seconds: int) -> str:
        return f"{_STATE}smoke_test {seconds} {quote(test)}\nversions_of_{kind}"

    @staticmethod
    def default() -> dict[str, Any]:
        return {"status": 255, "said": [], "versions": {}}

    def process(self, output: list[str]) -> dict[str, Any]:
        state = self.default()
        for line in output:
            what, _, rest = line.partition(" ")
            if what == "status":
                state["status"] = int(rest)
            elif what == "said":
                state["said"].append(rest)
            elif what == "version":
                part, _, version = rest.partition(" ")
                if version:
                    state["versions"][part] = version
        return state


class GeneratedCdi(FactBase[dict[str, str]]):
    """Digests of the CDI specification that NVIDIA's tool would write now (``wanted``, empty if it
    can't) and of the one that is there (``present``); ``other`` is one in YAML of the same devices.
    """

    def command(self, mode: str, path: str) -> str:
        other = quote(path.removesuffix(".json") + ".yaml")
        return (
            f"made=$(nvidia-ctk cdi generate --format=json --mode={quote(mode)} 2>/dev/null) &&"
            ' printf "%s\\n" "$made" | sha256sum | sed "s/^/wanted /";'
            f' sha256sum -- {quote(path)} 2>/dev/null | sed "s/^/present /";'
            f' [ ! -e {other} ] || echo "other {other}"; true'
        )

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        return {line.split()[0]: line.split()[1] for line in output if line}
