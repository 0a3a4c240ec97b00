"""What the commands do: ask the devices, plan, and drive a rollout to its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.errors import InputError, MusterError
from muster.fleet.interface import Fleet, Order, Verb
from muster.inventory import Device, Inventory, load_inventory, pyinfra_data
from muster.release import Release, select_variant
from muster.rollout.decide import Next
from muster.rollout.engine import Engine
from muster.rollout.journal import Journal
from muster.rollout.ledger import Observer
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState
from muster.rollout.prepare import new_rollout, triage
from muster.rollout.records import RolloutRecord, Snapshot
from muster.strategy import Plan, PlanDevice, Strategy, WaveRule, plan

INSPECT_SECONDS = 30.0

Survey = Mapping[str, Mapping[str, Any] | str]
"""Answer to ``inspect`` of each device by name, or the reason why there is none."""


@contextmanager
def connected_fleet(devices: Sequence[Device]) -> Iterator[Fleet]:
    """Reach devices over SSH; connections are made when they are needed."""
    from muster.fleet.over_pyinfra import PyinfraFleet

    fleet = PyinfraFleet({device.name: pyinfra_data(device) for device in devices})
    try:
        yield fleet
    finally:
        fleet.close()


def survey(
    fleet: Fleet,
    names: Iterable[str],
    model: str,
    progress: Callable[[str], None] = lambda _name: None,
) -> dict[str, Mapping[str, Any] | str]:
    """Ask every device what it is and what it runs, all at once.

    :param progress: called with each device's name when it has answered, or has not.
    """
    names = list(names)
    for name in names:
        fleet.submit(Order(name, Verb.INSPECT, {"model": model}, INSPECT_SECONDS))
    seen: dict[str, Mapping[str, Any] | str] = {}
    while len(seen) < len(names):
        answer = fleet.next_answer(None)
        if answer is None:
            break
        seen[answer.device] = answer.document if answer.trouble is None else answer.message
        progress(answer.device)
    return seen


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it rests on.

    :param left_out: devices that are in no wave because of what they said, and why.
    """

    plan: Plan
    left_out: Mapping[str, Next]
    seen: Survey

    @property
    def planned(self) -> int:
        """Number of devices in waves."""
        return len(self.plan.devices)


def prepare(
    inventory: Inventory,
    release: Release,
    strategy: Strategy,
    fleet: Fleet,
    progress: Callable[[str], None] = lambda _name: None,
) -> Prepared:
    """Ask the devices and cut those that take the release into waves. Changes nothing."""
    members = [PlanDevice(d.name, d.site, d.groups) for d in inventory.devices]
    variants: dict[str, str] = {}
    for device in members:
        found = select_variant(release, device.groups)
        if not isinstance(found, str):
            variants[device.name] = found[0]
    seen = survey(fleet, variants, release.model, progress)
    left_out = triage(release, variants, seen, strategy.offline.policy)
    planned = plan([d for d in members if d.name not in left_out], release, strategy)
    return Prepared(planned, left_out, seen)


def new(
    prepared: Prepared,
    inventory: Inventory,
    release: Release,
    strategy: Strategy,
    *,
    limit: str | None = None,
    kind: str = "rollout",
    signature: str | None = None,
) -> Snapshot:
    """Make the records of a new rollout; they are in no journal yet.

    :raises InputError: no device takes the release.
    """
    if not prepared.planned and not any(
        found.state in {DeviceState.ALREADY_CURRENT, DeviceState.DEFERRED}
        for found in prepared.left_out.values()
    ):
        reasons = {name: found.reason for name, found in prepared.left_out.items()}
        raise InputError(
            [f"{inventory.path}: no device takes release {release.id}:"]
            + [f"  {name}: {why}" for name, why in (reasons | dict(prepared.plan.rejected)).items()]
        )
    return new_rollout(
        release,
        strategy,
        prepared.plan,
        str(inventory.path.resolve()),
        limit=limit,
        kind=kind,
        signature=signature,
        left_out=prepared.left_out,
    )


