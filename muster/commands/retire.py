"""The command that takes devices out of service for good."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from muster.commands.lifecycle import run_task, task_options
from muster.enrolment.hostkeys import host_entry, unpin
from muster.enrolment.inventory_file import InventoryFile, replace_file
from muster.errors import InputError, MusterError
from muster.fleet.interface import Fleet, Order, Trouble, Verb
from muster.fleet.leaving import forget_nodes
from muster.inventory import Device, Inventory, load_inventory, pyinfra_data
from muster.provisioning import provision
from muster.role_variables import role_model
from muster.rollout.controller import INSPECT_SECONDS
from muster.rollout.journal import Journal
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState
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

    def end(record: RolloutRecord, journal: Journal, fleet: Fleet) -> None:
        forget(record, journal, fleet, inventory, gone=gone)

    return run_task(task, pattern, "Remove for good", on_end=end, some_are_gone=gone, **options)


def is_retirement(work: object) -> bool:
    """Whether a rollout takes devices out of service for good."""
    return isinstance(work, Task) and work.is_retirement


def forget(
    record: RolloutRecord,
    journal: Journal,
    fleet: Fleet,
    inventory: Inventory,
    *,
    gone: bool = False,
) -> None:
    """Take the devices out of the inventory that a retirement is done with.

    As long as it is not over they stay: to go on with it, a controller must know all of them.

    :param gone: also those that are out of reach.
    """
    states = {d.device: d.state for d in journal.load(record.id).devices}
    if record.state not in FINAL_ROLLOUT:
        click.echo(f"{inventory.path}: nothing goes from it before this is over", err=True)
        return
    names = {name for name, state in states.items() if state is DeviceState.COMMITTED}
    if gone:
        silent = out_of_reach(fleet, [name for name, state in states.items() if state in _GONE])
        for name, problem in forget_nodes(fleet, inventory.known, silent).items():
            click.echo(f"{name}: its cluster still counts on it: {problem}", err=True)
        names |= silent
    removed = remove(inventory, sorted(names))
    if removed:
        click.echo(
            f"out of {inventory.path}, with variables and host keys: {', '.join(removed)}", err=True
        )
        _refresh_monitoring(inventory.path)


def out_of_reach(fleet: Fleet, names: Collection[str]) -> set[str]:
    """Those of some devices that can't be reached.

    One may also have been left for later because it is in the middle of something, or refuses.
    """
    for name in names:
        fleet.submit(Order(name, Verb.INSPECT, {"model": None}, INSPECT_SECONDS))
    silent = set()
    for _ in names:
        answer = fleet.next_answer(None)
        if answer is None:
            break
        if answer.trouble is Trouble.UNREACHABLE:
            silent.add(answer.device)
        else:
            click.echo(f"{answer.device}: is not gone, it answers: it stays", err=True)
    return silent


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


def remove(inventory: Inventory, names: Sequence[str]) -> list[str]:
    """Take devices out of their inventory, with their variables and pinned keys.

    :returns: those that were in it.
    """
    file = InventoryFile(inventory.path)
    names = [name for name in names if file.remove(name)]
    file.save()
    for name in names:
        if "/" in name:  # the name of no file
            continue
        for suffix in ("", ".yml", ".yaml", ".json"):
            variables = file.folder / "host_vars" / f"{name}{suffix}"
            if variables.is_dir() and not variables.is_symlink():
                shutil.rmtree(variables)
            else:
                variables.unlink(missing_ok=True)
    for device in inventory.devices:
        known = pyinfra_data(device).get("ssh_known_hosts_file")
        if device.name not in names or not known or not Path(known).is_file():
            continue
        before = Path(known).read_text(encoding="utf-8")
        entries = [host_entry(name, device.port) for name in (device.address, device.name)]
        after = unpin(before, entries)
        if after != before:
            replace_file(Path(known), after, Path(known).stat().st_mode & 0o777)
    return names


def _refresh_monitoring(path: Path) -> None:
    """Have the sites' monitoring look no more for what has gone."""
    monitors = role_model("prometheus")
    for device in load_inventory(path, may_be_empty=True).devices:
        if not monitors.chosen(device.variables):  # type: ignore[attr-defined]
            continue
        left = load_inventory(path, device.name)
        try:
            problem = "; ".join(result.error for result in provision(left, device.name))
        except MusterError as error:
            problem = str(error)
        if problem:
            told = f"{device.name}: still looks for retired devices: {problem}"
            click.echo(f"{told}; run: muster provision -l {device.name}", err=True)
