#!/usr/bin/env python3
"""The device program of Muster: switches the releases of models on one device, and back.

Usage: muster-device SUBCOMMAND < request.json > answer.json
       (inspect, stage, switch, probe, confirm, revert, prune: one JSON document in, one line of
       JSON out, exit status 0 when it says "ok": true)
       muster-device guard|run|halt --model NAME, muster-device boot   (from systemd units)

Installed as /usr/local/sbin/muster-device and run as root. Standard library only, Python 3.8 or
newer. What must never break:

- A switch that was not confirmed in time, or was interrupted by anything at all, ends on the
  release ``last_good``, without network and without the controller.
- The link ``current`` alone decides what serves; ``state.json`` says what is under way. Both are
  replaced atomically, and the state is on disk before the step that it announces.
- Behind a proxy a release runs in one of two slots, ``blue`` and ``green``: links as well. One that
  has no slot has the endpoint's port itself.
- Decisions use the boot clock and the identity of the boot, never the time of day.
"""

from __future__ import annotations

import argparse
import calendar
import contextlib
import dataclasses
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

VERSION = "1.0.0"

PHASES = ("idle", "arming", "switching", "switched", "confirming", "reverting")
UNCONFIRMED = ("switching", "switched", "reverting")
MODES = ("recreate", "blue_green")
SLOTS = ("blue", "green")
SLOT_PORTS = {"blue": 61001, "green": 61002}  # above those that Linux gives to clients
REVERT_ATTEMPTS = 3

LOCK_WAIT = 10.0  # seconds until "busy"
WORK_LIMIT = 300.0  # seconds of grace before the guard may kill a program that holds the lock
STOP_GRACE = 10  # seconds a container has to stop by itself
STOP_TIMEOUT = 75.0  # more than TimeoutStopSec of muster-model@.service
CLUSTER_TIMEOUT = 10.0  # seconds of one question to the API of a node's cluster
READY_POLL = 0.1
READY_TIMEOUT = 2.0
DISK_FLOOR = 200 << 20  # bytes that a pull needs at least when the release does not say
LOW_DISK = 32 << 20  # bytes below which a failed release's container gives its space back
RESERVE = 64 << 10  # bytes set aside so that a full disk can't keep the state from being written
BODY_LIMIT = 64 << 10
BODIES_LIMIT = 16 << 20  # bytes of all bodies in one answer to probe
EXIT_NOTHING_TO_RUN = 78  # RestartPreventExitStatus of muster-model@.service

MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
INSTANCE = re.compile(MODEL.pattern + r"(\.(blue|green))?")
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}-[0-9a-f]{12}")
DIGEST = re.compile(r"[0-9a-f]{64}")
VARIANT = re.compile(r"hw_[a-z0-9_]{1,40}")
REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?")
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,200}@sha256:[0-9a-f]{64}")
DEVICE_NODE = re.compile(r"/dev(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
CDI_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_.-]*=[A-Za-z0-9][\w.:-]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENV_VALUE = re.compile(r"[^\n\r\0]*")
NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
URL_PATH = re.compile(r"/[!-~]{0,1000}")
NAME = re.compile(r"[!-~]{1,200}")
TEXT = re.compile(r"[^\0]{0,2000}", re.DOTALL)


class Failure(Exception):  # noqa: N818
    """Why a subcommand could not do what it was asked.

    :param code: one of the codes that the controller knows.
    :param message: one line for a person: what is wrong and what to do.
    :param detail: figures and names that belong to it.
    """

    def __init__(self, code: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.detail = code, message, detail


def log(text: str) -> None:
    """Tell the journal, or whoever ran us; a reader that went away must not stop a switch."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def checkpoint(name: str) -> None:
    """Mark a place where a power cut must do no harm. Does nothing; tests die here."""


# ---------------------------------------------------------------------------------------------
# Requests


_REQUIRED: Any = object()


class Request:
    """A JSON object from outside; every getter raises ``bad_input`` with the field's name.

    :param where: what messages call this object ("" for the document on stdin).
    """

    def __init__(self, value: Any, known: Sequence[str], where: str = "") -> None:
        if not isinstance(value, dict):
            raise Failure("bad_input", "%s: expected an object" % (where or "stdin"))
        unknown = sorted(set(value) - set(known))
        if unknown:
            raise Failure(
                "bad_input",
                "%s: unknown field; this is muster-device %s, is it older than the controller?"
                % (self._join(where, str(unknown[0])), VERSION),
            )
        self.value, self.where = value, where

    @staticmethod
    def _join(where: str, name: str) -> str:
        return where + "." + name if where else name

    def get(self, name: str, expected: str, valid: Callable[[Any], Any], default: Any) -> Any:
        """Return a field that ``valid`` accepts; a default makes it optional and nullable."""
        value = self.value.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if not valid(value):
            shown = "nothing" if value is None else json.dumps(value)[:80]
            raise Failure(
                "bad_input",
                "%s: expected %s, got %s" % (self._join(self.where, name), expected, shown),
            )
        return value

    def text(self, name: str, pattern: re.Pattern[str], default: Any = _REQUIRED) -> Any:
        """Return a text that ``pattern`` matches as a whole."""
        expected = "text like %s" % pattern.pattern
        return self.get(
            name, expected, lambda v: isinstance(v, str) and pattern.fullmatch(v), default
        )

    def number(self, name: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        """Return a whole number within bounds."""
        expected = "a whole number from %d to %d" % (low, high)
        return self.get(name, expected, lambda v: type(v) is int and low <= v <= high, default)

    def seconds(self, name: str, low: float, default: Any = _REQUIRED) -> Any:
        """Return a duration, at most a week."""

        def valid(value: Any) -> bool:
            if type(value) not in (int, float):
                return False
            return math.isfinite(value) and low <= value <= 604800

        return self.get(name, "seconds, at least %g" % low, valid, default)

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return true or false."""
        return self.get(name, "true or false", lambda v: type(v) is bool, default)

    def part(self, name: str, known: Sequence[str]) -> Request:
        """Return an object inside this one; an absent one is empty."""
        return Request(self.value.get(name) or {}, known, self._join(self.where, name))

    def texts(self, name: str, pattern: re.Pattern[str]) -> list[str]:
        """Return a list of texts; an absent one is empty."""

        def valid(value: Any) -> bool:
            return isinstance(value, list) and all(
                isinstance(v, str) and pattern.fullmatch(v) for v in value
            )

        return self.get(name, "a list of texts like %s" % pattern.pattern, valid, [])

    def table(self, name: str, value_pattern: re.Pattern[str]) -> dict[str, str]:
        """Return an object of texts; an absent one is empty."""

        def valid(value: Any) -> bool:
            return isinstance(value, dict) and all(
                isinstance(v, str) and value_pattern.fullmatch(v) for v in value.values()
            )

        return self.get(name, "an object with texts on one line", valid, {})


# ---------------------------------------------------------------------------------------------
# Files, time, processes


class Paths:
    """Where things are on a device.

    :param root: folder that stands for "/".
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.config = os.path.join(root, "etc/muster/device.json")
        self.state = os.path.join(root, "var/lib/muster")
        self.run = os.path.join(root, "run/muster")

    def at(self, path: str) -> str:
        """Return the place of an absolute path below the root."""
        return os.path.join(self.root, path.lstrip("/"))

    def make_run(self) -> None:
        """Make the folder that every restart empties; everybody may look into it."""
        os.makedirs(self.run, exist_ok=True)
        os.chmod(self.run, 0o755)  # noqa: S103


def read_text(path: str) -> str | None:
    """Return a small text file without surrounding space and NULs; None if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip(" \t\r\n\0")
    except OSError:
        return None


def sync_folder(path: str) -> None:
    """Make names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Replace a file so that a power cut leaves the old content or the new."""
    temporary = path + ".new"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


def point_link(link: str, target: str | None) -> None:
    """Make a symbolic link point to ``target`` atomically, or remove it."""
    if target is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
    else:
        temporary = link + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, link)
    sync_folder(os.path.dirname(link))


def free_bytes(path: str) -> int:
    """Return the space that root may still fill on the file system that holds ``path``."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def process_start(pid: int, proc: str = "/proc") -> str | None:
    """Return when a process started, in clock ticks since boot: with the pid, its identity."""
    stat = read_text("%s/%d/stat" % (proc, pid))
    return stat.rpartition(")")[2].split()[19] if stat else None


def process_lives(pid: int, start: str) -> bool:
    """Tell whether a process that started then still runs, and not only waits to be reaped."""
    fields = (read_text("/proc/%d/stat" % pid) or "").rpartition(")")[2].split()
    return len(fields) > 19 and fields[19] == start and fields[0] not in "ZX"


class Clock:
    """The boot clock, which goes on while the device sleeps: a device that is suspended must not
    keep an unconfirmed release any longer than one that is awake."""

    def __init__(self, paths: Paths) -> None:
        self.proc = paths.at("proc")

    def now(self) -> float:
        """Return seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def boot(self) -> str:
        """Name this boot. The start of process 1 tells restarts of a container apart, which all
        see the boot id of the machine below."""
        kernel = read_text(os.path.join(self.proc, "sys/kernel/random/boot_id"))
        return "%s/%s" % (kernel, process_start(1, self.proc))


class Finished(NamedTuple):
    """A command that ended: status (124 timed out, 127 not found), standard output and error."""

    status: int
    out: str
    err: str


def execute(
    argv: Sequence[str],
    timeout: float,
    given: str = "",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end, or kill it after ``timeout`` seconds.

    :param environment: variables beside those of this program.
    """
    try:
        done = subprocess.run(
            argv,
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=max(timeout, 0.1),
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Finished(124, "", "%s did not finish within %.0f s" % (argv[0], timeout))
    except (FileNotFoundError, PermissionError) as error:
        return Finished(127, "", "%s: %s" % (argv[0], error.strerror))
    return Finished(done.returncode, done.stdout.strip(), done.stderr.strip())


def last_line(text: str) -> str:
    """Return the last line of what a command said, short enough for a message."""
    return (text.splitlines() or ["no message"])[-1][:300]


class Lock:
    """An exclusive lock that dies with its holder, and says who holds it until when.

    :param path: the lock file.
    :param command: the subcommand that wants it.
    """

    SIZE = 256  # bytes; always overwritten in place, which needs no space on a full disk

    def __init__(self, path: str, command: str, clock: Clock) -> None:
        self.path, self.command, self.clock = path, command, clock
        self.descriptor = -1

    def acquire(self, wait: float) -> bool:
        """Take the lock, waiting at most ``wait`` seconds."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = self.clock.now() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    os.close(descriptor)
                    raise
            if self.clock.now() >= until:
                os.close(descriptor)
                return False
            self.clock.sleep(0.05)
        self.descriptor = descriptor
        self.allow_until(self.clock.now() + WORK_LIMIT)
        return True

    def allow_until(self, at: float) -> None:
        """Say when the guard may kill us (boot clock)."""
        record = {
            "pid": os.getpid(),
            "start": process_start(os.getpid()),
            "boot": self.clock.boot(),
            "command": self.command,
            "until": at,
        }
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, json.dumps(record).ljust(self.SIZE).encode(), 0)

    def release(self) -> None:
        """Let go."""
        os.close(self.descriptor)

    def holder(self) -> dict[str, Any] | None:
        """Return the record of a holder that lives."""
        try:
            record = json.loads(read_text(self.path) or "")
            pid, start, boot = int(record["pid"]), record["start"], record["boot"]
        except (ValueError, TypeError, KeyError):
            return None
        alive = start is not None and start == process_start(pid) and boot == self.clock.boot()
        return record if alive else None

    def kill_holder(self) -> None:
        """Kill the holder if it has overrun its time; does nothing to anybody else."""
        record = self.holder()
        if record is None or self.clock.now() < record["until"] or record["pid"] == os.getpid():
            return
        pid = record["pid"]
        log("killing `muster-device %s` (pid %d): it hangs" % (record["command"], pid))
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------
# systemd and the container runtime


class Systemd:
    """The few things that we ask of systemd. Never a daemon-reload: with the systemd cgroup driver
    it can take GPUs away from containers that run."""

    def _systemctl(self, *arguments: str, timeout: float = 30.0) -> Finished:
        return execute(["systemctl", "--no-ask-password", *arguments], timeout)

    def _do(self, verb: str, unit: str, timeout: float) -> None:
        done = self._systemctl(verb, unit, timeout=timeout)
        if done.status != 0:
            message = "systemctl %s %s: %s" % (verb, unit, last_line(done.err))
            raise Failure("internal", message, unit=unit)

    def start(self, unit: str) -> None:
        """Start a unit."""
        self._do("start", unit, 60.0)

    def stop(self, unit: str) -> None:
        """Stop a unit."""
        self._do("stop", unit, STOP_TIMEOUT)

    def reload(self, unit: str) -> None:
        """Have a unit read its configuration again."""
        self._do("reload", unit, 30.0)

    def kill(self, unit: str) -> None:
        """Kill whatever is left in a unit."""
        self._systemctl("kill", "--signal=SIGKILL", unit)

    def is_active(self, unit: str) -> bool:
        """Tell whether a unit is active."""
        return self._systemctl("is-active", "--quiet", unit).status == 0

    def is_enabled(self, unit: str) -> bool:
        """Tell whether a unit starts at boot."""
        return self._systemctl("is-enabled", "--quiet", unit).status == 0

    def restarts(self, unit: str) -> int:
        """Return how often systemd has restarted a unit by itself."""
        done = self._systemctl("show", "--property=NRestarts", "--value", unit)
        return int(done.out) if done.out.isdigit() else 0

    def active_seconds(self, unit: str) -> float | None:
        """Return for how long a unit has been active; None for one that is not."""
        name = "ActiveEnterTimestampMonotonic"
        done = self._systemctl("show", "--property=" + name, "--value", unit)
        since = int(done.out) / 1e6 if done.out.isdigit() else 0.0
        return max(0.0, time.monotonic() - since) if since and self.is_active(unit) else None


class Container(NamedTuple):
    """A container of a model; ``broken`` says why its last start failed in the runtime."""

    name: str
    release: str
    running: bool
    spec: str = ""
    broken: str = ""
    slot: str = ""


