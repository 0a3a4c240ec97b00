#!/usr/bin/env python3
"""What is done to K3s on a node, and to its cluster on a server. Installed as ``muster-k3s``.

Usage: muster-k3s VERB < request.json > answer.json
       (one JSON document in, one line of JSON out, exit status 0 when it says "ok": true)

Run as root, standard library only, Python 3.8 or newer; needs no other program of Muster. Verbs may
be repeated. ``apply``, ``delete``, ``nodes``, ``drain``, ``uncordon`` and ``delete-node`` work on a
server, with the rights of its administrator; the others are about this node alone.

No secret is told, or handed to another program as an argument.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import zipfile
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

NAMESPACE = "muster"
LABELS = "muster."
CORDONED = "muster.k3s/cordoned"
"""Annotation of a node that was cordoned here, so that one that a person cordoned stays so."""

UNITS = {"server": "k3s.service", "agent": "k3s-agent.service"}
BINARY = "/usr/local/bin/k3s"
LINKS = ("kubectl", "crictl", "ctr")
CONFIG = "/etc/rancher/k3s"
DATA = "/var/lib/rancher/k3s"
DATASTORE = DATA + "/server/db"
SNAPSHOTS = DATASTORE + "/snapshots"
RESET_FLAG = DATASTORE + "/reset-flag"
STOPPED = "/run/muster-k3s.stopped"
"""Says that K3s was stopped on purpose, and is not to be started by who provisions the node."""
RESET_CONFIG = "/run/muster-k3s-reset"
TOKENS_OF_SNAPSHOTS = DATASTORE + "/muster-snapshots.json"
TOKEN = DATA + "/server/token"
AGENT_TOKEN = DATA + "/server/agent-token"
TOKEN_FILE = CONFIG + "/token"
ADMIN = (CONFIG + "/k3s.yaml", DATA + "/server/cred/admin.kubeconfig")
KUBELET = DATA + "/agent/kubelet.kubeconfig"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"

REQUEST_SECONDS = 20  # of one question to the API server
COMMAND_SECONDS = 60.0
SERVICE_SECONDS = 300.0  # a server on an SD card takes its time to start
WORK_SECONDS = 600.0  # a snapshot, a restore
POLL_SECONDS = 2.0
LOGGED = re.compile(r'^time="[^"]*" level=\w+ msg=')
SQLITE = ".sqlite"
RESET_ROUNDS = 20
RESET_PAUSE = 0.2

NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?")
OBJECT = NODE
SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
VERSION = re.compile(r"v\d+\.\d+\.\d+[A-Za-z0-9.+-]{0,40}")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
SECRET = re.compile(r"[!-~]{1,500}")
JOINS = re.compile(r"""^(server|"server"|'server')[ \t]*:.*\n?""", re.MULTILINE)
"""The line of a configuration that says which server is joined."""
OUTCOME = re.compile(
    r"^(\S+/\S+) (created|configured|unchanged|serverside-applied)\b", re.MULTILINE
)
UNREACHABLE = re.compile(
    r"connection refused|was refused|timed? ?out|no route to host|unable to connect|"
    r"etcdserver|service unavailable|EOF",
    re.IGNORECASE,
)


class Failure(Exception):  # noqa: N818 (what the device program calls so)
    """Why a verb could not do what it was asked: a code for programs, a message for people."""

    def __init__(self, code: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.detail = code, message, detail


class Finished(NamedTuple):
    """A command that ended: status (124 timed out, 127 not found), standard output and error."""

    status: int
    out: str
    err: str


def execute(
    argv: Sequence[str],
    timeout: float = COMMAND_SECONDS,
    given: str = "",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end, or kill it after ``timeout`` seconds."""
    try:
        done = subprocess.run(
            argv,
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Finished(124, "", "%s did not finish within %.0f s" % (argv[0], timeout))
    except (FileNotFoundError, PermissionError) as error:
        return Finished(127, "", "%s: %s" % (argv[0], error.strerror))
    return Finished(done.returncode, done.stdout, done.stderr)


def last_line(text: str) -> str:
    """Return the last line of what a command said, short enough for a message.

    Of K3s's own lines it is the message alone, without time and level before it.
    """
    line = (text.strip().splitlines() or ["no message"])[-1].strip()
    return LOGGED.sub("", line)[:500]


def read_text(path: str) -> str:
    """Return a text file, "" if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------------
# Requests


def fields(given: Any, *known: str) -> dict[str, Any]:
    """Return a request that has no unknown fields."""
    if not isinstance(given, dict):
        raise Failure("bad_input", "stdin: expected an object")
    unknown = sorted(set(given) - set(known))
    if unknown:
        text = "%s: unknown field; is this muster-k3s older than the controller?" % unknown[0]
        raise Failure("bad_input", text)
    return given


def text(given: Mapping[str, Any], name: str, pattern: re.Pattern[str], default: Any = None) -> str:
    """Return a text that ``pattern`` matches as a whole; what it was is not repeated."""
    value = given.get(name, default)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Failure("bad_input", "%s: expected text like %s" % (name, pattern.pattern))
    return value


def seconds(given: Mapping[str, Any], name: str, default: float) -> float:
    """Return a duration, at most a day."""
    value = given.get(name, default)
    if type(value) not in (int, float) or not 0 < value <= 86400:
        raise Failure("bad_input", "%s: expected seconds, above 0 and at most a day" % name)
    return float(value)


# ---------------------------------------------------------------------------------------------
# The host


class Host:
    """This node.

    :param root: folder that stands for "/".
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def at(self, path: str) -> str:
        """Return the place of an absolute path below the root."""
        return os.path.join(self.root, path.lstrip("/"))

    def k3s(
        self,
        *arguments: str,
        timeout: float = COMMAND_SECONDS,
        given: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run the program K3s."""
        binary = self.at(BINARY)
        if not os.path.exists(binary):
            raise Failure("no_k3s", "%s is not there: run muster provision" % BINARY)
        return execute([binary, *arguments], timeout, given, environment)

    def kubectl(self, *arguments: str, given: str = "", timeout: float = COMMAND_SECONDS) -> str:
        """Ask the cluster as its administrator; only a server can.

        :raises Failure: ``no_server``, ``api_unreachable`` or ``kubectl_failed``.
        """
        for path in ADMIN:
            if os.path.exists(self.at(path)):
                return self.ask(path, arguments, given, timeout)
        raise Failure("no_server", "this node is no server of a K3s cluster: %s is not there"
                      % ADMIN[0])  # fmt: skip

    def ask(
        self,
        path: str,
        arguments: Sequence[str],
        given: str = "",
        timeout: float = COMMAND_SECONDS,
    ) -> str:
        """Run kubectl with the kubeconfig at ``path``."""
        options = ["--kubeconfig", self.at(path), "--request-timeout=%ds" % REQUEST_SECONDS]
        done = self.k3s("kubectl", *options, *arguments, timeout=timeout, given=given)
        if done.status != 0:
            said = last_line(done.err or done.out)
            code = "api_unreachable" if UNREACHABLE.search(said) else "kubectl_failed"
            raise Failure(code, "kubectl %s: %s" % (arguments[0], said), out=done.out[-2000:])
        return done.out

    def role(self) -> str:
        """Say whether this is a ``server``, an ``agent`` or ``none``."""
        found = [
            role
            for role, unit in UNITS.items()
            if os.path.exists(self.at("/etc/systemd/system/" + unit))
        ]
        if len(found) > 1:  # one is the rest of an earlier life
            found = [role for role in found if self.is_active(UNITS[role])] or found
        return found[0] if found else "none"

    def is_active(self, unit: str) -> bool:
        """Say whether a unit runs."""
        return execute(["systemctl", "is-active", "--quiet", unit]).status == 0

    def unit(self) -> str:
        """Return the name of the unit of K3s."""
        role = self.role()
        if role == "none":
            raise Failure("no_k3s", "this device is no node: run muster provision")
        return UNITS[role]

    def version(self) -> str | None:
        """Return the version of the program on the disk, which need not be the one that runs."""
        with contextlib.suppress(Failure):
            found = re.search(r"\bv\d+\.\d+\.\d+\S*", self.k3s("--version").out)
            return found.group(0) if found else None
        return None

    def node_name(self) -> str:
        """Return the name of this node, as the configuration says."""
        found = socket.gethostname().lower()
        for content in self.configuration().values():
            for match in re.finditer(
                r"""^["']?node-name["']?:\s*["']?([A-Za-z0-9.-]+)""", content, re.MULTILINE
            ):
                found = match.group(1)
        return found

    def configuration(self) -> dict[str, str]:
        """Return the files that K3s reads, by their path below the folder of its configuration."""
        folder = self.at(CONFIG)
        files = [os.path.join(folder, "config.yaml")]
        files += sorted(glob.glob(os.path.join(folder, "config.yaml.d/*.yaml")))
        return {os.path.relpath(path, folder): read_text(path) for path in files}

    def joins(self) -> bool:
        """Say whether K3s would join another server if it had no data."""
        return any(JOINS.search(text) for text in self.configuration().values())

    def datastore(self) -> str | None:
        """Return where a server keeps its objects: ``etcd``, ``sqlite`` or ``external``."""
        if self.role() != "server":
            return None
        if os.path.isdir(self.at(DATASTORE + "/etcd")):
            return "etcd"
        return "sqlite" if os.path.exists(self.at(DATASTORE + "/state.db")) else "external"


@contextlib.contextmanager
def alone(host: Host) -> Iterator[None]:
    """Keep a second one away that would stop, start or clear away at the same time."""
    folder = host.at("/run")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "muster-k3s.lock"), "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failure("busy", "something else is done to K3s here: try again later") from None
        yield


def systemctl(*arguments: str) -> None:
    """Tell systemd, which may refuse."""
    done = execute(["systemctl", *arguments], SERVICE_SECONDS)
    if done.status != 0:
        told = "systemctl %s: %s" % (" ".join(arguments), last_line(done.err or done.out))
        raise Failure("service_failed", told)


# ---------------------------------------------------------------------------------------------
# The cluster, on a server


def node_entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matters of a Node object."""
    metadata, status = found.get("metadata") or {}, found.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    ready, voter = conditions.get("Ready") or {}, conditions.get("EtcdIsVoter")
    labels = metadata.get("labels") or {}
    prefix = "node-role.kubernetes.io/"
    return {
        "name": metadata.get("name"),
        "ready": ready.get("status") == "True",
        "reason": "" if ready.get("status") == "True" else str(ready.get("message") or "")[:300],
        "version": (status.get("nodeInfo") or {}).get("kubeletVersion"),
        "labels": {key: value for key, value in labels.items() if key.startswith(LABELS)},
        "roles": sorted(key[len(prefix) :] for key in labels if key.startswith(prefix)),
        "voter": None if voter is None else voter.get("status") == "True",
        "unschedulable": bool((found.get("spec") or {}).get("unschedulable")),
        "cordoned": CORDONED in (metadata.get("annotations") or {}),
    }


def _parsed(output: str) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Failure("kubectl_failed", "kubectl said no JSON: %s" % last_line(output))
    return document


def nodes(host: Host, given: Any) -> dict[str, Any]:
    """Tell all nodes of the cluster."""
    fields(given)
    items = _parsed(host.kubectl("get", "nodes", "--output=json")).get("items") or ()
    return {"nodes": sorted((node_entry(each) for each in items), key=lambda e: str(e["name"]))}


def apply(host: Host, given: Any) -> dict[str, Any]:
    """Have the cluster hold these objects; forget DaemonSets of a model that nothing needs.

    With ``prune``, ``{"model": ..., "keep": N}``, the N newest releases stay, what a node asks for,
    and the release that is brought.
    """
    request = fields(given, "manifests", "prune")
    manifests, prune = request.get("manifests"), request.get("prune")
    if not isinstance(manifests, list) or not manifests:
        raise Failure("bad_input", "manifests: expected a list of at least one object")
    for place, each in enumerate(manifests):
        metadata = each.get("metadata") if isinstance(each, dict) else None
        whole = isinstance(metadata, dict) and all(
            isinstance(part, str) and part
            for part in (each.get("apiVersion"), each.get("kind"), metadata.get("name"))
        )
        if not whole:
            expected = "expected an object with apiVersion, kind and metadata.name"
            raise Failure("bad_input", "manifests[%d]: %s" % (place, expected))
    document = {"apiVersion": "v1", "kind": "List", "items": manifests}
    out = host.kubectl("apply", "--filename=-", given=json.dumps(document), timeout=120.0)
    found = [{"object": name, "outcome": outcome} for name, outcome in OUTCOME.findall(out)]
    changed = sum(each["outcome"] != "unchanged" for each in found)
    pruned: list[str] = []
    if prune is not None and changed:
        limits = fields(prune, "model", "keep")
        model, keep = text(limits, "model", OBJECT), int(seconds(limits, "keep", 10))
        brought = {str(_label(each, "muster.release")) for each in manifests}
        try:
            pruned = _prune(host, model, keep, brought)
        except Failure as failure:  # they cost next to nothing; the next release tries again
            print("pruning: %s" % failure.message, file=sys.stderr)
    return {"applied": found, "changed": changed, "pruned": pruned}


def _label(found: Mapping[str, Any], name: str) -> Any:
    return ((found.get("metadata") or {}).get("labels") or {}).get(name)


def _prune(host: Host, model: str, keep: int, brought: set[str]) -> list[str]:
    chosen = "app.kubernetes.io/managed-by=muster,muster.model=" + model
    out = host.kubectl(
        "--namespace=" + NAMESPACE, "get", "daemonsets", "--selector=" + chosen, "--output=json"
    )
    # what a node asks for, and what it may go back to
    prefixes = ("muster.model/", "muster.last-good/", "muster.previous/")
    labels = [each["labels"] for each in nodes(host, {})["nodes"]]
    wanted = {each.get(prefix + model) for each in labels for prefix in prefixes}
    names = spare(_parsed(out).get("items") or (), brought | wanted, keep)
    return list(delete(host, {"daemonsets": names})["deleted"])


def spare(daemonsets: Sequence[Mapping[str, Any]], needed: set[str | None], keep: int) -> list[str]:
    """Return the names of the DaemonSets whose release is neither needed nor among the newest."""
    made: dict[str, str] = {}
    for each in daemonsets:
        release, at = str(_label(each, "muster.release")), each["metadata"]["creationTimestamp"]
        made[release] = max(made.get(release, ""), at)
    newest = sorted(made, key=lambda release: made[release], reverse=True)[:keep]
    stays = {*needed, *newest}
    return sorted(
        str(each["metadata"]["name"])
        for each in daemonsets
        if str(_label(each, "muster.release")) not in stays
    )


def delete(host: Host, given: Any) -> dict[str, Any]:
    """Remove DaemonSets of ours; those that are gone already are none the worse."""
    names = fields(given, "daemonsets").get("daemonsets")
    valid = isinstance(names, list) and all(
        isinstance(name, str) and OBJECT.fullmatch(name) for name in names
    )
    if not valid:
        raise Failure("bad_input", "daemonsets: expected a list of names of DaemonSets")
    if not names:
        return {"deleted": []}
    out = host.kubectl(
        "--namespace=" + NAMESPACE, "delete", "daemonset", *names,
        "--ignore-not-found", "--wait=false", "--output=name",
    )  # fmt: skip
    return {"deleted": sorted(line.partition("/")[2] for line in out.split() if "/" in line)}


def _node(host: Host, name: str) -> dict[str, Any] | None:
    out = host.kubectl("get", "node", name, "--ignore-not-found", "--output=json")
    return node_entry(_parsed(out)) if out.strip() else None


def drain(host: Host, given: Any) -> dict[str, Any]:
    """Cordon a node and have its pods move; DaemonSets stay. If it fails, it is undone."""
    known = fields(given, "node", "seconds")
    name, limit = text(known, "node", NODE), seconds(known, "seconds", 300.0)
    found = _node(host, name)
    if found is None:
        raise Failure("no_node", "the cluster has no node %s" % name)
    ours = found["cordoned"] or not found["unschedulable"]
    if ours:  # noted first: a cordon that nobody knows of would stay
        host.kubectl("annotate", "node", name, CORDONED + "=true", "--overwrite")
    try:
        host.kubectl(
            "drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
            "--timeout=%ds" % max(1, int(limit)), timeout=limit + COMMAND_SECONDS,
        )  # fmt: skip
    except Failure as failure:
        with contextlib.suppress(Failure):
            uncordon(host, {"node": name})
        message = "%s could not be drained within %.0f s: %s" % (name, limit, failure.message)
        raise Failure("drain_failed", message) from None
    return {"node": name, "cordoned": ours}


def uncordon(host: Host, given: Any) -> dict[str, Any]:
    """Let pods come to a node again, unless a person has cordoned it."""
    name = text(fields(given, "node"), "node", NODE)
    found = _node(host, name)
    if found is None or not found["cordoned"]:
        return {"node": name, "uncordoned": False}
    host.kubectl("uncordon", name)
    host.kubectl("annotate", "node", name, CORDONED + "-")
    return {"node": name, "uncordoned": True}


def delete_node(host: Host, given: Any) -> dict[str, Any]:
    """Take a node out of the cluster; K3s removes a server from etcd with it."""
    name = text(fields(given, "node"), "node", NODE)
    out = host.kubectl("delete", "node", name, "--ignore-not-found", "--output=name")
    return {"node": name, "deleted": bool(out.strip())}


# ---------------------------------------------------------------------------------------------
# This node


def own_node(host: Host, name: str) -> dict[str, Any]:
    """Return the Node object of this node, which its kubelet may read for itself."""
    if not os.path.exists(host.at(KUBELET)):
        raise Failure("not_ready", "%s is not there: K3s has not started yet" % KUBELET)
    return node_entry(_parsed(host.ask(KUBELET, ("get", "node", name, "--output=json"))))


def own_lease(host: Host, name: str) -> str:
    """Return when the kubelet of this node last renewed its lease, "" if it never did.

    It does every 10 s, and is taken for alive for some 40 s afterwards, dead or not
    (https://kubernetes.io/docs/concepts/architecture/leases/).
    """
    try:
        lease = _parsed(host.ask(KUBELET, ("get", "--raw=" + LEASES + name)))
    except Failure:
        return ""
    return str((lease.get("spec") or {}).get("renewTime") or "")


def certificates(host: Host) -> list[dict[str, str]]:
    """Return the certificates of K3s, never a key; the first of each file is its own."""
    found = []
    for folder in ("/agent/*.crt", "/server/tls/*.crt", "/server/tls/*/*.crt"):
        for path in sorted(glob.glob(host.at(DATA + folder))):
            match = CERTIFICATE.search(read_text(path))
            if match:
                inside = "/" + os.path.relpath(path, host.root)
                found.append({"path": inside, "pem": match.group(0)})
    return found


def inspect(host: Host, given: Any) -> dict[str, Any]:
    """Say what this node is and what runs on it."""
    known = fields(given, "node", "certificates")
    role = host.role()
    name = text(known, "node", NODE, host.node_name())
    answer: dict[str, Any] = {
        "role": role,
        "unit": UNITS.get(role),
        "active": role != "none" and host.is_active(UNITS[role]),
        "binary": host.version(),
        "name": name,
        "datastore": host.datastore(),
        "token": bool(read_text(host.at(TOKEN)).strip()),
        "node": None,
        "error": "",
    }
    if role != "none":
        try:
            answer["node"] = own_node(host, name)
        except Failure as failure:
            answer["error"] = failure.message
    answer["problem"] = shortcoming(answer, answer["binary"])
    if known.get("certificates"):
        answer["certificates"] = certificates(host)
    return answer


def shortcoming(seen: Mapping[str, Any], version: str | None = None) -> str:
    """Say why a node is not what it should be, "" if it is; from an answer to ``inspect``.

    Ready does not tell whether a server's etcd takes part, and the program on the disk not what
    runs: both are looked at.
    """
    if seen["role"] == "none":
        return "this device is no node"
    if not seen["active"]:
        return "%s does not run" % seen["unit"]
    node = seen["node"]
    if node is None:
        return seen["error"] or "there is no Node object"
    if version is not None and node["version"] != version:
        return "runs %s, not %s" % (node["version"], version)
    if not node["ready"]:
        return "not Ready: %s" % (node["reason"] or "no reason given")
    if seen["datastore"] == "etcd" and node["voter"] is False:
        return "its etcd is no voter yet"
    return ""


def wait(host: Host, given: Any) -> dict[str, Any]:
    """Wait until this node is Ready, and runs a version if one is named.

    Its kubelet has to renew its lease twice meanwhile: what was said of the node before K3s started
    does not count, and what a kubelet says of it first comes with its first lease.
    """
    known = fields(given, "version", "seconds", "node")
    version = text(known, "version", VERSION) if known.get("version") else None
    until = time.monotonic() + seconds(known, "seconds", SERVICE_SECONDS)
    request = {"node": known["node"]} if known.get("node") else {}
    renewals = set()
    while True:
        seen = inspect(host, request)
        problem = shortcoming(seen, version)
        if seen["node"] is not None:
            renewals |= {own_lease(host, seen["name"])} - {""}
        if not problem and len(renewals) > 2:
            return {"node": seen["node"]}
        if time.monotonic() >= until:
            raise Failure("not_ready", problem or "its kubelet does not renew its lease")
        time.sleep(POLL_SECONDS)


def stop(host: Host, given: Any) -> dict[str, Any]:
    """Stop K3s; the containers go on. Provisioning does not start it again, :func:`start` does."""
    fields(given)
    with alone(host):
        write_file(host.at(STOPPED), "")
        systemctl("stop", host.unit())
    return {"active": False}


def start(host: Host, given: Any) -> dict[str, Any]:
    """Start K3s."""
    fields(given)
    with alone(host):
        _release(host)
        systemctl("start", host.unit())
    return {"active": True}


def _release(host: Host) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(host.at(STOPPED))


def rotate_certificates(host: Host, given: Any) -> dict[str, Any]:
    """Have K3s make its certificates anew. It runs again afterwards, whatever happened.

    K3s itself keeps the old ones in a folder beside them.
    """
    fields(given)
    with alone(host):
        unit = host.unit()
        systemctl("stop", unit)
        try:
            done = host.k3s("certificate", "rotate", timeout=WORK_SECONDS)
        finally:
            systemctl("start", unit)
    if done.status != 0:
        raise Failure("rotate_failed", "k3s certificate rotate: %s" % last_line(done.err))
    return {"rotated": True}


# ---------------------------------------------------------------------------------------------
# Snapshots


def _token_mark(host: Host) -> str:
    """Return what tells two tokens apart without giving one away; "" if there is none."""
    token = read_text(host.at(TOKEN)).strip()
    if not token:
        return ""
    # What changes with the address of the cluster is before the "::".
    secret = token.rpartition("::")[2]
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), b"muster-k3s", 100000).hex()


