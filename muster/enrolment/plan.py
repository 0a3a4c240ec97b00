"""What is to be done about each target, as far as the inventory tells. Touches no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster import connection
from muster.enrolment.hostkeys import HostKey, Rules, host_entry, pinned_keys, revoked_keys
from muster.enrolment.inventory_file import KNOWN_HOSTS, InventoryFile
from muster.enrolment.naming import known_device
from muster.enrolment.session import Place
from muster.enrolment.targets import Target
from muster.errors import InputError
from muster.inventory import Device, Inventory
from muster.secret import Secret


@dataclass(frozen=True)
class Settings:
    """What the operator gave for all devices.

    :param user: login, where neither the target nor the inventory says.
    :param identity: private key for the first login.
    :param public_key: line to install.
    :param private_key: the other half of it, if it is here.
    :param authority: keys of the host CA.
    :param hardware: hardware group of all devices, with the prefix.
    :param known_hosts: where keys are pinned, instead of where the inventory says.
    """

    public_key: str
    user: str | None = None
    port: int | None = None
    site: str | None = None
    hardware: str | None = None
    jump: str | None = None
    identity: Path | None = None
    private_key: Path | None = None
    password: Secret | None = field(default=None, repr=False)
    sudo_password: Secret | None = field(default=None, repr=False)
    rules: Rules = field(default_factory=Rules)
    authority: frozenset[str] = frozenset()
    known_hosts: Path | None = None


@dataclass(frozen=True)
class Visit:
    """One device that is to be visited.

    :param device: what the inventory has of it; None if it is new.
    :param usual_user: login that the inventory gives such a device by itself.
    :param usual_port: the same for its port.
    :param hosts: every name that its host key may be known by.
    :param pinned: keys that are pinned for it.
    :param sudo_password: the one that the inventory has for it.
    """

    target: Target
    device: Device | None
    place: Place
    user: str
    site: str
    usual_user: str | None
    usual_port: int
    known_hosts: Path
    hardware_root: str | None
    hosts: tuple[str, ...]
    pinned: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]
    sudo_password: Secret | None = field(default=None, repr=False)

    @property
    def entry(self) -> str:
        """What the device is called in a known hosts file."""
        return host_entry(self.place.host, self.place.port)

    @property
    def met_elsewhere(self) -> bool:
        """Whether the inventory has the device at another place than where it is visited."""
        known = self.device and (self.device.address, self.device.port)
        return known is not None and known != (self.place.host, self.place.port)


def plan_visits(
    targets: Sequence[Target], inventory: Inventory, file: InventoryFile, settings: Settings
) -> list[Visit]:
    """Find out how each target is reached, and what it is in the inventory.

    :raises InputError: everything that is missing or contradictory.
    """
    visits: list[Visit] = []
    problems: list[str] = []
    known_hosts: dict[Path, str] = {}
    for target in targets:
        try:
            visit = _plan(target, inventory, file, settings, known_hosts)
        except InputError as error:
            problems += error.problems
            continue
        if all(other.place != visit.place for other in visits):
            visits.append(visit)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return visits


def _plan(
    target: Target,
    inventory: Inventory,
    file: InventoryFile,
    settings: Settings,
    texts: dict[Path, str],
) -> Visit:
    device = known_device(target, inventory.devices)
    site = _site(target, device, file, settings)

    def usual(name: str) -> Any:
        return device.variables.get(name) if device else file.variable(name, site)

    variables = {
        name: value
        for name in ("ansible_ssh_common_args", "ansible_ssh_args", "ansible_ssh_extra_args")
        if (value := usual(name)) is not None
    }
    usual_user = usual("ansible_user")
    user = target.user or settings.user or usual_user
    if not user:
        raise InputError(f"{target.host}: expected a login: --user NAME, or ansible_user")
    try:
        usual_port = device.port if device else connection.port(
            {"ansible_port": usual("ansible_port"), **variables}
        )  # fmt: skip
        jump = settings.jump or connection.jump_host(variables)
        pinning = connection.connection_data(variables, target.host).get("ssh_known_hosts_file")
    except connection.VariableError as error:
        raise InputError(f"{file.path}: {error.variable}: {error}") from None
    # A name in the inventory stands for its address, unless this is the word that it has moved.
    host = device.address if device and target.host == device.name else target.host
    port = target.port or settings.port or usual_port
    path = settings.known_hosts or (Path(pinning) if pinning else file.folder / KNOWN_HOSTS)
    if path not in texts:
        texts[path] = path.read_text(encoding="utf-8") if path.exists() else ""
    names = [host, device.name if device else "", target.name or "", target.host]
    entries = [host_entry(host, port)]
    if device:  # under its former address as well: it may have moved
        entries.append(host_entry(device.address, device.port))
    pinned = [key for entry in entries for key in pinned_keys(texts[path], entry)]
    return Visit(
        target=target,
        device=device,
        place=Place(host, port, jump),
        user=str(user),
        site=site,
        usual_user=None if usual_user is None else str(usual_user),
        usual_port=usual_port,
        known_hosts=path,
        hardware_root=usual("muster_device_hardware_root"),
        hosts=tuple(dict.fromkeys(name for name in names if name)),
        pinned=tuple(dict.fromkeys(pinned)),
        revoked=tuple(revoked_keys(texts[path])),
        sudo_password=become_password(device) if device else None,
    )


def _site(target: Target, device: Device | None, file: InventoryFile, settings: Settings) -> str:
    wanted = target.site or settings.site
    if device and device.site:
        if wanted and wanted != device.site:
            raise InputError(
                f"{target.host}: the inventory has {device.name} in {device.site}, not in {wanted}:"
                " move it there first"
            )
        return device.site
    if wanted:
        return wanted
    sites = file.sites()
    if len(sites) != 1:
        names = ", ".join(sites) or "none"
        raise InputError(f"{target.host}: expected --site NAME, {file.path} has {names}")
    return sites[0]


def become_password(device: Device) -> Secret | None:
    """The password for sudo that the inventory has for a device."""
    names = ("ansible_become_password", "ansible_become_pass")
    found = next((device.variables[name] for name in names if device.variables.get(name)), None)
    return None if found is None else Secret(str(found))
