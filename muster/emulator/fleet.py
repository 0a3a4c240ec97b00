"""The emulated fleet: brings devices up, takes them down, breaks them, says how they are."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from muster import paths
from muster.documents import load_document
from muster.emulator import faults
from muster.emulator.architecture import (
    foreign_architectures,
    own_architecture,
    read_handlers,
    require_emulation,
)
from muster.emulator.containers import address_of, published_port
from muster.emulator.document import FleetDocument
from muster.emulator.engine import FLEET_LABEL, REGISTRY, Engine, parallel
from muster.emulator.images import ensure_images
from muster.emulator.inventory import (
    VENDOR_KEY,
    control_folder,
    make_control_folder,
    render_inventory,
    render_known_hosts,
)
from muster.emulator.locking import locked
from muster.emulator.reach import await_boot, await_registry, run_ssh
from muster.emulator.reconcile import Outcome, reconcile
from muster.errors import InputError, MusterError

FAULTS = ("cut", "heal", "kill", "reboot", "fill-disk", "registry-down")
"""Kinds of faults, and ``heal``, which undoes them."""

_MANY_DEVICES = 20
_INOTIFY_INSTANCES = 8192
_CONNECT_TIMEOUT = 3


class EmulatedFleet:
    """A fleet of containers that behave as devices.

    :param document: what the fleet is made of.
    :param inventory_dir: where ``hosts.yml`` and the folder ``.state`` with the keys go.
    :param name: prefix of all containers, networks and volumes; the document's name by default.
    :param report: called with what happens next, for people.
    """

    def __init__(
        self,
        document: FleetDocument,
        inventory_dir: Path,
        name: str | None = None,
        report: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self.document = document
        self.name = name or document.name
        self.inventory_dir = inventory_dir.resolve()
        self.inventory_file = self.inventory_dir / "hosts.yml"
        self.state = self.inventory_dir / ".state"
        self.report = report
        self._engine = Engine(self.name, self.inventory_dir)

    @classmethod
    def load(
        cls,
        path: Path,
        name: str | None = None,
        inventory_dir: Path | None = None,
        report: Callable[[str], None] = lambda _message: None,
    ) -> EmulatedFleet:
        """Read the fleet document ``path``.

        :raises InputError: naming file, line, key and what was expected.
        """
        document = load_document(path, FleetDocument)
        return cls(document, inventory_dir or path.parent, name, report)

    def up(self) -> dict[str, Any]:
        """Bring the fleet up as the document says. What is there already and fits is kept.

        :returns: ``changed``; names under ``created``, ``started``, ``kept``, ``removed``;
            ``degraded`` (device to failed units); ``cut`` (devices behind a cut link, which were
            not waited for); ``registry`` (address), ``inventory`` (path), ``seconds``.
        :raises InputError: when a device is of an architecture that this machine doesn't run.
        :raises MusterError: when something does not come up; the message names it.
        """
        begin = time.monotonic()
        wanted = self.document.architectures
        foreign = foreign_architectures(wanted, own_architecture()) if wanted else ()
        if foreign:
            require_emulation(wanted, own_architecture(), read_handlers())
        with self._lock():
            self._engine.refuse_other_owner()
            images = ensure_images(self._engine.client, self.report, foreign)
            self._raise_inotify_limit()
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.report(f"starting {len(self.document.devices)} devices")
            outcome = reconcile(self._engine, self.document, images, self.state)
            self._write_inventory(outcome)
            self.report("waiting for the devices to boot")
            old = [name for name in (*outcome.kept, *outcome.started) if name != REGISTRY]
            cut = [name for name, found in zip(old, self._active(old), strict=True) if found]
            waited = {name: ip for name, ip in outcome.addresses.items() if name not in cut}
            degraded = await_boot(self.state, waited)
            await_registry(self.registry_address, self.registry_ca)
            self._write_vendor_key()
        return {
            "fleet": self.name,
            "changed": outcome.changed,
            "created": outcome.created,
            "started": outcome.started,
            "kept": outcome.kept,
            "removed": outcome.removed,
            "degraded": degraded,
            "cut": cut,
            "registry": self.registry_address,
            "inventory": str(self.inventory_file),
            "seconds": round(time.monotonic() - begin, 1),
        }

    def down(self) -> dict[str, Any]:
        """Remove everything that the fleet made, in the Docker engine and on disk.

        :returns: ``changed``, and how many ``containers``, ``networks`` and ``volumes`` went.
        """
        begin = time.monotonic()
        with self._lock():
            self._engine.refuse_other_owner()
            self.report("removing the fleet")
            counts = self._engine.remove_everything()
            had_files = self.inventory_file.exists() or self.state.exists()
            self._close_connections()
            self.inventory_file.unlink(missing_ok=True)
            if self.state.exists():
                shutil.rmtree(self.state)
        return {
            "fleet": self.name,
            "changed": had_files or any(counts.values()),
            **counts,
            "seconds": round(time.monotonic() - begin, 1),
        }

    def status(self) -> list[dict[str, Any]]:
        """How every device is, and the registry.

        :returns: dicts of ``device``, ``site``, ``hardware``, ``container`` (state of the
            container, or ``absent``), ``address``, ``ssh`` (whether it answers; ``None`` for the
            registry) and ``faults``.
        """
        present = self._engine.containers()
        names = [*self.document.devices, REGISTRY]
        return parallel(lambda name: self._status_of(name, present.get(name)), names)

    def fault(self, kind: str, target: str | None = None) -> dict[str, Any]:
        """Inject a fault, or heal. Returns when the effect is there.

        :param kind: one of :data:`FAULTS`.
        :param target: a device; for ``heal`` also ``registry``, or nothing for the whole fleet;
            not needed for ``registry-down``.
        :returns: ``fault`` and ``targets``.
        :raises InputError: for an unknown kind or target, or a fault that can't apply.
        :raises MusterError: when the fault did not take effect.
        """
        if kind not in FAULTS:
            raise InputError(f"fault: expected one of {', '.join(FAULTS)}, got {kind}")
        present = self._engine.containers()
        if kind == "registry-down":
            target = REGISTRY
        if kind == "heal" and target is None:
            targets = list(present)
        elif target in present and (target != REGISTRY or kind in ("heal", "registry-down")):
            targets = [target]
        else:
            known = ", ".join(sorted(set(present) - {REGISTRY})) or "none is up"
            raise InputError(f"fault {kind}: expected a device ({known}), got {target}")
        self.report(f"{kind} {', '.join(targets)}")
        parallel(lambda name: self._inject(kind, name, present[name]), targets)
        return {"fault": kind, "targets": targets}

    def exec(self, device: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a command as root in a device, out of band: also behind a cut link.

        :returns: exit status, and standard output and error together.
        :raises InputError: when there is no such device.
        """
        return faults.run(self._engine.container(device), *command)

    @property
    def registry_address(self) -> str:
        """``127.0.0.1:<port>``, where this machine reaches the registry.

        :raises InputError: when the fleet is not up.
        """
        return f"127.0.0.1:{published_port(self._engine.container(REGISTRY))}"

    @property
    def registry_ca(self) -> Path:
        """Certificate of the authority that signed the registry's certificate."""
        return self.state / "ca.pem"

    def _inject(self, kind: str, name: str, container: Any) -> None:
        if kind == "heal" and name == REGISTRY:
            container.start()
            await_registry(self.registry_address, self.registry_ca)
        elif kind == "heal":
            faults.heal(container)
            await_boot(self.state, {name: self._address(name, container)})
        else:
            actions: dict[str, Callable[[Any], None]] = {
                "cut": faults.cut,
                "kill": faults.kill,
                "reboot": faults.reboot,
                "fill-disk": faults.fill_disk,
                "registry-down": faults.stop,
            }
            actions[kind](container)

    def _status_of(self, name: str, container: Any | None) -> dict[str, Any]:
        device = self.document.devices.get(name)
        known = {
            "device": name,
            "site": f"site_{device.site}" if device else None,
            "hardware": device.hardware if device else None,
        }
        if container is None:
            return known | {"container": "absent", "address": None, "ssh": None, "faults": []}
        address = self._address(name, container)
        ssh = None
        if device:
            active = faults.active(container)
            ssh = "kill" not in active and self._answers(address)
        else:
            active = [] if faults.is_running(container) else ["registry-down"]
        return known | {
            "container": container.status,
            "address": address,
            "ssh": ssh,
            "faults": active,
        }

    def _answers(self, address: str) -> bool:
        return run_ssh(self.state, address, "true", _CONNECT_TIMEOUT)[0] == 0

    def _address(self, name: str, container: Any) -> str:
        device = self.document.devices.get(name)
        site = device.site if device else next(iter(self.document.sites))
        return address_of(container, self._engine.full_name(site))

    def _active(self, names: Sequence[str]) -> list[bool]:
        """Whether the link of each device is cut."""
        return parallel(lambda name: "cut" in faults.active(self._engine.container(name)), names)

    def _write_inventory(self, outcome: Outcome) -> None:
        sockets = control_folder(self.inventory_dir)
        make_control_folder(sockets)
        known_hosts = render_known_hosts(outcome.addresses, outcome.host_keys)
        (self.state / "known_hosts").write_text(known_hosts, encoding="ascii")
        inventory = render_inventory(self.document, outcome.addresses, self.state, sockets)
        text = "# Written by muster emulate up\n" + yaml.safe_dump(inventory, sort_keys=False)
        temporary = self.inventory_file.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.inventory_file)

    def _write_vendor_key(self) -> None:
        key = "/srv/site-packages/vendor/key.asc"
        code, text = faults.run(self._engine.container(REGISTRY), "cat", key)
        if code:
            raise MusterError(f"the registry has no {key}: {text}")
        temporary = self.state / f"{VENDOR_KEY}.new"
        temporary.write_text(text, encoding="ascii")
        temporary.replace(self.state / VENDOR_KEY)

    def _close_connections(self) -> None:
        folder = control_folder(self.inventory_dir)
        if folder.is_dir():
            for socket in folder.iterdir():
                command = ["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "none"]
                subprocess.run(command, capture_output=True)
            shutil.rmtree(folder)

    def _raise_inotify_limit(self) -> None:
        # every systemd takes a few instances of this machine's limit; without them units hang
        others = self._engine.client.containers.list(filters={"label": FLEET_LABEL})
        limit = Path("/proc/sys/fs/inotify/max_user_instances")
        if (
            len(others) + len(self.document.devices) > _MANY_DEVICES
            and int(limit.read_text(encoding="ascii")) < _INOTIFY_INSTANCES
        ):
            try:
                limit.write_text(str(_INOTIFY_INSTANCES), encoding="ascii")
            except OSError:
                self.report(
                    f"so many devices may hang at boot: as root, run sysctl -w "
                    f"fs.inotify.max_user_instances={_INOTIFY_INSTANCES}"
                )

    def _lock(self) -> AbstractContextManager[None]:
        return locked(
            paths.cache_dir() / "fleets" / f"{self.name}.lock",
            lambda: self.report(f"waiting for another process that works on {self.name}"),
        )
