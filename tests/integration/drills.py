"""Failure drills: scenarios that run side by side, each on emulated devices of its own.

A scenario mostly waits: for a guard, a boot, a link that counts as cut. Side by side a whole table
of them takes little longer than its slowest rows.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_driver import Site

from examples.digits import answering_versions
from muster.documents import load_document
from muster.inventory import load_inventory
from muster.release import Release, select_variant

MODEL = "/var/lib/muster/digits"
GOOD = ("1.0", "1.1")  # releases that pass their gates on every device

STRATEGY: Mapping[str, Any] = {
    "apiVersion": "muster/v1",
    "kind": "Strategy",
    "waves": [{"size": "rest"}],
    "min_healthy_time": "2s",
    "healthy_deadline": "60s",
    "probe_interval": "1s",
    "command_margin": "20s",
    "confirm_timeout": "100s",
}
SOON: Mapping[str, Any] = {
    "healthy_deadline": "20s",
    "command_margin": "10s",
    "confirm_timeout": "35s",
}
"""Clocks for scenarios that wait until the guard acts."""


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
    """Poll until something holds; the limit is far beyond what it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


@dataclass(frozen=True)
class Ended:
    """How a run of ``muster`` ended."""

    code: int
    events: list[dict[str, Any]]
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The summary that comes last."""
        assert self.events, self.err
        assert self.events[-1]["event"] == "result", (self.events[-1], self.err)
        return self.events[-1]

    @property
    def states(self) -> dict[str, str]:
        """State of each device at the end."""
        return {device["device"]: device["state"] for device in self.result["devices"]}

    def reason(self, device: str) -> str:
        """Why a device is in its state."""
        found = {each["device"]: each["reason"] for each in self.result["devices"]}
        return str(found[device])

    def expect(self, code: int, *states: str) -> Ended:
        """Check the exit code, and the states of the devices in their order."""
        seen = list(self.states.values())
        told = [event for event in self.events if event.get("reason") or event.get("message")]
        assert (self.code, seen) == (code, list(states) or seen), (told, self.err)
        return self


class Controller:
    """A ``muster`` process that prints events, which are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._events: list[dict[str, Any]] = []
        self._error: list[str] = []
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_error)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self._events.append(json.loads(line))
                self._news.notify_all()

    def _read_error(self) -> None:
        assert self.process.stderr
        self._error += self.process.stderr

    def until(self, seconds: float = 120, **wanted: object) -> dict[str, Any]:
        """Wait for the first event with these fields."""

        def found() -> dict[str, Any] | None:
            matching = (e for e in self._events if wanted.items() <= e.items())
            return next(matching, None)

        deadline = time.monotonic() + seconds
        with self._news:
            while (event := found()) is None:
                over = self.process.poll() is not None and not self._readers[0].is_alive()
                assert not over, f"no event {wanted}: {self.end()}"
                assert time.monotonic() < deadline, f"no event {wanted}: {self._events}"
                self._news.wait(0.2)
        return event

    def kill(self) -> str:
        """Kill it at once; returns the id of its rollout."""
        self.process.send_signal(signal.SIGKILL)
        rollout: str = self.end().events[0]["rollout"]
        return rollout

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Suspend it, as a laptop that is shut."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self, seconds: float = 240) -> Ended:
        """Wait until it has ended."""
        code = self.process.wait(timeout=seconds)
        for reader in self._readers:
            if reader is not threading.current_thread():
                reader.join()
        return Ended(code, self._events, "".join(self._error))


