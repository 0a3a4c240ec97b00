"""A node in a folder: its K3s keeps the cluster in a file, its systemctl the services."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import load_program

program: Any = load_program("muster_k3s")

K3S = """#!{python}
import hashlib, json, os, pathlib, sys, time
root = pathlib.Path(os.environ["WORLD"])
arguments = sys.argv[1:]
with (root / "calls").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
world = json.loads((root / "world").read_text())
command = arguments[0]
if command == world.get("fails"):
    print("level=fatal msg=no", file=sys.stderr)
    sys.exit(1)
if command == "--version":
    print("k3s version %s (stand-in)" % world["version"])
    sys.exit()
db = root / "var/lib/rancher/k3s/server/db"
if command == "etcd-snapshot":
    name = "%s-server-1-1700000000" % arguments[arguments.index("--name") + 1]
    (db / "snapshots").mkdir(parents=True, exist_ok=True)
    (db / "snapshots" / name).write_bytes(bytes(512) + hashlib.sha256(bytes(512)).digest())
    sys.exit()
if command == "certificate":
    sys.exit()
if command == "token":
    if "token_time" in world:
        (root / "var/lib/rancher/k3s/server/token").write_text("K10abc::server:other")
        sys.exit(1)
    if "keeps_token" not in world:
        (root / "var/lib/rancher/k3s/server/token").write_text("K10abc::server:other")
    sys.exit()
if command == "server":
    config = root / "etc/rancher/k3s/config.yaml"
    for word in arguments:
        if word.startswith("--config="):
            config = pathlib.Path(word.partition("=")[2])
    files = [config, *sorted((config.parent / (config.name + ".d")).glob("*.yaml"))]
    (root / "config-of-reset").write_text("".join(file.read_text() for file in files))
    modes = [oct(file.stat().st_mode)[-3:] for file in files]
    (root / "modes-of-reset").write_text(" ".join(modes))
    if (db / "reset-flag").exists():
        sys.exit("level=fatal msg=membership was reset")
    lines = [line for file in files for line in file.read_text().splitlines()]
    if any(line.startswith("server:") for line in lines):
        sys.exit("level=fatal msg=cannot perform cluster-reset while server URL is set")
    (root / "secret").write_text(os.environ.get("K3S_TOKEN", ""))
    (db / "etcd").rename(db / "etcd-old-1700000000")
    (db / "etcd").mkdir()
    if "damaged" in world:
        print("level=fatal msg=damaged", file=sys.stderr)
        sys.exit(1)
    (db / "etcd/restored").touch()
    (db / "reset-flag").touch()
    sys.exit()
if command != "kubectl":
    sys.exit("stand-in: " + command)
words = [word for word in arguments[1:] if not word.startswith("-")]
words = [word for word in words if not word.startswith(str(root))]
if words[0] in world.get("kubectl_fails", ()):
    print(world.get("says", "Error from server: no"), file=sys.stderr)
    sys.exit(1)
nodes = {{node["metadata"]["name"]: node for node in world["nodes"]}}
def save():
    (root / "world").write_text(json.dumps(world))
if words == ["get"] and any(word.startswith("--raw=") for word in arguments):
    world["renewals"] = world.get("renewals", 0) + ("dead" not in world)
    print(json.dumps({{"spec": {{"renewTime": "2026-01-01T00:00:%02dZ" % world["renewals"]}}}}))
elif words[:2] == ["get", "nodes"]:
    print(json.dumps({{"kind": "List", "items": world["nodes"]}}))
elif words[:2] == ["get", "node"]:
    if words[2] in nodes:
        print(json.dumps(nodes[words[2]]))
    elif "--ignore-not-found" not in arguments:
        sys.exit('Error from server (NotFound): nodes "%s" not found' % words[2])
elif words[:2] == ["get", "daemonsets"]:
    selector = next(a.split("=", 1)[1] for a in arguments if a.startswith("--selector="))
    wanted = dict(part.split("=") for part in selector.split(","))
    labels = lambda each: each["metadata"].get("labels", {{}})
    items = [each for each in world["objects"] if wanted.items() <= labels(each).items()]
    for number, each in enumerate(world["objects"]):
        each["metadata"]["creationTimestamp"] = "2026-01-01T00:00:%02dZ" % number
    print(json.dumps({{"kind": "List", "items": items}}))
elif words[0] == "apply":
    for item in json.load(sys.stdin)["items"]:
        plain = [
            dict(o, metadata=dict(o["metadata"], creationTimestamp=None)) for o in world["objects"]
        ]
        known = dict(item, metadata=dict(item["metadata"], creationTimestamp=None)) in plain
        name = "%s.apps/%s" % (item["kind"].lower(), item["metadata"]["name"])
        print(name, "unchanged" if known else "created")
        if not known:
            world["objects"].append(item)
elif words[:2] == ["delete", "daemonset"]:
    for name in words[2:]:
        left = [each for each in world["objects"] if each["metadata"]["name"] != name]
        if left != world["objects"]:
            print("daemonset.apps/" + name)
        world["objects"] = left
elif words[:2] == ["delete", "node"]:
    if words[2] in nodes:
        world["nodes"].remove(nodes[words[2]])
        print("node/" + words[2])
elif words[0] == "annotate":
    annotations = nodes[words[2 if words[1] == "node" else 1]]["metadata"]["annotations"]
    key, _, value = words[-1].partition("=")
    if value:
        annotations[key] = value
    else:
        annotations.pop(key[:-1], None)
