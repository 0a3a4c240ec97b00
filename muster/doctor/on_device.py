"""Measures how a device is. Its text is sent to the device and run there; nothing is changed.

Standard library only, Python 3.8 or newer; ``program`` is the device program as a module. Here is
measured, the controller judges.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import socket
import ssl
import time
import urllib.parse
from typing import Any, Callable, Iterator

SECONDS = 8.0  # of one question, such as one to the registry
NODE_SECONDS = 45.0  # of one to a cluster, which may be waited for
_UNITS = (
    "muster-boot.service",
    "muster-guard@.timer",
    "muster-guard@.service",
    "muster-model@.service",
)
_CERTIFICATES = (
    "/etc/docker/certs.d/*/*",
    "/etc/containers/certs.d/*/*",
    "/etc/containerd/certs.d/*/*",
    "/etc/muster/**/*",
    "/etc/mosquitto/*/*",
    "/etc/prometheus/tls/*",
    "/etc/registry/*",
    "/etc/chrony/*.pem",
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
_LIBRARIES = {
    "nvidia": r"/usr/lib/*/libnvidia-ml.so.[0-9]*.[0-9]*",
    "hailo": r"/usr/lib/*/libhailort.so.[0-9]*.[0-9]*",
    "coral": r"/usr/lib/*/libedgetpu.so.[0-9]*",
}


def describe(program: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured; a part that can't be measured says why, under ``error``.

    :param given: ``registry`` as the inventory says, and ``hardware_root``.
    """
    began = time.time()
    paths = program.Paths(os.environ.get("MUSTER_ROOT", "/"))
    parts: dict[str, Callable[[], Any]] = {
        "disks": lambda: list(disks(paths)),
        "memory": lambda: memory(program, paths),
        "clock": lambda: clock(program),
        "runtime": lambda: runtime(program),
        "k3s": lambda: k3s(program, paths),
        "accelerators": lambda: accelerators(program, paths, given.get("hardware_root")),
        "cdi": lambda: list(container_devices(paths)),
        "libraries": lambda: libraries(program, paths),
        "registry": lambda: registry(paths, given.get("registry")),
        "certificates": lambda: list(certificates(paths)),
        "units": lambda: units(program),
        "program": lambda: device_program(program, paths),
        "models": lambda: list(models(program)),
        "restart_required": lambda: os.path.exists(paths.at("/run/reboot-required")),
    }
    found: dict[str, Any] = {
        "began": began,
        "uid": os.geteuid(),
        "python": platform.python_version(),
    }
    for name, measure in parts.items():
        try:
            found[name] = measure()
        except Exception as error:  # the other parts still tell something
            found[name] = {"error": "%s: %s" % (type(error).__name__, error)}
    found["ended"] = time.time()
    return found


def disks(paths: Any) -> Iterator[dict[str, Any]]:
    """Each file system that matters once, under the first of its paths."""
    seen = set()
    for path in (
        "/", "/var/lib/muster", "/var/lib/docker", "/var/lib/containers", "/var/lib/containerd",
        "/var/lib/rancher", "/var/log", "/boot", "/boot/firmware", "/tmp",  # noqa: S108
    ):  # fmt: skip
        place = paths.at(path)
        with contextlib.suppress(OSError):
            device, figures = os.stat(place).st_dev, os.statvfs(place)
            if device in seen or not figures.f_blocks:
                continue
            seen.add(device)
            yield {
                "path": path,
                "size": figures.f_blocks * figures.f_frsize,
                "free": figures.f_bavail * figures.f_frsize,
                "files": figures.f_files,
                "files_free": figures.f_favail,
                "read_only": bool(figures.f_flag & os.ST_RDONLY),
            }


def memory(program: Any, paths: Any) -> dict[str, Any]:
    """Bytes of memory, all of it and what is available."""
    figures = program.memory(paths)
    return {"total": figures.get("MemTotal"), "available": figures.get("MemAvailable")}


def clock(program: Any) -> dict[str, Any]:
    """Whether something keeps the clock right; None where nothing tells."""
    done = program.execute(
        ["timedatectl", "show", "--property=NTPSynchronized", "--value"], SECONDS
    )
    services = ("chrony.service", "chronyd.service", "systemd-timesyncd.service", "ntpsec.service")
    running = [
        name
        for name in services
        if program.execute(["systemctl", "is-active", "--quiet", name], SECONDS).status == 0
    ]
    return {
        "synchronized": {"yes": True, "no": False}.get(done.out),
        "service": running[0] if running else None,
    }