def _marks(host: Host) -> dict[str, str]:
    try:
        found = json.loads(read_text(host.at(TOKENS_OF_SNAPSHOTS)) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_file(path: str, data: str) -> None:
    """Replace a file so that a power cut leaves the old content or the new."""
    temporary = path + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _snapshot_files(host: Host) -> dict[str, os.stat_result]:
    folder = host.at(SNAPSHOTS)
    if not os.path.isdir(folder):
        return {}
    return {
        entry.name: entry.stat()
        for entry in os.scandir(folder)
        if entry.is_file() and not entry.name.endswith(".part")
    }


def snapshots(host: Host, given: Any) -> dict[str, Any]:
    """List the snapshots that lie on this server."""
    fields(given)
    marks, mark = _marks(host), _token_mark(host)
    return {
        "snapshots": [
            {
                "name": name,
                "kind": "sqlite" if name.endswith(SQLITE) else "etcd",
                "size": seen.st_size,
                "created": seen.st_mtime,
                "token_is_kept": marks[name] == mark if name in marks else None,
            }
            for name, seen in sorted(_snapshot_files(host).items(), key=lambda e: e[1].st_mtime)
        ],
        "joins": host.joins(),
    }


def snapshot(host: Host, given: Any) -> dict[str, Any]:
    """Save what the cluster holds: etcd by K3s, SQLite by a copy while it runs."""
    name = text(fields(given, "name"), "name", SNAPSHOT)
    kind = host.datastore()
    if kind is None:
        raise Failure("no_server", "this node is no server: it holds nothing")
    if kind == "external":
        told = "the datastore is a server of its own: back it up with its own tools"
        raise Failure("external_datastore", told)
    before = _snapshot_files(host)
    if kind == "etcd":
        done = host.k3s("etcd-snapshot", "save", "--name", name, timeout=WORK_SECONDS)
        if done.status != 0:
            raise Failure("snapshot_failed", "k3s etcd-snapshot: %s" % last_line(done.err))
    else:
        _copy_sqlite(host, name)
    after = _snapshot_files(host)
    made = [each for each in after if after[each] != before.get(each) and each.startswith(name)]
    if not made or not after[made[0]].st_size:
        raise Failure("snapshot_failed", "K3s said that all is well, but there is no snapshot")
    marks = {each: mark for each, mark in _marks(host).items() if each in after}
    write_file(host.at(TOKENS_OF_SNAPSHOTS), json.dumps({**marks, made[0]: _token_mark(host)}))
    return {"name": made[0], "kind": kind, "size": after[made[0]].st_size}


def _copy_sqlite(host: Host, name: str) -> None:
    try:
        import sqlite3
    except ImportError:
        raise Failure("snapshot_failed", "python3 has no sqlite3: install python3") from None
    folder = host.at(SNAPSHOTS)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    final = os.path.join(folder, "%s-%s-%d%s" % (name, host.node_name(), time.time(), SQLITE))
    part = final + ".part"
    try:
        uri = "file:%s?mode=ro" % host.at(DATASTORE + "/state.db")
        source = sqlite3.connect(uri, uri=True, timeout=30)
        with contextlib.closing(source), contextlib.closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        os.replace(part, final)
    except sqlite3.Error as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise Failure("snapshot_failed", "copying state.db: %s" % error) from None


def check_snapshot(host: Host, given: Any) -> dict[str, Any]:
    """Find out whether a snapshot is whole, as far as it tells."""
    name = text(fields(given, "snapshot"), "snapshot", SNAPSHOT)
    path = host.at(os.path.join(SNAPSHOTS, name))
    if not os.path.isfile(path):
        raise Failure("no_snapshot", "there is no snapshot %s here" % name)
    problem = _sqlite_problem(path) if name.endswith(SQLITE) else _etcd_problem(path)
    if problem:
        raise Failure("broken_snapshot", "the snapshot %s is broken: %s" % (name, problem))
    return {"snapshot": name}


def _sqlite_problem(path: str) -> str:
    try:
        import sqlite3
    except ImportError:
        return "python3 has no sqlite3 to read it with: install python3"
    try:
        uri = "file:%s?mode=ro&immutable=1" % urllib.parse.quote(path)
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
            found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'kine'").fetchone()
    except sqlite3.Error as error:
        return str(error)
    if said != "ok":
        return str(said)
    return "" if found else "it has no table `kine`, where K3s keeps what it knows"


def _etcd_problem(path: str) -> str:
    """etcd appends the SHA-256 of the database, whose size is a multiple of 512 bytes, to it."""
    if path.endswith(".zip"):  # with etcd-snapshot-compress
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except (zipfile.BadZipFile, EOFError) as error:
            return str(error)
        return "%s in it has another checksum" % broken if broken else ""
    size, digest = os.path.getsize(path), hashlib.sha256()
    if not size:
        return "it is empty"
    if size % 512 == 0:  # a copy of the database itself, which tells nothing
        return ""
    if size % 512 != digest.digest_size:
        return "it was cut off at %d bytes" % size
    left = size - digest.digest_size
    with open(path, "rb") as file:
        while left:
            data = file.read(min(left, 1 << 20))
            digest.update(data)
            left -= len(data)
        return "" if file.read() == digest.digest() else "it has another checksum than it says"


def restore(host: Host, given: Any) -> dict[str, Any]:
    """Make this server's datastore what a snapshot holds, with K3s stopped.

    Where that fails, the datastore is what it was before. A token that is given is used from then
    on: K3s would not start with another one.
    """
    known = fields(given, "snapshot", "token")
    name = text(known, "snapshot", SNAPSHOT)
    secret = text(known, "token", SECRET) if known.get("token") else ""
    path = os.path.join(SNAPSHOTS, name)
    check_snapshot(host, {"snapshot": name})
    if not secret and not read_text(host.at(TOKEN)).strip():
        told = "the token is not kept here, and a snapshot is of no use without it: give it"
        raise Failure("no_token", told)
    mark = _marks(host).get(name)
    if not secret and mark is not None and mark != _token_mark(host):
        told = "the token was changed since this snapshot: give the one of that time"
        raise Failure("other_token", told)
    with alone(host):
        if host.is_active(host.unit()):
            raise Failure("running", "%s runs: stop it first" % host.unit())
        if name.endswith(SQLITE):
            _restore_sqlite(host, path)
        else:
            _restore_etcd(host, path, secret)
        if host.is_active(host.unit()):  # it may serve what was there before
            told = "%s was started meanwhile: what was restored may be lost" % host.unit()
            raise Failure("disturbed", told)
        if secret and os.path.exists(host.at(TOKEN_FILE)):
            _keep_token(host, secret)
    return {"restored": name}


def _restore_etcd(host: Host, path: str, secret: str) -> None:
    known = set(glob.glob(host.at(DATASTORE + "/etcd-old-*")))
    # of a restore after which K3s was never started: it would refuse another one
    with contextlib.suppress(FileNotFoundError):
        os.unlink(host.at(RESET_FLAG))
    with _config_without_server(host) as options:
        done = host.k3s(
            "server", "--cluster-reset", "--cluster-reset-restore-path=" + host.at(path), *options,
            timeout=WORK_SECONDS, environment={"K3S_TOKEN": secret} if secret else None,
        )  # fmt: skip
    if done.status == 0:
        return
    kept = sorted(set(glob.glob(host.at(DATASTORE + "/etcd-old-*"))) - known)
    if kept:
        current = host.at(DATASTORE + "/etcd")
        shutil.rmtree(current, ignore_errors=True)
        os.rename(kept[0], current)
    told = "k3s server --cluster-reset: %s" % last_line(done.err or done.out)
    raise Failure("restore_failed", told)


@contextlib.contextmanager
def _config_without_server(host: Host) -> Iterator[list[str]]:
    """Give the options that have K3s read its configuration as one that joins no server.

    Without, a server that joined another one refuses to be reset.
    """
    if not host.joins():
        yield []
        return
    folder = host.at(RESET_CONFIG)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for name, content in host.configuration().items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            # it may hold secrets
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
                f.write(JOINS.sub("", content))
        yield ["--config=" + os.path.join(folder, "config.yaml")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _restore_sqlite(host: Host, path: str) -> None:
    current = host.at(DATASTORE + "/state.db")
    with open(host.at(path), "rb") as source, open(current + ".new", "wb") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())
    before = "%s-old-%d" % (current, time.time())
    with contextlib.suppress(FileNotFoundError):
        os.link(current, before)  # beside: a power cut must find one or the other
    for rest in ("-wal", "-shm"):  # of the old one: they would be taken for those of the new
        with contextlib.suppress(FileNotFoundError):
            os.rename(current + rest, before + rest)
    os.replace(current + ".new", current)


def put_datastore_aside(host: Host, given: Any) -> dict[str, Any]:
    """Have a stopped server forget its etcd, so that it joins again; what it had is kept."""
    fields(given)
    with alone(host):
        if host.is_active(host.unit()):
            raise Failure("running", "%s runs: stop it first" % host.unit())
        if not host.joins():
            told = "expected `server:` in %s/config.yaml: without data it would make a cluster anew"
            raise Failure("makes_cluster", told % CONFIG)
        current = host.at(DATASTORE)
        if not os.path.isdir(os.path.join(current, "etcd")):
            return {"kept": None}
        kept = "%s/server/db-before-restore-%d" % (DATA, time.time())
        os.rename(current, host.at(kept))
        for name in ("snapshots", os.path.basename(TOKENS_OF_SNAPSHOTS)):
            before = os.path.join(host.at(kept), name)
            if os.path.exists(before):
                os.makedirs(current, mode=0o700, exist_ok=True)
                os.rename(before, os.path.join(current, name))
    return {"kept": kept}


def take_datastore_back(host: Host, given: Any) -> dict[str, Any]:
    """Undo :func:`put_datastore_aside`, as long as K3s has made nothing new."""
    known = fields(given, "kept")
    kept = text(known, "kept", re.compile(re.escape(DATA) + r"/server/db-before-restore-\d+"))
    with alone(host):
        current = host.at(DATASTORE)
        if os.path.isdir(host.at(kept)):
            for name in os.listdir(host.at(kept)):
                os.makedirs(current, mode=0o700, exist_ok=True)
                if not os.path.exists(os.path.join(current, name)):
                    os.rename(os.path.join(host.at(kept), name), os.path.join(current, name))
    return {"taken_back": os.path.isdir(os.path.join(current, "etcd"))}


# ---------------------------------------------------------------------------------------------
# The token


def token(host: Host, given: Any) -> dict[str, Any]:
    """Tell the token of the cluster; for the other servers, and for no log."""
    fields(given)
    found = read_text(host.at(TOKEN)).strip()
    if not found:
        raise Failure("no_token", "%s is empty or not there" % TOKEN)
    return {"token": found, "agent_token": read_text(host.at(AGENT_TOKEN)).strip() or None}


def take_token(host: Host, given: Any) -> dict[str, Any]:
    """Use another token from now on, which takes a restart of K3s.

    It stays where K3s does not come up: the former one is that of no cluster any more.
    """
    secret = text(fields(given, "token"), "token", SECRET)
    path = host.at(TOKEN_FILE)
    if not os.path.exists(path):
        raise Failure("no_token", "%s is not there: run muster provision" % TOKEN_FILE)
    with alone(host):
        unit, before = host.unit(), read_text(path)
        if before.strip() != secret:
            write_file(path, secret + "\n")
        _release(host)
        systemctl("restart", unit)
    return {"changed": before.strip() != secret}


def _keep_token(host: Host, secret: str) -> None:
    """Have K3s start with a token, in the form in which it has one: a server that made its cluster
    has the password alone."""
    path = host.at(TOKEN_FILE)
    if "::" in secret and "::" not in read_text(path):
        credential = secret.partition("::")[2]
        secret = credential.partition(":")[2] or credential
    write_file(path, secret + "\n")


def rotate_token(host: Host, given: Any) -> dict[str, Any]:
    """Have K3s give the cluster another token, which it makes up itself.

    It is what K3s starts with from then on: with the former one it would not.
    """
    fields(given)
    if not os.path.exists(host.at(TOKEN_FILE)):
        raise Failure("no_token", "%s is not there: run muster provision" % TOKEN_FILE)
    before = read_text(host.at(TOKEN)).strip()
    done = host.k3s("token", "rotate", timeout=WORK_SECONDS)
    after = read_text(host.at(TOKEN)).strip()
    if after and after != before:
        _keep_token(host, after)
    if done.status != 0:
        raise Failure("rotate_failed", "k3s token rotate: %s" % last_line(done.err or done.out))
    if after == before:
        raise Failure("rotate_failed", "k3s token rotate: the token is what it was")
    return {"rotated": True}


# ---------------------------------------------------------------------------------------------
# Reset


FOLDERS = (
    "/etc/rancher/k3s",
    "/etc/rancher/node",
    DATA,
    "/run/k3s",
    "/run/flannel",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
)
"""What K3s and its pods leave on a host."""
OWN_FILES = (
    "/etc/sysctl.d/90-muster-k3s.conf",
    "/etc/modules-load.d/muster-k3s.conf",
    "/usr/local/share/muster-k3s",
    "/usr/local/bin/.k3s.muster-new",
    "/usr/local/bin/.k3s.muster-before",
    STOPPED,
)
"""What the roles put beside them."""
PARENTS = ("/etc/rancher", "/var/lib/rancher")
MOUNTS = ("/run/netns/cni-", *(folder + "/" for folder in FOLDERS))
"""Where nothing may be mounted any more but disks of K3s's own, which stay and are emptied."""
DATA_FOLDERS = ("agent", "data", "server", "storage")
"""What K3s keeps in its folder of data; the folder that a link leads to may hold more."""
TOOLS = DATA + "/data/current/bin/aux"
"""Programs for the packet filter that K3s brings; it does without those of the host."""
DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "zfs")
LINK = re.compile(r"(cni0|flannel[\w.-]*|flannel4-wg|kube-ipvs0|nodelocaldns)")
RULE = re.compile(r"\b(KUBE|CNI|FLANNEL)-")


