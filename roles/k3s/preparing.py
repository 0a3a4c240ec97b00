"""What servers and agents of K3s are brought up by."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host, inventory

from muster.inventory import Device, load_inventory, pyinfra_name
from muster.k3s.cluster import Cluster, Named, clusters
from muster.k3s.naming import node_name
from muster.paths import COLLECTION_ROOT
from roles.facts import FACT_SECONDS
from roles.guarded import refuse
from roles.k3s.artifacts import (
    Release,
    is_url,
    location,
    release,
    release_in_folder,
    sums_name,
)
from roles.k3s.bringing_up import Bringing
from roles.k3s.config import BINARY, CERTIFICATES, FOLDER, Place, node_files, unit
from roles.k3s.facts import HostState, InstalledArtifacts, NodeState, StoreSums
from roles.k3s.inputs import K3sVariables
from roles.k3s.operations import artifacts
from roles.k3s.prerequisites import (
    change_refused,
    host_problem,
    kernel_files,
    kernel_takes_effect,
    memory_cgroup,
)
from roles.operations import File, packages, place_files
from roles.runtimes import trust_files
from roles.secrets import read_pem
from roles.templates import render

AUTHORITIES = f"{FOLDER}/artifacts.pem"
_PROGRAM = COLLECTION_ROOT / "files" / "muster_k3s.py"


@dataclass(frozen=True)
class Prepared:
    """A node whose prerequisites are there.

    :param place: what it is in its cluster.
    :param files: after whose change K3s has to start again.
    :param binary: SHA-256 of the binary.
    """

    place: Place
    files: Sequence[File]
    binary: str


def device_name() -> str:
    """Name of this device in the inventory."""
    return str(host.data.get("inventory_device", host.name))


def all_devices() -> Sequence[Device]:
    """Devices of the inventory; a limit on the run is no limit on them."""
    return _devices(str(host.data.inventory_path))


@functools.cache
def _devices(path: str) -> tuple[Device, ...]:
    # every host asks several times, and one run has one inventory
    return load_inventory(Path(path)).devices


def own_cluster(variables: K3sVariables) -> Cluster:
    """The cluster of this device."""
    return clusters(all_devices())[variables.k3s_cluster]


def address_of(name: str) -> str:
    """Address of a device of the inventory."""
    return next(device.address for device in all_devices() if device.name == name)


def hosts_of(devices: Sequence[Named]) -> list[str]:
    """Names in pyinfra of those devices that are in this run, in the same order."""
    names = {device.name: pyinfra_name(device) for device in all_devices()}
    in_run = {each.name for each in inventory}
    return [names[each.name] for each in devices if names[each.name] in in_run]


def prepared(variables: K3sVariables, cluster: Cluster, join: str | None) -> Prepared | None:
    """Bring a device so far that K3s can be started; None if it can't be a node.

    :param join: URL of the server that it joins, None if it makes the cluster.
    """
    about = host.get_fact(HostState, _timeout=FACT_SECONDS)
    node = host.get_fact(NodeState, _timeout=FACT_SECONDS)
    problem = host_problem(about) or change_refused(variables, node)
    found: Release | None = None
    sums = ""
    if not problem:
        try:
            found, sums = _release(variables, about.architecture)
        except ValueError as error:
            problem = str(error)
    if found is None:
        refuse(name="what K3s needs", reason=problem)
        return None
    if not about.memory_cgroup:
        memory_cgroup(name="memory of containers", host_state=about)
        return None
    packages(name="packages", names=variables.k3s_packages)
    place_files(
        name="kernel modules and parameters",
        files=kernel_files(variables),
        then=kernel_takes_effect(about.container),
    )
    place_files(
        name="program",
        files=[File("/usr/local/sbin/muster-k3s", _PROGRAM.read_text("utf-8"), "755")],
    )
    trusted = trust_files(CERTIFICATES, variables, variables.k3s_registry_cas)
    authorities = _authorities(variables)
    if trusted or authorities:
        place_files(name="certificates of registries and stores", files=[*trusted, *authorities])
    artifacts(
        name=f"files of K3s {variables.k3s_version}",
        release=found,
        sums=sums,
        authorities=AUTHORITIES if authorities else "",
    )
    place = Place(
        cluster, node_name(device_name()), str(host.data.get("ssh_hostname") or device_name()), join
    )
    role = variables.node_role
    text = render("k3s/k3s.service", role=role, unit=unit(role), binary=BINARY)
    return Prepared(place, node_files(variables, place, trusted, text), found.binary.sha256)


def bringing(
    variables: K3sVariables, ready: Prepared, *, voter: bool = False, others: Sequence[str] = ()
) -> Bringing:
    """What a prepared node is brought to."""
    return Bringing(
        role=variables.node_role,
        node=ready.place.node,
        version=variables.k3s_version,
        binary=ready.binary,
        voter=voter,
        seconds=math.ceil(variables.k3s_start_timeout),
        others=tuple(others),
    )


def _authorities(variables: K3sVariables) -> list[File]:
    if variables.k3s_artifacts_ca is None:
        return []
    return [File(AUTHORITIES, read_pem(variables.k3s_artifacts_ca))]


def _release(variables: K3sVariables, architecture: str) -> tuple[Release, str]:
    """What the device needs, and its checksums.

    :raises ValueError: it can't be had, or is something else than its checksums say.
    """
    version, source = variables.k3s_version, variables.k3s_artifacts
    images = variables.k3s_images
    if not is_url(source):
        folder = str(Path(source).expanduser())
        path = Path(location(folder, version, sums_name(architecture)))
        return (
            release_in_folder(folder, version, architecture, images=images),
            path.read_text("ascii"),
        )
    known = host.get_fact(InstalledArtifacts, version=version, _timeout=FACT_SECONDS).sums
    url = location(source, version, sums_name(architecture))
    sums = known or host.get_fact(
        StoreSums, url=url, authorities=_text(variables), _timeout=FACT_SECONDS
    )
    if not sums:
        raise ValueError(f"{url}: expected the checksums of K3s {version}, the device gets none")
    return release(source, version, architecture, sums, images=images), sums


def _text(variables: K3sVariables) -> str:
    ca = variables.k3s_artifacts_ca
    return "" if ca is None else read_pem(ca)