elif words[0] in ("drain", "cordon", "uncordon"):
    nodes[words[1]]["spec"]["unschedulable"] = words[0] != "uncordon"
    if words[0] == "drain" and world.get("drain_fails"):
        save()
        print("error: unable to drain node: global timeout reached", file=sys.stderr)
        sys.exit(1)
else:
    sys.exit("stand-in: kubectl %s" % words)
save()
"""
UMOUNT = """#!/bin/sh
[ "$1" = --lazy ] && exit 1
[ -e "$WORLD/umount-fails" ] && exit 1
path=${1#"$WORLD"}
grep -v " $path " "$WORLD/proc/self/mountinfo" >"$WORLD/mounts.new"
mv "$WORLD/mounts.new" "$WORLD/proc/self/mountinfo"
"""
IP = """#!/bin/sh
case "$*" in
"-o link show") cat "$WORLD/links" 2>/dev/null ;;
"link delete "*) grep -v ": $3[@:]" "$WORLD/links" >"$WORLD/links.new"
  mv "$WORLD/links.new" "$WORLD/links" ;;
esac
"""
IPTABLES_SAVE = """#!/bin/sh
cat "$WORLD/rules" 2>/dev/null || exit 1
"""
IPTABLES_RESTORE = """#!/bin/sh
cat >"$WORLD/rules"
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$WORLD/systemctl"
if [ "$1" = --quiet ]; then shift; fi
case $1 in
is-active) shift; [ "$1" = --quiet ] && shift; [ -e "$WORLD/active-$1" ] ;;
stop) rm -f "$WORLD/active-$2" ;;
disable) shift; [ "$1" = --now ] && shift; rm -f "$WORLD/active-$1" ;;
start|restart)
  if [ -e "$WORLD/start-fails" ]; then echo "Job for $2 failed." >&2; exit 1; fi
  touch "$WORLD/active-$2" ;;
esac
"""
PROGRAMS = {
    "systemctl": SYSTEMCTL,
    "umount": UMOUNT,
    "ip": IP,
    "iptables-save": IPTABLES_SAVE,
    "iptables-restore": IPTABLES_RESTORE,
    "ip6tables-save": "#!/bin/sh\nexit 1\n",
    "ipset": "#!/bin/sh\nexit 1\n",
}


def node(name: str, version: str = "v1.20.2+k3s1", **how: Any) -> dict[str, Any]:
    """A Node object.

    :param how: ``ready``, ``voter`` (None for no such condition), ``labels``, ``role``.
    """
    conditions = [{"type": "Ready", "status": str(how.get("ready", True)), "message": "kubelet"}]
    if how.get("voter") is not None:
        conditions.append({"type": "EtcdIsVoter", "status": str(how["voter"])})
    labels = dict(how.get("labels", {}))
    if role := how.get("role"):
        labels[f"node-role.kubernetes.io/{role}"] = "true"
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {}},
        "spec": {},
        "status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": version}},
    }


class Node:
    """A server of a cluster of three, or an agent of it, in a folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, role: str = "server") -> None:
        self.root, self.role = root, role
        self.host = program.Host(str(root))
        self.world: dict[str, Any] = {}
        programs = root / "bin"
        for folder in (programs, root / "run", root / "proc/self"):
            folder.mkdir(parents=True)
        for name, text in PROGRAMS.items():
            self.program(name, text)
        self.write("/usr/local/bin/k3s", K3S.format(python=sys.executable)).chmod(0o755)
        self.write(f"/etc/systemd/system/{program.UNITS[role]}", "[Service]\n")
        self.write("/etc/rancher/k3s/config.yaml", f"node-name: {role}-1\n")
        self.write("/var/lib/rancher/k3s/agent/kubelet.kubeconfig", "kubelet")
        if role == "server":
            self.write("/etc/rancher/k3s/k3s.yaml", "administrator")
            self.write("/var/lib/rancher/k3s/server/token", "K10abc::server:secret\n")
            (root / "var/lib/rancher/k3s/server/db/etcd").mkdir(parents=True)
        (root / f"active-{program.UNITS[role]}").touch()
        self.tell(
            version="v1.20.2+k3s1",
            objects=[],
            nodes=[node("server-1", role="master", voter=True), node("agent-1")],
        )
        monkeypatch.setenv("WORLD", str(root))
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def program(self, name: str, text: str) -> None:
        """Put a program where commands are looked for."""
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def write(self, path: str, text: str) -> Path:
        """Write a file below the root."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def at(self, path: str) -> Path:
        """The place of a file."""
        return self.root / path.lstrip("/")

    def tell(self, **world: Any) -> None:
        """Change what the cluster is, or how K3s behaves."""
        self.world = self.seen() | world
        (self.root / "world").write_text(json.dumps(self.world))

    def seen(self) -> dict[str, Any]:
        """What the cluster is by now."""
        path = self.root / "world"
        return json.loads(path.read_text()) if path.exists() else {}

    def node(self, name: str) -> dict[str, Any]:
        """A Node object as it is by now."""
        return next(each for each in self.seen()["nodes"] if each["metadata"]["name"] == name)

    def do(self, verb: str, **given: Any) -> dict[str, Any]:
        """Carry out a verb."""
        return program.VERBS[verb](self.host, given)

    def calls(self) -> list[list[str]]:
        """The command lines of K3s so far."""
        path = self.root / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def systemctl(self) -> list[str]:
        """What systemd was told so far, but for questions."""
        path = self.root / "systemctl"
        told = path.read_text().splitlines() if path.exists() else []
        return [line for line in told if not line.startswith("is-active")]
