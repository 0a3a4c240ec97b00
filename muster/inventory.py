"""Devices from an inventory in Ansible's format.

Ansible itself reads the inventory. Below everything that the inventory says lie the defaults of the
collection: its ``group_vars/all.yml`` and ``group_vars/<group>.yml``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muster import connection
from muster.ansible_inventory import inventory_folder, read_inventory
from muster.ansible_values import Vault, is_template, render, select, suggest
from muster.errors import InputError
from muster.role_variables import check_variables, role_names
from muster.variable_files import read_defaults

SITE_PREFIX = "site_"
HARDWARE_PREFIX = "hw_"
_BUILT_IN = ("all", "ungrouped")


@dataclass(frozen=True)
class Device:
    """One managed host.

    :param address: host name or address of its SSH server.
    :param port: TCP port of its SSH server.
    :param site: its ``site_*`` group, with the prefix.
    :param hardware: its ``hw_*`` group, with the prefix.
    :param groups: every group it is in, the more specific ones later.
    :param variables: what the inventory and the defaults of the collection say, rendered.
    """

    name: str
    address: str
    port: int
    site: str | None
    hardware: str | None
    groups: tuple[str, ...]
    variables: Mapping[str, Any] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Inventory:
    """The devices of one inventory, or those of them that a limit left.

    :param path: the file or folder it was read from.
    :param known: every device of the inventory; those of ``devices`` if not given.
    :param groups: names of every group, also of those without a device.
    """

    path: Path
    devices: tuple[Device, ...]
    known: tuple[Device, ...] = field(default=(), repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)

    def select(self, pattern: str) -> tuple[Device, ...]:
        """Devices that an Ansible pattern selects: ``a:b``, ``a:!b``, ``a:&b``, globs, ``~regex``,
        ``group[0:2]`` or ``@file``.

        :raises InputError: a part of the pattern matches no device and no group.
        """
        known = self.known or self.devices
        names = [device.name for device in known]
        members: dict[str, list[str]] = {group: [] for group in self.groups}
        for device in known:
            for group in device.groups:
                members.setdefault(group, []).append(device.name)
        try:
            selected = select(pattern, names, members)
        except InputError as error:
            hint = suggest(pattern, [*members, *names])
            raise InputError(f"{self.path}: {error}{hint}") from None
        return tuple(device for device in self.devices if device.name in selected)

    @property
    def names(self) -> list[str]:
        """Names of the devices, in the order of the inventory."""
        return [device.name for device in self.devices]

    def only(self, name: str) -> Inventory:
        """The same with one device alone."""
        devices = tuple(device for device in self.devices if device.name == name)
        return replace(self, devices=devices, known=self.known or self.devices)

    def by_site(self) -> dict[str | None, tuple[Device, ...]]:
        """Devices of each site, sites in the order of the inventory."""
        return _grouped((device.site, device) for device in self.devices)

    def by_hardware(self) -> dict[str | None, tuple[Device, ...]]:
        """Devices of each hardware group, groups in the order of the inventory."""
        return _grouped((device.hardware, device) for device in self.devices)


def load_inventory(
    path: Path, limit: str | None = None, *, may_be_empty: bool = False
) -> Inventory:
    """Read an inventory.

    :param path: inventory file or folder.
    :param limit: Ansible pattern; only the devices that it selects are in the result.
    :param may_be_empty: whether it may have groups without any device yet, as that of a new site.
    :raises InputError: all that is wrong with the inventory, or an unknown or empty limit.
    """
    document = read_inventory(path)
    groups = _Groups(document)
    if not groups.hosts and not (may_be_empty and groups.names):
        hint = "; to make some: muster emulate up" if (path / "fleet.yml").is_file() else ""
        raise InputError(f"{path}: expected at least one device, the inventory has none{hint}")
    reader = _Reader(path, document, groups)
    everything = tuple(reader.devices())
    if reader.problems:
        raise InputError(reader.problems)
    # A pattern could mean either; and a device called all hides all others.
    if both := sorted({d.name for d in everything} & {"all", "ungrouped", *groups.names}):
        raise InputError(
            [f"{path}: {name}: expected another name, a group is called so" for name in both]
        )
    inventory = Inventory(path, everything, everything, groups.names)
    if limit is None:
        return inventory
    devices = inventory.select(limit)
    if not devices:
        raise InputError(f"{path}: limit {limit!r} selects no device")
    return replace(inventory, devices=devices)


def pyinfra_name(device: Device) -> str:
    """Name of a device in pyinfra's inventory, where the local machine has a name of its own."""
    local = connection.connection_kind(device.variables) == "local"
    return "@local" if local else device.name


