"""Nodes that join: their passwords and their certificates."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from . import certificates
from .api import ApiError
from .config import Settings
from .control_plane import ControlPlane
from .supervisor import RefusedError, same

_SECRETS = "/api/v1/namespaces/kube-system/secrets"


class Registration:
    """What the supervisor does for nodes."""

    def __init__(self, settings: Settings, control_plane: ControlPlane) -> None:
        self.settings = settings
        self.tls = control_plane.tls
        self.api = control_plane.api

    def role(self, user: str, password: str, server: str, agent: str) -> str | None:
        """What a user with a password may do."""
        if user == "server" and same(password, server):
            return "server"
        if user == "node" and (same(password, agent) or same(password, server)):
            return "node"
        if not user or "." in f"{user}{password}":
            return "node" if self._is_bootstrap_token(password) else None
        return None

    def _is_bootstrap_token(self, text: str) -> bool:
        identifier, _, secret = text.partition(".")
        try:
            found = self.api.get(f"{_SECRETS}/bootstrap-token-{identifier}")
        except ApiError:
            return False
        kept = found.get("data", {}).get("token-secret", "")
        return same(base64.b64decode(kept).decode(), secret)

    def register(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give a node its certificates.

        :raises RefusedError: when another node has its name.
        """
        name = str(request["name"])
        self._check_password(name, str(request["password"]))
        client_ca, server_ca = self.tls / "client-ca.crt", self.tls / "server-ca.crt"
        subjects = {
            "client-kubelet": f"/O=system:nodes/CN=system:node:{name}",
            "client-kube-proxy": "/CN=system:kube-proxy",
            "client-k3s-controller": "/CN=system:k3s-controller",
        }
        requests = request["requests"]
        granted = {
            each: certificates.sign(requests[each], client_ca, subject, "clientAuth")
            for each, subject in subjects.items()
        }
        granted["serving-kubelet"] = certificates.sign(
            requests["serving-kubelet"], server_ca, f"/CN={name}", "serverAuth", request["names"]
        )
        settings = self.settings
        return {
            "authorities": {
                "client-ca": client_ca.read_text(encoding="ascii"),
                "server-ca": server_ca.read_text(encoding="ascii"),
            },
            "certificates": granted,
            "cluster_dns": settings.many("cluster-dns") or ["10.43.0.10"],
            "cluster_domain": settings.text("cluster-domain", "cluster.local"),
        }

    def _check_password(self, node: str, password: str) -> None:
        hashed = hashlib.sha256(password.encode()).hexdigest()
        try:
            found = self.api.get(f"{_SECRETS}/{node}.node-password.k3s")
        except ApiError as error:
            if error.status != 404:
                raise
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"{node}.node-password.k3s"},
                "immutable": True,
                "stringData": {"hash": hashed},
            }
            self.api.call("POST", _SECRETS, secret)
            return
        kept = base64.b64decode(found.get("data", {}).get("hash", "")).decode()
        if not same(kept, hashed):
            raise RefusedError(
                403,
                "Node password rejected, duplicate hostname or contents of "
                "'/etc/rancher/node/password' may not match server node-passwd entry, try enabling "
                "a unique node name with the --with-node-id flag",
            )
