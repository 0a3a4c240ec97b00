#!/usr/bin/env python3
"""Does tasks to a device as a whole: restart, firmware, reset. Installed as ``muster-task``.

Like ``muster-device``, beside which it lies and whose parts it uses: each subcommand reads one JSON
document on stdin, writes one on stdout, and may be repeated. A task goes through the states of a
switch (``stage``, ``switch``, ``probe``, ``confirm``), with a generation that only grows; its
state is ``/var/lib/muster/.task/state.json``. No guard ends it: no clock can undo what was done to
a device. ``revert`` starts what ought to serve, and fails if it does not.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import pwd
import re
import shutil
import sys
from typing import Any, Callable, Iterator, Sequence


def _load_device_program() -> Any:
    here = os.path.dirname(os.path.realpath(__file__))
    path = os.environ.get("MUSTER_DEVICE_PROGRAM") or os.path.join(here, "muster-device")
    loader = importlib.machinery.SourceFileLoader("muster_device", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # its dataclasses look themselves up there
    loader.exec_module(module)
    return module


sys.dont_write_bytecode = True
device = sys.modules.get("muster_device") or _load_device_program()

ACTIONS = ("reboot", "firmware", "configure", "reset")
RESTARTING = ("reboot", "firmware")
TASK_ID = re.compile(r"(%s)-[0-9a-f]{12}" % "|".join(ACTIONS))
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}")  # useradd allows less, a directory does not
KEY_BLOB = re.compile(r"[A-Za-z0-9+/]{16,}={0,3}")
REMEMBERED = 20  # ids of tasks that were done
KEPT_AT_RESET = (".task",)
REBOOT_DELAY = "1s"  # so that the answer gets out
TOOL_SECONDS = 600.0
NODE_PROGRAM = "/usr/local/sbin/muster-k3s"
NODE_SECONDS = 90.0


class State:
    """What is under way, and what was done; every change is written before it is acted on."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "state.json")
        self.generation = 0
        self.rollout: str | None = None
        self.task: dict[str, Any] = {}
        self.phase = "idle"
        self.boot = ""
        self.failed_before: list[str] = []
        self.done: list[str] = []
        self.last_outcome: dict[str, Any] | None = None
        try:
            with open(self.path, encoding="utf-8") as file:
                known = json.load(file)
            if not isinstance(known["generation"], int) or not isinstance(known["done"], list):
                raise ValueError("parts have wrong types")
            vars(self).update({k: v for k, v in known.items() if k in self._fields()})
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            message = "%s is damaged (%r): remove it to go on" % (self.path, error)
            raise device.Failure("internal", message) from None

    def _fields(self) -> list[str]:
        return [name for name in vars(self) if name not in ("folder", "path")]

    def save(self) -> None:
        """Write it so that a power cut leaves the old state or the new."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        data = json.dumps({name: getattr(self, name) for name in self._fields()}, indent=1)
        device.write_file(self.path, data.encode() + b"\n")

    def conclude(self, outcome: str, reason: str) -> None:
        """Note how the task ended."""
        self.phase = "idle"
        self.last_outcome = {
            "generation": self.generation,
            "outcome": outcome,
            "release": self.task.get("id"),
            "reason": reason,
        }


class Tasks:
    """The device on which tasks are done."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.folder = os.path.join(host.paths.state, ".task")

    @contextlib.contextmanager
    def locked(self, command: str) -> Iterator[State]:
        """Hold the lock, with the state as it is by now."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        lock = device.Lock(os.path.join(self.folder, "lock"), command, self.host.clock)
        if not lock.acquire(device.LOCK_WAIT):
            raise device.Failure("busy", "another muster-task is at work: try again later")
        try:
            state = State(self.folder)
            self.mend(state)  # what follows saves it, or finds the same again
            yield state
        finally:
            lock.release()

    def mend(self, state: State) -> None:
        """A device that has restarted since it was told to has done that."""
        restarted = state.boot != self.host.clock.boot()
        if state.phase == "switching" and state.task["action"] in RESTARTING and restarted:
            state.phase = "switched"

    def models(self) -> list[Any]:
        """Models that ought to serve."""
        found = [device.Model(self.host, name) for name in self.host.models()]
        return [model for model in found if model.store.link("current") is not None]

    def unready(self) -> dict[str, str]:
        """Why each model does not serve that ought to."""
        problems = {}
        for model in self.models():
            problem = model.not_ready(model.store.link("current"))
            if problem is not None:
                problems[model.name] = problem
        return problems

    def failed_units(self) -> list[str]:
        """Units that systemd counts as failed."""
        done = device.execute(
            ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full"], 30.0
        )
        return sorted(line.split()[0] for line in done.out.splitlines() if line.split())


# ---------------------------------------------------------------------------------------------
# Firmware


class Firmware:
    """One tool that brings firmware; what it brings takes effect with a restart."""

    name = ""

    def check(self) -> list[dict[str, str | None]]:
        """Return what is there: ``device``, ``current``, ``available`` (None: nothing newer)."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Ask the vendor what there is, where the tool remembers that."""

    def stage(self) -> None:
        """Fetch what is newer, if that is a step of its own."""

    def apply(self) -> None:
        """Have what is newer take effect at the next start."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Take back what was only prepared."""

    def _run(self, *argv: str, good: Sequence[int] = (0,)) -> Any:
        environment = ["env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]
        done = device.execute([*environment, *argv], TOOL_SECONDS)
        if done.status not in good:
            message = "%s: %s" % (" ".join(argv), device.last_line(done.err or done.out))
            raise device.Failure("firmware_failed", message)
        return done

    def _entry(self, what: str, current: str, available: str | None) -> dict[str, str | None]:
        return {"tool": self.name, "device": what, "current": current, "available": available}


class RaspberryPi(Firmware):
    """The boot loader of a Raspberry Pi 4 or 5."""

    name = "rpi-eeprom-update"

    def check(self) -> list[dict[str, str | None]]:
        # exit status 1: there is a newer one
        done = self._run(self.name, good=(0, 1))
        said = dict(re.findall(r"^\s*(CURRENT|LATEST): (.+?)\s*$", done.out, re.MULTILINE))
        current, latest = said.get("CURRENT", "unknown"), said.get("LATEST", "unknown")
        return [self._entry("bootloader", current, latest if done.status == 1 else None)]

    def apply(self) -> None:
        self._run(self.name, "-a")

    def cancel(self) -> None:
        self._run(self.name, "-r")


class Fwupd(Firmware):
    """Whatever fwupd knows: UEFI, docks, drives."""

    name = "fwupdmgr"

    def check(self) -> list[dict[str, str | None]]:
        # exit status 2: nothing to do
        done = self._run(self.name, "get-updates", "--json", "--no-unreported-check", good=(0, 2))
        try:
            devices = json.loads(done.out)["Devices"] if done.status == 0 else []
        except (ValueError, KeyError, TypeError):
            raise device.Failure("firmware_failed", "fwupdmgr said no JSON") from None
        return [
            self._entry(
                str(each.get("Name")),
                str(each.get("Version")),
                str(each["Releases"][0].get("Version")),
            )
            for each in devices
            if each.get("Releases")
        ]

    def refresh(self) -> None:
        self._run(self.name, "refresh", good=(0, 2))

    def apply(self) -> None:
        options = ("--offline", "--assume-yes", "--no-reboot-check", "--no-unreported-check")
        self._run(self.name, "update", *options, good=(0, 2))


class L4T(Firmware):
    """The board support packages of a Jetson, a minor release further."""

    name = "apt-get"
    INSTALL = re.compile(r"^Inst (nvidia-l4t-\S+) \[(\S+)\] \((\S+)", re.MULTILINE)

    def _packages(self) -> list[str]:
        done = self._run("dpkg-query", "-W", "-f=${Package}\n", "nvidia-l4t-*", good=(0, 1))
        return str(done.out).split()

    def check(self) -> list[dict[str, str | None]]:
        packages = self._packages()
        if not packages:
            return []
        done = self._run(self.name, "--simulate", "--only-upgrade", "install", *packages)
        found = self.INSTALL.findall(done.out)
        return [self._entry(package, old, new) for package, old, new in found]

    def refresh(self) -> None:
        self._run(self.name, "-o", "DPkg::Lock::Timeout=300", "update")

    def stage(self) -> None:
        self._upgrade("--download-only")

    def apply(self) -> None:
        self._upgrade()

    def _upgrade(self, *options: str) -> None:
        wait = ("-o", "DPkg::Lock::Timeout=300", "--yes", "--only-upgrade")
        self._run(self.name, *wait, *options, "install", *self._packages())


def firmware_tools() -> list[Firmware]:
    """The tools that this device has."""
    tools: list[Firmware] = []
    if shutil.which(RaspberryPi.name):
        tools.append(RaspberryPi())
    if shutil.which(Fwupd.name):
        tools.append(Fwupd())
    if os.path.exists("/etc/nv_tegra_release"):
        tools.append(L4T())
    return tools


def firmware() -> list[dict[str, str | None]]:
    """What every tool has to say."""
    return [entry for tool in firmware_tools() for entry in tool.check()]


# ---------------------------------------------------------------------------------------------
# The subcommands


def _task(request: Any) -> dict[str, Any]:
    part = request.part("task", ("id", "action", "options"))
    task = {"id": part.text("id", TASK_ID), "action": part.text("action", _one_of(ACTIONS))}
    options = part.get("options", "an object", lambda value: isinstance(value, dict), {})
    unknown = sorted(set(options) - {"users", "keys", "k3s"})
    if unknown:
        raise device.Failure("bad_input", "task.options: expected no %s" % ", ".join(unknown))
    names = ("users", "keys", "k3s")
    known = device.Request({"users": [], "keys": [], **options}, names, "task.options")
    checked = {"users": known.texts("users", USER), "keys": known.texts("keys", KEY_BLOB)}
    checked["k3s"] = known.flag("k3s", False)
    return {**task, "options": checked}


def _one_of(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(words))


def inspect(host: Any, given: Any) -> dict[str, Any]:
    """Say what this device is, and where a task stands on it."""
    task = _task(device.Request(given, ("task",)))
    seen = dict(device.inspect(host, {}))
    tasks = Tasks(host)
    state = State(tasks.folder)
    tasks.mend(state)
    phase, generation, rollout = state.phase, state.generation, state.rollout
    if phase == "idle":
        for model in (device.Model(host, name) for name in host.models()):
            switch = model.store.load()
            if switch.phase != "idle":  # a restart now would end it
                phase, generation, rollout = "busy", switch.generation, switch.rollout
    ours = task["id"] in state.done
    if task["action"] == "firmware":
        seen["firmware"] = firmware()
    return {
        **seen,
        "tasks": list(ACTIONS),
        "model": {
            "name": "@device",
            "current": {"id": task["id"], "serving": True} if ours else None,
            "previous": None,
            "last_good": state.done[-1] if state.done else None,
            "generation": generation,
            "rollout": rollout,
            "phase": phase,
            "guard": {"armed": False, "remaining": None},
            "lock": {"held": False, "holder": None},
            "releases": [],
            "last_outcome": state.last_outcome,
        },
    }


def stage(host: Any, given: Any) -> dict[str, Any]:
    """Prepare a task: fetch what it needs."""
    task = _task(device.Request(given, ("task",)))
    newer: list[dict[str, str | None]] = []
    with Tasks(host).locked("stage"):
        for tool in firmware_tools() if task["action"] == "firmware" else []:
            tool.refresh()
            found = [entry for entry in tool.check() if entry["available"]]
            if found:
                tool.stage()
            newer += found
    return {"staged": task["id"], "newer": newer}


def switch(host: Any, given: Any) -> dict[str, Any]:
    """Do a task. What restarts the device says so, and does it a moment later."""
    request = device.Request(given, ("task", "generation", "rollout", "healthy_deadline"))
    task = _task(request)
    generation = request.number("generation", 1, 1 << 62)
    rollout = request.text("rollout", device.NAME)
    request.seconds("healthy_deadline", 0.1, 600.0)
    tasks = Tasks(host)
    with tasks.locked("switch") as state:
        same = (generation, rollout) == (state.generation, state.rollout)
        if generation < state.generation or (generation == state.generation and not same):
            message = "generation %d is not newer than %d, which rollout %s gave this device" % (
                generation, state.generation, state.rollout,
            )  # fmt: skip
            raise device.Failure("stale_generation", message, generation=state.generation)
        if state.phase != "idle" and not same:
            message = "task %s of rollout %s is not finished" % (state.task["id"], state.rollout)
            raise device.Failure("unfinished_switch", message)
        if not same:
            _check_free(host)
            state.generation, state.rollout, state.task = generation, rollout, task
            state.phase, state.boot = "switching", host.clock.boot()
            state.failed_before = tasks.failed_units()
            state.save()
            device.checkpoint("task:begun")
        restarts = False
        if state.phase == "switching":
            restarts = _carry_out(tasks, state)
        return {
            "generation": generation,
            "ready": state.phase != "idle",
            "detail": (state.last_outcome or {}).get("reason", ""),
            "reboots": state.boot if restarts else None,
        }


def _check_free(host: Any) -> None:
    """Refuse while an application holds a model's lock, or a model's switch is not finished."""
    for name in host.models():
        model = device.Model(host, name)
        held = model.application.held()
        if held["held"]:
            message = "%s holds %s" % (held["holder"] or "an application", model.application.inside)
            raise device.Failure("locked", message + ": try again when it is done")
        if model.store.load().phase != "idle":
            raise device.Failure("unfinished_switch", "%s: a switch is not finished" % name)


def _carry_out(tasks: Tasks, state: State) -> bool:
    """Do it; returns whether the device restarts."""
    action = state.task["action"]
    if action == "firmware":
        for tool in firmware_tools():
            tool.apply()
    if action in RESTARTING:
        device.checkpoint("task:restarts")
        command = ["systemd-run", "--quiet", "--collect", "--on-active=" + REBOOT_DELAY]
        command += ["--timer-property=AccuracySec=100ms", "systemctl", "reboot"]
        done = device.execute(command, 30.0)
        if done.status != 0:
            message = "could not restart: %s" % device.last_line(done.err)
            raise device.Failure("internal", message)
        return True
    if action == "reset":
        reset(tasks.host)
    state.phase = "switched"
    state.save()
    device.checkpoint("task:done")
    return False


def reset(host: Any) -> None:
    """Stop every model and remove models, images, state and secrets; safe to repeat."""
    for name in host.models():
        model = device.Model(host, name)
        with model.locked("reset"):
            model.guard_off()
            # What a node's cluster can't be told any more ends with its K3s.
            is_node = host.runtime.name == "k3s"
            with contextlib.suppress(*((device.Failure,) if is_node else ())):
                _remove_model(host, model)
        shutil.rmtree(os.path.join(host.paths.state, name))
        device.checkpoint("task:reset")
    _remove_k3s(host)
    for name in os.listdir(host.paths.state):
        if name not in KEPT_AT_RESET:
            path = os.path.join(host.paths.state, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for path, units in SERVICES.items():
        if os.path.exists(host.paths.at(path)):
            for unit in units:
                device.execute(["systemctl", "disable", "--now", unit], 90.0)
                device.execute(["systemctl", "reset-failed", unit], 30.0)
    for path in (*_registry_folders(host), *SECRETS):
        _remove(host.paths.at(path))


def _remove_model(host: Any, model: Any) -> None:
    model.stop()
    model.stop_serving()
    images = [model.store.image_of(release) for release in model.store.ids()]
    for container in host.runtime.containers(model.name):
        host.runtime.remove(container.name)
    for image in filter(None, images):
        with contextlib.suppress(device.Failure):  # another model's still
            host.runtime.remove_image(image)


def _remove_k3s(host: Any) -> None:
    """Leave nothing of K3s where this is, or was, a node."""
    if not os.path.exists(host.paths.at(NODE_PROGRAM)):
        return
    problem = _k3s_problem(host, "reset", TOOL_SECONDS)
    if problem:
        raise device.Failure("reset_failed", "K3s: %s" % problem)


def _k3s_problem(host: Any, verb: str, seconds: float, field: str = "") -> str:
    """Have the program of a node do something; return why it did not, else what it says in a field
    of its answer."""
    done = device.execute([host.paths.at(NODE_PROGRAM), verb], seconds, "{}")
    try:
        answer = json.loads(done.out)
        if not answer["ok"]:
            return str(answer["error"]["message"])
        return str(answer[field]) if field else ""
    except (ValueError, KeyError, TypeError):
        return "muster-k3s gave no answer (%s)" % device.last_line(done.err)


def _registry_folders(host: Any) -> list[str]:
    """What the registry of a site stores, where that is not its usual place."""
    try:
        storage = json.loads(device.read_text(host.paths.at(REGISTRY_SETTINGS)) or "{}")["storage"]
        return [os.path.join(storage, name) for name in ("docker", "muster")]
    except (ValueError, KeyError, TypeError):
        return []


REGISTRY_SETTINGS = "/etc/muster/registry.json"

SERVICES = {
    "/etc/muster/registry": ("muster-registry-work.service", "muster-registry.service"),
    "/etc/mosquitto/muster": ("mosquitto.service",),
    "/etc/prometheus/node-exporter-web.yml": ("prometheus-node-exporter.service",),
    "/etc/prometheus/web.yml": ("prometheus.service", "prometheus-alertmanager.service"),
}
"""What would go on with secrets that it has read, and fail at the next start without them."""

SECRETS = (
    "/etc/muster/release.pub",
    "/etc/muster/registry",
    "/etc/docker/certs.d",
    "/etc/containers/certs.d",
    "/etc/containerd/certs.d",
    "/etc/mosquitto/muster",
    "/etc/prometheus/node-exporter-web.yml",
    "/etc/prometheus/secrets",
    "/etc/prometheus/tls",
    "/etc/prometheus/web.yml",
    "/etc/wireguard",
    "/root/.docker/config.json",
    "/var/lib/muster-registry",
)
"""What a device was given in confidence, or trusts."""


def revoke(host: Any, user: str, keys: Sequence[str]) -> None:
    """Let nobody log in with these public keys any more (the middle word of each).

    The connection that this comes through lives on until it is closed.
    """
    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        return
    path = host.paths.at(os.path.join(home, ".ssh/authorized_keys"))
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
        found = os.stat(path)
    except FileNotFoundError:
        return
    kept = "".join(line for line in lines if not set(line.split()) & set(keys))
    temporary = path + ".new"  # with its owner before it is in place: sshd must be able to read it
    with open(temporary, "wb") as file:
        os.fchown(file.fileno(), found.st_uid, found.st_gid)
        os.fchmod(file.fileno(), found.st_mode & 0o7777)
        file.write(kept.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    device.sync_folder(os.path.dirname(path))


def _remove(path: str) -> None:
    if os.path.ismount(path):  # a disk of its own: it stays where it is, and empty
        for name in os.listdir(path):
            _remove(os.path.join(path, name))
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def probe(host: Any, given: Any) -> dict[str, Any]:
    """Watch the device for a while, from when its models are ready."""
    request = device.Request(given, ("task", "duration", "interval", "healthy_deadline"))
    task = _task(request)
    duration, interval = request.seconds("duration", 0.0), request.seconds("interval", 0.01)
    patience = request.seconds("healthy_deadline", 0.1)
    tasks, clock = Tasks(host), host.clock
    is_node = task["options"]["k3s"]
    until = clock.now() + patience
    while (tasks.unready() or (is_node and node_problem(host))) and clock.now() < until:
        clock.sleep(interval)
    models = {m.name: {"unready": 0, "problem": ""} for m in tasks.models()}
    node = {"unready": 0, "problem": ""}
    samples, end = 0, clock.now() + duration
    while True:
        samples += 1
        if is_node and (problem := node_problem(host)):
            node = {"unready": node["unready"] + 1, "problem": problem}
        for name, problem in tasks.unready().items():
            models[name] = {"unready": models[name]["unready"] + 1, "problem": problem}
        if clock.now() + interval > end:
            break
        clock.sleep(interval)
    before = State(tasks.folder).failed_before
    old = [each for each in firmware() if each["available"]] if task["action"] == "firmware" else []
    return {
        "models": models,
        "samples": samples,
        "failed_units": [unit for unit in tasks.failed_units() if unit not in before],
        "old_firmware": old,
        **({"k3s": node} if is_node else {}),
    }


def node_problem(host: Any) -> str:
    """Why this node of a K3s cluster is not Ready with the version of its program; "" if it is."""
    return _k3s_problem(host, "inspect", NODE_SECONDS, "problem")


def confirm(host: Any, given: Any) -> dict[str, Any]:
    """Have a task count as done."""
    request = device.Request(given, ("task", "generation", "rollout", "healthy_deadline"))
    task = _task(request)
    generation = request.number("generation", 1, 1 << 62)
    rollout = request.text("rollout", device.NAME)
    with Tasks(host).locked("confirm") as state:
        if (generation, rollout) != (state.generation, state.rollout):
            message = "there is no task of generation %d to confirm" % generation
            raise device.Failure("stale_generation", message, generation=state.generation)
        if state.phase != "idle":
            state.conclude("confirmed", "")
            state.done = [*state.done, task["id"]][-REMEMBERED:]
            state.save()
        # Last, as nobody gets in afterwards to ask.
        for user in task["options"]["users"]:
            revoke(host, user, task["options"]["keys"])
        return {"last_good": task["id"], "pruned": []}


def revert(host: Any, given: Any) -> dict[str, Any]:
    """Take back what was only prepared, and have every model serve that ought to."""
    request = device.Request(given, ("task", "generation", "rollout", "healthy_deadline", "reason"))
    _task(request)
    generation = request.number("generation", 1, 1 << 62)
    rollout = request.text("rollout", device.NAME)
    patience = request.seconds("healthy_deadline", 0.1, 60.0)
    reason = request.text("reason", device.TEXT, "")
    tasks = Tasks(host)
    with tasks.locked("revert") as state:
        if generation < state.generation:
            message = "generation %d is older than %d" % (generation, state.generation)
            raise device.Failure("stale_generation", message, generation=state.generation)
        if state.phase == "switching" and state.task["action"] == "firmware":
            for tool in firmware_tools():
                tool.cancel()
        state.generation, state.rollout = generation, rollout
        problems = _serve_again(tasks, patience)
        if state.task.get("action") == "reset" and state.phase != "idle":
            problems["reset"] = "what was removed can't be brought back"
        told = "; ".join("%s: %s" % item for item in sorted(problems.items()))
        state.conclude("revert_failed" if problems else "reverted", told or reason)
        state.save()
        if problems:
            raise device.Failure("revert_failed", told)
        return {"to": None, "ready": True}


def _serve_again(tasks: Tasks, patience: float) -> dict[str, str]:
    until = tasks.host.clock.now() + patience
    for model in tasks.models():
        with contextlib.suppress(device.Failure), model.locked("revert"):
            model.start_current()
    while True:
        problems = tasks.unready()
        if not problems or tasks.host.clock.now() >= until:
            return problems
        tasks.host.clock.sleep(device.READY_POLL)


COMMANDS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "inspect": inspect,
    "stage": stage,
    "switch": switch,
    "probe": probe,
    "confirm": confirm,
    "revert": revert,
}


def main(argv: Sequence[str]) -> int:
    """Run the program; returns its exit status."""
    if len(argv) != 1 or argv[0] not in COMMANDS:
        print("usage: muster-task %s < DOCUMENT" % "|".join(COMMANDS), file=sys.stderr)
        return 2
    os.umask(0o077)

    def work() -> dict[str, Any]:
        if os.geteuid() != 0 and "MUSTER_ROOT" not in os.environ:
            raise device.Failure("bad_input", "must run as root: use sudo")
        try:
            document = json.loads(sys.stdin.buffer.read())
        except ValueError as error:
            raise device.Failure("bad_input", "stdin is not a JSON document: %s" % error) from None
        return COMMANDS[argv[0]](device.Host(), document)

    answer = device.answer_of(work)
    with contextlib.suppress(OSError):
        print(json.dumps(answer, separators=(",", ":")), flush=True)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