def pyinfra_data(device: Device) -> dict[str, Any]:
    """Host data for pyinfra: how to connect, and the device's variables for roles to read.

    :raises InputError: a connection variable that can't be used.
    """
    try:
        data = connection.connection_data(device.variables, device.name)
    except connection.VariableError as error:
        raise InputError(f"device {device.name}: {error.variable}: {error}") from None
    variables = {
        name: value
        for name, value in device.variables.items()
        if not name.startswith(("ansible_", "ssh_", "_"))
    }
    return {**variables, "inventory_device": device.name, **data}


def pyinfra_inventory(path: Path, limit: str | None = None) -> dict[str, list[Any]]:
    """Groups for a pyinfra ``inventory.py``: ``globals().update(pyinfra_inventory(...))``.

    Invalid input ends the program with status 2, before pyinfra has connected to anything.
    """
    try:
        inventory = load_inventory(path, limit)
        hosts = pyinfra_hosts(inventory)
        check_variables(inventory, may_miss=True)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    groups: dict[str, list[Any]] = {"all": hosts}
    for device in inventory.devices:
        for group in device.groups:
            groups.setdefault(group, []).append(pyinfra_name(device))
    return groups


def pyinfra_data_by_name(devices: Iterable[Device]) -> dict[str, dict[str, Any]]:
    """Host data for pyinfra of several devices.

    :raises InputError: all connection variables that can't be used.
    """
    found, problems = {}, []
    for device in devices:
        try:
            found[device.name] = pyinfra_data(device)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def pyinfra_hosts(inventory: Inventory) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of every device, as pyinfra's ``Inventory`` takes them.

    :raises InputError: all connection variables that can't be used.
    """
    hosts, problems = [], []
    for device in inventory.devices:
        try:
            data = pyinfra_data(device) | {"inventory_path": str(inventory.path)}
            hosts.append((pyinfra_name(device), data))
        except InputError as error:
            problems += [f"{inventory.path}: {problem}" for problem in error.problems]
    names = [name for name, _ in hosts]
    if names.count("@local") > 1:
        problems.append(f"{inventory.path}: expected ansible_connection: local on one device only")
    if problems:
        raise InputError(problems)
    return hosts


class _Groups:
    """Which device is in which group, and in which order both come."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._depths: dict[str, int] = {}
        self._members: dict[str, dict[str, None]] = {}
        self._visit("all", 0)
        self.hosts = tuple(self._members_of("all"))
        own = set(self._depths) - set(_BUILT_IN)
        self.names = tuple(sorted(own, key=lambda name: (self._depths[name], name)))
        self._of_host: dict[str, list[str]] = {host: [] for host in self.hosts}
        for name in self.names:
            for host in self._members_of(name):
                self._of_host[host].append(name)

    def of(self, host: str) -> tuple[str, ...]:
        """Groups of a device, in the order in which Ansible applies their variables."""
        return tuple(self._of_host[host])

    def members(self) -> dict[str, list[str]]:
        """Devices of every group."""
        return {name: list(self._members_of(name)) for name in self._depths}

    def _visit(self, name: str, depth: int) -> None:
        if depth > self._depths.get(name, -1):
            self._depths[name] = depth
            for child in self._document.get(name, {}).get("children", ()):
                self._visit(child, depth + 1)

    def _members_of(self, name: str) -> dict[str, None]:
        if name not in self._members:
            group = self._document.get(name, {})
            members = dict.fromkeys(group.get("hosts", ()))
            for child in group.get("children", ()):
                members |= self._members_of(child)
            self._members[name] = members
        return self._members[name]


