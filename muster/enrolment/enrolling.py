"""Enrolling many devices at once: each is worked on by itself, then the inventory is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from muster import connection
from muster.enrolment import visiting
from muster.enrolment.hardware import agree, decide_hardware
from muster.enrolment.hostkeys import Trust, host_entry, pin
from muster.enrolment.inventory_file import InventoryFile, replace_file
from muster.enrolment.naming import choose_name, cloned_from, facts_of
from muster.enrolment.plan import Settings, Visit, become_password, plan_visits
from muster.enrolment.session import Trouble
from muster.enrolment.targets import Target
from muster.errors import InputError
from muster.inventory import load_inventory

PARALLEL = 32
_NO_CONFIRMATION = (
    "host key {key} is new: compare it with the device's own, then --accept-new-keys, or give"
    " --fingerprints or --host-ca"
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Observer(Protocol):
    """Who watches, and answers for new keys."""

    def confirm(self, unknown: Sequence[tuple[Visit, str, str | None]]) -> bool | None:
        """Ask whether new keys are good: each device with its fingerprint, and the one that it
        replaces. None when there is nobody to be asked."""

    def step(self, host: str, text: str) -> None:
        """Take notice of what happens next on a device."""


@dataclass
class Result:
    """What became of one device.

    :param outcome: ``enrolled``, ``updated``, ``unchanged``, ``absent`` or ``failed``.
    :param hardware: its ``hw_*`` group, None if it is in none.
    :param what: what it is, in words.
    :param done: what was changed, in words.
    :param notes: what the operator should know.
    :param problem: why it failed, "" if it did not.
    """

    host: str
    outcome: str = "failed"
    name: str | None = None
    site: str | None = None
    hardware: str | None = None
    what: str = ""
    host_key: str | None = None
    trust: str = ""
    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Case:
    """Everything about one device on its way through."""

    visit: Visit
    result: Result
    met: visiting.Met | None = None
    found: visiting.Found | None = None
    trouble: Trouble | None = None

    @property
    def going_on(self) -> bool:
        return self.trouble is None and self.met is not None


def enroll(
    path: Path, targets: Sequence[Target], settings: Settings, observer: Observer
) -> list[Result]:
    """Enroll devices into an inventory.

    :param path: file or folder of the inventory.
    :returns: one result for each device, in the order in which they were given.
    :raises InputError: invalid input, before anything was connected to.
    """
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # its errors are our results
    inventory = load_inventory(path, may_be_empty=True)
    file = InventoryFile(path)
    visits = plan_visits(targets, inventory, file, settings)
    cases = [_Case(visit, Result(visit.target.host, site=visit.site)) for visit in visits]
    _each(cases, lambda case: _meet(case, settings, observer))
    _confirm(cases, observer)
    _each((c for c in cases if c.going_on), lambda case: _work(case, settings, observer))
    _pin_keys(cases)
    taken = {
        device.name: device.variables.get("muster_facts") or {} for device in inventory.devices
    }
    for case in cases:
        if case.trouble is None and case.found is not None:
            _enter(case, file, settings, taken)
        elif case.trouble is not None:
            case.result.problem = str(case.trouble)
            if case.trouble.silent and case.visit.target.searched:
                case.result.outcome = "absent"
            if case.visit.device:
                case.result.name = case.visit.device.name
    try:
        file.save()
    except InputError as error:
        for case in cases:
            if case.result.outcome in ("enrolled", "updated"):
                case.result.outcome, case.result.problem = "failed", error.problems[0]
    _check(path, cases, settings)
    return [case.result for case in cases]


def _each(things: Iterable[_In], function: Callable[[_In], _Out]) -> list[_Out]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(function, things))


def _meet(case: _Case, settings: Settings, observer: Observer) -> None:
    observer.step(case.visit.place.host, "looking at the host key")
    try:
        case.met = visiting.meet(case.visit, settings)
    except Trouble as trouble:
        case.trouble = trouble
        return
    judgement = case.met.judgement
    case.result.host_key = case.met.key.fingerprint
    case.result.trust = judgement.why
    if judgement.trust is Trust.REFUSED:
        case.trouble = Trouble(judgement.why)


def _confirm(cases: Sequence[_Case], observer: Observer) -> None:
    asked = [case for case in cases if case.met and case.met.judgement.trust is Trust.ASK]
    if not asked:
        return
    rows = [(c.visit, str(c.result.host_key), c.met.judgement.replaces) for c in asked if c.met]
    answer = observer.confirm(rows)
    for case in asked:
        if answer:
            case.result.trust = "confirmed"
        elif answer is None:
            case.trouble = Trouble(_NO_CONFIRMATION.format(key=case.result.host_key))
        else:
            case.trouble = Trouble(f"host key {case.result.host_key} was not confirmed")
        if not answer:
            case.met = None  # it must not be pinned either


def _work(case: _Case, settings: Settings, observer: Observer) -> None:
    assert case.met is not None  # noqa: S101
    host, found = case.visit.place.host, visiting.Found()
    try:
        visiting.work(
            case.visit, settings, case.met.key, found, lambda text: observer.step(host, text)
        )
        case.found = found
        case.result.notes += found.notes
    except Trouble as trouble:
        case.trouble = trouble
    except Exception as error:  # paramiko raises what it likes; the others go on
        case.trouble = Trouble(f"{type(error).__name__}: {' '.join(str(error).split())}")
    case.result.done += found.done


def _pin_keys(cases: Sequence[_Case]) -> None:
    """Pin the keys that were found good, also of devices whose enrolment failed later."""
    for path in dict.fromkeys(case.visit.known_hosts for case in cases):
        before = text = path.read_text(encoding="utf-8") if path.exists() else ""
        for case in cases:
            if case.met is None or case.visit.known_hosts != path:
                continue
            if case.met.judgement.trust is Trust.REFUSED:
                continue
            changed = pin(text, _entries(case), case.met.key)
            if changed != text and case.met.key not in case.visit.pinned:
                replaced = case.met.judgement.replaces is not None
                case.result.done.append("host key replaced" if replaced else "host key pinned")
            text = changed
        if text != before:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text)


def _entries(case: _Case) -> list[str]:
    visit = case.visit
    entries = [visit.entry]
    # The key of a device that has moved must not stay at its former address.
    if visit.device and visit.met_elsewhere:
        entries.append(host_entry(visit.device.address, visit.device.port))
    return entries


def _enter(
    case: _Case, file: InventoryFile, settings: Settings, taken: dict[str, dict[str, Any]]
) -> None:
    """Put one device into the inventory, or find that it is there already."""
    visit, result, found = case.visit, case.result, case.found
    assert found is not None  # noqa: S101
    device = visit.device
    name = device.name if device else choose_name(visit.target, found.facts, visit.site, taken)
    facts = facts_of(found.facts, str(result.host_key), taken.get(name))
    decided = decide_hardware(found.facts)
    said = visit.target.hardware or settings.hardware
    group, problem = agree(decided, said, device.hardware if device else None)
    result.name, result.what, result.facts = name, decided.what, facts
    result.hardware = group
    if device is None and name in taken:
        problem = f"the inventory has another device {name}: give this one a name, NAME=HOST"
    problem = problem or cloned_from(name, facts, taken)
    if problem:
        result.problem = problem
        return
    if group is None:
        result.notes.append(f"unknown hardware: {decided.problem}")
    taken[name] = facts
    changed = file.put(visit.site, name, {**_address(visit), "muster_facts": facts})
    if group and not (device and device.hardware == group):
        changed = file.put(group, name) or changed
    for extra in visit.target.groups:
        if not (device and extra in device.groups):
            changed = file.put(extra, name) or changed
    if device and visit.met_elsewhere:
        result.done.append(f"address changed from {device.address}")
    if changed:
        result.done.append("inventory updated" if device else "inventory written")
    result.outcome = "enrolled" if device is None else "updated" if result.done else "unchanged"


def _address(visit: Visit) -> dict[str, Any]:
    """How the device is reached, as far as it differs from what the inventory says anyway."""
    variables: dict[str, Any] = {}
    if visit.device is None or visit.met_elsewhere:
        variables["ansible_host"] = visit.place.host
        if visit.place.port != visit.usual_port:
            variables["ansible_port"] = visit.place.port
    if visit.user != visit.usual_user:
        variables["ansible_user"] = visit.user
    return variables


def _check(path: Path, cases: Sequence[_Case], settings: Settings) -> None:
    """Read the inventory as everything else will, and see whether it says what was meant."""
    entered = {c.result.name: c for c in cases if c.result.outcome not in ("failed", "absent")}
    if not entered:
        return
    try:
        devices = {device.name: device for device in load_inventory(path).devices}
    except InputError as error:
        for case in entered.values():
            case.result.outcome, case.result.problem = "failed", error.problems[0]
        return
    for name, case in entered.items():
        device, visit = devices.get(str(name)), case.visit
        if device is None or (device.address, device.port) != (visit.place.host, visit.place.port):
            case.result.outcome = "failed"
            case.result.problem = f"{path}: says something else about how {name} is reached"
            continue
        data = connection.connection_data(device.variables, device.name)
        used = Path(data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts").expanduser()
        if used.resolve() != visit.known_hosts.resolve():
            case.result.notes.append(
                f"its key is pinned in {visit.known_hosts}, but the inventory uses {used}: set"
                " ansible_ssh_common_args: -o UserKnownHostsFile=..."
            )
        if visiting.SUDO_NOTE in case.result.notes and become_password(device):
            case.result.notes.remove(visiting.SUDO_NOTE)
        if settings.jump and connection.jump_host(device.variables) != settings.jump:
            case.result.notes.append(
                f"the inventory does not name the jump host: add -o ProxyJump={settings.jump} to"
                " ansible_ssh_common_args"
            )
        private = settings.private_key
        if private and "ssh_key" not in data and private.parent.name != ".ssh":
            case.result.notes.append(
                f"the inventory does not name the key: set ansible_ssh_private_key_file: {private}"
            )