def runtime(program: Any) -> dict[str, Any]:
    """Whether the container runtime answers."""
    host = program.Host()
    version, _folder = host.runtime.info()
    units = {"docker": "docker.service", "containerd": "containerd.service"}
    if os.path.exists(host.paths.at("/etc/systemd/system/k3s-agent.service")):
        units["k3s"] = "k3s-agent.service"
    else:
        units["k3s"] = "k3s.service"
    unit = units.get(host.runtime.name)
    state = program.execute(["systemctl", "is-active", unit], SECONDS).out if unit else None
    return {"name": host.runtime.name, "version": version, "unit": unit, "state": state}


def k3s(program: Any, paths: Any) -> dict[str, Any] | None:
    """What this device is as a node of K3s; None where nothing of it is there."""
    path = paths.at("/usr/local/sbin/muster-k3s")
    if not os.path.exists(path):
        return None
    done = program.execute([path, "inspect"], NODE_SECONDS, '{"certificates": true}')
    answer = json.loads(done.out or "{}")
    if not answer.get("ok"):
        return {"error": str((answer.get("error") or {}).get("message") or done.err)}
    return dict(answer)


def accelerators(program: Any, paths: Any, root: str | None) -> list[dict[str, Any]]:
    """What detection finds."""
    roots = [paths.root] + ([paths.at(root)] if root else [])
    return list(program.Hardware(paths, roots).accelerators())


def container_devices(paths: Any) -> Iterator[dict[str, Any]]:
    """The CDI files, and the device nodes in them that are not there."""
    for folder in _CDI_FOLDERS:
        for path in sorted(glob.glob(paths.at(folder) + "/*")):
            if not path.endswith((".json", ".yaml", ".yml")):
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(1 << 20)
            kind = re.search(r'"?kind"?\s*:\s*"?([\w./-]+)', text)
            damaged, nodes = kind is None, []
            try:
                nodes = _nodes(path, text)
            except ValueError:
                damaged = True
            yield {
                "file": path,
                "kind": kind.group(1) if kind else None,
                "missing": sorted({node for node in nodes if not os.path.exists(paths.at(node))}),
                "damaged": damaged,
            }


def _nodes(path: str, text: str) -> list[str]:
    """The device nodes outside of containers that a CDI file names."""
    if path.endswith(".json"):
        found: list[str] = []

        def visit(value: Any) -> None:
            if isinstance(value, dict):
                for node in value.get("deviceNodes") or ():
                    found.append(str(node.get("hostPath") or node.get("path")))
                for each in value.values():
                    visit(each)
            elif isinstance(value, list):
                for each in value:
                    visit(each)

        visit(json.loads(text))
        return found
    # There is no parser for YAML here. Where a node has another name outside, its own is not ours.
    outside = re.findall(r"hostPath:\s*[\"']?(/dev/[\w./-]+)", text)
    return outside or re.findall(r"\bpath:\s*[\"']?(/dev/[\w./-]+)", text)


def libraries(program: Any, paths: Any) -> dict[str, str]:
    """Versions of the vendors' libraries, by the kind of accelerator."""
    found = {}
    for kind, pattern in _LIBRARIES.items():
        versions = [re.sub(r"^.*\.so\.", "", path) for path in glob.glob(paths.at(pattern))]
        if versions:
            found[kind] = max(versions, key=len)
    toolkit = program.execute(["nvidia-ctk", "--version"], SECONDS)
    match = re.search(r"version (\d[\w.-]*)", toolkit.out)
    if toolkit.status == 0 and match:
        found["nvidia-container-toolkit"] = match.group(1)
    return found