class Devices(NamedTuple):
    """What a container gets of CDI devices: their names, or what is behind them where the runtime
    does not know CDI.

    ``nodes`` are path outside, path inside and permissions; ``mounts`` are read-only.
    """

    names: tuple[str, ...] = ()
    nodes: tuple[tuple[str, str, str], ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    env: Mapping[str, str] = {}


def cdi_devices(paths: Paths, wanted: Sequence[str]) -> Devices:
    """Read from the CDI specifications of this device what is behind some names.

    Raises runtime_unavailable for a name that no specification has, and for one that asks for more
    than nodes, read-only mounts and environment.
    """
    nodes: list[tuple[str, str, str]] = []
    mounts: list[tuple[str, str]] = []
    env: dict[str, str] = {}
    documents = _cdi_documents(paths)
    for name in wanted:
        kind, _, device = name.partition("=")
        edits = [
            edit
            for document in documents
            if document.get("kind") == kind
            for found in document.get("devices") or []
            if str(found.get("name")) == device
            for edit in (document.get("containerEdits"), found.get("containerEdits"))
        ]
        if not edits:
            message = "no CDI specification (JSON in /etc/cdi) has %s: provision this device"
            raise Failure("runtime_unavailable", message % name)
        for edit in filter(None, edits):
            if set(edit) - {"deviceNodes", "mounts", "env"}:
                message = "%s needs a container runtime with CDI, which this one has not"
                raise Failure("runtime_unavailable", message % name)
            for node in edit.get("deviceNodes") or []:
                outside = node.get("hostPath") or node["path"]
                nodes.append((outside, node["path"], node.get("permissions") or "rwm"))
            mounts += [(m["hostPath"], m["containerPath"]) for m in edit.get("mounts") or []]
            env.update(entry.split("=", 1) for entry in edit.get("env") or [] if "=" in entry)
    return Devices((), tuple(dict.fromkeys(nodes)), tuple(dict.fromkeys(mounts)), env)


def _cdi_documents(paths: Paths) -> list[dict[str, Any]]:
    found = []
    for folder in map(paths.at, ("/etc/cdi", "/var/run/cdi")):
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
            if name.endswith(".json"):
                with contextlib.suppress(OSError, ValueError):
                    with open(os.path.join(folder, name), encoding="utf-8") as file:
                        document = json.load(file)
                    found += [document] if isinstance(document, dict) else []
    return found


def environment_file(env: Mapping[str, str]) -> str:
    """Return variables as the runtimes read them from a file."""
    return "".join("%s=%s\n" % pair for pair in sorted(env.items()))


def version_numbers(text: str | None) -> tuple[int, ...]:
    """Return the first version in a text, () if there is none."""
    match = re.search(r"\d+(\.\d+)+", text or "")
    return tuple(map(int, match.group(0).split("."))) if match else ()


class Runtime:
    """What Muster needs of a container runtime."""

    name = ""
    maker = ""  # the program that made a container, where there are several: no other can start it
    paths: Paths

    def __init__(self, paths: Paths | None = None) -> None:
        self.paths = paths or Paths()

    _NO_SPACE = re.compile(r"no space left on device|disk quota exceeded")
    _UNREACHABLE = re.compile(
        r"connection refused|no route to host|network is unreachable|host is down|no such host"
        r"|name resolution|server misbehaving|timeout|timed out|deadline exceeded"
        r"|connection reset|broken pipe|\beof\b|http status: 5\d\d|bad gateway"
        r"|service unavailable|internal server error|toomanyrequests|x509:|tls:|to https client"
    )

    def _explain_pull(
        self, image: str, seconds: float, done: Finished, no_daemon: re.Pattern[str]
    ) -> None:
        """Raise what a pull that failed means."""
        said, registry = done.err.lower(), image.partition("/")[0]
        if done.status == 124:
            message = "%s was not pulled within %.0f s" % (image, seconds)
            raise Failure("registry_unreachable", message, image=image)
        if done.status == 127 or no_daemon.search(said):
            raise Failure("runtime_unavailable", last_line(done.err))
        if self._NO_SPACE.search(said):
            raise Failure("no_space", "the disk filled up while pulling " + image, image=image)
        if self._UNREACHABLE.search(said):
            message = "registry %s can't be reached: %s" % (registry, last_line(done.err))
            raise Failure("registry_unreachable", message, image=image)
        message = "registry %s did not give %s: %s" % (registry, image, last_line(done.err))
        raise Failure("pull_failed", message, image=image)

    def _extra(self, spec: Mapping[str, Any]) -> Devices:
        """Return what a release gets of the CDI devices that it names."""
        names = tuple(spec.get("cdi") or ())
        if not names or self.has_cdi():
            return Devices(names)
        return cdi_devices(self.paths, names)

    def has_cdi(self) -> bool:
        """Tell whether a container can be given a CDI device by its name."""
        raise NotImplementedError

    def info(self) -> tuple[str | None, str | None]:
        """Return version and data folder; version None when the runtime does not answer."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Tell whether it still looks after what runs, where that could go unnoticed otherwise."""
        return True

    def keep(self, image: str) -> None:
        """See to it that nobody but Muster removes an image, where somebody would."""

    def check_stopped(self, model: str) -> None:
        """Raise what keeps a model from being stopped, where it could go unnoticed otherwise."""

    def wait(self, clock: Clock) -> None:
        """Wait after a restart until it can be asked, where that takes time."""

    def same_image(self, one: str | None, other: str | None) -> bool:
        """Tell whether to remove one image would remove the other."""
        return one == other

    def image_present(self, image: str) -> bool:
        """Tell whether an image is stored here."""
        raise NotImplementedError

    def pull(self, image: str, seconds: float) -> None:
        """Fetch an image, raising registry_unreachable, pull_failed or no_space."""
        raise NotImplementedError

    def remove_image(self, image: str) -> None:
        """Forget an image; one that is used or gone is no error."""
        raise NotImplementedError

    def containers(self, model: str) -> list[Container]:
        """Return the containers of a model."""
        raise NotImplementedError

    def inspect(self, name: str) -> Container | None:
        """Return one container, with its ``spec`` and ``broken``."""
        raise NotImplementedError

    def create(self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any]) -> None:
        """Create a container from an image that is here already; never pulls.

        :param spec: of the release, with ``publish`` (address and port outside) and ``lock`` (a
            file from outside, and its place inside).
        """
        extra = self._extra(spec)
        arguments = self.create_arguments(name, labels, spec, extra)
        given = environment_file({**extra.env, **spec["env"]})
        done = self._call(*arguments, timeout=120.0, given=given)
        if done.status != 0 and "already" in done.err:
            self.remove(name)  # what a power cut left of one, that nothing else knows of
            done = self._call(*arguments, timeout=120.0, given=given)
        if done.status != 0:
            message = "could not create container %s: %s" % (name, last_line(done.err))
            full = self._NO_SPACE.search(done.err.lower())
            raise Failure("no_space" if full else "runtime_unavailable", message, container=name)

    def create_arguments(
        self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], extra: Devices
    ) -> list[str]:
        """Return the arguments for a new container; the environment goes to its stdin, as arguments
        can be read by every user of the device."""
        raise NotImplementedError

    def _call(self, *arguments: str, timeout: float = 60.0, given: str = "") -> Finished:
        """Run the program of the runtime, raising runtime_unavailable when that is not there."""
        raise NotImplementedError

    def attach_command(self, name: str) -> list[str]:
        """Return the command that starts a container and lives as long as it runs; makes ready
        whatever that takes."""
        raise NotImplementedError

    def stop(self, name: str, grace: int) -> None:
        """Stop a container; kill it when it has not stopped after ``grace`` seconds."""
        raise NotImplementedError

    def kill(self, name: str) -> None:
        """Kill a container."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Remove a container, running or not; one that is gone is no error."""
        raise NotImplementedError


class DockerLikeRuntime(Runtime):
    """A runtime whose command line is docker's, but for what its class says."""

    program: tuple[str, ...] = ()
    log_options: tuple[str, ...] = ()

    _INFO = ""  # template of version and data folder
    _NO_DAEMON = re.compile(r"(?!)")
    _GONE = re.compile(r"no such container|no such image|image not known")

    def _call(self, *arguments: str, timeout: float = 60.0, given: str = "") -> Finished:
        done = execute([*self.program, *arguments], timeout, given)
        if done.status == 127:
            message = "%s is not installed: provision this device" % self.program[0]
            raise Failure("runtime_unavailable", message)
        if done.status == 124 or (done.status and self._NO_DAEMON.search(done.err.lower())):
            raise Failure(
                "runtime_unavailable",
                "%s does not answer, see `systemctl status %s`: %s"
                % (self.program[0], self.name, last_line(done.err)),
            )
        return done

    def info(self) -> tuple[str | None, str | None]:
        try:
            done = self._call("info", "--format", self._INFO, timeout=30.0)
            answer = json.loads(done.out) if done.status == 0 else {}
        except (Failure, ValueError):
            answer = {}
        return answer.get("version") or None, answer.get("root") or None

    def image_present(self, image: str) -> bool:
        return self._call("image", "inspect", "--format", "{{.Id}}", image).status == 0

    def pull(self, image: str, seconds: float) -> None:
        done = execute([*self.program, "pull", "--quiet", image], seconds)
        if done.status:
            self._explain_pull(image, seconds, done, self._NO_DAEMON)

    def remove_image(self, image: str) -> None:
        done = self._call("image", "rm", image)
        if done.status != 0 and not self._GONE.search(done.err.lower()):
            log("kept image %s: %s" % (image, last_line(done.err)))

    def containers(self, model: str) -> list[Container]:
        chosen = "label=muster.model=" + model
        done = self._call("ps", "--all", "--no-trunc", "--filter", chosen, "--format", self._ROWS)
        if done.status != 0:
            message = "%s ps: %s" % (self.program[0], last_line(done.err))
            raise Failure("runtime_unavailable", message)
        return self._listed(done.out)

    _ROWS = '{{.Names}}\t{{.Label "muster.release"}}\t{{.Label "muster.slot"}}\t{{.State}}'

    def _listed(self, text: str) -> list[Container]:
        rows = [line.split("\t") for line in text.splitlines()]
        return [
            Container(row[0], row[1], self._runs(row[3]), slot=row[2])
            for row in rows
            if len(row) == 4
        ]

    @staticmethod
    def _runs(state: str) -> bool:
        return state in ("running", "paused", "restarting")

    def inspect(self, name: str) -> Container | None:
        template = "[{{json .State}},{{json .Config.Labels}}]"
        done = self._call("container", "inspect", "--format", template, name)
        if done.status != 0:
            return None
        state, labels = json.loads(done.out)
        status, labels = state.get("Status", ""), labels or {}
        return Container(
            name,
            labels.get("muster.release", ""),
            bool(state["Running"]),
            labels.get("muster.spec", ""),
            state.get("Error") or (status if status in ("dead", "removing") else ""),
            labels.get("muster.slot", ""),
        )

    def create_arguments(
        self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], extra: Devices
    ) -> list[str]:
        arguments = ["create", "--pull", "never", "--name", name, "--restart", "no"]
        for label in sorted(labels.items()):
            arguments += ["--label", "%s=%s" % label]
        arguments += [*self.log_options, "--security-opt", "no-new-privileges"]
        port = spec["endpoint"]["container_port"]
        arguments += ["--publish", "%s:%d" % (spec["publish"], port)]
        for source, target in [tuple(spec["lock"]), *extra.mounts]:
            arguments += ["--mount", "type=bind,source=%s,target=%s,readonly" % (source, target)]
        if spec["env"] or extra.env:
            arguments += ["--env-file", "/dev/stdin"]
        if spec["memory"]:
            arguments += ["--memory", str(spec["memory"])]
        for device in (*spec["devices"], *extra.names):
            arguments += ["--device", device]
        for outside, inside, permissions in extra.nodes:
            arguments += ["--device", "%s:%s:%s" % (outside, inside, permissions)]
        return [*arguments, spec["image"]]

    def attach_command(self, name: str) -> list[str]:
        return [*self.program, "start", "--attach", name]

    def stop(self, name: str, grace: int) -> None:
        try:
            done = self._call("stop", "-t", str(grace), name, timeout=grace + 10.0)
            if done.status == 0 or self._GONE.search(done.err.lower()):
                return
        except Failure as failure:
            log("%s: %s" % (name, failure))
        self.kill(name)

    def kill(self, name: str) -> None:
        done = self._call("kill", name, timeout=20.0)
        if done.status != 0:
            log("%s kill %s: %s" % (self.program[0], name, last_line(done.err)))

    def remove(self, name: str) -> None:
        done = self._call("rm", "--force", "--volumes", name)
        if done.status != 0 and not self._GONE.search(done.err.lower()):
            log("kept container %s: %s" % (name, last_line(done.err)))


class DockerRuntime(DockerLikeRuntime):
    """Docker 20.10 or newer."""

    name = "docker"
    program = ("docker",)
    log_options = ("--log-driver", "local", "--log-opt", "max-size=5m", "--log-opt", "max-file=2")

    _INFO = '{"version":{{json .ServerVersion}},"root":{{json .DockerRootDir}}}'
    _NO_DAEMON = re.compile(
        r"cannot connect to the docker daemon|error during connect|is the docker daemon running"
        r"|docker\.sock"
    )

    def has_cdi(self) -> bool:
        # From 25 on, and only where it is turned on: there are no folders otherwise.
        done = self._call("info", "--format", "{{json .CDISpecDirs}}", timeout=30.0)
        return done.status == 0 and done.out not in ("null", "[]", "")


class PodmanRuntime(DockerLikeRuntime):
    """Podman 3.4 or newer, for root. There is no service: each container has a monitor."""

    name = "podman"
    program = ("podman",)
    log_options = ("--log-driver", "k8s-file", "--log-opt", "max-size=10m")

    _INFO = '{"version":{{json .Version.Version}},"root":{{json .Store.GraphRoot}}}'

    def has_cdi(self) -> bool:
        return version_numbers(self.info()[0]) >= (4, 1)

    _ROWS = "json"  # older ones do not know {{.Label}}

    def _listed(self, text: str) -> list[Container]:
        found = []
        for entry in json.loads(text or "[]") or []:
            labels, runs = entry.get("Labels") or {}, self._runs(entry.get("State", ""))
            release, slot = labels.get("muster.release", ""), labels.get("muster.slot", "")
            found.append(Container(entry["Names"][0], release, runs, slot=slot))
        return found


CONTAINERD_NAMESPACE = "muster"
CONTAINERD_CONFIG = "/etc/containerd/config.toml"
CONTAINERD_HOSTS = "/etc/containerd/certs.d"
CTR = ("ctr", "--connect-timeout", "5s", "--namespace", CONTAINERD_NAMESPACE)


def containerd_info(paths: Paths) -> tuple[str | None, str | None]:
    """Return version and data folder of containerd; version None when it does not answer."""
    done = execute([*CTR, "version"], 30.0)
    match = re.search(r"^Server:\s+Version:\s+v?(\S+)", done.out, re.MULTILINE)
    general = (read_text(paths.at(CONTAINERD_CONFIG)) or "").partition("\n[")[0]
    root = re.search(r"^root\s*=\s*[\"'](/[^\"']*)[\"']", general, re.MULTILINE)
    folder = root.group(1) if root else "/var/lib/containerd"
    return (match.group(1) if done.status == 0 and match else None), folder


class NerdctlRuntime(DockerLikeRuntime):
    """containerd with nerdctl 1.0 or newer."""

    name = "containerd"
    maker = "nerdctl"
    program = ("nerdctl", "--namespace", CONTAINERD_NAMESPACE)
    log_options = ("--log-driver", "json-file", "--log-opt", "max-size=5m")
    log_options += ("--log-opt", "max-file=2")

    _NO_DAEMON = re.compile(r"containerd\.sock|containerd is not running|failed to dial")
    _ROWS = '{{.Names}}\t{{.Label "muster.release"}}\t{{.Label "muster.slot"}}\t{{.Status}}'

    def info(self) -> tuple[str | None, str | None]:
        return containerd_info(self.paths)

    def has_cdi(self) -> bool:
        return version_numbers(execute(["nerdctl", "--version"], 30.0).out) >= (2, 1)

    def image_present(self, image: str) -> bool:
        return self._call("image", "inspect", image).status == 0

    @staticmethod
    def _runs(state: str) -> bool:
        return state.startswith(("Up", "Paused", "Restarting"))


class CtrRuntime(Runtime):
    """containerd 1.6 or newer with nothing but ctr.

    ctr publishes no ports, so a container joins a network of ours. What a container writes goes to
    the journal, through the command that waits for it.
    """

    name = "containerd"
    maker = "ctr"
    program = CTR
    network_folders = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")

    _NO_DAEMON = re.compile(r"containerd\.sock|failed to dial")
    _GONE = re.compile(r"not found")
    _IDENTITY = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
    _RUNNING = ("RUNNING", "PAUSED", "PAUSING")

    def __init__(self, paths: Paths | None = None) -> None:
        super().__init__(paths)
        self.network = ContainerNetwork(self.paths, self.network_folders)

    def _call(self, *arguments: str, timeout: float = 60.0, given: str = "") -> Finished:
        done = execute([*self.program, *arguments], timeout, given)
        if done.status == 127:
            message = "ctr is not installed: provision this device"
            raise Failure("runtime_unavailable", message)
        if done.status == 124 or (done.status and self._NO_DAEMON.search(done.err.lower())):
            message = "containerd does not answer, see `systemctl status containerd`: "
            raise Failure("runtime_unavailable", message + last_line(done.err))
        return done

    def _list(self, *arguments: str) -> str:
        done = self._call(*arguments)
        if done.status != 0:
            message = "ctr %s: %s" % (" ".join(arguments[:2]), last_line(done.err))
            raise Failure("runtime_unavailable", message)
        return done.out

    @classmethod
    def identity(cls, name: str) -> str:
        """Return what containerd, which does not take every name, calls a container."""
        if len(name) <= 76 and cls._IDENTITY.fullmatch(name):
            return name
        return "muster-" + hashlib.sha256(name.encode()).hexdigest()[:40]

    def info(self) -> tuple[str | None, str | None]:
        return containerd_info(self.paths)

    def has_cdi(self) -> bool:
        return version_numbers(execute(["ctr", "--version"], 30.0).out) >= (1, 7, 2)

    def image_present(self, image: str) -> bool:
        return bool(self._list("images", "list", "-q", "name==" + image))

    def pull(self, image: str, seconds: float) -> None:
        command = ["images", "pull", "--hosts-dir", CONTAINERD_HOSTS, image]
        done = execute([*self.program, *command], seconds)
        if done.status:
            self._explain_pull(image, seconds, done, self._NO_DAEMON)

    def remove_image(self, image: str) -> None:
        done = self._call("images", "rm", "--sync", image)
        if done.status != 0 and not self._GONE.search(done.err.lower()):
            log("kept image %s: %s" % (image, last_line(done.err)))

    def _tasks(self) -> dict[str, tuple[int, str]]:
        """Return process and state of every container that was started."""
        rows = [line.split() for line in self._list("tasks", "list").splitlines()[1:]]
        return {row[0]: (int(row[1]), row[2]) for row in rows if len(row) == 3}

    def _labels(self, container: str) -> dict[str, str] | None:
        done = self._call("containers", "info", container)
        return (json.loads(done.out).get("Labels") or {}) if done.status == 0 else None

    def containers(self, model: str) -> list[Container]:
        listed = self._list("containers", "list", "-q", 'labels."muster.model"==' + model)
        tasks = self._tasks() if listed else {}
        found = [self._described(name, tasks) for name in listed.split()]
        return [container for container in found if container is not None]

    def inspect(self, name: str) -> Container | None:
        return self._described(name, None)

    def _described(
        self, name: str, tasks: Mapping[str, tuple[int, str]] | None
    ) -> Container | None:
        container = self.identity(name)
        labels = self._labels(container)
        if labels is None:
            return None
        known = self._tasks() if tasks is None else tasks
        return Container(
            name,
            labels.get("muster.release", ""),
            known.get(container, (0, ""))[1] in self._RUNNING,
            labels.get("muster.spec", ""),
            "",
            labels.get("muster.slot", ""),
        )

    def create_arguments(
        self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], extra: Devices
    ) -> list[str]:
        container = self.identity(name)
        publish = "%s:%d" % (spec["publish"], spec["endpoint"]["container_port"])
        arguments = ["containers", "create", "--seccomp"]
        for label in sorted({**labels, "muster.publish": publish}.items()):
            arguments += ["--label", "%s=%s" % label]
        arguments += ["--with-ns", "network:" + self.network.namespace(container)]
        mounts = [tuple(spec["lock"]), *extra.mounts, *self.network.files()]
        for mount in mounts:
            arguments += ["--mount", "type=bind,src=%s,dst=%s,options=rbind:ro" % mount]
        if spec["env"] or extra.env:
            arguments += ["--env-file", "/dev/stdin"]
        if spec["memory"]:
            arguments += ["--memory-limit", str(spec["memory"])]
        for device in (*spec["devices"], *extra.names):
            arguments += ["--device", device]
        for outside, inside, _ in extra.nodes:
            if outside != inside:
                message = "ctr can't give %s another name (%s) without CDI" % (outside, inside)
                raise Failure("runtime_unavailable", message)
            arguments += ["--device", outside]
        return [*arguments, spec["image"], container]

    def attach_command(self, name: str) -> list[str]:
        container, tasks = self.identity(name), self._tasks()
        running = {each for each, (_, state) in tasks.items() if state in self._RUNNING}
        if container in running:
            return [*self.program, "tasks", "attach", container]
        if container in tasks:
            self._call("tasks", "delete", "--force", container)
        self.network.keep_only(running)
        labels = self._labels(container) or {}
        self.network.join(container, labels.get("muster.publish", ""))
        return [*self.program, "tasks", "start", container]

    def stop(self, name: str, grace: int) -> None:
        try:
            if self._end(name, (), grace):
                return
        except Failure as failure:
            log("%s: %s" % (name, failure))
        self.kill(name)

    def kill(self, name: str) -> None:
        if not self._end(name, ("--all", "--signal", "SIGKILL"), 10):
            log("ctr tasks kill %s: it goes on" % name)

    def _end(self, name: str, options: Sequence[str], grace: int) -> bool:
        """Send a signal, the one that the image wants unless another is given; tell whether the
        container has ended within so many seconds."""
        container = self.identity(name)
        process = self._tasks().get(container, (0, ""))[0]
        born = process_start(process) if process else None
        if born is None:
            return True
        done = self._call("tasks", "kill", *options, container, timeout=20.0)
        if done.status != 0 and not self._GONE.search(done.err.lower()):
            log("ctr tasks kill %s: %s" % (name, last_line(done.err)))
            return False
        until = time.monotonic() + grace
        while process_lives(process, born):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        self.network.leave(container)
        return True

    def remove(self, name: str) -> None:
        container = self.identity(name)
        if container in self._tasks():
            self._call("tasks", "delete", "--force", container)
        self.network.leave(container)
        done = self._call("containers", "rm", container)
        if done.status != 0:
            self._call("snapshots", "rm", container)  # of one that was not finished
        if done.status != 0 and not self._GONE.search(done.err.lower()):
            log("kept container %s: %s" % (name, last_line(done.err)))