class Drill:
    """Some devices that serve a good release, with a controller and a journal of their own.

    ``old`` is the version that they serve, ``new`` another good one.
    """

    def __init__(self, site: Site, folder: Path, devices: Sequence[str]) -> None:
        folder.mkdir()
        self.site = dataclasses.replace(site, folder=folder)
        self.fleet, self.devices = site.fleet, list(devices)
        self.device, self.other = self.devices[0], self.devices[-1]
        known = {device.name: device for device in load_inventory(site.inventory).devices}
        self.inventory = {name: known[name] for name in devices}
        self._controllers: list[Controller] = []
        self.old = self.answers(self.device)
        self.new = next(version for version in GOOD if version != self.old)
        if {self.answers(name) for name in devices} != {self.old}:
            self.roll(self.old).expect(0)
        for name in devices:
            self.rest(name, 20)

    # Controllers

    def strategy(self, **changes: Any) -> Path:
        """Write a strategy document with short clocks and these changes."""
        text = yaml.safe_dump({**STRATEGY, **changes})
        path = self.site.folder / f"strategy-{abs(hash(text))}.yml"
        path.write_text(text)
        return path

    def muster(self, *arguments: str | Path) -> Controller:
        """Start ``muster``."""
        controller = Controller(self.site.start(*arguments))
        self._controllers.append(controller)
        return controller

    def begin(self, release: str | Path, *options: str, **strategy: Any) -> Controller:
        """Start a rollout of a version, or of a release document, over the devices."""
        path = release if isinstance(release, Path) else self.site.releases[release]
        limit = ["--limit", ",".join(self.devices), *options]
        return self.muster("rollout", path, "-s", self.strategy(**strategy), "--json", *limit)

    def roll(self, release: str | Path, *options: str, **strategy: Any) -> Ended:
        """Roll a version, or a release document, out to the end."""
        return self.begin(release, *options, **strategy).end()

    def resume(self) -> Ended:
        """Resume the newest unfinished rollout to its end."""
        return self.muster("resume", "--json").end()

    def history(self, rollout: str) -> dict[str, Any]:
        """What the journal has about a rollout."""
        done = self.site.muster("history", rollout, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    # Devices

    def fault(self, kind: str, device: str = "") -> None:
        """Inject a fault into a device, the first by default, or heal it."""
        self.fleet.fault(kind, device or self.device)

    def run(self, command: str, device: str = "") -> str:
        """Run a shell command on a device, the first by default, and return what it says."""
        code, output = self.fleet.exec(device or self.device, ["sh", "-c", command])
        assert code == 0, (command, output)
        return output

    def call(self, subcommand: str, document: Mapping[str, Any], device: str = "") -> Any:
        """Give the device program an order past the controller; returns its answer."""
        order = f"printf %s {shlex.quote(json.dumps(document))} | muster-device {subcommand}"
        _, output = self.fleet.exec(device or self.device, ["sh", "-c", order])
        return json.loads(output.splitlines()[-1])

    def release(self, version: str, device: str = "") -> tuple[Release, str, str]:
        """A release, and which variant and image of it a device takes."""
        known = self.inventory[device or self.device]
        release = load_document(self.site.releases[version], Release)
        selected = select_variant(release, known.groups)
        assert not isinstance(selected, str)
        name, variant = selected
        return release, name, f"{known.variables['muster_registry']}/{variant.image}"

    def forget(self, version: str, device: str = "") -> None:
        """Remove a release that does not serve, so that it must be staged and pulled again."""
        release, _, image = self.release(version, device)
        self.run(
            f"rm -rf {MODEL}/releases/{release.id}; docker rm --force muster-digits-{release.id};"
            f" docker image rm {image}; ! docker image inspect {image}",
            device,
        )

    def state(self, device: str = "") -> dict[str, Any]:
        """What the device program wrote last; looking changes nothing, as ``inspect`` might."""
        return dict(json.loads(self.run(f"cat {MODEL}/state.json", device)))

    def answers(self, device: str = "", port: int = 8000) -> str:
        """The version that answers inference requests, or the error."""
        name = device or self.device
        return answering_versions({name: self.inventory[name].address}, port)[name]

    def rest(self, device: str = "", seconds: float = 120) -> dict[str, Any]:
        """Wait until nothing is under way on a device, without touching it; returns its state."""
        idle = f'until grep -q \'"phase": "idle"\' {MODEL}/state.json; do sleep 0.2; done'
        self.run(f"timeout {seconds:.0f} sh -c {shlex.quote(idle)}", device)
        return self.state(device)

    def at_rest(self, device: str, version: str) -> dict[str, Any]:
        """Check that a device serves a version for good; returns what it says of the model."""
        name = device or self.device
        wait_for(f"{name} serves {version}", lambda: self.answers(name) == version, 20)
        self.rest(name, 20)
        model = self.site.device_state(name)
        running = model["current"]
        seen = (model["phase"], model["guard"]["armed"], running["version"], running["serving"])
        assert seen == ("idle", False, version, True), model
        assert model["last_good"] == running["id"], model
        return model

    def close(self) -> None:
        """Leave no controller behind."""
        for controller in self._controllers:
            if controller.process.poll() is None:
                controller.kill()


@dataclass(frozen=True)
class Scenario:
    """One row of the failure table.

    :param play: gets its devices, and checks what a person would see.
    """

    name: str
    play: Callable[[Drill], None]
    devices: int = 1

    def __str__(self) -> str:
        return self.name


@dataclass
class Table:
    """The rows of one module, in the order in which they were written down."""

    scenarios: list[Scenario] = field(default_factory=list)

    def add(self, name: str, play: Callable[[Drill], None], devices: int = 1) -> None:
        """Add a row."""
        self.scenarios.append(Scenario(name, play, devices))

    def row(self, devices: int = 1) -> Callable[[Callable[[Drill], None]], None]:
        """Add a function as a row under its own name."""
        return lambda play: self.add(play.__name__, play, devices)

    def parametrize(self) -> pytest.MarkDecorator:
        """Make one test of each row."""
        return pytest.mark.parametrize("scenario", self.scenarios, ids=str)


class _Pool:
    """Devices that no scenario is at work on."""

    def __init__(self, names: Sequence[str]) -> None:
        self._free, self._news = list(names), threading.Condition()

    @contextmanager
    def take(self, number: int) -> Iterator[list[str]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self._free) >= number, 600)
            taken, self._free = self._free[:number], self._free[number:]
        try:
            yield taken
        finally:
            with self._news:
                self._free += taken
                self._news.notify_all()


@contextmanager
def side_by_side(
    site: Site, folder: Path, items: Sequence[pytest.Item]
) -> Iterator[Callable[[Scenario], None]]:
    """Start the scenarios that these tests ask for.

    :param folder: for the journals.
    :returns: what a test calls to wait for its scenario; it raises what the scenario raised.
    """
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    wanted = [given["scenario"] for given in parameters if "scenario" in given]
    wanted.sort(key=lambda scenario: -scenario.devices)  # the large ones find no room later
    if set(site.answering().values()) - set(GOOD):
        site.everywhere(GOOD[0])
    pool = _Pool(site.names)

    def play(scenario: Scenario) -> None:
        with pool.take(scenario.devices) as devices:
            drill = Drill(site, folder / scenario.name, devices)
            try:
                try:
                    scenario.play(drill)
                finally:
                    drill.close()
            except BaseException:
                for device in devices:  # the next one shall find them well
                    site.fleet.fault("heal", device)
                    with suppress(AssertionError):
                        drill.rest(device, 180)
                raise

    with ThreadPoolExecutor(len(site.names)) as threads:
        playing: dict[str, Future[None]] = {s.name: threads.submit(play, s) for s in wanted}
        yield lambda scenario: playing[scenario.name].result()