def _processes(host: Host) -> dict[int, tuple[int, str, str]]:
    """Return the parent, the command line and the control groups of each process."""
    found = {}
    for folder in glob.glob(host.at("/proc/[0-9]*")):
        stat = read_text(folder + "/stat").rpartition(")")[2].split()
        if len(stat) > 1:
            line = read_text(folder + "/cmdline").replace("\0", " ")
            groups = read_text(folder + "/cgroup")
            found[int(os.path.basename(folder))] = (int(stat[1]), line, groups)
    return found


def leftover_processes(host: Host) -> list[int]:
    """Return the processes of K3s and of its containers; never those that we descend from."""
    seen = _processes(host)
    ours, parent = set(), os.getpid()
    while parent in seen and parent not in ours:
        ours.add(parent)
        parent = seen[parent][0]
    wanted = {
        pid
        for pid, (_, line, groups) in seen.items()
        if re.search(r"/(k3s|k3s-agent)\.service(/|$)", groups, re.MULTILINE)
        or ("containerd-shim" in line and "/run/k3s/" in line)
    }
    while True:
        more = {pid for pid, (above, _, _) in seen.items() if above in wanted} - wanted
        if not more:
            return sorted(wanted - ours)
        wanted |= more


def leftover_mounts(host: Host) -> list[str]:
    """Return what has to be taken down: mounts of K3s and its pods, and what others share with
    this host, which must not be emptied; the innermost first."""
    return _mounts(host)[0]


