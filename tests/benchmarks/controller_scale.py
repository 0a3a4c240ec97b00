"""What the controller alone costs, over simulated devices: CPU seconds and memory by fleet size.

Each size runs in a process of its own, so that no run warms up another and each has its own peak.
Everything that ``muster rollout --json --junit`` does is counted but reading the inventory and
SSH. The devices are simulated in the same process; ``simulation`` says what of it is theirs.

usage: controller_scale.py [--sizes 100,1000,10000] [--output FILE] [--profile FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from figures import machine, table, write_figures

from muster.display import JsonLines
from muster.fleet.interface import Answer, Order
from muster.fleet.simulated import SimulatedDevice, SimulatedFleet
from muster.inventory import Device, Inventory
from muster.release import Release
from muster.rollout import controller, report
from muster.rollout.journal import Journal
from muster.strategy import Strategy

SIZES = (100, 1_000, 10_000)
SITES = 20
"""Number of sites over which the devices are spread."""
WAVES = ({"size": 1}, {"size": "25%"}, {"size": "rest"})
MAX_PARALLEL = 50
"""Devices at work at once; the default of a strategy."""


def make_release(version: str) -> Release:
    """A release with two variants and three gates, as the reference model has them."""
    image = "models/digits@sha256:"
    case = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}],
        "outputs": [{"name": "label", "data": [7]}],
    }
    return Release.model_validate(
        {
            "model": "digits",
            "version": version,
            "variants": {
                "hw_a": {"image": image + "a" * 64},
                "hw_b": {"image": image + "b" * 64},
            },
            "gates": [
                {"name": "ready", "type": "readiness"},
                {"name": "live", "type": "http", "path": "/v2/health/live", "max_latency": 2},
                {
                    "name": "smoke",
                    "type": "smoke_inference",
                    "path": "/v2/models/digits/infer",
                    "cases": [case] * 3,
                },
            ],
        }
    )


def make_inventory(number: int) -> Inventory:
    """``number`` devices at ``SITES`` sites, of two kinds of hardware."""
    devices = tuple(
        Device(
            name=f"device-{index:05d}",
            address="192.0.2.1",
            port=22,
            site=f"site_{index % SITES:02d}",
            hardware="hw_a" if index % 3 else "hw_b",
            groups=(f"site_{index % SITES:02d}", "hw_a" if index % 3 else "hw_b"),
            variables={"muster_registry": f"registry-{index % SITES}:5000"},
        )
        for index in range(number)
    )
    return Inventory(Path("simulated"), devices)


class MeasuredFleet(SimulatedFleet):
    """A simulated fleet that counts the CPU seconds which it takes itself.

    No two devices take equally long, so answers come one at a time: a busy controller over SSH
    finds several at once and writes them together, which costs less.
    """

    answer_body = json.dumps(
        {"outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}]}
    )

    def __init__(self, names: Sequence[str], current: str) -> None:
        super().__init__(
            SimulatedDevice(
                name,
                takes=1.0 + index * 1e-4,
                current=current,
                last_good=current,
                releases={current},
                generation=1,
            )
            for index, name in enumerate(names)
        )
        self.cpu = 0.0
        self.answers = 0

    def submit(self, order: Order) -> None:
        """Put an order on its way."""
        with self._counted():
            super().submit(order)

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Advance the clock to the next answer."""
        with self._counted():
            answer = super().next_answer(timeout)
            if answer is not None:
                self.answers += 1
                self._fill_in(answer)
            return answer

    def _fill_in(self, answer: Answer) -> None:
        """Let inference requests be answered rightly, twice as often as a short probe does."""
        for name, samples in answer.document.get("measurements", {}).items():
            samples *= 3
            if name.startswith("smoke"):
                for sample in samples:
                    sample["body"] = self.answer_body

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        begun = time.process_time()
        try:
            yield
        finally:
            self.cpu += time.process_time() - begun


