"""API server, controller manager and scheduler of a server."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from pathlib import Path

from . import certificates, paths
from .api import Api
from .config import Settings
from .kubeconfig import embedded, with_files
from .paths import program, write
from .processes import Children, FatalError, output, wait_until

API_PORT = 6444
"""Port of the loopback address; everybody else goes through 6443."""

_CLIENTS = {
    "client-admin": "/O=system:masters/CN=system:admin",
    "client-controller": "/CN=system:kube-controller-manager",
    "client-scheduler": "/CN=system:kube-scheduler",
    "client-kube-apiserver": "/O=system:masters/CN=system:apiserver",
    "client-supervisor": "/O=system:masters/CN=system:k3s-supervisor",
    "client-k3s-controller": "/CN=system:k3s-controller",
    "client-k3s-cloud-controller": "/CN=k3s-cloud-controller-manager",
}
_AUTHORITIES = {
    "server-ca.crt": "k3s-server-ca",
    "client-ca.crt": "k3s-client-ca",
    "request-header-ca.crt": "k3s-request-header-ca",
    "etcd/server-ca.crt": "etcd-server-ca",
    "etcd/peer-ca.crt": "etcd-peer-ca",
}
SHARED = (
    *(name for crt in _AUTHORITIES for name in (crt, crt.removesuffix("crt") + "key")),
    "service.key",
)
"""Files below ``tls`` that all servers of a cluster have in common."""


def ensure_shared(tls: Path) -> None:
    """Make the authorities and keys of a new cluster."""
    for file, name in _AUTHORITIES.items():
        certificates.ensure_authority(tls / file, name)
    key = tls / "service.key"
    if not key.exists():
        write(key, output("openssl", "genrsa", "2048"), 0o600)


class ControlPlane:
    """The parts of Kubernetes that a server runs.

    :param etcd_arguments: how the API server reaches its store.
    """

    def __init__(self, settings: Settings, node: str, address: str) -> None:
        self.settings = settings
        self.layout = settings.layout
        self.tls = settings.layout.tls
        self.node = node
        self.address = address
        self.api = Api(API_PORT, self.tls / "server-ca.crt", self.tls / "client-admin.crt")

    @property
    def service_network(self) -> str:
        """Network of the services."""
        return ",".join(self.settings.many("service-cidr")) or "10.43.0.0/16"

    @property
    def port(self) -> int:
        """Port that everybody reaches this server at."""
        return self.settings.number("https-listen-port", 6443)

    def names(self) -> list[str]:
        """Names and addresses that the server's certificate is for."""
        network = ipaddress.ip_network(self.service_network.split(",")[0])
        domain = self.settings.text("cluster-domain", "cluster.local")
        return [
            "kubernetes", "kubernetes.default", "kubernetes.default.svc",
            f"kubernetes.default.svc.{domain}", "localhost", "127.0.0.1", self.node, self.address,
            str(network[1]), *self.settings.many("tls-san"),
            *self.settings.many("node-external-ip"),
        ]  # fmt: skip

    def ensure_certificates(self) -> None:
        """Make or renew the certificates of this server."""
        tls = self.tls
        for name, subject in _CLIENTS.items():
            certificates.ensure(tls / f"{name}.crt", tls / "client-ca.crt", subject, "clientAuth")
        certificates.ensure(
            tls / "client-auth-proxy.crt",
            tls / "request-header-ca.crt",
            "/CN=system:auth-proxy",
            "clientAuth",
        )
        certificates.ensure(
            tls / "serving-kube-apiserver.crt",
            tls / "server-ca.crt",
            "/CN=kube-apiserver",
            "serverAuth",
            self.names(),
        )
        for name in ("controller", "scheduler"):
            text = with_files(
                f"https://127.0.0.1:{API_PORT}", tls / "server-ca.crt", tls / f"client-{name}.crt"
            )
            write(self.layout.server / f"cred/{name}.kubeconfig", text, 0o600)

    def ensure_encryption(self) -> None:
        """Make the key that encrypts Secrets, if they are to be, unless it is there."""
        if self.layout.encryption.exists() or not self.settings.on("secrets-encryption"):
            return
        key = {"name": "aescbckey", "secret": base64.b64encode(os.urandom(32)).decode()}
        resources = {
            "resources": ["secrets"],
            "providers": [{"aescbc": {"keys": [key]}}, {"identity": {}}],
        }
        kind = {"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1"}
        write(self.layout.encryption, json.dumps(kind | {"resources": [resources]}), 0o600)

    def _encryption(self) -> list[str]:
        if not self.settings.on("secrets-encryption"):
            return []
        return [f"--encryption-provider-config={self.layout.encryption}"]

    def _store(self) -> list[str]:
        settings, tls = self.settings, self.tls / "etcd"
        endpoint = settings.text("datastore-endpoint")
        if not endpoint:
            return [
                "--etcd-servers=https://127.0.0.1:2379",
                f"--etcd-cafile={tls}/server-ca.crt",
                f"--etcd-certfile={tls}/client.crt",
                f"--etcd-keyfile={tls}/client.key",
            ]
        if not endpoint.startswith(("http://", "https://")):
            raise FatalError(
                "this stand-in for K3s knows external datastores of etcd alone: "
                "expected http(s)://HOST:PORT"
            )
        given = {
            name: settings.text(f"datastore-{name}") for name in ("cafile", "certfile", "keyfile")
        }
        return [f"--etcd-servers={endpoint}"] + [
            f"--etcd-{name}={file}" for name, file in given.items() if file
        ]

    def start(self, children: Children) -> None:
        """Start all three and wait until the API is ready.

        :raises FatalError: when one of them ends at once, as for arguments that it does not know.
        """
        tls, settings = self.tls, self.settings
        domain = settings.text("cluster-domain", "cluster.local")
        apiserver = {
            "advertise-address": settings.text("advertise-address", self.address),
            "allow-privileged": "true",
            "anonymous-auth": "false",
            "api-audiences": f"https://kubernetes.default.svc.{domain},k3s",
            "authorization-mode": "Node,RBAC",
            "bind-address": "127.0.0.1",
            "secure-port": str(API_PORT),
            "client-ca-file": f"{tls}/client-ca.crt",
            "enable-admission-plugins": "NodeRestriction",
            "enable-aggregator-routing": "true",
            "kubelet-certificate-authority": f"{tls}/server-ca.crt",
            "kubelet-client-certificate": f"{tls}/client-kube-apiserver.crt",
            "kubelet-client-key": f"{tls}/client-kube-apiserver.key",
            "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
            "profiling": "false",
            "proxy-client-cert-file": f"{tls}/client-auth-proxy.crt",
            "proxy-client-key-file": f"{tls}/client-auth-proxy.key",
            "requestheader-allowed-names": "system:auth-proxy",
            "requestheader-client-ca-file": f"{tls}/request-header-ca.crt",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "service-account-issuer": f"https://kubernetes.default.svc.{domain}",
            "service-account-key-file": f"{tls}/service.key",
            "service-account-signing-key-file": f"{tls}/service.key",
            "service-cluster-ip-range": self.service_network,
            "service-node-port-range": settings.text("service-node-port-range", "30000-32767"),
            "storage-backend": "etcd3",
            "tls-cert-file": f"{tls}/serving-kube-apiserver.crt",
            "tls-private-key-file": f"{tls}/serving-kube-apiserver.key",
        }
        extra = [*self._store(), *self._encryption()]
        self._run(children, "kube-apiserver", apiserver, extra)
        wait_until("the API server", lambda: children.check() and self.api.ready(), 300)
        cred = self.layout.server / "cred"
        elect = "true" if self.settings.layout.embedded_etcd else "false"
        if settings.text("datastore-endpoint"):
            elect = "true"
        if not settings.on("disable-controller-manager"):
            networks = ",".join(settings.many("cluster-cidr")) or "10.42.0.0/16"
            manager = {
                "allocate-node-cidrs": "true",
                "cluster-cidr": networks,
                "service-cluster-ip-range": self.service_network,
                "bind-address": "127.0.0.1",
                "port": "0",
                "secure-port": "10257",
                "cluster-signing-cert-file": f"{tls}/client-ca.crt",
                "cluster-signing-key-file": f"{tls}/client-ca.key",
                "kubeconfig": f"{cred}/controller.kubeconfig",
                "leader-elect": elect,
                "profiling": "false",
                "root-ca-file": f"{tls}/server-ca.crt",
                "service-account-private-key-file": f"{tls}/service.key",
                "use-service-account-credentials": "true",
            }
            self._run(children, "kube-controller-manager", manager)
        if not settings.on("disable-scheduler"):
            scheduler = {
                "bind-address": "127.0.0.1",
                "port": "0",
                "secure-port": "10259",
                "kubeconfig": f"{cred}/scheduler.kubeconfig",
                "leader-elect": elect,
                "profiling": "false",
            }
            self._run(children, "kube-scheduler", scheduler)

    def _run(
        self, children: Children, name: str, known: dict[str, str], extra: list[str] | None = None
    ) -> None:
        key = {"kube-controller-manager": ("kube-controller-manager-arg", "kube-controller-arg")}
        arguments = dict(known)
        for each in key.get(name, (f"{name}-arg",)):
            for given in self.settings.many(each):
                flag, _, value = given.partition("=")
                arguments[flag.lstrip("-")] = value or "true"
        flags = [f"--{flag}={value}" for flag, value in arguments.items()]
        children.start(name, [program(name), *flags, *(extra or [])])

    def write_kubeconfig(self) -> None:
        """Write the kubeconfig of administrators."""
        tls, settings = self.tls, self.settings
        path = Path(settings.text("write-kubeconfig", str(paths.KUBECONFIG)))
        text = embedded(
            f"https://127.0.0.1:{self.port}", tls / "server-ca.crt", tls / "client-admin.crt"
        )
        write(path, text, int(settings.text("write-kubeconfig-mode", "600"), 8))
        write(self.layout.server / "cred/admin.kubeconfig", text, 0o600)