def _mounts(host: Host) -> tuple[list[str], list[str]]:
    """Return the mounts where K3s has its folders: those to be taken down, and disks of its own."""
    places = MOUNTS
    if os.path.islink(host.at(DATA)):
        places += ("/" + os.path.relpath(os.path.realpath(host.at(DATA)), host.root) + "/",)
    lines = read_text(host.at("/etc/fstab")).splitlines()
    own_disks = {line.split()[1] for line in lines if len(line.split()) > 1 and line[0] != "#"}
    mounts: dict[str, tuple[str, str, str]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    found, disks = [], []
    for line in read_text(host.at("/proc/self/mountinfo")).splitlines():
        # id, id of the one around it, device, folder of the device, where it is; ... - kind
        words, kind = line.split(), line.partition(" - ")[2].split()[0]
        number, around, device = words[:3]
        root, path = (_unescaped(word) for word in words[3:5])
        mounts[number] = (device, root, path)
        kinds[number] = (around, kind)
    for number, (device, root, path) in mounts.items():
        around, kind = kinds[number]
        if not (path + "/").startswith(places):
            continue
        below_pods = path.startswith(("/var/lib/kubelet/pods/", "/var/lib/kubelet/plugins/"))
        onto_itself = _is_onto_itself((device, root, path), mounts.get(around))
        # A folder of another place may be anybody's, unless it is there instead of one of K3s's.
        elsewhere = root != "/" or any(
            other == device and not (place + "/").startswith(places)
            for other, _, place in mounts.values()
        )
        own = path in FOLDERS or not elsewhere
        if kind in DISKS and own and not below_pods and (path in own_disks or not onto_itself):
            disks.append(path)
        else:
            found.append(path)
    return sorted(found, key=lambda path: (-path.count("/"), path)), disks


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), word)