class ContainerNetwork:
    """Networks of containers that ctr runs: a bridge, and ports that lead to them, by CNI plugins.

    Everything is gone after a restart, as are the containers.

    :param folders: where the plugins may be, the first that is there counts.
    """

    NAME, BRIDGE, SUBNET = "muster", "muster0", "10.89.192.0/20"
    PREFIX = "muster-"
    FILES = ("/etc/hosts", "/etc/resolv.conf")

    def __init__(self, paths: Paths, folders: Sequence[str]) -> None:
        self.paths, self.folders = paths, folders
        self.folder = os.path.join(paths.run, "networks")

    def _record(self, container: str) -> str:
        return os.path.join(self.folder, container + ".json")

    def _note(self, container: str, publish: str, result: Mapping[str, Any]) -> None:
        """Keep what the plugins want to hear again when the network goes."""
        os.makedirs(self.folder, exist_ok=True)
        with open(self._record(container), "w", encoding="utf-8") as file:
            json.dump({"publish": publish, "result": result}, file)

    def namespace(self, container: str) -> str:
        """Return the file that stands for the network of a container."""
        return "/run/netns/" + container

    def files(self) -> list[tuple[str, str]]:
        """Return files of the device, and their places in a container, for looking up names."""
        # That of systemd-resolved names an address that is another machine's in there.
        real = {"/etc/resolv.conf": "/run/systemd/resolve/resolv.conf"}
        chosen = [(real.get(path, path), path) for path in self.FILES]
        chosen = [(s if os.path.exists(self.paths.at(s)) else t, t) for s, t in chosen]
        return [pair for pair in chosen if os.path.exists(self.paths.at(pair[0]))]

    def join(self, container: str, publish: str) -> None:
        """Make the network of a container.

        :param publish: ``[address:]port:port``, those of the device before that of the container.
        """
        self.leave(container)
        done = execute(["ip", "netns", "add", container], 20.0)
        if done.status != 0:
            message = "no network for %s: %s" % (container, last_line(done.err))
            raise Failure("runtime_unavailable", message)
        try:
            result: dict[str, Any] = {}
            self._note(container, publish, result)
            for plugin in self.plugins(publish):
                result = self._plugin("ADD", container, plugin, result)
            self._note(container, publish, result)
        except Failure:
            self.leave(container)
            raise

    def leave(self, container: str) -> None:
        """Take the network of a container away, if it has one."""
        if not os.path.exists(self.paths.at(self.namespace(container))):
            return
        publish, result = "1:1", {}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            note = json.loads(read_text(self._record(container)) or "")
            publish, result = note["publish"], note["result"]
        for plugin in reversed(self.plugins(publish)):
            try:
                self._plugin("DEL", container, plugin, result)
            except Failure as failure:
                log(failure.message)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._record(container))
        done = execute(["ip", "netns", "delete", container], 20.0)
        if done.status != 0:
            log("network of %s: %s" % (container, last_line(done.err)))

    def keep_only(self, containers: Iterable[str]) -> None:
        """Take away what containers left that have ended: their ports may be wanted."""
        folder, kept = self.paths.at("/run/netns"), set(containers)
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
            if name.startswith(self.PREFIX) and name not in kept:
                self.leave(name)

    def plugins(self, publish: str) -> list[dict[str, Any]]:
        """Return the configuration of each plugin, in order."""
        *where, inside = publish.split(":")
        port = {"hostPort": int(where[-1]), "containerPort": int(inside), "protocol": "tcp"}
        if len(where) > 1:
            port["hostIP"] = where[0]
        addresses = {
            "type": "host-local",
            "dataDir": self.folder,
            "ranges": [[{"subnet": self.SUBNET}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": self.BRIDGE, "isGateway": True, "ipMasq": True}
        bridge.update(hairpinMode=True, ipam=addresses)
        ports = {"type": "portmap", "snat": True, "runtimeConfig": {"portMappings": [port]}}
        common = {"cniVersion": "0.4.0", "name": self.NAME}
        return [{**common, **plugin} for plugin in (bridge, ports, {"type": "firewall"})]

    def _plugin(
        self, verb: str, container: str, plugin: Mapping[str, Any], result: Mapping[str, Any]
    ) -> dict[str, Any]:
        given = {**plugin, "prevResult": result} if result else plugin
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": self.namespace(container),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": ":".join(self.folders),
        }
        found = [os.path.join(self.paths.at(folder), plugin["type"]) for folder in self.folders]
        program = next(filter(os.path.exists, found), found[0])
        done = execute([program], 20.0, json.dumps(given), environment)
        if done.status != 0:
            said = done.err
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = json.loads(done.out)["msg"]
            what = "network of %s: %s %s: " % (container, plugin["type"], verb)
            raise Failure("runtime_unavailable", what + last_line(said))
        return json.loads(done.out) if done.out else dict(result)


def containerd(paths: Paths) -> Runtime:
    """Choose how to speak to containerd."""
    return NerdctlRuntime(paths) if shutil.which("nerdctl") else CtrRuntime(paths)


# ---------------------------------------------------------------------------------------------
# A node of a K3s cluster: Kubernetes runs the containers, the node says which release it wants


MODEL_LABEL, VARIANT_LABEL = "muster.model/", "muster.variant/"
REGISTRY_LABEL = "muster.registry/"
BACK_LABELS = {"muster.last-good/": "last_good", "muster.previous/": "previous"}
CLUSTER_PATIENCE = 120.0  # seconds for the cluster to answer after a restart
KUBELET_CONFIG = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"
MODEL_UNIT = re.compile(r"muster-model@(%s)\.service" % MODEL.pattern)
PODS = "/api/v1/namespaces/muster/pods"


class Cluster:
    """The API of the cluster that this device is a node of, asked as its kubelet asks.

    A kubelet may read and delete the pods of its own node, and change the labels of its own Node
    object (https://kubernetes.io/docs/reference/access-authn-authz/node/): all that is needed here.
    """

    def __init__(self, paths: Paths, node: str) -> None:
        self.paths, self.node = paths, node
        self._connection: Any = None

    def _connect(self) -> Any:
        import http.client
        import ssl
        import urllib.parse

        path = self.paths.at(KUBELET_CONFIG)
        text = read_text(path)
        if text is None:
            raise Failure("runtime_unavailable", "%s is not there: provision this device" % path)
        found = dict(re.findall(r"^[\s-]*([a-z-]+): *\"?([^\s\"]+)\"?\s*$", text, re.MULTILINE))
        try:
            server = urllib.parse.urlsplit(found["server"])
            trust = ssl.create_default_context(cafile=found["certificate-authority"])
            trust.load_cert_chain(found["client-certificate"], found["client-key"])
        except (KeyError, OSError, ValueError) as error:
            raise Failure("runtime_unavailable", "%s can't be used: %s" % (path, error)) from None
        return http.client.HTTPSConnection(
            server.hostname or "", server.port or 443, timeout=CLUSTER_TIMEOUT, context=trust
        )

    def ask(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        """Ask for one object, {} when there is none; raises cluster_unreachable when the cluster
        does not answer, runtime_unavailable when it refuses or can't be asked at all."""
        import http.client

        body = None if document is None else json.dumps(document)
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        for again in (True, False):
            kept = self._connection is not None
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.request(method, path, body, headers)
                response = self._connection.getresponse()
                status, text = response.status, response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                if not (kept and again):  # a kept connection may have been closed meanwhile
                    message = "the cluster does not answer: %s" % (
                        str(error) or type(error).__name__
                    )
                    raise Failure("cluster_unreachable", message) from None
        if status == 404:
            return {}
        if status >= 300:
            with contextlib.suppress(ValueError, AttributeError):
                text = str(json.loads(text).get("message", "")).encode()
            message = "the cluster refuses %s %s: %d %s"
            said = text.decode(errors="replace")[:300]
            raise Failure("runtime_unavailable", message % (method, path, status, said))
        found = json.loads(text)
        return found if isinstance(found, dict) else {}

    def node_object(self) -> dict[str, Any]:
        """Return this device's Node object."""
        return self.ask("GET", "/api/v1/nodes/" + self.node)

    def labels(self) -> dict[str, str]:
        """Return the labels of this device's node."""
        return dict(self.node_object().get("metadata", {}).get("labels") or {})

    def label(self, labels: Mapping[str, str | None]) -> None:
        """Set labels of this device's node, and take away those that are None."""
        document = {"metadata": {"labels": labels}}
        if not self.ask("PATCH", "/api/v1/nodes/" + self.node, document):
            message = "the cluster has no node %s: provision this device" % self.node
            raise Failure("runtime_unavailable", message)

    def pods(self, model: str | None = None) -> list[dict[str, Any]]:
        """Return the pods of models on this node."""
        selected = "fieldSelector=spec.nodeName%3D" + self.node + "&labelSelector=muster.model"
        path = "%s?%s%s" % (PODS, selected, "%3D" + model if model else "")
        return list(self.ask("GET", path).get("items") or [])

    def delete(self, pod: str, grace: int) -> None:
        """Delete a pod; one that is gone is no error."""
        self.ask("DELETE", "%s/%s?gracePeriodSeconds=%d" % (PODS, pod, grace))


class K3sRuntime(Runtime):
    """Containers as pods that the cluster makes: one DaemonSet for each release and variant, for
    the nodes that have its labels. What a switch starts and stops are the labels of this node."""

    name = "k3s"
    _NO_DAEMON = re.compile(r"connect: connection refused.*\.sock|containerd\.sock")

    def __init__(self, paths: Paths | None = None) -> None:
        super().__init__(paths)
        self.cluster = Cluster(self.paths, platform.node().lower())

    def _call(self, *arguments: str, timeout: float = 60.0, given: str = "") -> Finished:
        done = execute(["k3s", *arguments], timeout, given)
        if done.status == 127:
            raise Failure("runtime_unavailable", "k3s is not installed: provision this device")
        return done

    def info(self) -> tuple[str | None, str | None]:
        try:
            status = self.cluster.node_object().get("status") or {}
        except Failure as failure:
            log(failure.message)
            return None, None
        ready = any(
            each.get("type") == "Ready" and each.get("status") == "True"
            for each in status.get("conditions") or ()
        )
        version = (status.get("nodeInfo") or {}).get("kubeletVersion")
        folder = self.paths.at("/var/lib/rancher/k3s/agent")
        return (version if ready else None), (folder if os.path.isdir(folder) else None)

    def ready(self) -> bool:
        return self.info()[0] is not None

    def has_cdi(self) -> bool:
        return True

    def image_present(self, image: str) -> bool:
        return self._call("crictl", "inspecti", "--quiet", image).status == 0

    def pull(self, image: str, seconds: float) -> None:
        done = self._call("crictl", "pull", image, timeout=seconds)
        if done.status:
            self._explain_pull(image, seconds, done, self._NO_DAEMON)

    def keep(self, image: str) -> None:
        # The kubelet drops images that no pod uses when the disk fills; a way back needs its own.
        kept = self._call("ctr", "images", "label", image, "io.cri-containerd.pinned=pinned")
        if kept.status:
            log("image %s is not pinned: %s" % (image, last_line(kept.err)))

    def remove_image(self, image: str) -> None:
        done = self._call("crictl", "rmi", image)
        if done.status:
            log("kept image %s: %s" % (image, last_line(done.err)))

    def same_image(self, one: str | None, other: str | None) -> bool:
        # CRI removes an image with all its names.
        return (one or "").rpartition("@")[2] == (other or "").rpartition("@")[2]

    def check_stopped(self, model: str) -> None:
        if any(container.running for container in self.containers(model)):
            raise Failure("revert_failed", "the cluster still runs %s here" % model)

    def wait(self, clock: Clock) -> None:
        until = clock.now() + CLUSTER_PATIENCE
        while not self.ready() and clock.now() < until:
            clock.sleep(1.0)

    def containers(self, model: str) -> list[Container]:
        return [self._described(pod) for pod in self.cluster.pods(model)]

    def inspect(self, name: str) -> Container | None:
        found = [each for each in map(self._described, self.cluster.pods()) if each.name == name]
        return next((each for each in found if each.running), found[0] if found else None)

    @staticmethod
    def _described(pod: Mapping[str, Any]) -> Container:
        about, status = pod["metadata"], pod.get("status") or {}
        said = [status.get("message") or ""]
        for each in status.get("containerStatuses") or ():
            waiting = (each.get("state") or {}).get("waiting") or {}
            said += [": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))]
        running = status.get("phase") == "Running" and not about.get("deletionTimestamp")
        labels, notes = about.get("labels") or {}, about.get("annotations") or {}
        release = labels.get("muster.release", "")
        name = notes.get("muster.container", about["name"])
        return Container(name, release, running, broken="; ".join(filter(None, said)))

    def create(self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any]) -> None:
        pass  # its DaemonSet does, when the node has the labels

    def attach_command(self, name: str) -> list[str]:
        message = "the cluster runs %s on this node: the unit is not used" % name
        raise Failure("runtime_unavailable", message)

    def stop(self, name: str, grace: int) -> None:
        self._delete(name, grace)

    def kill(self, name: str) -> None:
        self._delete(name, 0)

    def remove(self, name: str) -> None:
        self._delete(name, 0)

    def _delete(self, name: str, grace: int) -> None:
        for pod in self.cluster.pods():
            if self._described(pod).name == name:
                self.cluster.delete(pod["metadata"]["name"], grace)


class NodeUnits(Systemd):
    """Systemd on a node of a cluster: what its labels ask for takes the place of a model's unit."""

    def __init__(self, paths: Paths, cluster: Cluster, clock: Clock) -> None:
        self.paths, self.cluster, self.clock = paths, cluster, clock
        self._counts: dict[str, dict[str, int]] = {}

    @staticmethod
    def _model(unit: str) -> str | None:
        match = MODEL_UNIT.fullmatch(unit)
        return match.group(1) if match else None

    def _wanted(self, model: str) -> dict[str, str]:
        """Return the labels that ask for the current release of a model, {} if there is none."""
        store = Store(self.paths.state, model)
        release = store.link("current")
        if release is None:
            return {}
        spec = store.spec(release)
        registry = str(spec["image"]).partition("/")[0]
        return {
            MODEL_LABEL + model: release,
            VARIANT_LABEL + model: str(spec["variant"]),
            REGISTRY_LABEL + model: hashlib.sha256(registry.encode()).hexdigest()[:12],
        }

    def start(self, unit: str) -> None:
        model = self._model(unit)
        if model is None:
            super().start(unit)
            return
        wanted = self._wanted(model)
        if not wanted:
            raise Failure("internal", "%s has no release to run" % model)
        ApplicationLock(self.paths, model).make()
        store = Store(self.paths.state, model)
        # What the cluster must not forget, as this node may go back to it.
        back = {label + model: store.link(name) for label, name in BACK_LABELS.items()}
        self.cluster.label({**wanted, **back})

    def stop(self, unit: str) -> None:
        model = self._model(unit)
        if model is None:
            super().stop(unit)
            return
        asked = (MODEL_LABEL, VARIANT_LABEL, REGISTRY_LABEL)
        self.cluster.label({label + model: None for label in asked})
        until = self.clock.now() + STOP_GRACE + CLUSTER_TIMEOUT
        while self.cluster.pods(model):
            if self.clock.now() >= until:
                raise Failure("internal", "pods of %s did not stop" % model, unit=unit)
            self.clock.sleep(READY_POLL * 3)

    def kill(self, unit: str) -> None:
        model = self._model(unit)
        if model is None:
            super().kill(unit)
            return
        try:
            for pod in self.cluster.pods(model):
                self.cluster.delete(pod["metadata"]["name"], 0)
        except Failure as failure:
            log(failure.message)

    def is_active(self, unit: str) -> bool:
        model = self._model(unit)
        if model is None:
            return super().is_active(unit)
        wanted = self._wanted(model)
        return bool(wanted) and wanted.items() <= self.cluster.labels().items()

    def restarts(self, unit: str) -> int:
        """Return how often the containers of a model were restarted, or its pod made again while
        this program looked."""
        model = self._model(unit)
        if model is None:
            return super().restarts(unit)
        first, counts = model not in self._counts, self._counts.setdefault(model, {})
        with contextlib.suppress(Failure):
            for pod in self.cluster.pods(model):
                uid = str(pod["metadata"].get("uid") or pod["metadata"]["name"])
                statuses = (pod.get("status") or {}).get("containerStatuses") or ()
                found = sum(int(status.get("restartCount") or 0) for status in statuses)
                counts[uid] = max(counts.get(uid, 0), found + (0 if first or uid in counts else 1))
        return sum(counts.values())


RUNTIMES: dict[str, Callable[[Paths], Runtime]] = {
    "docker": DockerRuntime,
    "podman": PodmanRuntime,
    "containerd": containerd,
    "k3s": K3sRuntime,
}


# ---------------------------------------------------------------------------------------------
# The proxy


PROXY_CONFIG = """\
# Written by muster-device: what is changed here is lost.
global
    user haproxy
    group haproxy
    maxconn 4000
    nbthread 1
    hard-stop-after 30s
    stats socket {socket} mode 600 level admin expose-fd listeners
defaults
    mode http
    option forwardfor
    # A server that closes an idle connection just as a request comes would lose it.
    option http-server-close
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 75s
frontend model
    bind {bind}
    use_backend %[str(active),map({map})]
backend blue
    server model {blue}
backend green
    server model {green}
"""


class Proxy:
    """HAProxy in front of one model: it has the endpoint's port, and sends requests to a slot.

    Which slot stands in a file, from which HAProxy starts, and in the memory of the one that runs.
    """

    def __init__(self, paths: Paths, systemd: Systemd, model: str) -> None:
        self.systemd, self.paths = systemd, paths
        self.folder = os.path.join(paths.state, model, "proxy")
        self.config = os.path.join(self.folder, "haproxy.cfg")
        self.map = os.path.join(self.folder, "active.map")
        self.socket = os.path.join(paths.run, model + ".sock")
        self.unit = "muster-proxy@%s.service" % model
        mark = hashlib.sha256(model.encode()).digest()
        # Models must not meet: every one has an address of its own, and all of 127/8 is here.
        self.address = "127.%d.%d.%d" % (64 + mark[0] % 64, mark[1], 1 + mark[2] % 254)

    def present(self) -> bool:
        """Tell whether the model has, or had, a proxy."""
        return os.path.isdir(self.folder)

    def place(self, slot: str) -> tuple[str, int]:
        """Return address and port at which the container of a slot answers."""
        return self.address, SLOT_PORTS[slot]

    def problem(self, port: int) -> str | None:
        """Return why HAProxy can't serve a port; None when it can, or does so already."""
        if port in SLOT_PORTS.values():
            return "port %d is taken by a slot" % port
        if self.systemd.is_active(self.unit):
            return None
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            if not os.path.exists(self.map):
                write_file(self.map, b"active blue\n")
        except OSError as error:
            return str(error)
        done = self.check(self._configuration(port))
        return None if done.status == 0 else last_line(done.err or done.out)

    def check(self, configuration: str) -> Finished:
        """Have HAProxy read a configuration."""
        return execute(["haproxy", "-c", "-q", "-f", "/dev/stdin"], 30.0, configuration)

    def _configuration(self, port: int) -> str:
        ipv6 = os.path.exists(self.paths.at("proc/net/if_inet6"))
        return PROXY_CONFIG.format(
            socket=self.socket,
            bind=":::%d v4v6" % port if ipv6 else ":%d" % port,
            map=self.map,
            **{slot: "%s:%d" % self.place(slot) for slot in SLOTS},
        )

    def serve(self, port: int, slot: str) -> bool:
        """Send the requests to a port to a slot, from now on and after every restart.

        :returns: whether no request can have noticed.
        """
        unwritten = other = None
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            self._replace(self.map, "active %s\n" % slot)
            other = self._replace(self.config, self._configuration(port))
        except OSError as error:
            unwritten = error
        checkpoint("proxy:written")
        self.paths.make_run()
        if not self.systemd.is_active(self.unit):
            self.systemd.start(self.unit)
            smooth = False
        else:
            smooth = self._reload() if other else self._tell(slot)
        if unwritten is not None:
            raise unwritten
        return smooth

    @staticmethod
    def _replace(path: str, content: str) -> bool:
        if read_text(path) == content.strip():
            return False
        write_file(path, content.encode())
        return True

    def _reload(self) -> bool:
        try:
            self.systemd.reload(self.unit)
        except Failure as failure:
            log(failure.message)
            return self._restart()
        return True

    def _tell(self, slot: str) -> bool:
        try:
            said = self.ask("set map %s active %s" % (self.map, slot)).strip()
        except OSError as error:
            said = str(error)
        if said:
            log("%s: %s; starting it anew" % (self.unit, said))
            return self._restart()
        return True

    def _restart(self) -> bool:
        self.systemd.stop(self.unit)
        self.systemd.start(self.unit)
        return False

    def open_requests(self, slot: str) -> int:
        """Return how many requests a slot is at work on; 0 when HAProxy does not say."""
        try:
            rows = [line.split(",") for line in self.ask("show stat").splitlines()]
            return sum(int(row[2]) + int(row[4]) for row in rows if row[:2] == [slot, "BACKEND"])
        except (OSError, ValueError, IndexError):
            return 0

    def ask(self, command: str) -> str:
        """Give the running HAProxy a command; return what it says."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(2.0)
            link.connect(self.socket)
            link.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: link.recv(1 << 16), b"")).decode("utf-8", "replace")

    def stop(self) -> None:
        """Give the port back, and leave no trace."""
        try:
            self.systemd.stop(self.unit)
        except Failure as failure:
            log(failure.message)
            self.systemd.kill(self.unit)
        shutil.rmtree(self.folder, ignore_errors=True)


class ApplicationLock:
    """What an application holds while its model must not be switched: a flock on a file that its
    container sees at the same place. That the file is there means nothing."""

    def __init__(self, paths: Paths, model: str) -> None:
        self.paths, self.inside = paths, "/run/muster/%s.lock" % model
        self.path = paths.at(self.inside)

    def make(self) -> None:
        """Make the file; whoever may read it may take the lock."""
        self.paths.make_run()
        with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)) as file:
            os.fchmod(file.fileno(), 0o644)

    def held(self) -> dict[str, Any]:
        """Tell whether somebody holds the lock, and who that is if the kernel says so."""
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return {"held": True, "holder": self._holder(os.fstat(file.fileno()))}
        return {"held": False, "holder": None}

    def _holder(self, found: os.stat_result) -> str | None:
        device = os.major(found.st_dev), os.minor(found.st_dev)
        place = re.escape("%02x:%02x:%d" % (*device, found.st_ino))
        locks = read_text(self.paths.at("proc/locks")) or ""
        match = re.search(r"^\d+: FLOCK .* (\d+) %s " % place, locks, re.MULTILINE)
        if match is None:
            return None
        name = read_text(self.paths.at("proc/%s/comm" % match.group(1)))
        return "%s (pid %s)" % (name or "a process that has ended", match.group(1))


# ---------------------------------------------------------------------------------------------
# The device


class Config(NamedTuple):
    """What provisioning wrote to /etc/muster/device.json."""

    runtime: str = "docker"
    registry: str | None = None
    release_public_key: str | None = None
    hardware_root: str | None = None
    proxy: bool = False
    node: str | None = None


class Host:
    """What all subcommands share; everything in it can be replaced by a stand-in."""

    def __init__(
        self,
        paths: Paths | None = None,
        clock: Clock | None = None,
        systemd: Systemd | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.paths = paths or Paths(os.environ.get("MUSTER_ROOT", "/"))
        self.clock = clock or Clock(self.paths)
        self.damaged_config: Failure | None = None
        try:
            self.config = self._read_config()
        except Failure as failure:
            # Going back must work without it; what needs it raises this.
            self.config, self.damaged_config = Config(), failure
            with contextlib.suppress(Failure):
                self.config = self._read_config(self.paths.config + ".copy")
        if runtime is None:
            if self.config.runtime not in RUNTIMES:
                message = "container runtime %r is not supported" % self.config.runtime
                raise Failure("runtime_unavailable", "%s: %s" % (self.paths.config, message))
            runtime = RUNTIMES[self.config.runtime](self.paths)
        if isinstance(runtime, K3sRuntime):
            runtime.cluster.node = self.config.node or runtime.cluster.node
            systemd = systemd or NodeUnits(self.paths, runtime.cluster, self.clock)
        self.systemd = systemd or Systemd()
        self.runtime = runtime

    def _read_config(self, path: str | None = None) -> Config:
        path = path or self.paths.config
        try:
            with open(path, encoding="utf-8") as file:
                request = Request(json.load(file), Config._fields, path)
        except (OSError, ValueError) as error:
            message = "%s can't be read (%s): provision this device" % (path, error)
            raise Failure("bad_input", message) from None
        return Config(
            request.text("runtime", NAME, "docker"),
            request.text("registry", REGISTRY, None),
            request.text("release_public_key", NAME, None),
            request.text("hardware_root", NAME, None),
            request.flag("proxy", False),
            request.text("node", NODE, None),
        )

    def proxy(self, model: str) -> Proxy:
        """Return the proxy of a model, which need not be there."""
        return Proxy(self.paths, self.systemd, model)

    def models(self) -> list[str]:
        """Return the models that have a folder here."""
        if not os.path.isdir(self.paths.state):
            return []
        names = filter(MODEL.fullmatch, sorted(os.listdir(self.paths.state)))
        return [name for name in names if os.path.isdir(os.path.join(self.paths.state, name))]


@dataclasses.dataclass
class State:
    """What is under way for one model; kept in ``state.json``.

    ``before`` has the links as they were before the switch, ``deadline`` the boot and the second
    at which the guard acts, ``result`` what the switch measured, ``plan`` how to go back. ``mode``
    is that of the switch; the way back takes the same.
    """

    generation: int = 0
    rollout: str | None = None
    release: str | None = None
    phase: str = "idle"
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    deadline: dict[str, Any] | None = None
    healthy_deadline: float = 60.0
    mode: str = "recreate"
    drain_deadline: float = 10.0
    retain: int = 3
    result: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    last_outcome: dict[str, Any] | None = None

    @classmethod
    def parse(cls, text: str) -> State:
        """Read a state; raises ValueError, TypeError or KeyError for one that is damaged."""
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        names = [field.name for field in dataclasses.fields(cls)]
        state = cls(**{name: document[name] for name in names if name in document})
        if state.phase not in PHASES or type(state.generation) is not int:
            raise ValueError("unknown phase or generation")
        seconds = state.healthy_deadline + state.drain_deadline
        if not isinstance(state.before, dict) or not math.isfinite(seconds):
            raise ValueError("parts have wrong types")
        if state.deadline is not None:
            state.deadline["at"] + 0.0  # KeyError and TypeError tell the rest
        if state.phase == "reverting":
            for name in ("from", "to", "previous", "reason", "healthy_deadline", "failures"):
                state.plan[name]
        return state


class Store:
    """The folder of one model: releases, links, state and fence."""

    LINKS = ("current", "previous", "last_good")

    def __init__(self, root: str, model: str) -> None:
        self.folder = os.path.join(root, model)
        self.releases = os.path.join(self.folder, "releases")
        self.model = model

    def make(self) -> None:
        """Make sure that the folders exist."""
        os.makedirs(self.releases, mode=0o700, exist_ok=True)

    def path(self, name: str) -> str:
        """Return the place of a file in the model's folder."""
        return os.path.join(self.folder, name)

    # Links

    def link(self, name: str) -> str | None:
        """Return the release that a link names; None for no link or one that points nowhere."""
        try:
            target = os.readlink(self.path(name))
        except OSError:
            return None
        release = os.path.basename(target)
        return release if self.has(release) else None

    def point(self, name: str, release: str | None) -> None:
        """Make a link name a release, or remove it; never make it point nowhere."""
        if release is not None and not self.has(release):
            log("%s: release %s is gone, %s stays as it is" % (self.model, release, name))
        elif release is None or release != self.link(name):
            target = None if release is None else "releases/" + release
            self._spend(lambda: point_link(self.path(name), target))

    def slot(self, release: str | None) -> str:
        """Return the slot of a release; "" for one that has none."""
        return next((s for s in SLOTS if release is not None and self.link(s) == release), "")

    def leave_slots(self, *slots: str) -> None:
        """Forget what is in slots."""
        for slot in slots:
            if os.path.islink(self.path(slot)):
                self.point(slot, None)

    # Releases

    def has(self, release: str) -> bool:
        """Tell whether a release has its folder here."""
        known = RELEASE.fullmatch(release) is not None
        return known and os.path.isdir(os.path.join(self.releases, release))

    def ids(self) -> list[str]:
        """Return the releases here, oldest first."""
        if not os.path.isdir(self.releases):
            return []
        found = [name for name in os.listdir(self.releases) if self.has(name)]
        return sorted(found, key=lambda release: (self.order(release), release))

    def order(self, release: str) -> int:
        """Return the place of a release in the sequence of stagings; 0 when unknown."""
        try:
            return int(self.spec(release)["order"])
        except (Failure, KeyError, TypeError, ValueError):
            return 0

    def spec(self, release: str | None, verify: bool = False) -> dict[str, Any]:
        """Return how to run a release.

        :param verify: check that its document is intact. Only before a switch: a release that
            serves must not end because of a file that it does not need.
        """
        folder = os.path.join(self.releases, release or "")
        try:
            if release is None or not self.has(release):
                raise ValueError("it is not staged here")
            with open(os.path.join(folder, "variant.json"), encoding="utf-8") as file:
                spec = json.load(file)
            if verify:
                with open(os.path.join(folder, "release.json"), "rb") as document:
                    if hashlib.sha256(document.read()).hexdigest() != spec["digest"]:
                        raise ValueError("its document is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = "release %s of %s: %s; stage it again" % (release, self.model, error)
            raise Failure("unknown_release", message, release=release) from None
        return spec

    def image_of(self, folder: str) -> str | None:
        """Return the image that a folder below ``releases`` is about."""
        try:
            with open(os.path.join(self.releases, folder, "variant.json"), "rb") as file:
                return str(json.load(file)["image"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def leftovers(self) -> list[str]:
        """Return the folders that an interrupted stage or prune left."""
        if not os.path.isdir(self.releases):
            return []
        return sorted(name for name in os.listdir(self.releases) if name.startswith("."))

    # State

    def load(self) -> State:
        """Read the state; raises ``internal`` when it is damaged."""
        try:
            with open(self.path("state.json"), encoding="utf-8") as file:
                return State.parse(file.read())
        except FileNotFoundError:
            return self.fenced()
        except (ValueError, TypeError, KeyError) as error:
            message = "%s is damaged (%r)" % (self.path("state.json"), error)
            raise Failure("internal", message + ": inspect this device to mend it") from None

    def save(self, state: State) -> None:
        """Write the state; before it, if there is a new one, the generation by itself."""
        data = json.dumps(dataclasses.asdict(state), indent=1).encode() + b"\n"
        fence = {"generation": state.generation, "rollout": state.rollout}
        text = json.dumps(fence)
        if state.generation and read_text(self.path("generation")) != text:
            self._spend(lambda: write_file(self.path("generation"), text.encode() + b"\n"))
        self._spend(lambda: write_file(self.path("state.json"), data))

    def fenced(self, damaged: str = "") -> State:
        """Return an empty state that still refuses what older generations ask for.

        :param damaged: what is left of the state, in case the fence was never written.
        """
        known = re.findall(r'"generation": *(\d{1,18})\b', damaged)
        state = State(generation=max(map(int, known), default=0))
        with contextlib.suppress(ValueError, TypeError, KeyError):
            fence = json.loads(read_text(self.path("generation")) or "")
            if int(fence["generation"]) >= state.generation:
                state.generation, state.rollout = int(fence["generation"]), fence["rollout"]
        return state

    def _spend(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("reserve"))
            sync_folder(self.folder)
            write()

    def set_aside(self) -> None:
        """Set space aside for the state and the links."""
        path = self.path("reserve")
        if not os.path.exists(path) or os.path.getsize(path) != RESERVE:
            write_file(path, b"\0" * RESERVE)


class Model:
    """One model on this device: the steps of its switches, forward and back.

    Methods that change anything expect the lock to be held, see :meth:`locked`.
    """

    def __init__(self, host: Host, name: str) -> None:
        self.host, self.name = host, name
        self.clock, self.systemd, self.runtime = host.clock, host.systemd, host.runtime
        self.store = Store(host.paths.state, name)
        self.proxy = host.proxy(name)
        self.application = ApplicationLock(host.paths, name)
        self.timer = "muster-guard@%s.timer" % name
        self.lock: Lock | None = None

    # Locks and time

    @contextlib.contextmanager
    def locked(self, command: str, wait: float = LOCK_WAIT) -> Iterator[Lock]:
        """Hold the model's lock; raises ``busy`` when somebody else does."""
        self.store.make()
        lock = Lock(self.store.path("lock"), command, self.clock)
        if not lock.acquire(wait):
            raise self._busy(lock)
        self.lock = lock
        try:
            yield lock
        finally:
            self.lock = None
            lock.release()

    @contextlib.contextmanager
    def stage_locked(self, command: str, wait: float) -> Iterator[None]:
        """Hold the lock that keeps releases from being added and removed at once."""
        self.store.make()
        lock = Lock(self.store.path("stage.lock"), command, self.clock)
        if not lock.acquire(wait):
            raise self._busy(lock)
        try:
            yield
        finally:
            lock.release()

    def _busy(self, lock: Lock) -> Failure:
        holder = lock.holder() or {}
        who = "`muster-device %s`" % holder["command"] if holder else "another muster-device"
        message = "%s is at work on %s: try again later" % (who, self.name)
        return Failure("busy", message, pid=holder.get("pid"))

    def remaining(self, state: State) -> float:
        """Return the seconds until the guard acts."""
        deadline = state.deadline
        if deadline is None or deadline.get("boot") != self.clock.boot():
            return 0.0
        return max(0.0, deadline["at"] - self.clock.now())

    @staticmethod
    def conclude(state: State, outcome: str, release: str | None, reason: str) -> None:
        """Note how the generation ended; ``release`` is the one that was tried."""
        state.last_outcome = {
            "generation": state.generation,
            "outcome": outcome,
            "release": release,
            "reason": reason,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    # Containers

    def container(self, release: str) -> str:
        """Name the container of a release."""
        return "muster-%s-%s" % (self.name, release)

    def unit_of(self, slot: str) -> str:
        """Name the unit that runs what is in a slot; "" is for what has the endpoint's port."""
        return "muster-model@%s%s.service" % (self.name, slot and "." + slot)

    @property
    def unit(self) -> str:
        """The unit that runs the current release."""
        return self.unit_of(self.store.slot(self.store.link("current")))

    @property
    def proxied(self) -> bool:
        """Whether releases are to run behind the proxy."""
        damaged = self.host.damaged_config is not None
        return self.proxy.present() if damaged else self.host.config.proxy

    def port(self, release: str) -> int:
        """Return the port at which a release is asked from outside."""
        return int(self.store.spec(release)["endpoint"]["port"])

    def ensure_container(self, release: str, slot: str) -> Container:
        """Create the container of a release unless it is there and as the release wants it."""
        self.application.make()
        name = self.container(release)
        found = self.runtime.inspect(name)
        if found and found.running:
            return found
        spec = self.store.spec(release)
        spec["lock"] = [self.application.path, self.application.inside]
        spec["publish"] = "%s:%d" % self.proxy.place(slot) if slot else str(self.port(release))
        parts = {key: value for key, value in spec.items() if key != "order"}
        if self.runtime.maker:
            parts["maker"] = self.runtime.maker
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        if found and found.spec == fingerprint and not found.broken:
            return found
        if found and not self.runtime.image_present(spec["image"]):
            return found  # better than none
        if found:
            self.runtime.remove(name)
        labels = {
            "muster.model": self.name,
            "muster.release": release,
            "muster.slot": slot,
            "muster.spec": fingerprint,
        }
        self.runtime.create(name, labels, spec)
        return Container(name, release, False, fingerprint, "", slot)

    def is_running(self, release: str) -> bool:
        """Tell whether the container of a release runs."""
        found = self.runtime.inspect(self.container(release))
        return found is not None and found.running

    def trouble(self, release: str, ready: bool = False) -> str:
        """Return what the runtime and systemd have to say of a release, most of one that does not
        serve."""
        said = []
        if not ready:
            with contextlib.suppress(Failure):
                found = self.runtime.inspect(self.container(release))
                said += [last_line(found.broken)] if found and found.broken else []
        restarts = self.systemd.restarts(self.unit_of(self.store.slot(release)))
        said += ["restarted %d times" % restarts] if restarts else []
        return "".join("; " + text for text in said)

    def stop(self, *slots: str) -> None:
        """Stop the units of slots, and kill what would not stop."""
        for slot in slots:
            if slot and not self.proxy.present():
                continue
            try:
                self.systemd.stop(self.unit_of(slot))
            except Failure as failure:
                log(failure.message)
                self.systemd.kill(self.unit_of(slot))
        try:
            for container in self.runtime.containers(self.name):
                if container.running and container.slot in slots:
                    self.runtime.kill(container.name)
        except Failure as failure:
            log(failure.message)

    def stop_serving(self) -> None:
        """Stop all that runs."""
        self.stop("", *SLOTS)

    def not_ready(self, release: str, slot: str = "") -> str | None:
        """Return why a release does not serve, or is not ready in its slot; None when it is."""
        try:
            endpoint = self.store.spec(release)["endpoint"]
            address, port = self.proxy.place(slot) if slot else ("127.0.0.1", endpoint["port"])
            sample = http_request(
                self.clock, port, endpoint["ready_path"], timeout=READY_TIMEOUT, address=address
            )
            if sample["error"] or sample["status"] != 200:
                return sample["error"] or "%s says %s" % (endpoint["ready_path"], sample["status"])
            if not self.is_running(release):
                return "something else answers on port %d" % port
        except Failure as failure:
            return failure.message
        return None

    def wait_ready(self, release: str, until: float, slot: str = "") -> str | None:
        """Wait until a release is ready; return why it is not when the time has passed."""
        while True:
            reason = self.not_ready(release, slot)
            if reason is None or self.clock.now() >= until:
                return reason
            self.clock.sleep(READY_POLL)

    # Slots and the proxy

    def take_slot(self, release: str, beside: str | None = None) -> str:
        """Return the slot of a release, giving it one that the other release does not have."""
        slot = self.store.slot(release)
        if not slot:
            slot = "green" if self.store.slot(beside) == "blue" else "blue"
            self.store.point(slot, release)
        return slot

    def prepare(self, release: str, old: str | None) -> None:
        """Create the container of a release beside what serves."""
        slot = self.store.slot(release)
        if release != old:
            slot = ""
            if self.proxied:
                problem = self.proxy.problem(self.port(release))
                if problem is not None:
                    message = "haproxy can't serve: %s: provision this device" % problem
                    raise Failure("runtime_unavailable", message)
                slot = self.take_slot(release, old)
        self.ensure_container(release, slot)

    def start(self, release: str, beside: str | None = None) -> None:
        """Start a release when nothing else serves; one in a slot still needs the requests."""
        problem = self.proxy.problem(self.port(release)) if self.proxied else ""
        if problem is None:
            self.systemd.start(self.unit_of(self.take_slot(release, beside)))
            return
        if problem:
            log("%s serves without haproxy, which can't: %s" % (release, problem))
        self._start_without_proxy()

    def _start_without_proxy(self) -> None:
        if self.proxy.present():
            self.stop(*SLOTS)
            self.proxy.stop()
        self.store.leave_slots(*SLOTS)
        self.systemd.start(self.unit_of(""))

    def start_current(self) -> None:
        """Start the current release as after a restart; one that runs already stays as it is."""
        release = self.store.link("current")
        if release is None:
            return
        if isinstance(self.systemd, NodeUnits):
            self.application.make()  # a pod waits for it
        if not self.systemd.is_active(self.unit):
            self.start(release)
        if self.store.slot(release):
            self.move_somehow(release)

    def mend_labels(self) -> None:
        """On a node, ask the cluster for the current release again where it forgot: by a restored
        snapshot, a person, or because the node came back under another name."""
        if not isinstance(self.systemd, NodeUnits) or self.store.link("current") is None:
            return
        if not self.systemd.is_active(self.unit_of("")):
            log("%s: the cluster is asked again for what is to run here" % self.name)
            self.systemd.start(self.unit_of(""))

    def move_somehow(self, release: str) -> None:
        """Send the requests to a release; one whose proxy does not start gets their port itself.

        Only for a release that is to come back: a new one must not hide that.
        """
        try:
            self.move(release)
        except Failure as failure:
            if failure.code != "internal":
                raise
            # Its check has found nothing wrong: what it may open and bind shows at its start.
            log("%s serves without haproxy: %s" % (release, failure))
            self._start_without_proxy()

    def move(self, release: str) -> bool:
        """Send the requests to the slot of a release.

        :returns: whether no request can have noticed.
        """
        if not self.systemd.is_active(self.proxy.unit):
            self.stop("")  # from before there was a proxy; it has the endpoint's port
        return self.proxy.serve(self.port(release), self.store.slot(release))

    def stop_others(self, release: str, seconds: float) -> int:
        """Stop all but one release when its requests are answered, or after a while; return how
        many were still open."""
        others = [slot for slot in ("", *SLOTS) if slot != self.store.slot(release)]
        left, until = 0, self.clock.now() + seconds
        while True:
            left = sum(self.proxy.open_requests(slot) for slot in others if slot)
            if left == 0 or self.clock.now() >= until:
                break
            self.clock.sleep(READY_POLL)
        checkpoint("stop:drained")
        self.stop(*others)
        checkpoint("stop:stopped")
        return left

    # Guard

    def guard_on(self) -> None:
        """Start the guard and make sure that it, and the one for the next boot, will run."""
        try:
            self.systemd.start(self.timer)
        except Failure as failure:
            raise Failure("guard_failed", failure.message + ": provision this device") from None
        if not self.systemd.is_active(self.timer):
            raise Failure("guard_failed", "%s did not start: provision this device" % self.timer)
        if not self.systemd.is_enabled("muster-boot.service"):
            message = "muster-boot.service is not enabled: provision this device"
            raise Failure("guard_failed", message)

    def guard_off(self) -> None:
        """Stop the guard; one that stays is harmless, as it finds nothing to do."""
        try:
            self.systemd.stop(self.timer)
        except Failure as failure:
            log(failure.message)

    # Unfinished work

    def tidy(self, state: State) -> None:
        """Finish what a program that died left, where that touches nothing that serves."""
        if state.phase == "arming":
            self.cancel(state, "the switch was interrupted before anything was touched")
        elif state.phase == "confirming":
            self.finish_confirm(state)

    def settle(self, state: State, booted: bool = False) -> None:
        """Finish whatever is unfinished and has nobody at work on it; the guard's work."""
        self.tidy(state)
        if state.phase == "switching":
            self.begin_revert(state, "the switch was interrupted")
        elif state.phase == "switched" and booted:
            self.begin_revert(state, "the device restarted before the switch was confirmed")
        elif state.phase == "switched" and self.remaining(state) <= 0:
            self.begin_revert(state, "the switch was not confirmed in time")
        if state.phase == "reverting":
            self.go_back(state)

    def load_or_mend(self) -> State:
        """Read the state; a damaged one counts as an unconfirmed switch."""
        try:
            return self.store.load()
        except Failure as failure:
            log(failure.message)
            damaged = self.store.path("state.json.damaged")
            os.replace(self.store.path("state.json"), damaged)
            state, good = self.store.fenced(read_text(damaged) or ""), self.store.link("last_good")
            if self.store.link("current") != good:
                state.release = self.store.link("current")
                state.before = {"previous": self.store.link("previous")}
                self.begin_revert(state, "the state on the device was damaged")
            self.store.save(state)
            return state

    # Forward

    def cancel(self, state: State, reason: str) -> None:
        """Give up a switch that has touched nothing yet."""
        state.phase, state.deadline = "idle", None
        self.conclude(state, "cancelled", state.release, reason)
        self.store.save(state)
        checkpoint("cancel:idle")
        self.guard_off()

    def arm(self, state: State, confirm_timeout: float) -> None:
        """Write the armed guard, start it, and prepare the container beside what serves."""
        self.store.set_aside()
        at = self.clock.now() + confirm_timeout
        state.phase, state.deadline = "arming", {"boot": self.clock.boot(), "at": at}
        state.before = {name: self.store.link(name) for name in ("current", "previous")}
        state.result = state.plan = state.last_outcome = None
        self.store.save(state)
        self.lock.allow_until(at)
        checkpoint("switch:arming")
        try:
            self.guard_on()
            checkpoint("switch:guarded")
            self.prepare(state.release, state.before["current"])
            checkpoint("switch:created")
        except (Failure, OSError) as failure:
            self.cancel(state, str(failure))
            raise

    def go_forward(self, state: State) -> None:
        """Serve the new release instead of the old, and wait until it is ready."""
        release, old = state.release, state.before.get("current")
        state.phase = "switching"
        self.store.save(state)
        checkpoint("switch:switching")
        # Answer before the guard comes.
        patience = min(state.healthy_deadline, self.remaining(state) - 1.0)
        beside = state.mode == "blue_green" and old not in (None, release)
        if beside:
            state.result = self._go_beside(state, release, old, patience)
        else:
            state.result = self._go_instead(release, old, patience)
        state.phase = "switched"
        self.store.save(state)
        checkpoint("switch:switched")

    def _point_forward(self, release: str, old: str | None) -> None:
        if old != release:
            self.store.point("previous", old)
            checkpoint("switch:previous")
        self.store.point("current", release)
        checkpoint("switch:current")

    @staticmethod
    def _result(
        reason: str | None, ready_after: float, downtime: float | None, patience: float, more: str
    ) -> dict[str, Any]:
        ready = reason is None
        detail = "ready" if ready else "not ready within %.1f s: %s" % (patience, reason)
        return {
            "ready": ready,
            "ready_after": round(ready_after, 3) if ready else None,
            "downtime": round(downtime, 3) if ready and downtime is not None else None,
            "detail": detail + more,
        }

    def _go_instead(self, release: str, old: str | None, patience: float) -> dict[str, Any]:
        """Stop the old release, then start the new one."""
        self._point_forward(release, old)
        served = old is not None and self.is_running(old)
        stopping = self.clock.now()
        self.stop_serving()
        checkpoint("switch:stopped")
        starting = self.clock.now()
        self.start(release, old)
        if self.store.slot(release):
            self.move(release)
        checkpoint("switch:started")
        reason = self.wait_ready(release, starting + patience)
        now = self.clock.now()
        downtime = now - stopping if served else None
        more = self.trouble(release, ready=reason is None)
        return self._result(reason, now - starting, downtime, patience, more)

    def _go_beside(self, state: State, release: str, old: str, patience: float) -> dict[str, Any]:
        """Start the new release beside the old, move the requests when it is ready, and let the
        old one finish its own. One that does not get ready is stopped, and nobody noticed."""
        slot, starting = self.take_slot(release, old), self.clock.now()
        until = starting + patience
        self.systemd.start(self.unit_of(slot))
        checkpoint("switch:beside")
        reason = self.wait_ready(release, until, slot)
        ready_after = self.clock.now() - starting
        more = self.trouble(release, ready=reason is None)
        if reason is not None:
            self.stop(slot)
            checkpoint("switch:given_up")
            return self._result(reason, 0.0, None, patience, more)
        checkpoint("switch:ready")
        self._point_forward(release, old)
        moving = self.clock.now()
        smooth = self.move(release)
        checkpoint("switch:moved")
        reason, downtime = self.not_ready(release), 0.0
        if reason is not None or not smooth:
            reason = self.wait_ready(release, until)
            downtime = self.clock.now() - moving
        if reason is None:
            left = self.stop_others(release, min(state.drain_deadline, self.remaining(state) - 1.0))
            more += "; %d requests were still open" % left if left else ""
            reason = self.wait_ready(release, self.clock.now() + READY_TIMEOUT)
        return self._result(reason, ready_after, downtime, patience, more)

    def finish_confirm(self, state: State) -> list[str]:
        """Make the confirmed release the last good one; return the releases that were pruned."""
        self.store.point("last_good", state.release)
        checkpoint("confirm:last_good")
        pruned: list[str] = []
        try:
            pruned = self.prune(state, state.retain, wait=0.0)
        except (Failure, OSError) as failure:
            log("pruning is left to the next confirm: %s" % failure)
        self.conclude(state, "confirmed", state.release, "")
        state.phase, state.deadline = "idle", None
        self.store.save(state)
        checkpoint("confirm:idle")
        self.guard_off()
        return pruned

    # Back

    def begin_revert(
        self,
        state: State,
        reason: str,
        to: str | None = None,
        healthy_deadline: float | None = None,
    ) -> None:
        """Decide to go back, from an unconfirmed switch or to a named release."""
        unconfirmed = state.phase != "idle" or to is None
        current = self.store.link("current")
        before = current if current != to else self.store.link("previous")
        state.plan = {
            "from": state.release if unconfirmed else current,
            "to": self.store.link("last_good") if unconfirmed else to,
            "previous": state.before.get("previous") if unconfirmed else before,
            "reason": reason,
            "healthy_deadline": healthy_deadline or state.healthy_deadline,
            "failures": 0,
        }
        state.phase = "reverting"
        log("%s: going back to %s: %s" % (self.name, state.plan["to"], reason))
        self._save_if_possible(state)
        checkpoint("revert:reverting")

    def _save_if_possible(self, state: State) -> None:
        # On the way back the record matters less than the way: without it the guard does the same
        # again, which changes nothing.
        try:
            self.store.save(state)
        except OSError as error:
            log("%s: %s" % (self.store.path("state.json"), error))

    def go_back(self, state: State) -> float | None:
        """Serve the release that ``state.plan`` names; return the seconds until it was ready, None
        when there is none to serve. Raises ``revert_failed``; the guard tries again then."""
        plan = state.plan
        target, patience = plan["to"], plan["healthy_deadline"]
        self.lock.allow_until(self.clock.now() + patience + WORK_LIMIT)
        try:
            self.guard_on()
        except Failure as failure:
            log(failure.message)
        checkpoint("revert:guarded")
        self.store.point("current", target)
        checkpoint("revert:current")
        self.store.point("previous", plan["previous"])
        checkpoint("revert:previous")
        ready_after = None
        if target is None:
            self.stop_serving()
            if self.proxy.present():
                self.proxy.stop()
            checkpoint("revert:stopped")
            self.runtime.check_stopped(self.name)
        else:
            reason, ready_after = self._serve_again(state, plan)
            if reason is not None:
                self._revert_failed(state, reason + self.trouble(target))
            self.store.point("last_good", target)
            checkpoint("revert:last_good")
        self.conclude(state, "reverted", plan["from"], plan["reason"])
        state.phase, state.deadline, state.plan = "idle", None, None
        self._save_if_possible(state)
        checkpoint("revert:idle")
        self.guard_off()
        return ready_after

    def _serve_again(self, state: State, plan: Mapping[str, Any]) -> tuple[str | None, float]:
        """Run the release to go back to; return why it is not ready, and the seconds that took."""
        target, failed, start = plan["to"], plan["from"], self.clock.now()
        until = start + plan["healthy_deadline"]
        try:
            # A switch that was interrupted early may never have stopped it.
            alive = self.is_running(target) and self.systemd.is_active(
                self.unit_of(self.store.slot(target))
            )
        except Failure as failure:
            log(failure.message)
            alive = False
        try:
            if not alive and not plan["failures"] and self._may_go_beside(state, failed, target):
                # What fails its gates may still answer: that is better than nothing meanwhile.
                slot = self.take_slot(target, failed)
                self.systemd.start(self.unit_of(slot))
                checkpoint("revert:beside")
                reason = self.wait_ready(target, until, slot)
                if reason is not None:
                    return reason, 0.0
            elif not alive or plan["failures"]:
                self.stop_serving()
                checkpoint("revert:stopped")
                self._make_room(failed, target)
                start = self.clock.now()
                until = start + plan["healthy_deadline"]
                self.start(target, failed)
            if self.store.slot(target):
                self._move_back(target)
            checkpoint("revert:started")
            reason = self.wait_ready(target, until)
            if reason is None and self.proxy.present():
                self.stop_others(target, state.drain_deadline)
        except Failure as failure:
            if failure.code == "cluster_unreachable":  # which says nothing about the release
                raise
            return failure.message, 0.0
        return reason, round(self.clock.now() - start, 3)

    def _may_go_beside(self, state: State, failed: str | None, target: str) -> bool:
        """Tell whether a release may be started while the failed one still serves."""
        if state.mode != "blue_green" or not self.proxied or failed in (None, target):
            return False
        if self.proxy.problem(self.port(target)) is not None:
            return False
        return self.not_ready(failed) is None

    def _move_back(self, target: str) -> None:
        try:
            self.move_somehow(target)
        except OSError as error:
            # They go there, but would not after a restart of the proxy.
            log("%s: %s" % (self.proxy.folder, error))

    def _make_room(self, failed: str | None, target: str) -> None:
        """Remove the failed release's container when the disk is full: it may be what fills it."""
        try:
            folder = self.runtime.info()[1] or self.store.folder
            if failed and failed != target and free_bytes(folder) < LOW_DISK:
                log("the disk is full: removing container %s" % self.container(failed))
                self.runtime.remove(self.container(failed))
        except (Failure, OSError) as failure:
            log(str(failure))

    def _revert_failed(self, state: State, reason: str) -> None:
        plan = state.plan
        # A runtime that is down says nothing about the release: that is tried until it is up.
        plan["failures"] += self.runtime.info()[0] is not None
        self.conclude(state, "revert_failed", plan["from"], "%s; %s" % (plan["reason"], reason))
        given_up = plan["failures"] >= REVERT_ATTEMPTS
        if given_up:
            # The unit goes on restarting the release; there is nothing more that we could do.
            state.phase, state.deadline = "idle", None
        self._save_if_possible(state)
        checkpoint("revert:failed")
        if given_up:
            self.guard_off()
        message = "%s is not ready after going back (failed %d of %d times): %s" % (
            plan["to"],
            plan["failures"],
            REVERT_ATTEMPTS,
            reason,
        )
        raise Failure("revert_failed", message, to=plan["to"], attempts=plan["failures"])

    # Pruning

    def in_use(self, state: State) -> set[str]:
        """Return the releases that must stay."""
        wanted = [self.store.link(name) for name in Store.LINKS]
        if state.phase != "idle":
            wanted += [state.release, *state.before.values()]
            wanted += [(state.plan or {}).get("to"), (state.plan or {}).get("previous")]
        return {release for release in wanted if release is not None}

    def prune(self, state: State, retain: int, wait: float) -> list[str]:
        """Remove the releases that are not in use, but for the ``retain`` newest."""
        with self.stage_locked("prune", wait):
            self.clear_leftovers()
            spare = [r for r in self.store.ids() if r not in self.in_use(state)]
            gone = spare[: max(0, len(spare) - retain)]
            for release in gone:
                self._drop(release)
                checkpoint("prune:dropped")
            kept = set(self.store.ids())
            for container in self.runtime.containers(self.name):
                if container.release not in kept and not container.running:
                    self.runtime.remove(container.name)
            return gone

    def _drop(self, release: str) -> None:
        self.store.leave_slots(*filter(None, [self.store.slot(release)]))
        self.runtime.remove(self.container(release))
        checkpoint("prune:container")
        folder = os.path.join(self.store.releases, release)
        os.replace(folder, os.path.join(self.store.releases, ".gone-" + release))
        checkpoint("prune:gone")
        self.clear_leftovers()

    def clear_leftovers(self, keep_image: str | None = None) -> None:
        """Remove what prune, or an interrupted stage, left; the stage lock must be held."""
        stores = [Store(self.host.paths.state, name) for name in self.host.models()]
        for name in self.store.leftovers():
            image = self.store.image_of(name)
            needed = [store.image_of(release) for store in stores for release in store.ids()]
            if image and not any(self.runtime.same_image(image, i) for i in (keep_image, *needed)):
                self.runtime.remove_image(image)
                checkpoint("prune:image")
            # The folder goes last: until then a repetition finds what to remove.
            shutil.rmtree(os.path.join(self.store.releases, name))


# ---------------------------------------------------------------------------------------------
# stage


def read_release(
    model: str, release: str, digest: str, document: str, variant: str
) -> dict[str, Any]:
    """Check a release document and return how to run one variant of it, without the image's
    registry."""
    if hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest() != digest:
        raise Failure("digest_mismatch", "the release document does not have digest " + digest)
    try:
        parsed = json.loads(document)
    except ValueError as error:
        raise Failure("bad_input", "document: not JSON: %s" % error) from None
    # What the device does not use is the controller's business; what runs is checked strictly.
    top = Request(parsed, list(parsed) if isinstance(parsed, dict) else [], "document")
    for name, expected in (("apiVersion", "muster/v1"), ("kind", "Release"), ("model", model)):
        top.text(name, re.compile(re.escape(expected)))
    version = top.text("version", NAME)
    if release != "%s-%s" % (version, digest[:12]):
        raise Failure("digest_mismatch", "release %s is not %s" % (release, parsed["version"]))
    variants = parsed.get("variants")
    if not isinstance(variants, dict) or variant not in variants:
        raise Failure("bad_input", "release %s has no variant %s" % (release, variant))
    endpoint = top.part("endpoint", ("port", "container_port", "ready_path"))
    chosen = Request(
        variants[variant],
        ("image", "env", "memory", "devices", "cdi", "requires"),
        "document.variants." + variant,
    )
    env = chosen.table("env", ENV_VALUE)
    if not all(ENV_NAME.fullmatch(name) for name in env):
        raise Failure("bad_input", "document.variants.%s.env: bad name" % variant)
    requires = chosen.part("requires", list(variants[variant].get("requires") or ()))
    return {
        "release": release,
        "version": version,
        "digest": digest,
        "variant": variant,
        "image": chosen.text("image", IMAGE),
        "env": env,
        "memory": chosen.number("memory", 1, 1 << 62, None),
        "devices": chosen.texts("devices", DEVICE_NODE),
        **({"cdi": chosen.texts("cdi", CDI_DEVICE)} if variants[variant].get("cdi") else {}),
        "disk": requires.number("disk", 1, 1 << 62, None),
        "endpoint": {
            "port": endpoint.number("port", 1, 65535),
            "container_port": endpoint.number("container_port", 1, 65535),
            "ready_path": endpoint.text("ready_path", URL_PATH),
        },
    }


def verify_signature(key: str, document: str, signature: str) -> None:
    """Check the minisign signature of a file; all three are paths."""
    if not os.path.exists(signature):
        message = "this device takes only signed releases: sign the release with minisign"
        raise Failure("bad_signature", message)
    done = execute(["minisign", "-V", "-q", "-p", key, "-m", document, "-x", signature], 30.0)
    if done.status == 127:
        raise Failure("bad_signature", "minisign is not installed: provision this device")
    if done.status != 0:
        message = "the release is not signed with %s: %s" % (key, last_line(done.err or done.out))
        raise Failure("bad_signature", message)


def stage(host: Host, given: Any) -> dict[str, Any]:
    """Fetch a release and put it beside the others; nothing that serves is touched."""
    known = ("model", "release_id", "digest", "document", "signature", "variant", "registry")
    request = Request(given, (*known, "pull_deadline"))
    model = Model(host, request.text("model", MODEL))
    release, variant = request.text("release_id", RELEASE), request.text("variant", VARIANT)
    document = request.get("document", "text", lambda v: isinstance(v, str), _REQUIRED)
    signature = request.get("signature", "text", lambda v: isinstance(v, str), None)
    digest = request.text("digest", DIGEST)
    start = host.clock.now()
    until = start + request.seconds("pull_deadline", 1.0)
    if host.damaged_config:
        raise host.damaged_config
    registry = request.text("registry", REGISTRY, host.config.registry)
    if registry is None:
        raise Failure("bad_input", "registry: neither in the request nor in " + host.paths.config)
    spec = read_release(model.name, release, digest, document, variant)
    spec["image"] = "%s/%s" % (registry, spec["image"])
    disk = spec.pop("disk")
    with model.stage_locked("stage", until - host.clock.now()):
        model.clear_leftovers(keep_image=spec["image"])
        answer = _stage(model, spec, document, signature, disk, until)
    return {**answer, "seconds": round(host.clock.now() - start, 3)}


def _stage(
    model: Model,
    spec: dict[str, Any],
    document: str,
    signature: str | None,
    disk: int | None,
    until: float,
) -> dict[str, Any]:
    store, host, release = model.store, model.host, spec["release"]
    # The image is named here before it is pulled, so that one nobody needs can be removed.
    work = os.path.join(store.releases, ".staging-" + release)
    os.mkdir(work, 0o700)
    try:
        text = os.path.join(work, "release.json")
        spec["order"] = 1 + max([store.order(other) for other in store.ids()] or [0])
        write_file(text, document.encode())
        if signature is not None:
            write_file(text + ".minisig", signature.encode())
        if host.config.release_public_key:
            key = host.paths.at(host.config.release_public_key)
            verify_signature(key, text, text + ".minisig")
        already = _already_staged(model, spec)
        write_file(os.path.join(work, "variant.json"), json.dumps(spec, indent=1).encode())
        checkpoint("stage:written")
        pulled = not host.runtime.image_present(spec["image"])
        if pulled:
            _check_disk(host, disk)
            host.runtime.pull(spec["image"], until - host.clock.now())
            checkpoint("stage:pulled")
            os.sync()  # the runtime need not have written it to the disk
        host.runtime.keep(spec["image"])
        if not already:
            _publish(store, work, release)
            checkpoint("stage:published")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"staged": True, "already": already, "pulled": pulled, "image": spec["image"]}


def _already_staged(model: Model, spec: dict[str, Any]) -> bool:
    """Tell whether the release is here as it is wanted; a used one can't become another."""
    release = spec["release"]
    if not model.store.has(release):
        return False
    try:
        found = model.store.spec(release, verify=True)
    except Failure as failure:
        log("%s; repairing it" % failure.message)
        return False
    if found["variant"] == spec["variant"] and found["image"] == spec["image"]:
        spec["order"] = found["order"]
        return True
    if release not in model.in_use(model.store.load()):
        return False
    if found["variant"] != spec["variant"]:
        message = "release %s is in use here as %s" % (release, found["variant"])
        raise Failure("bad_input", message + ": it can't be staged as %s" % spec["variant"])
    # Same content from a registry with another name: what is here stays as it is.
    spec.update(found)
    return True


def _check_disk(host: Host, disk: int | None) -> None:
    version, folder = host.runtime.info()
    if version is None:
        message = "%s does not answer: provision this device" % host.runtime.name
        raise Failure("runtime_unavailable", message)
    folder = folder or host.paths.state
    needed, free = disk or DISK_FLOOR, free_bytes(folder)
    if free < needed:
        message = "%s has %d MiB free, the release needs %d MiB: free some, or prune" % (
            folder,
            free >> 20,
            needed >> 20,
        )
        raise Failure("no_space", message, path=folder, free=free, needed=needed)


def _publish(store: Store, work: str, release: str) -> None:
    """Turn the finished work folder into the release's folder."""
    final = os.path.join(store.releases, release)
    if os.path.isdir(final):  # damaged, or staged for another variant and unused
        for name in sorted(os.listdir(work)):
            os.replace(os.path.join(work, name), os.path.join(final, name))
        sync_folder(final)
    else:
        sync_folder(work)
        os.replace(work, final)
    sync_folder(store.releases)


# ---------------------------------------------------------------------------------------------
# switch, confirm, revert, prune


def switch(host: Host, given: Any) -> dict[str, Any]:
    """Serve another release, with a guard that goes back unless it is confirmed in time."""
    known = ["model", "generation", "rollout", "extend", "confirm_timeout"]
    known += ["release_id", "mode", "healthy_deadline", "drain_deadline"]
    request = Request(given, known)
    model = Model(host, request.text("model", MODEL))
    generation = request.number("generation", 1, 1 << 62)
    rollout = request.text("rollout", NAME)
    confirm_timeout = request.seconds("confirm_timeout", 0.1)
    if request.flag("extend", False):
        return _extend(model, generation, rollout, confirm_timeout)
    release = request.text("release_id", RELEASE)
    mode = request.text("mode", re.compile("|".join(MODES)), "recreate")
    healthy_deadline = request.seconds("healthy_deadline", 0.1)
    drain_deadline = request.seconds("drain_deadline", 0.0, 10.0)
    if confirm_timeout <= healthy_deadline:
        message = "confirm_timeout: expected more than healthy_deadline (%g s), got %g s"
        raise Failure("bad_input", message % (healthy_deadline, confirm_timeout))
    if mode not in switch_modes(host):
        message = "mode: %s needs the proxy: provision this device with muster_device_proxy" % mode
        raise host.damaged_config or Failure("bad_input", message)
    with model.locked("switch") as lock:
        state = model.store.load()
        model.tidy(state)
        if not _is_repetition(model, state, generation, rollout, release):
            _check_runnable(model, release)
            _check_application(model)
            state.generation, state.rollout, state.release = generation, rollout, release
            state.healthy_deadline, state.mode = healthy_deadline, mode
            state.drain_deadline = drain_deadline
            model.arm(state, confirm_timeout)
            model.go_forward(state)
        elif state.phase == "switching":
            # The program that began this died; the guard has not come by yet.
            lock.allow_until(host.clock.now() + model.remaining(state))
            model.guard_on()
            model.prepare(release, state.before["current"])
            model.go_forward(state)
        return _describe_switch(model, state)


def _is_repetition(model: Model, state: State, generation: int, rollout: str, release: str) -> bool:
    """Tell a repeated switch from a new one; raises when it may be neither."""
    same = (generation, rollout, release) == (state.generation, state.rollout, state.release)
    if generation <= state.generation and not same:
        message = "generation %d is older than %d, which rollout %s gave this device" % (
            generation,
            state.generation,
            state.rollout,
        )
        raise Failure("stale_generation", message, generation=state.generation)
    lost = state.phase == "reverting" or (
        state.phase == "switching" and model.remaining(state) <= 0
    )
    if lost or (state.phase != "idle" and not same):
        raise Failure(
            "unfinished_switch",
            "switch %d of rollout %s is %s: confirm or revert it first"
            % (state.generation, state.rollout, state.phase),
            generation=state.generation,
            rollout=state.rollout,
            remaining=model.remaining(state),
        )
    # A cancelled switch touched nothing, so the same one may be tried again.
    return same and (state.last_outcome or {}).get("outcome") != "cancelled"


def _check_runnable(model: Model, release: str) -> None:
    image = model.store.spec(release, verify=True)["image"]
    if not model.runtime.image_present(image):
        message = "image %s of release %s is gone: stage it again" % (image, release)
        raise Failure("unknown_release", message, release=release)


def switch_modes(host: Host) -> list[str]:
    """Return the modes of a switch that this device knows."""
    return [mode for mode in MODES if mode == "recreate" or host.config.proxy]


def _check_application(model: Model) -> None:
    lock = model.application.held()
    if lock["held"]:
        message = "%s holds %s" % (lock["holder"] or "an application", model.application.inside)
        raise Failure("locked", message + ": try again when it is done", holder=lock["holder"])


def _describe_switch(model: Model, state: State) -> dict[str, Any]:
    result = state.result or {}
    outcome = (state.last_outcome or {}) if state.phase == "idle" else {}
    ready, detail = bool(result.get("ready")), result.get("detail", "")
    if outcome.get("outcome") in ("reverted", "revert_failed"):
        ready = False
        detail = "%s: %s" % (outcome["outcome"].replace("_", " "), outcome["reason"])
    return {
        "generation": state.generation,
        "ready": ready,
        "ready_after": result.get("ready_after"),
        "downtime": result.get("downtime"),
        "previous": state.before.get("current"),
        "guard_remaining": round(model.remaining(state), 3),
        "detail": detail,
        "outcome": outcome.get("outcome"),
    }


def _extend(model: Model, generation: int, rollout: str, seconds: float) -> dict[str, Any]:
    with model.locked("switch") as lock:
        state = model.store.load()
        model.tidy(state)
        _check_ours(state, generation, rollout)
        if not _is_armed(model, state, generation):
            raise _not_armed(state, generation)
        now = model.clock.now()
        at = now + max(seconds, model.remaining(state))
        state.deadline = {"boot": model.clock.boot(), "at": at}
        lock.allow_until(now + WORK_LIMIT)
        model.guard_on()
        model.store.save(state)
        checkpoint("switch:extended")
        return {"guard_remaining": round(model.remaining(state), 3)}


def _check_ours(state: State, generation: int | None, rollout: str | None) -> None:
    """Refuse a command from a controller that another has overtaken."""
    stale = generation is not None and generation < state.generation
    foreign = generation == state.generation and rollout is not None and rollout != state.rollout
    if stale or foreign:
        message = "generation %s of rollout %s is not the latest here: %d of rollout %s is" % (
            generation,
            rollout,
            state.generation,
            state.rollout,
        )
        raise Failure("stale_generation", message, generation=state.generation)


def _is_armed(model: Model, state: State, generation: int) -> bool:
    in_time = state.phase == "switched" and model.remaining(state) > 0
    return in_time and generation == state.generation


def _not_armed(state: State, generation: int) -> Failure:
    outcome = state.last_outcome or {}
    message = "there is no switch %d to confirm or extend" % generation
    if generation != state.generation:
        outcome = {}
    elif state.phase in UNCONFIRMED:
        message = "switch %d is going back: its time is over, or it broke off" % generation
    elif outcome:
        message = "switch %d is over: %s" % (generation, outcome["outcome"])
        message += " (%s)" % outcome["reason"] if outcome["reason"] else ""
    return Failure("not_armed", message, outcome=outcome.get("outcome"))


def confirm(host: Host, given: Any) -> dict[str, Any]:
    """Make a switch permanent."""
    request = Request(given, ("model", "generation", "rollout", "retain"))
    model = Model(host, request.text("model", MODEL))
    generation = request.number("generation", 1, 1 << 62)
    rollout = request.text("rollout", NAME)
    retain = request.number("retain", 0, 1000, 3)
    with model.locked("confirm"):
        state = model.store.load()
        model.tidy(state)
        _check_ours(state, generation, rollout)
        pruned: list[str] = []
        confirmed = (state.last_outcome or {}).get("outcome") == "confirmed"
        if _is_armed(model, state, generation):
            if model.store.link("current") != state.release:
                message = "release %s never got ready, so it does not serve" % state.release
                raise Failure("not_armed", message, outcome=None)
            state.phase, state.retain = "confirming", retain
            model.store.save(state)
            checkpoint("confirm:confirming")
            pruned = model.finish_confirm(state)
        elif generation > state.generation or state.phase != "idle" or not confirmed:
            raise _not_armed(state, generation)
        good = model.store.link("last_good")
        return {"release": state.release, "last_good": good, "pruned": pruned}


def revert(host: Host, given: Any) -> dict[str, Any]:
    """Go back to the last good release, or to a named one; needs no network."""
    known = ("model", "generation", "rollout", "to", "reason", "healthy_deadline")
    request = Request(given, known)
    model = Model(host, request.text("model", MODEL))
    generation = request.number("generation", 0, 1 << 62, None)
    rollout = request.text("rollout", NAME, None)
    to = request.text("to", RELEASE, None)
    reason = request.text("reason", TEXT, "reverted by command") or "reverted by command"
    healthy_deadline = request.seconds("healthy_deadline", 0.1, None)
    start = host.clock.now()
    with model.locked("revert"):
        state = model.store.load()
        _check_ours(state, generation, rollout)
        if to is not None and not model.store.has(to):
            message = "release %s is not on this device: roll it out instead" % to
            raise Failure("unknown_release", message, release=to)
        model.tidy(state)
        came_from = model.store.link("current")
        if state.phase in UNCONFIRMED:
            came_from = state.release
        if state.phase == "idle":
            _fence(model, state, generation, rollout, reason)
        reverted, ready_after = True, None
        if state.phase == "reverting":
            _check_same_target(state, to, state.plan["to"])
            ready_after = model.go_back(state)
        elif state.phase in UNCONFIRMED:
            _check_same_target(state, to, model.store.link("last_good"))
            model.begin_revert(state, reason, None, healthy_deadline)
            ready_after = model.go_back(state)
        elif to is not None and (to, to) != (came_from, model.store.link("last_good")):
            model.begin_revert(state, reason, to, healthy_deadline)
            ready_after = model.go_back(state)
        else:
            reverted = False
        _fence(model, state, generation, rollout, None)
        current = model.store.link("current")
        ready = ready_after is not None
        if not reverted and current is not None:
            ready = model.not_ready(current) is None
        return {
            "reverted": reverted,
            "from": came_from,
            "to": current,
            "ready": ready,
            "ready_after": ready_after,
            "seconds": round(host.clock.now() - start, 3),
        }


def _fence(
    model: Model, state: State, generation: int | None, rollout: str | None, cancelled: str | None
) -> None:
    """Keep a switch that the controller has given up from beginning after all."""
    if generation is None or generation <= state.generation:
        return
    state.generation, state.rollout, state.release = generation, rollout, None
    if cancelled is not None:
        model.conclude(state, "cancelled", None, cancelled)
    model.store.save(state)


def _check_same_target(state: State, to: str | None, target: str | None) -> None:
    if to not in (None, target):
        message = "switch %d goes back to %s, not to %s: revert it first" % (
            state.generation,
            target,
            to,
        )
        raise Failure("unfinished_switch", message, to=target)


def prune(host: Host, given: Any) -> dict[str, Any]:
    """Remove releases that nothing needs."""
    request = Request(given, ("model", "retain"))
    model = Model(host, request.text("model", MODEL))
    retain = request.number("retain", 0, 1000)
    with model.locked("prune"):
        state = model.store.load()
        model.tidy(state)
        return {"pruned": model.prune(state, retain, LOCK_WAIT)}


# ---------------------------------------------------------------------------------------------
# guard, boot, run, halt: what the units call


def guard(host: Host, name: str) -> dict[str, Any] | None:
    """One tick of the guard; returns what it did, None for nothing."""
    model = Model(host, name)
    if not os.path.isdir(model.store.folder):
        return None
    for wait in (0.0, 2.0):
        try:
            with model.locked("guard", wait):
                return _tick(model)
        except Failure as failure:
            if failure.code != "busy":
                raise
        try:
            overdue = model.remaining(model.store.load()) <= 0
        except Failure:
            overdue = True
        if not overdue:
            break
        Lock(model.store.path("lock"), "guard", host.clock).kill_holder()
    return None


def _tick(model: Model) -> dict[str, Any] | None:
    state = model.load_or_mend()
    before = state.phase
    if before == "idle":
        model.mend_labels()
        model.guard_off()
    else:
        model.settle(state)
    return None if state.phase == before else {"was": before, "now": state.phase}


def boot(host: Host) -> dict[str, Any]:
    """After a restart: finish or undo what was under way, then start every model."""
    problems: dict[str, str] = {}
    started: list[str] = []
    if host.models():
        host.runtime.wait(host.clock)
    for name in host.models():
        model = Model(host, name)
        try:
            with model.locked("boot", 60.0):
                _boot_model(model)
                if model.store.link("current") is not None:
                    model.start_current()
                    started.append(name)
        except (Failure, OSError) as failure:
            # A node's labels outlive its restart: its cluster starts what they ask for.
            if getattr(failure, "code", "") != "cluster_unreachable":
                problems[name] = str(failure)
            log("%s: %s" % (name, failure))
            if getattr(failure, "code", "") != "busy":
                _try_later(model)
        checkpoint("boot:model")
    if problems:
        raise Failure("internal", "; ".join("%s: %s" % p for p in problems.items()))
    return {"started": started}


def _boot_model(model: Model) -> None:
    state = model.load_or_mend()
    deadline = state.deadline or {}
    booted = deadline.get("boot") != model.clock.boot()
    model.settle(state, booted or not model.systemd.is_active(model.timer))
    good = model.store.link("last_good")
    if model.store.link("current") is None and good is not None and state.phase == "idle":
        log("%s: the link current was lost; it is last_good again" % model.name)
        model.store.point("current", good)
    # Another stage at work takes care of these itself.
    with contextlib.suppress(Failure), model.stage_locked("boot", 0.0):
        model.clear_leftovers()


def _try_later(model: Model) -> None:
    """Leave the rest to the guard, and serve what ``current`` names meanwhile."""
    for start in (lambda: model.systemd.start(model.timer), model.start_current):
        try:
            start()
        except (Failure, OSError) as failure:
            log(str(failure))


def prepare_run(host: Host, instance: str) -> list[str] | None:
    """Make sure that the current release alone can run, or the one in a slot; return the command
    that runs it, None when there is none."""
    name, _, slot = instance.partition(".")
    model = Model(host, name)
    release = model.store.link(slot or "current")
    if release is None:
        return None
    for container in host.runtime.containers(name):
        wanted = (container.release, container.slot) == (release, slot)
        in_the_way = not slot or container.slot == slot or container.release == release
        if container.running and in_the_way and not wanted:
            host.runtime.stop(container.name, STOP_GRACE)
    return host.runtime.attach_command(model.ensure_container(release, slot).name)


def run(host: Host, instance: str) -> int:
    """Become the command that runs the current release, or the one in a slot."""
    command = prepare_run(host, instance)
    if command is not None:
        os.execvp(command[0], command)  # noqa: S606
    log("%s has no release to run" % instance)
    return EXIT_NOTHING_TO_RUN


def halt(host: Host, instance: str) -> None:
    """Stop every container of a model that has the endpoint's port, or those in a slot."""
    name, _, slot = instance.partition(".")
    for container in host.runtime.containers(name):
        if container.running and container.slot == slot:
            host.runtime.stop(container.name, STOP_GRACE)


# ---------------------------------------------------------------------------------------------
# probe


def http_request(
    clock: Clock,
    port: int,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 5.0,
    address: str = "127.0.0.1",
) -> dict[str, Any]:
    """Ask this device's own port once; return status, latency, body and error."""
    import http.client  # half of what a start of this program costs, and most need it not

    sample: dict[str, Any] = {"status": None, "latency": None, "body": None, "error": None}
    start = clock.now()

    def left() -> float:
        seconds = timeout - (clock.now() - start)
        if seconds <= 0:
            raise socket.timeout()
        return seconds

    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.connect()
        connection.sock.settimeout(left())
        connection.request(method, path, body, dict(headers or {}))
        connection.sock.settimeout(left())
        link = connection.sock  # the connection lets go of it when the answer ends it
        answer = connection.getresponse()
        data = b""
        while len(data) < BODY_LIMIT and not answer.isclosed():
            link.settimeout(left())
            chunk = answer.read1(BODY_LIMIT - len(data))
            if not chunk:
                break
            data += chunk
        if answer.length and len(data) < BODY_LIMIT:
            raise http.client.IncompleteRead(data)
        sample["status"] = answer.status
        sample["latency"] = round(clock.now() - start, 6)
        sample["body"] = data.decode("utf-8", "replace")
    except socket.timeout:
        sample["error"] = "no answer within %g s" % timeout
    except (OSError, http.client.HTTPException) as error:
        sample["error"] = getattr(error, "strerror", None) or str(error) or type(error).__name__
    except ValueError as error:
        sample["error"] = "bad request: %s" % error
    finally:
        connection.close()
    return sample


def _read_check(given: Any, number: int) -> dict[str, Any]:
    known = ("name", "type", "method", "path", "port", "headers", "body", "timeout")
    request = Request(given, known, "checks[%d]" % number)
    body, headers = request.value.get("body"), request.table("headers", ENV_VALUE)
    if body is not None and not isinstance(body, str):
        body = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        headers = {"Content-Type": "application/json", **headers}
    return {
        "name": request.text("name", NAME),
        "method": request.text("method", re.compile("[A-Z]{1,10}"), "GET"),
        "path": request.text("path", URL_PATH),
        "port": request.number("port", 1, 65535),
        "headers": headers,
        "body": None if body is None else body.encode("utf-8", "surrogatepass"),
        "timeout": request.seconds("timeout", 0.001, 5.0),
    }


def probe(host: Host, given: Any) -> dict[str, Any]:
    """Measure what the gates ask for, again and again for a while. Takes no lock."""
    request = Request(given, ("model", "checks", "duration", "interval"))
    model = Model(host, request.text("model", MODEL))
    wanted = request.get("checks", "a list of checks", lambda v: isinstance(v, list), _REQUIRED)
    checks = [_read_check(check, number) for number, check in enumerate(wanted)]
    duration, interval = request.seconds("duration", 0.0), request.seconds("interval", 0.01)
    measurements: dict[str, list[dict[str, Any]]] = {check["name"]: [] for check in checks}
    if len(measurements) != len(checks):
        raise Failure("bad_input", "checks: expected every name once")
    clock, unit = host.clock, model.unit
    start, due, room = clock.now(), 0.0, BODIES_LIMIT
    last, restarts = host.systemd.restarts(unit), 0
    while due <= duration:
        if clock.now() - start < due:
            clock.sleep(due - (clock.now() - start))
        for check in checks:
            at = round(clock.now() - start, 3)
            asked = {key: value for key, value in check.items() if key != "name"}
            sample = http_request(clock, **asked)
            room -= len(sample["body"] or "")
            if room < 0:
                sample["body"] = None
            measurements[check["name"]].append({"at": at, **sample})
        seen = host.systemd.restarts(unit)
        restarts, last = restarts + max(0, seen - last), seen
        # The next sample is due on the grid; those that a slow answer overran are left out.
        due = max(due + interval, math.ceil((clock.now() - start) / interval) * interval)
    state = model.store.load()
    return {
        "generation": state.generation,
        "release": model.store.link("current"),
        "restarts": restarts,
        "runtime_ready": host.runtime.ready(),
        "measurements": measurements,
    }


# ---------------------------------------------------------------------------------------------
# inspect


def architecture() -> str:
    """Name the architecture of programs on this device as Debian does; a 64-bit kernel may run a
    32-bit system, as on many a Raspberry Pi."""
    machine = platform.machine()
    if struct.calcsize("P") == 4:
        machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
    names = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "i586": "i386"}
    return names.get(machine, "armhf" if machine.startswith("armv") else machine)


class Hardware:
    """Finds accelerators in what the kernel and the vendors' drivers show.

    :param roots: folders that stand for "/" where /proc and /sys are read, the first wins.
    """

    def __init__(self, paths: Paths, roots: Sequence[str]) -> None:
        self.paths, self.roots = paths, roots

    def _read(self, path: str) -> str | None:
        found = (read_text(os.path.join(root, path)) for root in self.roots)
        return next((text for text in found if text is not None), None)

    def _entries(self, folder: str) -> list[str]:
        found: list[str] = []
        for root in self.roots:
            with contextlib.suppress(OSError):
                names = sorted(os.listdir(os.path.join(root, folder)))
                found += [os.path.join(root, folder, name) for name in names]
        return found

    def _nodes(self, pattern: str) -> list[str]:
        folder, name = os.path.split(pattern)
        with contextlib.suppress(OSError):
            found = sorted(os.listdir(self.paths.at(folder)))
            return ["%s/%s" % (folder, node) for node in found if re.fullmatch(name, node)]
        return []

    def _pci(self) -> list[tuple[str, str, str, str]]:
        """Return vendor, device, class (hex digits) and driver of every PCI function."""
        functions = []
        for entry in self._entries("sys/bus/pci/devices"):
            texts = [read_text(os.path.join(entry, name)) for name in ("vendor", "device", "class")]
            vendor, device, kind = ((text or "").replace("0x", "") for text in texts)
            driver = os.path.join(entry, "driver")
            name = os.path.basename(os.path.realpath(driver)) if os.path.exists(driver) else ""
            functions.append((vendor, device, kind, name))
        return functions

    def _usb(self, ids: Sequence[str]) -> list[str | None]:
        """Return the device node, if there is one, of every USB device with one of the ids."""
        nodes: list[str | None] = []
        for entry in self._entries("sys/bus/usb/devices"):
            vendor, product, bus, number = (
                read_text(os.path.join(entry, name))
                for name in ("idVendor", "idProduct", "busnum", "devnum")
            )
            if "%s:%s" % (vendor, product) in ids:
                known = bus is not None and number is not None
                path = "/dev/bus/usb/%03d/%03d" % (int(bus), int(number)) if known else None
                nodes.append(path)
        return nodes

    def _module(self, *names: str) -> str | None:
        found = (self._read("sys/module/%s/version" % name) for name in names)
        return next((version for version in found if version), None)

    def accelerators(self) -> list[dict[str, Any]]:
        """Return kind, device, driver version and model of every accelerator; of the kind that this
        device was provisioned for also versions of library and firmware, and whether it worked
        then."""
        pci = self._pci()
        found = self._jetson() + self._nvidia(pci) + self._coral(pci) + self._hailo(pci)
        found += self._intel(pci)
        published = self._published()
        for accelerator in found:
            if accelerator["kind"] == published.get("kind"):
                tested = published.get("smoke_test")
                accelerator["library"] = self._library(accelerator["kind"], published)
                accelerator["firmware"] = published.get("firmware")
                accelerator["working"] = tested.get("passed") if isinstance(tested, dict) else None
        return found

    def _published(self) -> dict[str, Any]:
        """Return what provisioning wrote about the accelerator."""
        with contextlib.suppress(OSError, ValueError):
            with open(self.paths.at("etc/muster/accelerator.json"), encoding="utf-8") as file:
                published = json.load(file)
            return published if isinstance(published, dict) else {}
        return {}

    def _library(self, kind: str, published: Mapping[str, Any]) -> str | None:
        """Return the version of a library that must match its driver, as it is installed now."""
        name = {"hailo": "libhailort", "nvidia": "libnvidia-ml"}.get(kind)
        pattern = re.compile(r"%s\.so\.(\d+(?:\.\d+)+)" % name)
        top = self.paths.at("usr/lib")
        for folder in (os.path.join(top, "%s-linux-gnu" % platform.machine()), top):
            for entry in sorted(os.listdir(folder)) if name and os.path.isdir(folder) else ():
                match = pattern.fullmatch(entry)
                if match:
                    return match.group(1)
        return published.get("library")

    @staticmethod
    def _list(
        kind: str, nodes: Sequence[str | None], seen: int, driver: str | None, model: str | None
    ) -> list[dict[str, Any]]:
        # One that is on the bus but has no device node has no working driver.
        nodes = [*nodes, *[None] * (seen - len(nodes))]
        return [{"kind": kind, "device": node, "driver": driver, "model": model} for node in nodes]

    def _jetson(self) -> list[dict[str, Any]]:
        model = self._read("proc/device-tree/model") or ""
        release = read_text(self.paths.at("etc/nv_tegra_release"))
        if release is None and "jetson" not in model.lower():
            return []
        match = re.search(r"R(\d+)\D+REVISION:\s*([\d.]+)", release or "")
        driver = "%s.%s" % match.groups() if match else None
        nodes = self._nodes("/dev/nvhost-gpu")[:1] or self._nodes("/dev/nvmap")
        return self._list("jetson", nodes, 1, driver, model or None)

    def _nvidia(self, pci: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
        seen = sum(vendor == "10de" and kind.startswith("03") for vendor, _, kind, _ in pci)
        if not seen:
            return []
        text = self._read("proc/driver/nvidia/version") or ""
        match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
        info = [self._read_here(entry) for entry in self._entries("proc/driver/nvidia/gpus")]
        models = [m.group(1).strip() for m in (re.search(r"Model:(.*)", i) for i in info) if m]
        driver = match.group(1) if match else None
        nodes = self._nodes(r"/dev/nvidia\d+")
        return self._list("nvidia", nodes, seen, driver, models[0] if models else None)

    @staticmethod
    def _read_here(entry: str) -> str:
        return read_text(os.path.join(entry, "information")) or ""

    def _coral(self, pci: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
        seen = sum(function[:2] == ("1ac1", "089a") for function in pci)
        nodes = self._nodes(r"/dev/apex_\d+")
        found = self._list("coral", nodes, seen, self._module("apex", "gasket"), "Edge TPU PCIe")
        usb = self._usb(("1a6e:089a", "18d1:9302"))
        return found + self._list("coral", usb, 0, None, "Edge TPU USB")

    def _hailo(self, pci: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
        names = {"2864": "Hailo-8", "45c4": "Hailo-10H", "43a2": "Hailo-15L"}
        seen = [device for vendor, device, _, _ in pci if vendor == "1e60" and device in names]
        nodes = self._nodes(r"/dev/hailo\d+")
        driver = self._module("hailo_pci", "hailo1x_pci", "hailo")
        return self._list("hailo", nodes, len(seen), driver, names[seen[0]] if seen else None)

    def _intel(self, pci: Sequence[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
        npus = ("7d1d", "ad1d", "643e", "b03e", "fd3e")
        found: list[dict[str, Any]] = []
        for vendor, device, kind, driver in pci:
            if vendor != "8086" or not (kind.startswith("03") or device in npus):
                continue
            npu = device in npus
            nodes = self._nodes(r"/dev/accel/accel\d+" if npu else r"/dev/dri/renderD\d+")
            version = self._module(driver) if driver else None
            name = "%s 8086:%s" % ("NPU" if npu else "GPU", device)
            found += self._list("intel", nodes[:1], 1, version or driver or None, name)
        return found


def cdi_names(paths: Paths) -> list[str]:
    """Return the CDI devices that a container runtime finds on this device."""
    found = set()
    for document in _cdi_documents(paths):
        devices = document.get("devices")
        for device in devices if isinstance(devices, list) else ():
            if isinstance(device, dict):
                found.add("%s=%s" % (document.get("kind"), device.get("name")))
    for folder in map(paths.at, ("/etc/cdi", "/var/run/cdi")):
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
            if name.endswith((".yaml", ".yml")):
                text = read_text(os.path.join(folder, name)) or ""
                kind = re.search(r"^kind:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
                # As the vendors' tools write them: "name" is a key of devices alone.
                names = re.findall(r"^\s*(?:- )?name:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
                found.update("%s=%s" % (kind.group(1), each) for each in names if kind)
    return sorted(found)


def memory(paths: Paths) -> dict[str, int]:
    """Return the bytes of /proc/meminfo by name."""
    text = read_text(paths.at("proc/meminfo")) or ""
    return {name: int(value) << 10 for name, value in re.findall(r"(\w+):\s+(\d+) kB", text)}


def timezone(paths: Paths) -> str | None:
    """Return the IANA name of this device's time zone."""
    with contextlib.suppress(OSError):
        _, found, name = os.readlink(paths.at("etc/localtime")).rpartition("zoneinfo/")
        if found:
            return name
    return read_text(paths.at("etc/timezone")) or None


def inspect(host: Host, given: Any) -> dict[str, Any]:
    """Say what this device is and where a model stands on it."""
    request = Request(given, ("model",))
    name = request.text("model", MODEL, None)
    version, folder = host.runtime.info()
    figures = memory(host.paths)
    extra = [host.config.hardware_root] if host.config.hardware_root else []
    hardware = Hardware(host.paths, [host.paths.root, *map(host.paths.at, extra)])
    return {
        "program": VERSION,
        "hostname": platform.node(),
        "arch": architecture(),
        "memory": figures.get("MemTotal", 0),
        "memory_available": figures.get("MemAvailable"),
        "disk_free": free_bytes(folder or host.paths.state),
        "boot_id": host.clock.boot(),
        "uptime": round(host.clock.now(), 3),
        "runtime": {"name": host.runtime.name, "version": version, "ready": version is not None},
        "accelerators": hardware.accelerators(),
        "cdi": cdi_names(host.paths),
        "timezone": timezone(host.paths),
        "switch_modes": switch_modes(host),
        "images": held_images(host),
        "model": _inspect_model(Model(host, name)) if name else None,
    }


def held_images(host: Host) -> list[str]:
    """Return the images that the releases kept here need, those of all models."""
    stores = [Store(host.paths.state, name) for name in host.models()]
    images = [store.image_of(release) for store in stores for release in store.ids()]
    return sorted({image for image in images if image is not None})


def _inspect_model(model: Model) -> dict[str, Any]:
    store = model.store
    if os.path.isdir(store.folder):
        _mend_if_free(model)
    state, current = store.load(), store.link("current")
    unconfirmed = state.phase != "idle"
    armed = unconfirmed and model.systemd.is_active(model.timer)
    running = None
    if current is not None:
        digest = version = None
        with contextlib.suppress(Failure):
            spec = store.spec(current)
            digest, version = spec["digest"], spec["version"]
        serving = model.not_ready(current) is None
        running = {"id": current, "version": version, "digest": digest, "serving": serving}
    return {
        "name": model.name,
        "current": running,
        "previous": store.link("previous"),
        "last_good": store.link("last_good"),
        "generation": state.generation,
        "rollout": state.rollout,
        "phase": state.phase,
        "guard": {
            "armed": armed,
            "remaining": round(model.remaining(state), 3) if unconfirmed else None,
        },
        "lock": model.application.held(),
        "releases": store.ids(),
        "last_outcome": state.last_outcome,
    }


def _mend_if_free(model: Model) -> None:
    """Finish what a program that died left, and see to it that the guard does the rest; leave it
    alone when somebody is at work."""
    try:
        with model.locked("inspect", 0.0):
            state = model.load_or_mend()
            model.tidy(state)
            if state.phase == "idle":
                model.mend_labels()
            if state.phase in UNCONFIRMED and not model.systemd.is_active(model.timer):
                log("%s: the guard was not running" % model.name)
                model.guard_on()
        with model.stage_locked("inspect", 0.0):
            model.clear_leftovers()
    except (Failure, OSError) as failure:
        if getattr(failure, "code", "") != "busy":
            log(str(failure))


# ---------------------------------------------------------------------------------------------
# metrics


class Exposition:
    """Metrics in Prometheus' text format, every family with its help."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, name: str, description: str, value: float, /, **labels: str | None) -> None:
        """Add a sample; labels that are None or empty are left out."""
        lines = self._families.setdefault(
            name,
            ["# HELP %s %s" % (name, description), "# TYPE %s %s" % (name, self._type(name))],
        )
        shown = ",".join('%s="%s"' % (k, self._escape(v)) for k, v in labels.items() if v)
        lines.append("%s%s %s" % (name, "{%s}" % shown if shown else "", repr(float(value))))

    def text(self) -> str:
        """Return everything."""
        return "".join(line + "\n" for lines in self._families.values() for line in lines)

    @staticmethod
    def _type(name: str) -> str:
        return "counter" if name.endswith("_total") else "gauge"

    @staticmethod
    def _escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def metrics(host: Host, target: str | None, certificates: Sequence[str]) -> None:
    """Write what this device knows of itself, for Prometheus; changes nothing and takes no lock.

    :param target: file that is replaced at once; standard output if None.
    :param certificates: patterns of files whose certificates are looked at.
    """
    found = Exposition()
    _device_metrics(host, found)
    for name in host.models():
        _model_metrics(Model(host, name), found)
    for path in sorted({path for pattern in certificates for path in glob.glob(pattern)}):
        _certificate_metrics(path, found)
    if target is None:
        sys.stdout.write(found.text())
        return
    # Readers look for *.prom only, and at any time. Nothing is lost with the power: the next one
    # is written soon.
    temporary = target + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(found.text())
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)


def _device_metrics(host: Host, found: Exposition) -> None:
    version, _ = host.runtime.info()
    found.add(
        "muster_device_info",
        "Version of muster-device, and what runs the models.",
        1,
        program=VERSION,
        arch=architecture(),
        runtime=host.runtime.name,
        runtime_version=version,
    )
    found.add("muster_runtime_ready", "1 if the runtime answers.", float(version is not None))
    damaged = float(host.damaged_config is not None)
    found.add("muster_config_damaged", "1 if this device must be provisioned again.", damaged)
    extra = [host.config.hardware_root] if host.config.hardware_root else []
    hardware = Hardware(host.paths, [host.paths.root, *map(host.paths.at, extra)])
    accelerators = hardware.accelerators()
    found.add("muster_accelerators", "Number of accelerators.", len(accelerators))
    for number, each in enumerate(accelerators):
        labels = {name: each.get(name) for name in ("kind", "device", "driver", "model")}
        description = "What an accelerator is; without device or driver where it has none."
        found.add("muster_accelerator_info", description, 1, index=str(number), **labels)


def _model_metrics(model: Model, found: Exposition) -> None:
    name, store = model.name, model.store

    def add(metric: str, description: str, value: float, **labels: str | None) -> None:
        found.add("muster_" + metric, description, value, model=name, **labels)

    try:
        state, damaged = store.load(), 0
    except (Failure, OSError):
        state, damaged = store.fenced(), 1
    add("state_damaged", "1 if the state of the model on disk can't be read.", damaged)
    current, ready = store.link("current"), False
    if current is not None:
        digest = version = None
        with contextlib.suppress(Failure, KeyError):
            spec = store.spec(current)
            digest, version = spec["digest"], spec["version"]
            ready = model.not_ready(current) is None
        labels = {"release": current, "version": version, "digest": digest}
        add("release_info", "The release that the device runs.", 1, **labels)
    add("model_ready", "1 if the model says that it is ready.", float(ready))
    last_good = store.link("last_good")
    if last_good is not None:
        add("last_good_info", "What the device goes back to.", 1, release=last_good)
    add("releases", "Releases that are kept on the device.", len(store.ids()))
    add("generation", "Number of the last attempt to switch.", state.generation)
    restarts = model.systemd.restarts(model.unit)
    add("model_restarts_total", "Restarts of the model by systemd.", restarts)
    unfinished = state.phase != "idle"
    add("switch_unfinished", "1 while a switch is not confirmed.", float(unfinished))
    since = model.systemd.active_seconds(model.timer) if state.phase in UNCONFIRMED else None
    add("guard_armed", "1 while the guard may take the switch back.", float(since is not None))
    if since is not None:
        at = round(time.time() - since, 3)
        add("guard_armed_since_timestamp_seconds", "When the guard was armed.", at)
        left = round(model.remaining(state), 3)
        add("guard_remaining_seconds", "Seconds until the guard takes the switch back.", left)
    last = state.last_outcome or {}
    outcome = str(last.get("outcome") or "none")
    release = last.get("release")
    labels = {"outcome": outcome, "release": release if isinstance(release, str) else None}
    add("last_outcome_info", "How the last switch ended.", 1, **labels)
    went_back = float(outcome in ("reverted", "revert_failed"))
    add("reverted", "1 if the last switch was taken back: somebody should look why.", went_back)
    failed = float(outcome == "revert_failed")
    add("revert_failed", "1 if the device could not go back to its last good release.", failed)


def _certificate_metrics(path: str, found: Exposition) -> None:
    """Tell when the first of a file's certificates ends."""
    text = read_text(path) or ""
    ends = []
    for part in re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.S):
        done = execute(["openssl", "x509", "-noout", "-enddate"], 10.0, part + "\n")
        match = re.search(r"notAfter=(\w{3}) +(\d+) (\d+):(\d+):(\d+) (\d{4}) GMT", done.out)
        if done.status == 0 and match:
            month, *rest = match.groups()
            day, hour, minute, second, year = map(int, rest)
            number = "JanFebMarAprMayJunJulAugSepOctNovDec".index(month) // 3 + 1
            ends.append(calendar.timegm((year, number, day, hour, minute, second)))
    unreadable = float(not ends)
    found.add(
        "muster_certificate_unreadable", "1 if a file holds no certificate.", unreadable, path=path
    )
    if ends:
        description = "When a certificate on the device ends."
        name = "muster_certificate_not_after_timestamp_seconds"
        found.add(name, description, min(ends), path=path)


# ---------------------------------------------------------------------------------------------
# The command


COMMANDS: dict[str, Callable[[Host, Any], dict[str, Any]]] = {
    "inspect": inspect,
    "stage": stage,
    "switch": switch,
    "probe": probe,
    "confirm": confirm,
    "revert": revert,
    "prune": prune,
}


def answer_of(work: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """Do some work and put its result, or its failure, into the form of an answer."""
    try:
        result = work()
        return None if result is None else {"ok": True, **result}
    except Failure as failure:
        code, message, detail = failure.code, failure.message, failure.detail
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code, message, detail = "no_space" if full else "internal", str(error), {}
    except Exception as error:  # an answer of some kind must come back
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        line = place.tb_lineno if place is not None else 0
        message = "%s: %s (line %d of %s)" % (type(error).__name__, error, line, __file__)
        code, detail = "internal", {}
    return {"ok": False, "error": {"code": code, "message": message, "detail": detail}}


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="muster-device", description="Switches the releases of models on this device."
    )
    parser.add_argument("--version", action="version", version=VERSION)
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")
    for name, command in COMMANDS.items():
        subcommands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
    measured = subcommands.add_parser("metrics", help="write metrics for Prometheus")
    measured.add_argument("--write", metavar="FILE", help="instead of standard output")
    measured.add_argument("--certificate", metavar="PATTERN", action="append", default=[])
    subcommands.add_parser("boot", help="finish or undo what was under way, start the models")
    for name in ("guard", "run", "halt"):
        unit = subcommands.add_parser(name, help="for the systemd units")
        unit.add_argument("--model", required=True)
    return parser.parse_args(argv)


def _check_instance(arguments: argparse.Namespace) -> None:
    pattern = MODEL if arguments.command == "guard" else INSTANCE
    if not pattern.fullmatch(arguments.model):
        raise Failure("bad_input", "--model: expected a name like %s" % pattern.pattern)


def dispatch(arguments: argparse.Namespace, host: Host, given: bytes) -> dict[str, Any] | None:
    """Carry a subcommand out."""
    command = arguments.command
    if command in COMMANDS:
        try:
            document = json.loads(given)
        except ValueError as error:
            message = "stdin is not a JSON document: %s" % error
            raise Failure("bad_input", message) from None
        return COMMANDS[command](host, document)
    if command == "boot":
        return boot(host)
    if command == "metrics":
        metrics(host, arguments.write, arguments.certificate)
        return None
    _check_instance(arguments)
    if command == "guard":
        return guard(host, arguments.model)
    halt(host, arguments.model)
    return None


def main(argv: Sequence[str]) -> int:
    """Run the program; returns its exit status."""
    arguments = parse_arguments(argv)
    os.umask(0o077)
    # A lost connection must not stop a switch halfway; the guard is there if it does not end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if arguments.command in ("switch", "confirm", "revert", "prune"):
        # A group of its own: when the guard kills us, the commands that we run die with us.
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)

    def work() -> dict[str, Any] | None:
        if os.geteuid() != 0 and "MUSTER_ROOT" not in os.environ:
            raise Failure("bad_input", "must run as root: use sudo")
        given = sys.stdin.buffer.read() if arguments.command in COMMANDS else b""
        host = Host()
        if arguments.command == "run":
            _check_instance(arguments)
            sys.exit(run(host, arguments.model))
        return dispatch(arguments, host, given)

    answer = answer_of(work)
    if answer is None:
        return 0
    with contextlib.suppress(OSError):
        print(json.dumps(answer, separators=(",", ":")), flush=True)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
