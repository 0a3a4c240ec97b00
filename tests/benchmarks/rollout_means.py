"""The same rollout on emulated devices by three means, and by none: what the controller costs.

The work itself is what the devices do when nobody tells them over the network: the same steps by
``docker exec``, all devices of a wave at once. Muster's device program does more (it arms a guard,
keeps a journal), and is run in the same way. What a means takes beyond what its devices do is the
controller's part. Runs take turns, so that a busy machine is busy for all of them.

usage: rollout_means.py [--devices 20] [--rounds 3] [--folder FOLDER] [--output FILE] [--keep]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_fleet import BenchFleet, bring_up
from figures import machine, table, write_figures
from means import Comparison, Run, as_json

DEVICES = 20
ROUNDS = 3
FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench" / "fleet"
MEANS = ("work", "ssh", "ansible", "program", "muster")
OWN = {"muster": "program"}
"""What the devices do by themselves for a means, where it is more than the work itself."""
WORDS_OF_MEANS = {
    "work": "the work itself",
    "ssh": "ssh loop",
    "ansible": "Ansible",
    "program": "device program alone",
    "muster": "Muster",
}
WORDS = {
    "beyond_own": "the controller's part",
    "beyond_work": "everything beyond the work itself",
    "wall": "wall time",
    "controller_cpu": "CPU time of the controller",
}


def cut_into_waves(names: Sequence[str]) -> list[list[str]]:
    """One device, a quarter of all, the rest: as all means cut them."""
    quarter = -(-len(names) // 4)
    return [list(names[:1]), list(names[1 : 1 + quarter]), list(names[1 + quarter :])]


def compare(site: BenchFleet, rounds: int) -> list[Run]:
    """Do the rollout by every means, ``rounds`` times, by turns to one image and to another."""
    comparison = Comparison(site, cut_into_waves(sorted(site.container)))
    comparison.prepare()
    _say("a first rollout by Muster, which does not count")
    comparison.muster()
    runs = []
    for number in range(rounds):
        for name in MEANS if number % 2 else reversed(MEANS):
            runs.append(getattr(comparison, name)())
            _say(
                f"round {number + 1}: {name} {runs[-1].wall:.1f} s, CPU of the controller"
                f" {runs[-1].controller_cpu:.1f} s, of the devices {runs[-1].device_cpu:.1f} s"
            )
    return runs


def figures(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """The least that each means took, and what of it is beyond what the devices need.

    The least, as whatever else the machine does only adds. What is beyond is the median of the
    differences within a round: a machine whose speed drifts does so for both sides of it.
    ``beyond_own`` subtracts what the devices did for this means: for Muster that is its device
    program with guard and journal.
    """
    found: dict[str, dict[str, float]] = {}
    for means in MEANS:
        own = [run for run in runs if run.means == means]
        found[means] = {
            key: min(getattr(run, key) for run in own)
            for key in ("wall", "controller_cpu", "device_cpu")
        }
    for means, values in found.items():
        for key, other in (("beyond_work", "work"), ("beyond_own", OWN.get(means, "work"))):
            pairs = zip(_walls(runs, means), _walls(runs, other), strict=True)
            values[key] = statistics.median(one - two for one, two in pairs)
    return found


def _walls(runs: Sequence[Run], means: str) -> list[float]:
    return [run.wall for run in runs if run.means == means]


def ratios(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """How the means compare, by quantity."""
    return {
        key: {
            "ansible_to_muster": _ratio(found["ansible"][key], found["muster"][key]),
            "muster_to_ssh": _ratio(found["muster"][key], found["ssh"][key]),
        }
        for key in WORDS
    }


def _ratio(one: float, other: float) -> float | None:
    """None where the difference was too small to be seen."""
    return one / other if one > 0 and other > 0 else None


def show(found: dict[str, dict[str, float]]) -> str:
    """The figures as a table, and the ratios."""
    keys = ("wall", "beyond_work", "beyond_own", "controller_cpu", "device_cpu")
    head = ["seconds", "wall", "beyond the work", "controller's part", "controller CPU"]
    rows = [
        [WORDS_OF_MEANS[means], *(f"{values[key]:.1f}" for key in keys)]
        for means, values in found.items()
    ]
    lines = [
        [WORDS[key], *("-" if value is None else f"{value:.1f}" for value in compared.values())]
        for key, compared in ratios(found).items()
    ]
    return (
        f"{table([*head, 'device CPU'], rows)}\n\n"
        f"{table(['', 'Ansible / Muster', 'Muster / ssh'], lines)}\n"
        "targets, on the controller's part: Ansible / Muster at least 5, Muster / ssh at most 1.5"
    )


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Bring the fleet up, measure, print, write, take the fleet down."""
    parser = argparse.ArgumentParser(description="One rollout by three means.")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="for the fleet and all it needs"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--keep", action="store_true", help="leave the fleet up")
    options = parser.parse_args(arguments)
    site = bring_up(options.devices, options.folder)
    try:
        load = os.getloadavg()[0]
        runs = compare(site, options.rounds)
    finally:
        if not options.keep:
            site.fleet.down()
    found = figures(runs)
    print(show(found))
    if options.output:
        result: dict[str, Any] = {
            "machine": machine(),
            "load_before": load,
            "devices": options.devices,
            "rounds": options.rounds,
            "least": found,
            "ratios": ratios(found),
            "runs": as_json(runs),
        }
        write_figures(options.output, result)


if __name__ == "__main__":
    main(sys.argv[1:])