def _is_onto_itself(mount: tuple[str, str, str], around: tuple[str, str, str] | None) -> bool:
    """Say whether a folder is mounted on itself, as kubelets want theirs, and no disk."""
    if around is None or mount[0] != around[0]:
        return False
    return os.path.join(around[1], os.path.relpath(mount[2], around[2])) == mount[1]


def _links() -> list[str]:
    lines = execute(["ip", "-o", "link", "show"]).out.splitlines()
    names = [line.split(":")[1].strip().partition("@")[0] for line in lines if ":" in line]
    return [name for name in names if LINK.fullmatch(name)]


def _clean_rules(host: Host) -> list[str]:
    """Remove the packet filter's rules of K3s; says where that failed."""
    left = []
    tools = {"PATH": "%s:%s" % (os.environ.get("PATH", os.defpath), host.at(TOOLS))}
    for tool in ("iptables", "ip6tables"):
        saved = execute([tool + "-save"], environment=tools)
        if saved.status != 0:  # not there: no rules either
            continue
        lines = saved.out.splitlines()
        kept = [line for line in lines if not RULE.search(line)]
        if kept != lines:
            rules = "\n".join(kept) + "\n"
            done = execute([tool + "-restore"], given=rules, environment=tools)
            if done.status != 0 or RULE.search(execute([tool + "-save"], environment=tools).out):
                left.append("%s rules" % tool)
    names = execute(["ipset", "list", "-n"], environment=tools).out.split()
    for name in names:
        if RULE.search(name):
            execute(["ipset", "destroy", name], environment=tools)
    return left