class _Reader:
    """Turns Ansible's document into devices and collects what is wrong."""

    def __init__(self, path: Path, document: Mapping[str, Any], groups: _Groups) -> None:
        self.problems: list[str] = []
        self._path = path
        self._groups = groups
        self._defaults: dict[str, dict[str, Any]] = {}
        self._vault = Vault()
        self._hostvars = document.get("_meta", {}).get("hostvars", {})

    def devices(self) -> list[Device]:
        """Every device without problems of its own."""
        variables = {host: self._layers(host) for host in self._groups.hosts}
        self._render(variables)
        found = (self._device(host, variables[host]) for host in self._groups.hosts)
        return [device for device in found if device is not None]

    def _device(self, host: str, variables: dict[str, Any]) -> Device | None:
        try:
            connection.connection_kind(variables)
            return Device(
                name=host,
                address=connection.address(variables, host),
                port=connection.port(variables),
                site=self._only(host, SITE_PREFIX),
                hardware=self._only(host, HARDWARE_PREFIX),
                groups=self._groups.of(host),
                variables=variables,
            )
        except connection.VariableError as error:
            self._problem(host, error.variable, str(error))
            return None

    def _layers(self, host: str) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        for group in ("all", *self._groups.of(host)):
            if group not in self._defaults:
                self._defaults[group] = read_defaults(group)
            variables |= self._defaults[group]
        for name, value in self._hostvars.get(host, {}).items():
            try:
                variables[name] = self._vault.decrypt(value)
            except ValueError as error:
                self._problem(host, name, f"can't be decrypted: {error}")
            except InputError as error:  # once, not for every device
                raise InputError(f"{self._path}: {error}") from None
        return variables

    def _render(self, variables: dict[str, dict[str, Any]]) -> None:
        """Render what Muster and the roles read; other variables may need a playbook's."""
        prefixes = _prefixes()
        hosts, plain = {}, {}
        for host, own in variables.items():
            magic = {
                "inventory_hostname": host,
                "inventory_hostname_short": host.split(".")[0],
                "group_names": list(self._groups.of(host)),
            }
            templates = [name for name, value in own.items() if is_template(value)]
            wanted = [name for name in templates if name.startswith(prefixes)]
            plain[host] = {name: own[name] for name in own.keys() - templates} | magic
            if wanted:
                hosts[host] = {"variables": own | magic, "wanted": wanted}
        if not hosts:
            return
        folder = inventory_folder(self._path).resolve()
        shared = {
            "inventory_dir": str(folder),
            "inventory_file": str(self._path.resolve()),
            "groups": self._groups.members(),
            # Templates of other hosts would be rendered with the variables of this one.
            "hostvars": plain,
        }
        for host, rendered in render(hosts, shared, folder).items():
            for name, result in rendered.items():
                if "error" in result:
                    self._problem(host, name, f"can't be rendered: {result['error']}")
                    del variables[host][name]
                else:
                    variables[host][name] = result["value"]

    def _only(self, host: str, prefix: str) -> str | None:
        found = [group for group in self._groups.of(host) if group.startswith(prefix)]
        if len(found) > 1:
            self.problems.append(
                f"{self._path}: device {host}: expected one {prefix}* group,"
                f" got {', '.join(sorted(found))}"
            )
        return found[0] if found else None

    def _problem(self, host: str, variable: str, message: str) -> None:
        self.problems.append(f"{self._path}: device {host}: {variable}: {message}")


def _prefixes() -> tuple[str, ...]:
    return ("ansible_", "muster_", *(f"{role}_" for role in role_names()))


def _grouped(pairs: Iterable[tuple[str | None, Device]]) -> dict[str | None, tuple[Device, ...]]:
    groups: dict[str | None, list[Device]] = {}
    for key, device in pairs:
        groups.setdefault(key, []).append(device)
    return {key: tuple(devices) for key, devices in groups.items()}