def measure(number: int, folder: Path, profile: cProfile.Profile | None = None) -> dict[str, Any]:
    """Roll a release over ``number`` simulated devices.

    :param folder: where the journal goes.
    :returns: CPU seconds of each part, ``peak_memory`` of the process in bytes, and what was done.
    """
    release, old = make_release("2.0"), make_release("1.0")
    strategy = Strategy.model_validate(
        {"waves": WAVES, "max_parallel": MAX_PARALLEL, "min_healthy_time": 10}
    )
    inventory = make_inventory(number)
    fleet = MeasuredFleet([device.name for device in inventory.devices], old.id)
    journal = Journal(f"sqlite:///{folder / 'journal.sqlite'}")
    before_memory = peak_memory()
    if profile:
        profile.enable()
    marks = [cpu_seconds()]
    wall = time.monotonic()
    prepared = controller.prepare(inventory, release, strategy, fleet)
    snapshot = controller.new(prepared, inventory, release, strategy)
    marks.append(cpu_seconds())
    with (folder / "events.json").open("w") as stream:
        record = controller.drive(journal, snapshot, fleet, inventory.devices, [JsonLines(stream)])
    marks.append(cpu_seconds())
    snapshot, events = journal.load(record.id), journal.events(record.id)
    (folder / "junit.xml").write_text(report.junit(snapshot, events), encoding="utf-8")
    result = json.dumps(report.summary(snapshot, events))
    marks.append(cpu_seconds())
    if profile:
        profile.disable()
    journal.close()
    return {
        "devices": number,
        "state": record.state.value,
        "waves": len(snapshot.waves),
        "answers": fleet.answers,
        "events": len(events),
        "cpu": {
            "total": marks[-1] - marks[0],
            "prepare": marks[1] - marks[0],
            "drive": marks[2] - marks[1],
            "report": marks[3] - marks[2],
            "simulation": fleet.cpu,
        },
        "wall": time.monotonic() - wall,
        "peak_memory": peak_memory(),
        "memory_before": before_memory,
        "result_bytes": len(result),
    }


def cpu_seconds() -> float:
    """CPU seconds of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory() -> int:
    """Largest resident size of this process until now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_apart(number: int) -> dict[str, Any]:
    """Measure one size in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(number)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(done.stdout))


def show(runs: Sequence[dict[str, Any]]) -> str:
    """The figures as a table, and the ratio that must not grow with the fleet."""
    rows = [
        [
            f"{run['devices']:,}",
            f"{run['cpu']['total']:.2f}",
            f"{run['cpu']['prepare']:.2f}",
            f"{run['cpu']['drive']:.2f}",
            f"{run['cpu']['report']:.2f}",
            f"{run['cpu']['simulation']:.2f}",
            f"{1000 * per_device(run):.2f}",
            f"{run['peak_memory'] / 2**20:.0f}",
            f"{run['wall']:.1f}",
        ]
        for run in runs
    ]
    head = ["devices", "CPU s", "prepare", "drive", "report", "of it simulation"]
    text = table([*head, "ms a device", "peak MiB", "wall s"], rows)
    first, last = runs[0], runs[-1]
    ratio = per_device(last) / per_device(first)
    return (
        f"{text}\ncost of a device at {last['devices']:,} to that at {first['devices']:,}:"
        f" {ratio:.2f} (target: about 1)"
    )


def per_device(run: dict[str, Any]) -> float:
    """CPU seconds for one device, without those of the simulation."""
    return float((run["cpu"]["total"] - run["cpu"]["simulation"]) / run["devices"])


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description="What the controller alone costs.")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of devices")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--profile", type=Path, help="run the last size here; write its profile")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.child or options.profile:
        profile = cProfile.Profile() if options.profile else None
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
            run = measure(options.child or sizes[-1], Path(folder), profile)
        print(json.dumps(run))
        if profile:
            profile.dump_stats(options.profile)
        return
    runs = []
    for size in sizes:
        print(f"{size} simulated devices ...", file=sys.stderr, flush=True)
        runs.append(measure_apart(size))
    print(show(runs))
    if options.output:
        write_figures(options.output, {"machine": machine(), "runs": runs})


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main(sys.argv[1:])
