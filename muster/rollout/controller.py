"""What the commands do: ask the devices, plan, and drive a rollout to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.errors import InputError, MusterError
from muster.fleet.interface import Fleet, Order, Verb
from muster.fleet.over_k3s import K3sFleet, nodes_among, server_name
from muster.fleet.remembering import RememberingFleet
from muster.hooks.interface import Hooks
from muster.inventory import (
    Device,
    Inventory,
    load_inventory,
    pyinfra_data,
    pyinfra_data_by_name,
)
from muster.planning import Plan, PlanDevice, plan
from muster.release import Release, select_variant, version_of
from muster.release import running as release_running
from muster.rollout.catching_up import meant_for, newest_of_each, way_to_newest
from muster.rollout.decide import Next
from muster.rollout.engine import Engine
from muster.rollout.journal import Journal
from muster.rollout.ledger import Observer
from muster.rollout.machine import BEFORE_SWITCH, FINAL_ROLLOUT, DeviceState
from muster.rollout.prepare import new_rollout, triage
from muster.rollout.records import RolloutRecord, Snapshot
from muster.rollout.work import DeviceFacts
from muster.strategy import Strategy, WaveRule
from muster.tasks import PROGRAM, Task, select_kind
from muster.windows import time_zone

INSPECT_SECONDS = 30.0

Survey = Mapping[str, Mapping[str, Any] | str]
"""Answer to ``inspect`` of each device by name, or the reason why there is none."""


@contextmanager
def connected_fleet(
    devices: Sequence[Device],
    *,
    known: Sequence[Device] = (),
    servers: Sequence[Device] = (),
    remember: bool = True,
) -> Iterator[Fleet]:
    """Reach devices over SSH; connections are made when they are needed.

    :param known: every device of the inventory, where a release may be staged: a node's cluster is
        told by one of its servers.
    :param servers: servers of K3s clusters that a task asks something besides.
    :param remember: whether what a device has just said it is serves once more.
    :raises InputError: a node of a K3s cluster that can't be told what to run.
    """
    from muster.fleet.over_pyinfra import PyinfraFleet

    nodes = nodes_among(devices, known) if known else {}
    names = {name for node in nodes.values() for name in node.servers}
    told = [*servers, *(device for device in known if device.name in names)]
    data = pyinfra_data_by_name(devices)
    data |= {server_name(device.name): pyinfra_data(device) for device in told}
    fleet: Fleet = PyinfraFleet(data)
    if nodes:
        fleet = K3sFleet(fleet, nodes)
    if remember:
        fleet = RememberingFleet(fleet)
    try:
        yield fleet
    finally:
        fleet.close()


def survey(
    fleet: Fleet,
    names: Iterable[str],
    about: str | Task | None,
    progress: Callable[[str], None] = lambda _name: None,
) -> dict[str, Mapping[str, Any] | str]:
    """Ask every device what it is and what it runs, all at once.

    :param about: the model, or the task, of which it is to tell where it stands; None for none.
    :param progress: called with each device's name when it has answered, or has not.
    """
    names = list(names)
    question: dict[str, Any] = {"model": about}
    program = ""
    if isinstance(about, Task):
        question, program = {"task": about.document}, PROGRAM
    for name in names:
        fleet.submit(Order(name, Verb.INSPECT, question, INSPECT_SECONDS, program))
    seen: dict[str, Mapping[str, Any] | str] = {}
    while len(seen) < len(names):
        answer = fleet.next_answer(None)
        if answer is None:
            break
        seen[answer.device] = answer.document if answer.trouble is None else answer.message
        progress(answer.device)
    return seen


def running(seen: Mapping[str, Any] | str) -> str | None:
    """Id of the release that a device runs, from its answer to ``inspect``."""
    return None if isinstance(seen, str) else release_running(seen)


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it rests on.

    :param left_out: devices that are in no wave because of what they said, and why.
    :param variants: variant of each device that has one.
    """

    plan: Plan
    left_out: Mapping[str, Next]
    seen: Survey
    variants: Mapping[str, str]

    @property
    def planned(self) -> int:
        """Number of devices in waves."""
        return len(self.plan.devices)

    @property
    def without_rollback(self) -> list[str]:
        """Devices of the plan that run nothing, so that there is nothing to go back to."""
        return sorted(
            device.name for device in self.plan.devices if running(self.seen[device.name]) is None
        )