def drive(
    journal: Journal,
    snapshot: Snapshot,
    fleet: Fleet,
    devices: Sequence[Device],
    observers: Sequence[Observer] = (),
    *,
    tick: float | None = None,
    on_engine: Callable[[Engine], None] = lambda _engine: None,
) -> RolloutRecord:
    """Drive a rollout to its end, or to a pause, holding its lease.

    A new one is written to the journal, and takes the place of unfinished ones of the same model
    on the same devices: nobody drives those, as the lease shows.

    :param snapshot: a new rollout, or one of the journal.
    :param on_engine: gets the engine before it runs, so that a signal can stop it.
    :raises LeaseHeldError: another controller is at work on some of its devices.
    :raises InputError: the inventory lacks a device of the rollout.
    """
    rollout_id = snapshot.rollout.id
    names = [record.device for record in snapshot.devices]
    missing = sorted(set(names) - {device.name for device in devices})
    if missing:
        raise InputError(
            f"{snapshot.rollout.inventory}: rollout {rollout_id} has devices that are not"
            f" in the inventory any more: {', '.join(missing)}"
        )
    lease = journal.acquire(snapshot.rollout, names)
    try:
        if snapshot.rollout.created:
            snapshot = journal.load(rollout_id)  # what another controller wrote until now
        else:
            journal.create(snapshot)
            journal.supersede(snapshot)
        snapshot.rollout.controller = lease.owner
        engine = Engine(
            snapshot,
            release_of(snapshot.rollout),
            Strategy.model_validate(snapshot.rollout.strategy),
            fleet,
            journal,
            lease,
            registries=registries(devices),
            observers=observers,
            tick=tick,
        )
        on_engine(engine)
        engine.run()
        return snapshot.rollout
    finally:
        journal.release(lease)


def release_of(rollout: RolloutRecord) -> Release:
    """The release of a rollout, as the journal keeps it."""
    return Release.model_validate(json.loads(rollout.release_document))


def registries(devices: Iterable[Device]) -> dict[str, str]:
    """Address of the registry of each device that names its own."""
    return {
        device.name: str(device.variables["muster_registry"])
        for device in devices
        if device.variables.get("muster_registry")
    }


def read_signature(release_file: Path) -> str | None:
    """The minisign signature that lies beside a release document, if there is one."""
    path = release_file.with_name(release_file.name + ".minisig")
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def unfinished(journal: Journal, rollout_id: str | None) -> RolloutRecord:
    """The rollout to resume: the one named, or the newest that has not ended.

    :raises MusterError: there is none, or it has ended.
    """
    if rollout_id is not None:
        rollout = journal.load(rollout_id).rollout
        if rollout.state in FINAL_ROLLOUT:
            raise MusterError(f"rollout {rollout.id} has ended: {rollout.state.value}")
        return rollout
    for rollout in journal.rollouts():
        if rollout.state not in FINAL_ROLLOUT:
            return rollout
    raise MusterError("no rollout is unfinished; see `muster history`")


def rollback_target(
    journal: Journal, model: str, seen: Survey, to: str | None
) -> tuple[Release, str | None]:
    """The release to go back to, and its signature.

    :param to: id or version of the release; None for the one that most devices ran before.
    :raises InputError: it is not known, not clear, or running everywhere already.
    """
    answers = [answer["model"] for answer in seen.values() if not isinstance(answer, str)]
    if to is None:
        before = Counter(m["previous"] for m in answers if m["current"] and m["previous"])
        if not before:
            raise InputError(f"{model}: no device knows an earlier release; name one with --to")
        (release_id, number), *others = before.most_common()
        if others and others[0][1] == number:
            raise InputError(
                f"{model}: the devices ran different releases before"
                f" ({', '.join(sorted(before))}); choose one with --to"
            )
    else:
        release_id = _known_release(journal, model, to)
    if answers and all(m["current"] and m["current"]["id"] == release_id for m in answers):
        raise InputError(f"{model}: every device runs {release_id} already; nothing to go back to")
    found = journal.release_document(model, release_id)
    if found is None:
        raise InputError(
            f"{model}: release {release_id} is not in this journal; roll it out from its file,"
            " or name the journal that knows it with --journal"
        )
    return Release.model_validate(json.loads(found[0])), found[1]


def _known_release(journal: Journal, model: str, to: str) -> str:
    known = list(dict.fromkeys(r.release_id for r in journal.rollouts(model, limit=1000)))
    matching = [i for i in known if i == to or i.rpartition("-")[0] == to]
    if len(matching) != 1:
        expected = ", ".join(known) or "none was ever rolled out from this journal"
        raise InputError(f"{model}: --to {to}: expected one known release, such as {expected}")
    return matching[0]


def rollback_strategy(strategy: Strategy) -> Strategy:
    """A rollback goes everywhere at once, without canary and soak, but keeps the gates."""
    return strategy.model_copy(update={"waves": (WaveRule(size="rest", name="rollback"),)})


def load_devices(rollout: RolloutRecord) -> Inventory:
    """The inventory of a rollout of the journal."""
    return load_inventory(Path(rollout.inventory), rollout.limit)
