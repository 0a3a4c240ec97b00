"""Provision the devices of a scenario, and compare with what a dry run before it has predicted.

usage: converge.py [--dry]; prints JSON: ``changes``, and ``surprises``, what was predicted wrongly.
What changes has to be predicted. What is predicted need not be necessary any more when its turn
comes (installing a package may start its service), but not on a device where nothing changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def provision(*options: str) -> dict[str, list[str]]:
    """Operations that changed something, or would, by device."""
    command = [sys.executable, "-m", "muster", "provision", "--json", "-v", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        sys.exit(1)
    return {
        device["device"]: [
            operation["name"]
            for operation in device["operations"]
            if operation["outcome"] in ("changed", "would change")
        ]
        for device in json.loads(done.stdout)["devices"]
    }


def surprises(predicted: dict[str, list[str]], changed: dict[str, list[str]]) -> list[str]:
    """Where a prediction was wrong."""
    found = []
    for device, names in changed.items():
        found += [f"not predicted: {each} on {device}" for each in {*names} - {*predicted[device]}]
        if not names:
            found += [f"did not happen: {each} on {device}" for each in predicted[device]]
    return sorted(found)


def main() -> None:
    """Run it; the exit code is 1 if a device is not what it should be."""
    dry = "--dry" in sys.argv[1:]
    prediction = Path(os.environ["MUSTER_INVENTORY"]).parent / "predicted.json"
    changed = provision(*["--dry"] * dry)
    wrong = []
    if dry:
        prediction.write_text(json.dumps(changed), encoding="utf-8")
    elif prediction.exists():  # of the step before; later runs begin from where no dry run looked
        wrong = surprises(json.loads(prediction.read_text(encoding="utf-8")), changed)
        prediction.unlink()
    changes = [f"{name} on {device}" for device, names in changed.items() for name in names]
    print(json.dumps({"changes": changes, "surprises": wrong}))


if __name__ == "__main__":
    main()