def _remove(path: str, disks: Sequence[str] = ()) -> None:
    """Remove a file or a folder.

    :param disks: mounted disks of K3s's own, which stay where they are, and empty.
    """
    if os.path.ismount(path):
        if path not in disks:
            raise Failure("not_clean", "still mounted: %s" % path, left=[path])
        for name in os.listdir(path):
            _remove(os.path.join(path, name), disks)
    elif os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove(os.path.join(path, name), disks)
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno != errno.EBUSY:  # something is mounted there after all: it stays, empty
                raise
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def reset(host: Host, given: Any) -> dict[str, Any]:
    """Leave nothing of K3s on this host, nor of its pods; fails where something stays."""
    fields(given)
    role = host.role()
    with alone(host):
        _end_processes(host)
        for path in leftover_mounts(host):
            if execute(["umount", host.at(path)]).status != 0:
                execute(["umount", "--lazy", host.at(path)])
        mounted = leftover_mounts(host)
        if mounted:  # what a volume holds must not go with the folder that it is mounted on
            told = "still mounted: %s" % ", ".join(mounted[:5])
            raise Failure("not_clean", told, left=mounted)
        for path in glob.glob(host.at("/run/netns/cni-*")):
            _remove(path)
        for name in _links():
            execute(["ip", "link", "delete", name])
        left = _clean_rules(host) + ["link %s" % name for name in _links()]
        _remove_files(host)
        left += ["process %d" % pid for pid in leftover_processes(host)]
    if left:
        raise Failure("not_clean", "still there: %s" % ", ".join(left[:5]), left=left)
    return {"was": role, "clean": True}


