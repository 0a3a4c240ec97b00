"""Roles of accelerators: detection, packages, CDI, smoke tests, and what they publish."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.context import ctx_host

from muster.accelerators import mismatch, within
from muster.emulator.hardware import HARDWARE_ROOT, PROFILES
from roles.accelerators import cdi
from roles.accelerators.facts import AcceleratorState, Hardware
from roles.accelerators.operations import (
    generated_cdi,
    pinned_packages,
    problems_of,
    published,
    working,
)
from roles.accelerators.seen import Found, PciFunction, Seen, find, missing, read
from roles.coral.operations import gasket
from roles.hailo.operations import collection
from roles.intel.operations import smoke_test

KINDS = ("nvidia", "jetson", "coral", "hailo", "intel", "cpu")
WORKS: dict[str, Any] = {"status": 0, "said": [], "versions": {}}

# Detection


def look(root: Path) -> Seen:
    """Run the script of the fact, with ``root`` in place of ``/``."""
    script = Hardware().command(root=f"{root}{HARDWARE_ROOT}")
    script = script.replace("for root in ''", f"for root in {root}")
    script = re.sub(r"(?<=\s)(/dev/|/etc/nv)", rf"{root}\1", script)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    lines = [line.replace(str(root), "") for line in done.stdout.splitlines()]
    assert done.stderr == ""
    return read(Hardware().process(lines))


@pytest.mark.parametrize(
    ("profile", "kind", "found"),
    [
        (
            "jetson_orin",
            "jetson",
            Found(
                "jetson",
                "NVIDIA Jetson Orin Nano Developer Kit",
                ("/dev/nvhost-gpu", "/dev/nvmap"),
                "36.4.3",
            ),
        ),
        ("coral", "coral", Found("pcie", "Edge TPU PCIe", ("/dev/apex_0",), "1.2")),
        ("coral_usb", "coral", Found("usb", "Edge TPU USB")),
        ("hailo", "hailo", Found("pcie", "Hailo-8", ("/dev/hailo0",), "4.20.0")),
        ("hailo10", "hailo", Found("pcie", "Hailo-10H", ("/dev/hailo0",), "5.1.1")),
        (
            "x86_gpu",
            "nvidia",
            Found("gpu", "NVIDIA 10de:2531", ("/dev/nvidia0", "/dev/nvidiactl"), "535.183.01"),
        ),
        ("intel_gpu", "intel", Found("gpu", "GPU 8086:56a0", ("/dev/dri/renderD128",))),
        ("intel_npu", "intel", Found("npu", "NPU 8086:7d1d", ("/dev/accel/accel0",))),
        ("raspberry_pi", None, None),
        ("cpu", None, None),
    ],
)
def test_every_emulated_kind_of_hardware_is_found_by_its_role_alone(
    tmp_path: Path, profile: str, kind: str | None, found: Found | None
) -> None:
    hardware = PROFILES[profile]
    for name, content in (dict(hardware.all_files()) | dict.fromkeys(hardware.nodes, "")).items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    seen = look(tmp_path)
    assert seen.kernel == os.uname().release
    assert {each: find(each, seen) for each in KINDS if each != "cpu" and find(each, seen)} == (
        {} if kind is None else {kind: [found]}
    )


def test_a_driver_is_the_one_that_has_the_function(tmp_path: Path) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:00:02.0"
    folder.mkdir(parents=True)
    for name, text in (("vendor", "0x8086"), ("device", "0x56a0"), ("class", "0x030000")):
        (folder / name).write_text(text)  # without an end of line, as no kernel writes it
    driver = tmp_path / "sys/bus/pci/drivers/xe"
    driver.mkdir(parents=True)
    (folder / "driver").symlink_to(driver)
    assert find("intel", look(tmp_path)) == [Found("gpu", "GPU 8086:56a0", (), "xe")]


def test_what_is_missing_is_named_and_so_is_what_is_there() -> None:
    seen = Seen(pci=(PciFunction("1ac1:089a", "088000"), PciFunction("10de:1aef", "040300")))
    assert missing("coral", seen) is None
    text = missing("nvidia", seen) or ""
    assert "10de" in text
    assert text.endswith("it has coral")
    assert (missing("hailo", Seen()) or "").endswith("it has no other that is known")
    assert missing("cpu", Seen()) is None


def test_a_fact_that_failed_is_a_device_without_hardware() -> None:
    assert read(Hardware.default()) == Seen()


# Kernel modules of a Coral


CORAL = PciFunction("1ac1:089a", "088000")


@pytest.mark.parametrize(
    ("kernel", "limit", "install", "refused"),
    [
        ("6.7.12-amd64", "6.8", True, False),
        ("6.8.0-35-generic", "6.8", False, True),
        ("6.12.25+rpt-rpi-v8", "6.8", False, True),
        ("6.10.0", "6.8", False, True),
        ("5.15.0-1066-raspi", "6.8", True, False),
        ("6.18.44-fc", None, True, False),
        ("", "6.8", True, False),
    ],
)
def test_gasket_by_kernel(kernel: str, limit: str | None, install: bool, refused: bool) -> None:
    choice = gasket(Seen(kernel, (CORAL,)), "gasket-dkms", limit)
    assert (choice.install, choice.refused) == (install, refused)
    loaded = gasket(Seen(kernel, (CORAL,), modules={"apex": ""}), "gasket-dkms", limit)
    assert (loaded.install, loaded.refused) == (False, False)


@pytest.mark.parametrize(
    ("model", "packages"),
    [
        ("Hailo-8", {"hailo-all": "4.20.0"}),
        ("Hailo-10H", {"hailo-h10-all": "4.20.0"}),
        ("Hailo-15L", {"hailo-h10-all": "4.20.0"}),
        ("", {}),
    ],
)
def test_packages_by_generation(model: str, packages: dict[str, str]) -> None:
    assert collection([Found("pcie", model)] if model else [], "4.20.0") == packages


# Versions


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("4.20.0", "==4.20", True),
        ("4.20.0", ">=4.20,<4.21", True),
        ("4.21", ">=4.20,<4.21", False),
        ("535.183.01", ">=535.104", True),
        ("4.9", "<4.20", True),
        ("4.20.1", "!=4.20", True),
        ("4.20", "<= 4.20", True),
        ("4.20", "> 4.20", False),
        ("intel_vpu", "<5", False),
        (None, "<5", False),
    ],
)
def test_ranges_of_versions(version: str | None, wanted: str, fits: bool) -> None:
    assert within(version, wanted) is fits


VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)


@given(VERSIONS, VERSIONS)
def test_two_versions_are_in_one_order(one: str, other: str) -> None:
    assert within(one, f">{other}") + within(one, f"<{other}") + within(one, f"=={other}") == 1
    assert within(one, f">={other}") is not within(one, f"<{other}")
    assert within(one, f"=={other}") is within(other, f"=={one}")


@pytest.mark.parametrize(
    ("kind", "versions", "text"),
    [
        ("hailo", {"driver": "4.20.0", "library": "4.20.0", "firmware": "4.20.0"}, None),
        ("hailo", {"driver": "4.20.0", "library": None, "firmware": ""}, None),
        ("hailo", {"driver": "4.20.0", "firmware": "4.19.0"}, "driver 4.20.0, firmware 4.19.0"),
        ("nvidia", {"driver": "535.183.01", "library": "535.54"}, "library 535.54"),
        ("coral", {"driver": "1.2", "library": "16.0"}, None),
    ],
)
def test_parts_that_do_not_work_together(
    kind: str, versions: dict[str, Any], text: str | None
) -> None:
    told = mismatch(kind, versions)
    assert (told is None) is (text is None)
    assert text is None or text in (told or "")


# CDI


def test_a_specification_has_every_node_by_itself_and_all_of_them() -> None:
    document = json.loads(cdi.specification("hailo.ai/npu", ["/dev/hailo0", "/dev/hailo1"]))
    assert (document["cdiVersion"], document["kind"]) == ("0.5.0", "hailo.ai/npu")
    assert {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for device in document["devices"]
    } == {"0": ["/dev/hailo0"], "1": ["/dev/hailo1"], "all": ["/dev/hailo0", "/dev/hailo1"]}
    assert cdi.path("hailo.ai/npu") == "/etc/cdi/hailo.ai-npu.json"


class Tools:
    """A folder of programs that stand in for those of a device, and a host that has them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "bin", folder / "log"
        self.folder.mkdir()
        self.log.touch()
        self.facts: dict[str, Any] = {}
        self.noops: list[str] = []

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        log = f'printf "%s\\n" "{name} $*" >>{self.log}'
        path.write_text(f"#!/bin/sh\n{log}\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", "-s"], input=script, env=environment, capture_output=True, text=True
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def get_fact(self, fact: Any, **_arguments: Any) -> Any:
        return self.facts.get(fact.__name__, fact.default())

    def noop(self, description: str) -> None:
        self.noops.append(description)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    made = Tools(tmp_path)
    with ctx_host.use(made):  # type: ignore[arg-type]
        yield made


