"""The command that takes devices out of service for good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from muster.commands.lifecycle import run_task, task_options
from muster.enrolment.hostkeys import host_entry, unpin
from muster.enrolment.inventory_file import InventoryFile, replace_file
from muster.errors import InputError
from muster.inventory import Device, Inventory, load_inventory, pyinfra_data
from muster.provisioning import provision
from muster.rollout.journal import Journal
from muster.rollout.machine import DeviceState
from muster.rollout.records import RolloutRecord
from muster.tasks import RESET, Task

_GONE = frozenset({DeviceState.DEFERRED, DeviceState.LOST})


@click.command()
@click.argument("pattern")
@click.option(
    "--public-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Key that nobody may log in with any more. Default: that of the inventory, FILE.pub.",
)
@click.option(
    "--gone",
    is_flag=True,
    help="Forget devices that are out of reach, too. What is on them stays there.",
)
@task_options
def retire(pattern: str, public_key: Path | None, gone: bool, **options: Any) -> int:
    """Take the devices that PATTERN selects out of service for good.

    Wave by wave everything is removed from them, as `muster reset` does, the operator's key last.
    Then they go from the inventory, with their variables and pinned host keys, and from the
    monitoring of the sites. This can't be taken back.
    """
    path: Path = options["inventory_path"]
    inventory = load_inventory(path, pattern)
    check_removable(InventoryFile(path), inventory.names)
    task = Task.new(
        RESET,
        users=sorted({str(d.variables.get("ansible_user") or "root") for d in inventory.devices}),
        keys=keys_of(inventory.devices, public_key),
    )

    def forget(record: RolloutRecord, journal: Journal) -> None:
        states = {d.device: d.state for d in journal.load(record.id).devices}
        names = retired(states, gone=gone)
        if names:
            remove(inventory, names)
            _refresh_monitoring(path)
            click.echo(f"out of {path}: {', '.join(names)}", err=True)

    return run_task(task, pattern, "Remove for good", on_end=forget, **options)


def retired(states: dict[str, DeviceState], *, gone: bool) -> list[str]:
    """Devices that leave the inventory.

    :param gone: also those that were out of reach.
    """
    over = {DeviceState.COMMITTED} | (_GONE if gone else set())
    return sorted(name for name, state in states.items() if state in over)


def check_removable(file: InventoryFile, names: Iterable[str]) -> None:
    """Find out that devices can be taken out of a file, and write nothing.

    :raises InputError: one is not there by its own name.
    """
    problems = [
        f"{file.path}: {name}: expected a host of its own, to take it out; write ranges such as"
        " cam-[01:12] out first"
        for name in names
        if not file.remove(name)
    ]
    if problems:
        raise InputError(problems)


def keys_of(devices: Sequence[Device], public_key: Path | None) -> list[str]:
    """The public keys that devices let in, the middle word of each.

    :raises InputError: there is no file with them, or it has no public key.
    """
    files = {public_key} if public_key else set()
    if not public_key:
        for device in devices:
            private = pyinfra_data(device).get("ssh_key")
            if not private:
                raise InputError(
                    f"{device.name}: expected ansible_ssh_private_key_file, or the key to revoke"
                    " with --public-key"
                )
            files.add(Path(f"{private}.pub"))
    keys = []
    for file in sorted(files):
        try:
            words = file.expanduser().read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: expected a public key ({error}); see --public-key") from None
        if len(words) < 2 or not words[0].startswith(("ssh-", "ecdsa-", "sk-")):
            raise InputError(f"{file}: expected a public key as ssh-keygen writes it")
        keys.append(words[1])
    return keys


def remove(inventory: Inventory, names: Sequence[str]) -> None:
    """Take devices out of their inventory, with their variables and pinned keys."""
    file = InventoryFile(inventory.path)
    for name in names:
        file.remove(name)
        for suffix in (".yml", ".yaml"):
            (file.folder / "host_vars" / f"{name}{suffix}").unlink(missing_ok=True)
    file.save()
    for device in inventory.devices:
        known = pyinfra_data(device).get("ssh_known_hosts_file")
        if device.name not in names or not known or not Path(known).is_file():
            continue
        before = Path(known).read_text(encoding="utf-8")
        entries = [host_entry(name, device.port) for name in (device.address, device.name)]
        after = unpin(before, entries)
        if after != before:
            replace_file(Path(known), after, Path(known).stat().st_mode & 0o777)


def _refresh_monitoring(path: Path) -> None:
    """Have the sites' monitoring look no more for what has gone."""
    left = load_inventory(path, may_be_empty=True)
    for device in left.devices:
        if device.variables.get("prometheus_enabled"):
            for result in provision(left.only(device.name), device.name):
                if result.failed:
                    told = f"{device.name}: still looks for retired devices: {result.error}"
                    click.echo(f"{told}; run: muster provision -l {device.name}", err=True)
