"""Stand-ins for what the device program finds on a device.

Everything that a device would remember lies in files below one folder, so that a child process can
be killed at any point and the next one goes on with what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from programs import load_program

from muster.paths import COLLECTION_ROOT

PROGRAM = COLLECTION_ROOT / "files" / "muster_device.py"
MODEL = "digits"
REGISTRY = "registry:5000"
UNIT, TIMER = f"muster-model@{MODEL}.service", f"muster-guard@{MODEL}.timer"
PROXY_UNIT = f"muster-proxy@{MODEL}.service"


device: Any = load_program("muster_device")


EMPTY_WORLD: dict[str, Any] = {
    "registry": [],  # images that can be pulled
    "images": [],  # images that are here
    "containers": {},  # name: {"release", "model", "slot", "spec", "running", "broken"}
    "active": [],
    "enabled": ["muster-boot.service"],
    "restarts": 0,
    "sick": [],  # releases that run and never get ready
    "crashing": [],  # releases that do not stay up
    "unstoppable": [],  # releases that ignore being stopped
    "refused_units": [],
    "runtime_down": False,
    "pull_error": None,
    "started": [],  # every container start, in order
    "proxy": None,  # the slot that the running HAProxy sends requests to
    "proxy_problem": "",  # why HAProxy can't be used at all
    "open": {},  # slot: requests that it is at work on
    "cut_off": 0,  # requests whose release was stopped
}


class World:
    """What systemd and the container runtime of a device hold, kept in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            self.write(EMPTY_WORLD)

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    def write(self, content: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.rename(self.path)

    @contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        content = self.read()
        yield content
        self.write(content)

    def running(self) -> list[str]:
        """Releases whose container runs."""
        containers = self.read()["containers"].values()
        return [container["release"] for container in containers if container["running"]]

    def serving(self, slot: str = "") -> str | None:
        """Release that answers in a slot, or at the endpoint's port; ready or not."""
        content = self.read()
        slot = slot or content["proxy"] or ""
        running = (c for c in content["containers"].values() if c["running"])
        return next((c["release"] for c in running if c["slot"] == slot), None)

    def power_cut(self) -> None:
        with self.change() as content:
            content["active"], content["proxy"] = [], None
            for container in content["containers"].values():
                container["running"] = False


class StandInRuntime(device.Runtime):
    name = "docker"

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder

    def _content(self) -> dict[str, Any]:
        content = self.world.read()
        if content["runtime_down"]:
            raise device.Failure("runtime_unavailable", "docker does not answer")
        return content

    def info(self) -> tuple[str | None, str | None]:
        if self.world.read()["runtime_down"]:
            return None, None
        return "20.10.24", str(self.folder)

    def image_present(self, image: str) -> bool:
        return image in self._content()["images"]

    def pull(self, image: str, seconds: float) -> None:
        content = self._content()
        if content["pull_error"]:
            raise device.Failure(content["pull_error"], "said the registry")
        if image not in content["registry"]:
            raise device.Failure("pull_failed", "manifest unknown")
        with self.world.change() as content:
            content["images"].append(image)

    def remove_image(self, image: str) -> None:
        self._content()
        with self.world.change() as content:
            content["images"] = [kept for kept in content["images"] if kept != image]

    def containers(self, model: str) -> list[Any]:
        return [
            device.Container(
                name, container["release"], container["running"], slot=container["slot"]
            )
            for name, container in self._content()["containers"].items()
            if container["model"] == model
        ]

    def inspect(self, name: str) -> Any:
        found = self._content()["containers"].get(name)
        if found is None:
            return None
        return device.Container(
            name,
            found["release"],
            found["running"],
            found["spec"],
            found["broken"],
            found["slot"],
        )

    def create(self, name: str, labels: dict[str, str], spec: dict[str, Any]) -> None:
        if spec["image"] not in self._content()["images"]:
            raise device.Failure("runtime_unavailable", f"no image {spec['image']}")
        with self.world.change() as content:
            assert name not in content["containers"]
            content["containers"][name] = {
                "release": labels["muster.release"],
                "model": labels["muster.model"],
                "slot": labels["muster.slot"],
                "spec": labels["muster.spec"],
                "running": False,
                "broken": "",
            }

    def attach_command(self, name: str) -> list[str]:
        return ["attach", name]

    def stop(self, name: str, grace: int) -> None:
        if self._content()["containers"][name]["release"] in self._content()["unstoppable"]:
            raise device.Failure("runtime_unavailable", "docker stop did not finish")
        self.kill(name)

    def kill(self, name: str) -> None:
        with self.world.change() as content:
            container = content["containers"][name]
            container["running"] = False
            content["cut_off"] += content["open"].pop(container["slot"], 0)

    def remove(self, name: str) -> None:
        with self.world.change() as content:
            content["containers"].pop(name, None)


class StandInSystemd(device.Systemd):
    """Carries out the units of ``files/systemd`` when they are started and stopped."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host: Any = None

    def start(self, unit: str) -> None:
        content = self.world.read()
        if unit in content["refused_units"]:
            raise device.Failure("internal", f"systemctl start {unit}: refused")
        if unit in content["active"]:
            return
        if unit.startswith("muster-model@"):
            self._run(unit[len("muster-model@") : -len(".service")])
        if unit == PROXY_UNIT:
            self._start_proxy()
        with self.world.change() as content:
            content["active"].append(unit)

    def _start_proxy(self) -> None:
        proxy = self.host.proxy(MODEL)
        for path in (proxy.config, Path(proxy.socket).parent):
            if not Path(path).exists():
                raise device.Failure("internal", f"haproxy: {path}: no such file")
        if self.world.serving():
            raise device.Failure("internal", "haproxy: the port is taken")
        with self.world.change() as content:
            content["proxy"] = Path(proxy.map).read_text().split()[1]

    def _run(self, instance: str) -> None:
        try:
            command = device.prepare_run(self.host, instance)
        except device.Failure:
            return  # Restart=always would try again
        if command is None:
            return
        with self.world.change() as content:
            container = content["containers"][command[1]]
            content["started"].append(container["release"])
            taken = content["proxy"] is not None and not container["slot"]
            container["broken"] = "port is already allocated" if taken else ""
            container["running"] = container["release"] not in content["crashing"] and not taken
            content["restarts"] = 0 if container["running"] else 5

    def stop(self, unit: str) -> None:
        with self.world.change() as content:
            content["active"] = [kept for kept in content["active"] if kept != unit]
            if unit == PROXY_UNIT:
                content["proxy"] = None
        if unit.startswith("muster-model@"):
            with suppress(device.Failure):  # systemd gives up waiting for ExecStop
                device.halt(self.host, unit[len("muster-model@") : -len(".service")])

    def reload(self, unit: str) -> None:
        self.stop(unit)
        self.start(unit)

    def kill(self, unit: str) -> None:
        pass

    def is_active(self, unit: str) -> bool:
        return unit in self.world.read()["active"]

    def is_enabled(self, unit: str) -> bool:
        return unit in self.world.read()["enabled"]

    def restarts(self, unit: str) -> int:
        return int(self.world.read()["restarts"])


class StandInProxy(device.Proxy):
    """HAProxy without HAProxy: the world knows which slot it sends requests to."""

    def __init__(self, paths: Any, systemd: Any, model: str, world: World, server: Any) -> None:
        super().__init__(paths, systemd, model)
        self.world, self.server = world, server

    def place(self, slot: str) -> tuple[str, int]:
        return "127.0.0.1", self.server.ports[slot]

    def check(self, configuration: str) -> Any:
        problem = self.world.read()["proxy_problem"]
        return device.Finished(1 if problem else 0, "", problem)

    def ask(self, command: str) -> str:
        content = self.world.read()
        if content["proxy"] is None:
            raise FileNotFoundError("no socket")
        if command == "show stat":
            rows = [f"{slot},BACKEND,0,0,{n}" for slot, n in content["open"].items()]
            return "\n".join(["# pxname,svname,qcur,qmax,scur", *rows, ""])
        with self.world.change() as content:
            content["proxy"] = command.split()[-1]
        return "\n"


class StandInHost(device.Host):
    def __init__(self, dev: Device) -> None:
        super().__init__(
            dev.paths, dev.clock, StandInSystemd(dev.world), StandInRuntime(dev.world, dev.root)
        )
        self.dev, self.systemd.host = dev, self

    def proxy(self, model: str) -> Any:
        return StandInProxy(self.paths, self.systemd, model, self.dev.world, self.dev.server)


class StandInClock(device.Clock):
    """The boot clock, but nobody waits: to sleep is to set it forward."""

    offset = 0.0

    def now(self) -> float:
        return float(super().now() + self.offset)

    def sleep(self, seconds: float) -> None:
        self.offset += seconds


class ModelServer:
    """Answers like the model that runs in a world; the release says whether it is ready."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self.servers = {
            slot: ThreadingHTTPServer(("127.0.0.1", 0), Handler) for slot in ("", *device.SLOTS)
        }
        self.ports = {slot: server.server_address[1] for slot, server in self.servers.items()}
        self.port = self.ports[""]
        for server in self.servers.values():
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        slots = {port: slot for slot, port in self.ports.items()}
        slot = slots[request.connection.getsockname()[1]]
        serving = self.world.serving(slot) if self.world else None
        sick = self.world.read()["sick"] if self.world else []
        status, answer = 503, b"not ready"
        if request.path == "/echo":
            status, answer = 200, body
        elif request.path == "/large":
            status, answer = 200, b"x" * 200_000
        elif request.path == "/headers":
            status, answer = 200, str(request.headers).encode()
        elif serving and serving not in sick:
            status, answer = 200, serving.encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def close(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()


class Release:
    """A release as the controller sends it."""

    def __init__(self, version: str, port: int, **variant: Any) -> None:
        self.image = f"models/digits@sha256:{hashlib.sha256(version.encode()).hexdigest()}"
        self.body: dict[str, Any] = {
            "apiVersion": "muster/v1",
            "kind": "Release",
            "model": MODEL,
            "version": version,
            "endpoint": {"port": port, "container_port": 8080, "ready_path": "/v2/health/ready"},
            "variants": {
                "hw_coral": {"image": self.image, "env": {}, "devices": [], "requires": {}}
                | variant
            },
            "gates": [{"name": "ready", "type": "readiness"}],
        }

    @property
    def text(self) -> str:
        return json.dumps(self.body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def id(self) -> str:
        return f"{self.body['version']}-{self.digest[:12]}"


class Device:
    """A device below a folder, and the controller's words to it."""

    def __init__(
        self,
        root: Path,
        server: ModelServer,
        template: Path | None = None,
        proxy: bool = False,
        mode: str = "recreate",
    ) -> None:
        self.root, self.server, self.mode = root, server, mode
        self.state = root / "var/lib/muster" / MODEL
        self.boots = 0
        if template is not None:
            shutil.copytree(template, root, symlinks=True)
            for path in self.state.glob("proxy/haproxy.cfg"):
                path.write_text(path.read_text().replace(str(template), str(root)))
        else:
            for folder in ("etc/muster", "var/lib/muster", "proc/sys/kernel/random", "proc/1"):
                (root / folder).mkdir(parents=True)
            self.provision(proxy)
            self.reboot()
        self.world = server.world = World(root / "world.json")
        self.paths = device.Paths(str(root))
        self.clock = StandInClock(self.paths)

    def provision(self, proxy: bool) -> None:
        """What the role muster_device does."""
        self.configure(runtime="docker", registry=REGISTRY, proxy=proxy)

    def configure(self, **config: Any) -> None:
        (self.root / "etc/muster/device.json").write_text(json.dumps(config))

    def reboot(self) -> None:
        """Another boot; call :meth:`power_cut` for one that loses what ran."""
        self.boots += 1
        name = f"{self.root.name}-{self.boots}"
        (self.root / "proc/sys/kernel/random/boot_id").write_text(name)
        (self.root / "proc/1/stat").write_text(f"1 (systemd) S {' '.join(map(str, range(60)))}")

    def power_cut(self) -> None:
        self.world.power_cut()
        shutil.rmtree(self.root / "run", ignore_errors=True)
        self.reboot()

    @property
    def host(self) -> Any:
        return StandInHost(self)

    def call(self, command: str, **document: Any) -> dict[str, Any]:
        """Answer of a subcommand."""
        return device.answer_of(
            lambda: device.COMMANDS[command](self.host, {"model": MODEL} | document)
        )

    def ok(self, command: str, **document: Any) -> dict[str, Any]:
        answer = self.call(command, **document)
        assert answer["ok"], answer
        return answer

    def fails(self, command: str, **document: Any) -> dict[str, Any]:
        answer = self.call(command, **document)
        assert not answer["ok"], answer
        return answer["error"]

    def guard(self) -> dict[str, Any] | None:
        return device.answer_of(lambda: device.guard(self.host, MODEL))

    def boot(self) -> dict[str, Any]:
        """What muster-boot.service does."""
        return device.answer_of(lambda: device.boot(self.host))

    # What a controller asks for

    def release(self, version: str, **variant: Any) -> Release:
        """A release whose image the registry has."""
        release = Release(version, self.server.port, **variant)
        with self.world.change() as content:
            image = f"{REGISTRY}/{release.image}"
            if image not in content["registry"]:
                content["registry"].append(image)
        return release

    def stage_document(self, release: Release, **other: Any) -> dict[str, Any]:
        return {
            "release_id": release.id,
            "digest": release.digest,
            "document": release.text,
            "signature": None,
            "variant": "hw_coral",
            "registry": None,
            "pull_deadline": 60,
        } | other

    def stage(self, release: Release, **other: Any) -> dict[str, Any]:
        return self.ok("stage", **self.stage_document(release, **other))

    def switch_document(self, release: Release, generation: int, **other: Any) -> dict[str, Any]:
        return {
            "release_id": release.id,
            "generation": generation,
            "rollout": f"r{generation}",
            "mode": self.mode,
            "healthy_deadline": 5,
            "confirm_timeout": 60,
        } | other

    def switch(self, release: Release, generation: int, **other: Any) -> dict[str, Any]:
        return self.ok("switch", **self.switch_document(release, generation, **other))

    def confirm(self, generation: int, **other: Any) -> dict[str, Any]:
        document = {"generation": generation, "rollout": f"r{generation}", "retain": 3} | other
        return self.ok("confirm", **document)

    def revert(self, generation: int | None = None, **other: Any) -> dict[str, Any]:
        rollout = None if generation is None else f"r{generation}"
        document = {"generation": generation, "rollout": rollout, "to": None} | other
        return self.ok("revert", reason="gate failed", healthy_deadline=5, **document)

    def roll_out(self, release: Release, generation: int) -> None:
        """Stage, switch and confirm."""
        self.stage(release)
        assert self.switch(release, generation)["ready"]
        self.confirm(generation)

    # What is there afterwards

    def link(self, name: str) -> str | None:
        path = self.state / name
        if not path.is_symlink():
            return None
        target = path.readlink()
        assert path.is_dir(), f"{name} dangles: {target}"
        assert target.parent.name == "releases"
        return target.name

    def links(self) -> dict[str, str | None]:
        return {name: self.link(name) for name in ("current", "previous", "last_good")}

    def answer(self) -> str | None:
        """Release that answers at the endpoint's port."""
        sample = device.http_request(self.clock, self.server.port, "/v2/health/ready")
        return sample["body"] if sample["status"] == 200 else None

    def model(self) -> dict[str, Any]:
        """What ``inspect`` says about the model."""
        return self.ok("inspect")["model"]

    def snapshot(self) -> dict[str, Any]:
        """Everything that a repetition must not change."""
        files = {
            str(path.relative_to(self.state)): path.read_text()
            for path in sorted(self.state.rglob("*"))
            if path.is_file() and not path.name.endswith("lock")
        }
        world = self.world.read()
        return {"files": files, "links": self.links(), "world": world}

    def assert_rests_on(self, release: Release | None) -> None:
        """Nothing is under way, and ``release`` alone runs and is the last good one."""
        expected = None if release is None else release.id
        model = self.model()
        assert model["phase"] == "idle", model
        assert not model["guard"]["armed"]
        assert self.link("current") == expected
        assert self.link("last_good") == expected
        assert self.world.running() == ([] if expected is None else [expected])
        assert self.answer() == expected
        assert self.guard() is None  # one that was not stopped any more stops itself
        assert TIMER not in self.world.read()["active"]
        assert not list((self.state / "releases").glob(".*"))


def seen_checkpoints(action: Callable[[], Any]) -> list[str]:
    """Run an action to its end; return the names of the checkpoints that it passed."""
    seen: list[str] = []
    original = device.checkpoint
    device.checkpoint = seen.append
    try:
        action()
    finally:
        device.checkpoint = original
    return seen


def in_child(action: Callable[[], Any], at_checkpoint: Callable[[str], None]) -> int:
    """Run an action in a child process; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            device.checkpoint = at_checkpoint
            action()
        finally:
            os._exit(0)
    return pid


def killed_at(number: int, action: Callable[[], Any]) -> bool:
    """Run an action in a child process that is killed at its n-th checkpoint (from 1).

    :returns: False when the action ended before.
    """
    passed = 0

    def die(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _, status = os.waitpid(in_child(action, die), 0)
    return os.WIFSIGNALED(status)
