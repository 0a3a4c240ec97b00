"""What a server does, in order: authorities, store, API, supervisor, and then an agent."""

from __future__ import annotations

import json
from typing import Any

from . import agent as agents
from . import bootstrap, cluster_reset, node, tokens
from .config import Settings
from .control_plane import API_PORT, ControlPlane
from .controllers import Controllers
from .etcd import Etcd
from .forwarding import SUPERVISOR_PROTOCOL, Address, Forwarder
from .paths import write
from .processes import Children, FatalError, in_background, log, notify
from .registration import Registration
from .stamp import VERSION
from .supervisor import PORT, Client, RefusedError, serve
from .tokens import Token

CRITICAL = (
    "cluster-cidr", "service-cidr", "cluster-dns", "cluster-domain", "disable-cloud-controller",
    "disable-helm-controller", "disable-network-policy", "egress-selector-mode",
    "embedded-registry", "flannel-backend", "flannel-external-ip", "flannel-ipv6-masq",
    "secrets-encryption",
)  # fmt: skip
"""What all servers of a cluster must agree on."""


def run(settings: Settings) -> None:
    """Be a server.

    :raises FatalError: when it can't be one.
    """
    node.require_root()
    log("info", f"Starting k3s {VERSION} (stand-in for tests)")
    if settings.on("cluster-reset"):
        cluster_reset.run(settings)
        return
    Server(settings).run()