def prepare(
    inventory: Inventory,
    release: Release | Task,
    strategy: Strategy,
    fleet: Fleet,
    progress: Callable[[str], None] = lambda _name: None,
    *,
    back: bool = False,
    quarantined: Mapping[str, str] | None = None,
    done: Mapping[str, str] | None = None,
) -> Prepared:
    """Ask the devices and cut those that take the release into waves. Changes nothing.

    :param back: the release is gone back to.
    :param quarantined: why each device is left alone that could not go back in an earlier rollout.
    :param done: why there is nothing to do on each device that is known to be right.
    :raises InputError: the strategy names a pattern, or a device a time zone, that isn't there.
    """
    device_facts(inventory.devices)  # a wrong variable is told before any device is asked
    matching = {
        rule.pattern: {device.name for device in inventory.select(rule.pattern)}
        for rule in strategy.waves
        if rule.pattern is not None
    }
    members = [PlanDevice(d.name, d.site, d.groups) for d in inventory.devices]
    variants: dict[str, str] = {}
    for device in members:
        variant, reason = select_kind(release, device.groups)
        if not reason:
            variants[device.name] = variant
    about = release if isinstance(release, Task) else release.model
    seen = survey(fleet, variants, about, progress)
    left_out = triage(
        release, variants, seen, strategy, back=back, quarantined=quarantined, done=done
    )
    planned = plan([d for d in members if d.name not in left_out], release, strategy, matching)
    return Prepared(planned, left_out, seen, variants)


def quarantine(journal: Journal, model: str) -> dict[str, str]:
    """Why each device is left alone that could not go back when a rollout last touched it.

    The rollouts that left it alone since do not end that.
    """
    untouched = BEFORE_SWITCH | {DeviceState.REJECTED, DeviceState.DEFERRED}
    return {
        device: f"quarantined by rollout {latest.rollout}: {latest.record.reason}; look at it, then"
        " roll out with --include-quarantined"
        for device, latest in journal.latest(model, ignoring=untouched).items()
        if latest.record.state is DeviceState.QUARANTINED
    }


def device_facts(devices: Iterable[Device]) -> dict[str, DeviceFacts]:
    """What the engine needs to know of each device.

    :raises InputError: a device names a time zone that there is not.
    """
    facts, problems = {}, []
    for device in devices:
        zone = device.variables.get("muster_timezone")
        try:
            if zone is not None:
                time_zone(str(zone))
        except ValueError as error:
            problems.append(f"{device.name}: muster_timezone: {error}")
        registry = device.variables.get("muster_registry")
        facts[device.name] = DeviceFacts(
            str(registry) if registry else None, device.site, str(zone) if zone else None
        )
    if problems:
        raise InputError(problems)
    return facts


def new(
    prepared: Prepared,
    inventory: Inventory,
    release: Release | Task,
    strategy: Strategy,
    *,
    limit: str | None = None,
    kind: str = "rollout",
    signature: str | None = None,
    accept_no_rollback: bool = True,
) -> Snapshot:
    """Make the records of a new rollout; they are in no journal yet.

    :param accept_no_rollback: whether devices may take it that have nothing to go back to.
    :raises InputError: no device takes the release, or one has nothing to go back to.
    """
    if not prepared.planned and not any(
        found.state in {DeviceState.ALREADY_CURRENT, DeviceState.DEFERRED}
        for found in prepared.left_out.values()
    ):
        reasons = {name: found.reason for name, found in prepared.left_out.items()}
        raise InputError(
            [f"{inventory.path}: no device takes {release.id}:"]
            + [f"  {name}: {why}" for name, why in (reasons | dict(prepared.plan.rejected)).items()]
        )
    if prepared.without_rollback and not accept_no_rollback:
        names = prepared.without_rollback
        many = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise InputError(
            f"{inventory.path}: {', '.join(names[:10])}{many}: nothing runs there, so there is"
            " nothing to go back to; if that is right, use --accept-no-rollback"
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
        variants=prepared.variants,
    )