def registry(paths: Any, address: str | None) -> dict[str, Any] | None:
    """Ask the registry as the runtime would; its certificate is told even if it is a wrong one."""
    if not address:
        return None
    parts = urllib.parse.urlsplit("//" + address)
    host, port = parts.hostname or "", parts.port or 443
    found: dict[str, Any] = {"address": address, "error": None, "status": None}
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        found["error"] = str(error.strerror or error)
        return found
    context, blind = ssl.create_default_context(), ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    folders = ["/etc/%s/certs.d" % name for name in ("docker", "containers", "containerd")]
    for folder in (*folders, "/etc/rancher/k3s/registry"):
        for file in sorted(glob.glob(paths.at("%s/%s/*" % (folder, address)))):
            with contextlib.suppress(OSError, ssl.SSLError):
                if file.endswith(".crt"):
                    context.load_verify_locations(file)
                    found["ca"] = file
                elif file.endswith(".cert"):
                    for each in (context, blind):
                        each.load_cert_chain(file, file[: -len(".cert")] + ".key")
    try:
        with contextlib.closing(_secured(blind, host, port)) as connection:
            shown = connection.getpeercert(binary_form=True) or b""
            found["certificate"] = base64.b64encode(shown).decode()
    except (OSError, ssl.SSLError) as error:
        found["plain"] = "WRONG_VERSION_NUMBER" in str(error)
        found["error"] = str(error)
        return found
    try:
        with contextlib.closing(_secured(context, host, port)) as connection:
            request = "GET /v2/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % address
            connection.sendall(request.encode())
            line = connection.recv(200).split(b"\r\n")[0].decode("ascii", "replace")
            match = re.match(r"HTTP/1\.\d (\d{3})", line)
            found["status"] = int(match.group(1)) if match else None
    except ssl.SSLCertVerificationError as error:
        found["untrusted"] = error.verify_message
    except OSError as error:
        found["error"] = str(error)
    return found


def _secured(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLSocket:
    plain = socket.create_connection((host, port), SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def certificates(paths: Any) -> Iterator[dict[str, str]]:
    """Certificates on this device, never keys."""
    for pattern in _CERTIFICATES:
        for path in sorted(glob.glob(paths.at(pattern), recursive=True))[:50]:
            if not os.path.isfile(path) or os.path.getsize(path) > 1 << 18:
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                for text in _CERTIFICATE.findall(file.read())[:5]:
                    yield {"path": path, "pem": text}


def units(program: Any) -> dict[str, Any]:
    """The units that failed, and how those of Muster are."""

    def systemctl(*arguments: str) -> Any:
        return program.execute(["systemctl", "--no-ask-password", *arguments], SECONDS)

    failed = systemctl("list-units", "--failed", "--plain", "--no-legend", "--quiet")
    return {
        "state": systemctl("is-system-running").out,
        "failed": [line.split()[0] for line in failed.out.splitlines() if line.split()],
        "ours": {name: systemctl("is-enabled", name).out or "not-found" for name in _UNITS},
    }


def device_program(program: Any, paths: Any) -> dict[str, Any]:
    """What is installed of Muster itself."""
    path = paths.at("/usr/local/sbin/muster-device")
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return {"present": False}
    installed = {}
    for unit in sorted(glob.glob(paths.at("/etc/systemd/system/muster-*"))):
        if os.path.isfile(unit):
            with open(unit, "rb") as file:
                installed[os.path.basename(unit)] = hashlib.sha256(file.read()).hexdigest()
    damaged = program.Host().damaged_config
    return {
        "present": True,
        "executable": os.access(path, os.X_OK),
        "sha256": digest,
        "units": installed,
        "configuration": damaged.message if damaged else None,
    }


def models(program: Any) -> Iterator[dict[str, Any]]:
    """What every model is in the middle of. Only read: `inspect` would mend."""
    host = program.Host()
    now = time.time()
    for name in host.models():
        model = program.Model(host, name)
        store = model.store
        try:
            state = store.load()
        except program.Failure as failure:
            yield {"name": name, "damaged": failure.message}
            continue
        unfinished = state.phase != "idle"
        changed = os.stat(os.path.join(store.folder, "state.json")).st_mtime if unfinished else now
        current = store.link("current")
        yield {
            "name": name,
            "phase": state.phase,
            "rollout": state.rollout,
            "generation": state.generation,
            "guard": bool(unfinished and model.systemd.is_active(model.timer)),
            "remaining": model.remaining(state) if unfinished else None,
            "since": max(0.0, now - changed) if unfinished else None,
            "current": current,
            "last_good": store.link("last_good"),
            "not_ready": model.not_ready(current) if current and not unfinished else None,
            "last_outcome": state.last_outcome,
        }