class Server:
    """A server of a cluster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = settings.layout
        self.children = Children()
        self.name = node.name(settings)
        self.address = node.address(settings)
        external = bool(settings.text("datastore-endpoint"))
        embedded = (
            settings.on("cluster-init")
            or bool(settings.text("server"))
            or self.layout.embedded_etcd
        )
        self.etcd = None if external else Etcd(self.layout, self.name, self.address, embedded)
        self.external = bootstrap.ExternalStore(settings)
        self.control_plane = ControlPlane(settings, self.name, self.address)
        self.token = Token("server", "")
        self.agent_token = Token("node", "")

    def run(self) -> None:
        """Start everything, tell systemd, and watch."""
        cluster_reset.forget_flag(self.layout)
        initial_cluster = self._prepare()
        self.control_plane.ensure_certificates()
        self.control_plane.ensure_encryption()
        write(self.layout.server / "cred/critical.json", json.dumps(self._critical()), 0o600)
        if self.etcd is not None:
            self.etcd.ensure_certificates()
            moved = bootstrap.moves_from_sqlite(self.layout, self.etcd)
            arguments = self.settings.many("etcd-arg")
            self.etcd.start(self.children, initial_cluster, moved, arguments)
            # the token of a learner was good enough to join
            if self.etcd.await_quorum(self.children):
                bootstrap.keep(self.etcd, self.layout, self.token.password)
            tokens.write_files(self.layout, self.token, self.agent_token)
        else:
            bootstrap.keep(self.external, self.layout, self.token.password)
        self.control_plane.start(self.children)
        self.control_plane.write_kubeconfig()
        self._serve()
        if not self.settings.on("disable-agent"):
            url = f"https://127.0.0.1:{self.control_plane.port}"
            client = Client(url, self.token)
            client.verify()
            agents.Agent(self.settings, client, url, self.children).start()
        notify("READY=1")
        log("info", "k3s is up and running")
        controllers = Controllers(self.settings, self.control_plane.api, self.etcd, self.name)
        in_background("nodes", controllers.look_after_nodes, every=2)
        in_background("manifests", controllers.deploy_manifests, every=3)
        self.children.run_until_stopped()

    def _prepare(self) -> str:
        """Have authorities and tokens: of a cluster that is joined, kept, or new.

        :returns: the value of ``--initial-cluster`` where this member was just added.
        """
        url = self.settings.text("server")
        joining = bool(url) and (self.etcd is None or not self.etcd.initialised)
        self.layout.server.mkdir(mode=0o700, parents=True, exist_ok=True)
        initial_cluster = ""
        if joining:
            token = tokens.given(self.settings, "token", "server")
            if token is None:
                raise FatalError("--token is required to join a cluster")
            initial_cluster = self._join(url, token)
        else:
            token = tokens.of_cluster(self.settings)
            if self.etcd is None and bootstrap.is_kept(self.external, token.password):
                files = bootstrap.load(self.external, token.password)
                bootstrap.unpack(files, self.layout)
        self.token = Token("server", token.password)
        self.control_plane.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
        bootstrap.ensure_authorities(self.control_plane.tls)
        ca_pem = (self.control_plane.tls / "server-ca.crt").read_text(encoding="ascii")
        bootstrap.check_hash(token, ca_pem)
        self.agent_token = tokens.agent_token(self.settings, self.token)
        if self.etcd is None or initial_cluster:
            tokens.write_files(self.layout, self.token, self.agent_token)
        return initial_cluster

    def _join(self, url: str, token: Token) -> str:
        client = Client(url, token)
        try:
            client.verify()
            found = client.call("/v1-k3s/server-bootstrap", {"critical": self._critical()})
            bootstrap.unpack(found["files"], self.layout)
            if self.etcd is None:
                return ""
            wanted = {"name": self.etcd.name, "peer_url": self.etcd.peer_url}
            return str(client.call("/v1-k3s/etcd-member", wanted)["initial_cluster"])
        except RefusedError as error:
            raise FatalError(f"starting kubernetes: preparing server: {error}") from None
        except OSError as error:
            raise FatalError(f"failed to get CA certs: {error}") from None

    def _critical(self) -> dict[str, Any]:
        given = self.settings.given
        agent = tokens.given(self.settings, "agent-token", "node")
        found = {key: given[key] for key in CRITICAL if given.get(key)}
        return found | ({"agent-token": agent.password} if agent else {})

    def _serve(self) -> None:
        control = self.control_plane
        registration = Registration(self.settings, control)
        serve(
            control.tls / "serving-kube-apiserver.crt",
            control.tls / "server-ca.crt",
            self._allowed(registration),
            {
                "/v1-k3s/node": ("node", registration.register),
                "/v1-k3s/apiservers": ("node", lambda _: {"addresses": self._servers()}),
                "/v1-k3s/server-bootstrap": ("server", self._bootstrap),
                "/v1-k3s/etcd-member": ("server", self._add_member),
            },
        )
        bind = self.settings.text("bind-address", "0.0.0.0")
        Forwarder((bind, control.port), _route).start()

    def _allowed(self, registration: Registration) -> Any:
        def role(user: str, password: str) -> str | None:
            kept = tokens.parse((self.layout.server / "token").read_text(), "server").password
            return registration.role(user, password, kept, self.agent_token.password)

        return role

    def _servers(self) -> list[str]:
        if self.etcd is None or not self.etcd.embedded:
            return [f"{self.address}:{self.control_plane.port}"]
        found = []
        for member in self.etcd.members():
            for url in member.get("clientURLs", []):
                found.append(f"{url.split('//')[1].rpartition(':')[0]}:{self.control_plane.port}")
        return sorted(found)

    def _bootstrap(self, request: dict[str, Any]) -> dict[str, Any]:
        mine = self._critical()
        wrong = sorted(
            key
            for key in {*mine, *request["critical"]}
            if mine.get(key) != request["critical"].get(key)
        )
        if wrong:
            raise RefusedError(
                400,
                "failed to validate server configuration: critical configuration value mismatch "
                f"between servers: {', '.join(wrong)}",
            )
        if self.etcd is not None and not self.etcd.embedded:
            raise RefusedError(400, "embedded etcd is disabled: expected cluster-init")
        return {"files": bootstrap.pack(self.layout)}

    def _add_member(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.etcd is None:
            raise RefusedError(400, "embedded etcd is disabled")
        joined = self.etcd.add_learner(request["name"], request["peer_url"])
        return {"initial_cluster": joined}


def _route(begin: bytes) -> list[Address]:
    is_supervisor = SUPERVISOR_PROTOCOL.encode() in begin
    return [("127.0.0.1", PORT if is_supervisor else API_PORT)]
