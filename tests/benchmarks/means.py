"""The means by which the same rollout is done: Muster, Ansible, ssh, and no controller at all."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bench_fleet import HARDWARE, IMAGES, ON_DEVICE, REGISTRY, UNIT, BenchFleet
from figures import in_folder

from muster.documents import load_document
from muster.emulator.inventory import control_folder, make_control_folder, ssh_arguments
from muster.release import Release
from muster.rollout.orders import Orders
from muster.strategy import Strategy

HERE = Path(__file__).parent
WATCH_SECONDS = 1
"""How long a ready device is watched before it counts; a real rollout takes longer."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Run:
    """One rollout by one means, in seconds.

    :param wall: from its start until it ended.
    :param controller_cpu: CPU time of the controller with all its processes.
    :param device_cpu: CPU time of all devices meanwhile.
    """

    means: str
    wall: float
    controller_cpu: float
    device_cpu: float


class Comparison:
    """Rolls images of the model over a fleet by one means after the other.

    :param waves: names of the devices of each wave; every means has the same.
    """

    def __init__(self, site: BenchFleet, waves: Sequence[Sequence[str]]) -> None:
        self.site, self.waves = site, waves
        self.folder = site.folder / "run"
        shutil.rmtree(self.folder, ignore_errors=True)  # with the journal of an earlier run
        self.folder.mkdir()
        self._sockets = control_folder(site.fleet.inventory_dir)
        self._number = int(time.time())
        self._muster_serves: bool | None = None
        self._version = IMAGES[0]
        case = site.releases["1.0"]["gates"][1]["cases"][0]
        self._request = {"inputs": case["inputs"]}
        self._expected = '"data":' + json.dumps(case["outputs"][0]["data"])
        become_subreaper()

    def prepare(self) -> None:
        """Write what the means read, and have devices know what to ask and to expect."""
        addresses = self.site.addresses
        (self.folder / "waves").write_text(
            "".join(" ".join(addresses[name] for name in wave) + "\n" for wave in self.waves)
        )
        settings = {"User": "ops", "IdentityFile": str(self.site.fleet.state / "id_ed25519")}
        options = ssh_arguments(self.site.fleet.state, self._sockets)[1::2]
        settings |= dict(option.split("=", 1) for option in options)
        (self.folder / "ssh_config").write_text(
            "Host *\n" + "".join(f"  {key} {value}\n" for key, value in settings.items())
        )
        (self.folder / "strategy.yml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "muster/v1",
                    "kind": "Strategy",
                    "waves": [{"size": 1}, {"size": "25%"}, {"size": "rest"}],
                    "min_healthy_time": f"{WATCH_SECONDS}s",
                    "probe_interval": f"{WATCH_SECONDS}s",
                    "healthy_deadline": "60s",
                }
            )
        )
        folder = self.folder / "on_device"
        folder.mkdir(exist_ok=True)
        (folder / "request.json").write_text(json.dumps(self._request))
        (folder / "expected").write_text(self._expected + "\n")
        for name in self.site.container:
            self._place(folder, name)
            self._place(ON_DEVICE, name)

    def muster(self) -> Run:
        """Roll out with Muster; its own unit serves from then on."""
        self._serve_by_muster(True)
        document = self._write_release()
        command = [sys.executable, "-m", "muster", "rollout", document, "--json"]
        command += ["--inventory", self.site.inventory, "--strategy", self.folder / "strategy.yml"]
        return self._measure("muster", [*command, "--accept-no-rollback"])

    def program(self) -> Run:
        """Have the device program do what Muster tells it, wave by wave, without a controller."""
        self._serve_by_muster(True)
        release = load_document(self._write_release(), Release)
        strategy = load_document(self.folder / "strategy.yml", Strategy)
        build = Orders(f"bench-{self._number}", release, strategy)
        for name in self.site.container:
            self._place_orders(name, build)
        command = ("/etc/bench/obey", "inspect", "stage", "switch", "probe", "confirm")
        return self._measured("program", lambda: self._in_waves(*command))

    def _place_orders(self, name: str, build: Orders) -> None:
        """Write what a device is to be told into it."""
        question = json.dumps(build.inspect(name).document)
        status, said = self.site.fleet.exec(
            name, ["sh", "-c", f"echo '{question}' | muster-device inspect"]
        )
        if status:
            raise RuntimeError(f"{name}: {said}")
        generation = json.loads(said.splitlines()[-1])["model"]["generation"] + 1
        orders = (
            build.inspect(name),
            build.stage(name, HARDWARE, REGISTRY),
            build.switch(name, generation),
            build.probe(name, WATCH_SECONDS),
            build.confirm(name, generation),
        )
        folder = self.folder / "orders"
        folder.mkdir(exist_ok=True)
        for order in orders:
            (folder / f"{order.verb.value}.json").write_text(json.dumps(order.document))
        self._place(folder, name)

    def _place(self, folder: Path, name: str) -> None:
        """Copy the files of a folder into ``/etc/bench`` of a device."""
        destination = f"{self.site.container[name]}:/etc/bench/"
        subprocess.run(["docker", "cp", "--quiet", f"{folder}/.", destination], check=True)

    def _write_release(self) -> Path:
        """Write a release that no device has had, with an image that every device has."""
        self._number += 1
        path, version = self.folder / "release.yml", self._other_version()
        release = self.site.releases[version] | {"version": f"{version}.{self._number}"}
        path.write_text(yaml.safe_dump(release))
        return path

    def ansible(self) -> Run:
        """Roll out with the playbook."""
        self._serve_by_muster(False)
        variables = self.folder / "variables.json"
        variables.write_text(
            json.dumps(
                {
                    "image": self._other_image(),
                    "request": self._request,
                    "expected": self._expected,
                    "watch_seconds": WATCH_SECONDS,
                }
            )
        )
        playbook = HERE / "ansible" / "playbook.yml"
        command = ["ansible-playbook", "--inventory", self.site.inventory, playbook]
        return self._measure("ansible", [*command, "--extra-vars", f"@{variables}"])

    def ssh(self) -> Run:
        """Roll out with a loop around ssh."""
        self._serve_by_muster(False)
        arguments = [self.folder / "ssh_config", self.folder / "waves", self._other_image()]
        return self._measure("ssh", [HERE / "ssh_loop.sh", *arguments, str(WATCH_SECONDS)])

    def work(self) -> Run:
        """Have the devices do the same work, wave by wave, without any controller."""
        self._serve_by_muster(False)
        command = ("/etc/bench/steps", "all", self._other_image(), str(WATCH_SECONDS))
        return self._measured("work", lambda: self._in_waves(*command))

    def _other_version(self) -> str:
        """The version that the run before did not bring: every run changes something."""
        self._version = IMAGES[1 - IMAGES.index(self._version)]
        return self._version

    def _other_image(self) -> str:
        return self.site.image(self._other_version())

    def _in_waves(self, *command: str) -> None:
        for wave in self.waves:
            self.site.everywhere(*command, names=list(wave))

    def _measure(self, means: str, command: Sequence[str | Path]) -> Run:
        environment = in_folder(self.folder) | {
            "ANSIBLE_CONFIG": str(HERE / "ansible" / "ansible.cfg"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        log = self.folder / f"{means}.log"

        def everything() -> None:
            with log.open("w") as stream:
                done = subprocess.run(
                    [str(part) for part in command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            if done.returncode:
                raise RuntimeError(f"{means} ended with {done.returncode}, see {log}")

        return self._measured(means, everything)

    def _measured(self, means: str, everything: Callable[[], None]) -> Run:
        self._hang_up()
        make_control_folder(self._sockets)
        reap()
        devices, controller, begun = self.site.device_cpu(), children_cpu(), time.monotonic()
        everything()
        wall = time.monotonic() - begun
        devices = self.site.device_cpu() - devices
        self._hang_up()
        reap()
        return Run(means, wall, children_cpu() - controller, devices)

    def _hang_up(self) -> None:
        """End shared connections: every run has to make its own."""
        if self._sockets.is_dir():
            for socket in self._sockets.iterdir():
                command = ["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "none"]
                subprocess.run(command, capture_output=True)
            shutil.rmtree(self._sockets)

    def _serve_by_muster(self, wanted: bool) -> None:
        """Let the unit of Muster, or that of the other means, have the port."""
        if wanted is self._muster_serves:
            return
        units = (UNIT, "muster-model@digits")
        stop, start = units if wanted else reversed(units)
        self.site.everywhere("systemctl", "stop", stop)
        if wanted:
            self.site.everywhere("systemctl", "start", start)
        else:
            self._in_waves("/etc/bench/steps", "all", self.site.image(self._version), "0")
        time.sleep(5)
        self._muster_serves = wanted


def become_subreaper() -> None:
    """Have processes that outlive their parents become ours, so that their CPU time counts."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def reap() -> None:
    """Wait for every process that is left to us."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def children_cpu() -> float:
    """CPU seconds of all processes that we have waited for, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def as_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs as plain values."""
    return [vars(run) for run in runs]