def _end_processes(host: Host) -> None:
    for unit in UNITS.values():
        if os.path.exists(host.at("/etc/systemd/system/" + unit)):
            execute(["systemctl", "disable", "--now", unit], SERVICE_SECONDS)
    for _ in range(RESET_ROUNDS):  # what is killed may have begun another just before
        found = leftover_processes(host)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(RESET_PAUSE)


def _remove_files(host: Host) -> None:
    disks = [host.at(path) for path in _mounts(host)[1]]
    data = host.at(DATA)
    if os.path.islink(data):
        for name in DATA_FOLDERS:
            _remove(os.path.join(os.path.realpath(data), name), disks)
    for folder in FOLDERS:
        if os.path.lexists(host.at(folder)):
            _remove(host.at(folder), disks)
    for folder in PARENTS:
        with contextlib.suppress(OSError):  # others have something there
            os.rmdir(host.at(folder))
    for name in LINKS:
        link = host.at(os.path.join(os.path.dirname(BINARY), name))
        if os.path.islink(link) and os.path.basename(os.readlink(link)) == "k3s":
            os.unlink(link)
    for unit in UNITS.values():
        for suffix in ("", ".env", ".d"):
            _remove(host.at("/etc/systemd/system/" + unit + suffix))
    for path in (BINARY, *OWN_FILES):
        _remove(host.at(path))
    execute(["systemctl", "daemon-reload"])
    for unit in UNITS.values():
        execute(["systemctl", "reset-failed", unit])