def drive(
    journal: Journal,
    snapshot: Snapshot,
    fleet: Fleet,
    devices: Sequence[Device],
    observers: Sequence[Observer] = (),
    *,
    hooks: Hooks | None = None,
    wait_for_approval: bool = False,
    tick: float | None = None,
    lacking: Mapping[str, str] | None = None,
    on_engine: Callable[[Engine], None] = lambda _engine: None,
) -> RolloutRecord:
    """Drive a rollout to its end, or to a pause, holding its lease.

    A new one is written to the journal, and takes the place of unfinished ones of the same model
    on the same devices: nobody drives those, as the lease shows.

    :param snapshot: a new rollout, or one of the journal.
    :param lacking: why a device may find that its site's registry lacks the release, by device.
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
            work_of(snapshot.rollout),
            Strategy.model_validate(snapshot.rollout.strategy),
            fleet,
            journal,
            lease,
            facts={
                name: replace(facts, lacks=(lacking or {}).get(name, ""))
                for name, facts in device_facts(devices).items()
            },
            observers=observers,
            hooks=hooks,
            wait_for_approval=wait_for_approval,
            tick=tick,
        )
        on_engine(engine)
        engine.run()
        return snapshot.rollout
    finally:
        journal.release(lease)


def work_of(rollout: RolloutRecord) -> Release | Task:
    """The release or task of a rollout, as the journal keeps it."""
    if rollout.is_task:
        return Task.from_canonical(rollout.release_document)
    return release_of(rollout)


def release_of(rollout: RolloutRecord) -> Release:
    """The release of a rollout, as the journal keeps it."""
    return Release.from_canonical(rollout.release_document)


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


def check_in_no_rollout(journal: Journal, inventory: Inventory) -> None:
    """Find out that no rollout of a model still counts on what these devices hold.

    :raises InputError: an unfinished one has some of them, which could then not be resumed.
    """
    problems = []
    for rollout in journal.rollouts(limit=1000):
        if rollout.is_task or rollout.state in FINAL_ROLLOUT:
            continue
        members = {record.device for record in journal.load(rollout.id).devices}
        if names := sorted(members & set(inventory.names)):
            told = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            problems.append(
                f"{inventory.path}: {told}: rollout {rollout.id} of {rollout.model} is not over:"
                f" first `muster resume {rollout.id}` or `muster abort {rollout.id}`"
            )
    if problems:
        raise InputError(problems)


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
    return Release.from_canonical(found[0]), found[1]


def _known_release(journal: Journal, model: str, to: str) -> str:
    known = list(dict.fromkeys(r.release_id for r in journal.rollouts(model, limit=1000)))
    matching = [i for i in known if i == to or version_of(i) == to]
    if len(matching) != 1:
        expected = ", ".join(known) or "none was ever rolled out from this journal"
        raise InputError(f"{model}: --to {to}: expected one known release, such as {expected}")
    return matching[0]


@dataclass(frozen=True)
class CatchUp:
    """What brings devices that were left behind one release further.

    :param devices: names of the devices that take ``release``.
    """

    release: Release
    strategy: Strategy
    signature: str | None
    devices: tuple[str, ...]


_FAILED_TO_CATCH_UP = {DeviceState.ROLLED_BACK, DeviceState.ROLLBACK_FAILED}


def left_behind(journal: Journal, model: str) -> list[str]:
    """Devices that were deferred in the newest rollout they were in, or were being caught up.

    Quarantined ones, and those that failed the release that they were brought to, are not among
    them: a person has to look at those first. Nor are those of a rollout that is not over, as one
    that waits for approval.
    """
    quarantined = quarantine(journal, model)
    rollouts = journal.rollouts(model, limit=1000)
    unfinished = {record.id for record in rollouts if record.state not in FINAL_ROLLOUT}
    theirs = {
        device
        for device, latest in journal.latest(model).items()
        if latest.kind != "catch_up" and latest.rollout in unfinished
    }
    # Who missed a release may be rejected by the next: that is what catching up is for.
    touched = journal.latest(model, ignoring={DeviceState.REJECTED})
    return sorted(
        device
        for device, latest in touched.items()
        if latest.record.state is DeviceState.DEFERRED
        or (latest.kind == "catch_up" and latest.record.state not in _FAILED_TO_CATCH_UP)
        if device not in quarantined and device not in theirs
    )


def next_catch_up(
    journal: Journal, model: str, devices: Sequence[Device], seen: Survey
) -> CatchUp | None:
    """The next release that devices which were left behind have to take; None when none has.

    Only releases that a rollout of this journal ended well with count, in the newest rollout of
    each, and in the newest of those that the device was in or that had no limit. A device whose
    strategy says ``catch_up: none`` is left alone.

    :param devices: those that were left behind; ``seen``: what they answered.
    """
    rollouts = [r for r in journal.rollouts(model, limit=1000) if r.kind != "catch_up"]
    records = newest_of_each(rollouts)
    releases = {name: release_of(record) for name, record in records.items()}
    members = {
        record.id: {member.device for member in journal.load(record.id).devices}
        for record in rollouts
        if record.limit is not None
    }
    wanted: dict[str, list[str]] = {}
    for device in devices:
        current = running(seen[device.name])
        meant = meant_for(device.name, rollouts, members)
        way = way_to_newest(
            current,
            [releases[name] for name in meant if name in releases],
            lambda release, groups=device.groups: (  # type: ignore[misc]
                not isinstance(select_variant(release, groups), str)
            ),
        )
        if way and not isinstance(seen[device.name], str):
            wanted.setdefault(way[0], []).append(device.name)
    for name, record in reversed(records.items()):
        release, strategy = releases[name], Strategy.model_validate(record.strategy)
        if release.id in wanted and strategy.offline.catch_up == "latest":
            names = tuple(wanted[release.id])
            return CatchUp(release, at_once(strategy, "catch-up"), record.signature, names)
    return None


def rollback_strategy(strategy: Strategy) -> Strategy:
    """A rollback goes everywhere at once and at any time, without canary and soak, but keeps the
    gates."""
    return at_once(strategy, "rollback").model_copy(update={"maintenance_window": ()})


def at_once(strategy: Strategy, name: str) -> Strategy:
    """A strategy with one wave for all devices."""
    waves = (WaveRule(size="rest", name=name),)
    return strategy.model_copy(update={"waves": waves, "ramp": None})


def load_devices(rollout: RolloutRecord) -> Inventory:
    """The inventory of a rollout of the journal."""
    return load_inventory(Path(rollout.inventory), rollout.limit)