def script_of(operation: Any, **arguments: Any) -> str:
    (command,) = operation._inner(**arguments)
    return str(command.connector_arguments["_stdin"])


def test_a_specification_is_generated_in_one_step(tools: Tools, tmp_path: Path) -> None:
    folder = tmp_path / "cdi"
    path = folder / "nvidia.json"
    tools.add("nvidia-ctk", 'echo \'{"kind": "nvidia.com/gpu"}\'')
    folder.mkdir()
    (folder / "nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
    done = tools.run(script_of(generated_cdi, mode="csv", path=str(path)))
    assert (done.returncode, done.stderr) == (0, "")
    assert [each.name for each in folder.iterdir()] == ["nvidia.json"]
    assert json.loads(path.read_text()) == {"kind": "nvidia.com/gpu"}
    assert oct(path.stat().st_mode & 0o777) == "0o644"
    assert tools.calls() == ["nvidia-ctk cdi generate --format=json --mode=csv"]


@pytest.mark.parametrize("script", ["echo '{\"half\"'; exit 1", "true"])
def test_a_specification_that_can_not_be_generated_leaves_the_former_one(
    tools: Tools, tmp_path: Path, script: str
) -> None:
    path = tmp_path / "cdi" / "nvidia.json"
    path.parent.mkdir()
    path.write_text("former\n")
    (path.parent / "nvidia.yaml").write_text("other\n")
    tools.add("nvidia-ctk", script)
    assert tools.run(script_of(generated_cdi, mode="auto", path=str(path))).returncode != 0
    assert path.read_text() == "former\n"
    assert (path.parent / "nvidia.yaml").exists()


# Packages


DPKG = """case "$*" in
*Package*) echo 'installed a'; echo 'installed b' ;;
*) printf '1.17.8-1\\n1.17.8-1\\n' ;;
esac"""


def test_packages_are_installed_in_one_step_and_held(tools: Tools) -> None:
    for name in ("apt-get", "apt-mark"):
        tools.add(name, "true")
    tools.add("dpkg-query", DPKG)
    tools.facts["PackageVersions"] = {"b": {"version": "2", "held": True}}
    script = script_of(pinned_packages, packages={"a": "1.*", "b": "1", "c": None}, hold=["z"])
    done = tools.run(script)
    assert (done.returncode, done.stderr) == (0, "")
    _, unhold, update, install, query, hold = tools.calls()
    assert (unhold, hold) == ("apt-mark unhold a b", "apt-mark hold a b")
    assert update.endswith(" update")
    assert "--allow-downgrades" in install
    assert install.endswith(" a=1.* b=1 c")
    assert query.endswith(" a b c z")


def test_what_is_installed_and_not_held_is_held_without_asking_a_mirror(tools: Tools) -> None:
    tools.add("apt-mark", "true")
    tools.add("dpkg-query", DPKG)
    tools.facts["PackageVersions"] = {"a": {"version": "1", "held": False}}
    assert tools.run(script_of(pinned_packages, packages={"a": "1"})).returncode == 0
    assert [call.split()[0] for call in tools.calls()] == ["dpkg-query", "apt-mark"]


def test_packages_that_belong_together_have_one_version(tools: Tools) -> None:
    for name in ("apt-get", "apt-mark"):
        tools.add(name, "true")
    tools.add("dpkg-query", DPKG.replace("1.17.8-1\\n1", "1.17.7-1\\n1"))
    tools.facts["PackageVersions"] = {
        "a": {"version": "1.17.7-1", "held": True},
        "b": {"version": "1.17.8-1", "held": True},
    }
    done = tools.run(script_of(pinned_packages, packages={"a": None, "b": None}, together=True))
    assert done.returncode == 1
    assert "expected one version of a b, got 1.17.7-1 1.17.8-1" in done.stderr
    assert any(call.endswith(" a b") and "install" in call for call in tools.calls())


@pytest.mark.parametrize(("step", "status"), [("install", 100), ("update", 1)])
def test_a_failed_installation_leaves_nothing_free_to_change(
    tools: Tools, step: str, status: int
) -> None:
    tools.add("apt-get", f'case "$*" in *{step}*) exit 100 ;; esac')
    tools.add("apt-mark", "true")
    tools.add("dpkg-query", DPKG)
    assert tools.run(script_of(pinned_packages, packages={"a": "9"})).returncode == status
    assert tools.calls()[-1] == "apt-mark hold a b"


# Smoke test, and what is published


def state_of(tools: Tools, **arguments: Any) -> dict[str, Any]:
    done = tools.run(AcceleratorState().command(**arguments))
    assert done.returncode == 0
    return AcceleratorState().process(done.stdout.splitlines())


def test_versions_come_from_the_tools_of_the_vendor(tools: Tools) -> None:
    tools.add(
        "hailortcli", "echo Executing on device: 1; echo 'Firmware Version: 4.20.0 (release,app)'"
    )
    state = state_of(tools, kind="hailo", test="hailortcli fw-control identify", seconds=9)
    assert (state["status"], state["said"]) == (0, [])
    assert state["versions"]["firmware"] == "4.20.0"


def test_versions_of_packages_are_those_of_upstream(tools: Tools) -> None:
    tools.add("dpkg-query", 'case "$*" in *-max*) echo "installed 1:16.0~rc2-1.1" ;; esac')
    state = state_of(tools, kind="coral", test="true", seconds=9)
    assert state == {"status": 0, "said": [], "versions": {"library": "16.0~rc2"}}


@pytest.mark.parametrize(
    ("test", "status", "said"),
    [
        ("echo 1; echo 2 >&2; printf 3; exit 7", 7, ["1", "2", "3"]),
        ("no-such-program", 127, None),
        ("sleep 20", 124, []),
    ],
)
def test_a_smoke_test_that_fails_says_why(
    tools: Tools, test: str, status: int, said: list[str] | None
) -> None:
    state = state_of(tools, kind="cpu", test=test, seconds=1)
    assert state["status"] == status
    assert said is None or [line for line in state["said"] if line] == said


HAILO = Found("pcie", "Hailo-8", ("/dev/hailo0",), "4.20.0")


@pytest.mark.parametrize(
    ("found", "state", "problem"),
    [
        (HAILO, {"versions": {"library": "4.20.0", "firmware": "4.20.0"}}, None),
        (HAILO, {"versions": {"library": "4.19.0"}}, "driver 4.20.0, library 4.19.0"),
        (HAILO, {"status": 76, "said": ["no"]}, "`test` failed (76): no"),
        (HAILO, {"status": 76}, "it said nothing"),
        (HAILO, {"status": 124}, "took too long"),
        (Found("pcie", "Hailo-8"), {}, "Hailo-8 has no device node"),
        (Found("usb", "Edge TPU USB"), {}, None),
    ],
)
def test_problems(found: Found, state: dict[str, Any], problem: str | None) -> None:
    problems = problems_of("hailo", [found], WORKS | state, "test")
    assert bool(problems) is (problem is not None)
    assert problem is None or problem in problems[0]


def test_what_is_published_is_what_releases_ask_for() -> None:
    state = WORKS | {"versions": {"library": "4.20.0", "firmware": "4.20.0"}}
    assert json.loads(published("hailo", [HAILO], state, "test", [])) == {
        "kind": "hailo",
        "model": "Hailo-8",
        "driver": "4.20.0",
        "library": "4.20.0",
        "firmware": "4.20.0",
        "toolkit": None,
        "devices": ["/dev/hailo0"],
        "smoke_test": {"command": "test", "passed": True},
        "problems": [],
    }


def test_an_accelerator_that_does_not_work_is_written_down_and_fails(tools: Tools) -> None:
    tools.facts["Hardware"] = {
        "pci": [{"identity": "1e60:2864", "kind": "120000"}],
        "nodes": ["/dev/hailo0"],
    }
    tools.facts["AcceleratorState"] = WORKS | {"status": 76, "said": ["no"]}
    place, refuse = working._inner(kind="hailo", test="x", seconds=1)
    assert '"passed": false' in str(place.connector_arguments["_stdin"])
    done = tools.run(str(refuse.connector_arguments["_stdin"]))
    assert (done.returncode, done.stderr) == (1, "the smoke test `x` failed (76): no\n")


def test_an_intel_device_is_tested_for_what_it_has() -> None:
    tests = {"gpu": "a | b", "npu": "c; exit 1"}
    assert smoke_test({"gpu"}, tests) == "( a | b )"
    assert smoke_test({"npu", "gpu"}, tests) == "( a | b ) && ( c; exit 1 )"
    assert smoke_test(set(), tests) == "true"