VERBS: dict[str, Callable[[Host, Any], dict[str, Any]]] = {
    "apply": apply,
    "delete": delete,
    "nodes": nodes,
    "drain": drain,
    "uncordon": uncordon,
    "delete-node": delete_node,
    "inspect": inspect,
    "wait": wait,
    "stop": stop,
    "start": start,
    "rotate-certificates": rotate_certificates,
    "snapshot": snapshot,
    "snapshots": snapshots,
    "check-snapshot": check_snapshot,
    "restore": restore,
    "put-datastore-aside": put_datastore_aside,
    "take-datastore-back": take_datastore_back,
    "token": token,
    "rotate-token": rotate_token,
    "take-token": take_token,
    "reset": reset,
}


def main(argv: Sequence[str]) -> int:
    """Run the program; returns its exit status."""
    if len(argv) != 1 or argv[0] not in VERBS:
        print("usage: muster-k3s %s < DOCUMENT" % "|".join(VERBS), file=sys.stderr)
        return 2
    os.umask(0o077)
    root = os.environ.get("MUSTER_ROOT")
    answer: dict[str, Any]
    try:
        if os.geteuid() != 0 and root is None:
            raise Failure("bad_input", "must run as root: use sudo")
        try:
            document = json.loads(sys.stdin.buffer.read() or b"{}")
        except ValueError as error:
            raise Failure("bad_input", "stdin is not a JSON document: %s" % error) from None
        answer = {"ok": True, **VERBS[argv[0]](Host(root or "/"), document)}
    except Failure as failure:
        error = {"code": failure.code, "message": failure.message, "detail": failure.detail}
        answer = {"ok": False, "error": error}
    except OSError as error:
        answer = {"ok": False, "error": {"code": "internal", "message": str(error), "detail": {}}}
    with contextlib.suppress(OSError):
        print(json.dumps(answer, separators=(",", ":")), flush=True)
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
