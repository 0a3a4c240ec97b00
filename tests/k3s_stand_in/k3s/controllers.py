"""What a server looks after: labels and conditions of the nodes, manifests in its folder."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from .api import Api, ApiError
from .config import Settings
from .etcd import Etcd
from .paths import program
from .processes import FatalError, environment, log

_ROLE = "node-role.kubernetes.io/"
_MEMBER = "etcd.k3s.cattle.io/node-name"


class Controllers:
    """Loops of a server."""

    def __init__(self, settings: Settings, api: Api, etcd: Etcd | None, node: str) -> None:
        self.settings = settings
        self.layout = settings.layout
        self.api = api
        self.etcd = etcd
        self.node = node
        self._deployed: dict[Path, float] = {}
        self._seen: set[str] = set()

    def look_after_nodes(self) -> None:
        """Promote learners, say who votes, forget the members and passwords of deleted nodes."""
        nodes = {each["metadata"]["name"]: each for each in self.api.get("/api/v1/nodes")["items"]}
        if self.node in nodes and not self.settings.on("disable-agent"):
            self._label(nodes[self.node])
        embedded = self.etcd is not None and self.etcd.embedded
        if embedded:
            assert self.etcd is not None
            members = self.etcd.members()
            self.etcd.promote_learners(members)
            if self.node in nodes:
                self._say_whether_voter(nodes[self.node], members)
        gone = self._seen - set(nodes)
        for name in sorted(gone):
            self._forget(name)
        self._seen = set(nodes)

    def _label(self, node: dict[str, Any]) -> None:
        wanted = {f"{_ROLE}{role}": "true" for role in ("control-plane", "master")}
        annotations = {}
        if self.etcd is not None and self.etcd.embedded:
            wanted[f"{_ROLE}etcd"] = "true"
            annotations = {_MEMBER: self.etcd.name}
        known = node["metadata"]
        if wanted.items() <= known.get("labels", {}).items() and (
            annotations.items() <= known.get("annotations", {}).items()
        ):
            return
        body = {"metadata": {"labels": wanted, "annotations": annotations}}
        self.api.patch(f"/api/v1/nodes/{self.node}", body)

    def _say_whether_voter(self, node: dict[str, Any], members: list[dict[str, Any]]) -> None:
        assert self.etcd is not None
        own = [m for m in members if m.get("name") == self.etcd.name]
        if not own:
            status, reason, text = "False", "NotMember", "Node is not a member of the etcd cluster"
        elif own[0].get("isLearner"):
            status, reason, text = (
                "False",
                "MemberIsLearner",
                "Node has not been promoted to voting member of the etcd cluster",
            )
        else:
            status, reason, text = (
                "True",
                "MemberNotLearner",
                "Node is a voting member of the etcd cluster",
            )
        kind = "EtcdIsVoter"
        found = [c for c in node["status"].get("conditions", []) if c["type"] == kind]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": kind, "status": status, "reason": reason, "message": text}
        condition |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
        if found and found[0]["status"] == status:
            return
        body = {"status": {"conditions": [condition]}}
        self.api.patch(f"/api/v1/nodes/{self.node}/status", body)

    def _forget(self, name: str) -> None:
        """Clean up after a node that somebody deleted."""
        log("info", f"node {name} was deleted")
        path = f"/api/v1/namespaces/kube-system/secrets/{name}.node-password.k3s"
        try:
            self.api.call("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise
        if self.etcd is None or not self.etcd.embedded or not self.etcd.leads():
            return
        for member in self.etcd.members():
            if member.get("name", "").rpartition("-")[0] == name and name != self.node:
                self.etcd.ctl("member", "remove", f"{member['ID']:x}")

    def deploy_manifests(self) -> None:
        """Apply manifests that are new or have changed.

        :raises FatalError: when one is refused.
        """
        folder = self.layout.manifests
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".yaml", ".yml", ".json"):
                continue
            changed = path.stat().st_mtime
            skipped = path.with_name(f"{path.name}.skip").exists()
            if skipped or self._deployed.get(path) == changed:
                continue
            kubeconfig = self.layout.server / "cred/admin.kubeconfig"
            done = subprocess.run(
                [program("kubectl"), f"--kubeconfig={kubeconfig}", "apply", "-f", str(path)],
                capture_output=True,
                text=True,
                env=environment(),
            )
            if done.returncode:
                raise FatalError(f"{path}: {done.stderr.strip()}")
            self._deployed[path] = changed
