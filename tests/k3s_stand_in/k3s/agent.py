"""What every node runs: containerd and the kubelet."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from . import certificates, node, registries, tokens
from .api import Api
from .config import Settings
from .containerd import Containerd
from .forwarding import Address, Forwarder
from .kubeconfig import with_files
from .paths import PROGRAMS, Layout, program, write
from .processes import Children, FatalError, in_background, log, notify, output
from .supervisor import Client, RefusedError
from .tokens import Token

_KUBELET_CONFIG = {
    "kind": "KubeletConfiguration",
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
    "authorization": {"mode": "Webhook"},
    # a device of the tests shares its kernel with others: no cgroups but those of the pods
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%"},
    "syncFrequency": "30s",
    "nodeStatusUpdateFrequency": "5s",
    "healthzBindAddress": "127.0.0.1",
}


def run(settings: Settings) -> None:
    """Be an agent.

    :raises FatalError: when it can't be one.
    """
    node.require_root()
    token = tokens.given(settings, "token", "node")
    assert token is not None  # the settings were checked
    children = Children()
    forwarder = LoadBalancer(settings, token)
    client = forwarder.start()
    agent = Agent(settings, client, f"https://127.0.0.1:{forwarder.port}", children)
    agent.start()
    notify("READY=1")
    log("info", "k3s agent is up and running")
    in_background("load balancer", lambda: forwarder.learn(client), every=5)
    children.run_until_stopped()


class LoadBalancer:
    """The port of an agent that leads to any server that lives."""

    def __init__(self, settings: Settings, token: Token) -> None:
        self.url = settings.text("server")
        self.token = token
        self.port = settings.number("lb-server-port", 6444)
        self.file = settings.layout.agent_etc / "k3s-agent-load-balancer.json"
        self._first = Client(self.url, token)
        self._servers: list[Address] = [(self._first.host, self._first.port)]
        if self.file.exists():
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            if kept.get("ServerURL") == self.url:
                self._set(kept["ServerAddresses"])

    def start(self) -> Client:
        """Listen, and find a server that knows us, however long that takes.

        :raises FatalError: when a server refuses the token.
        """
        Forwarder(("127.0.0.1", self.port), lambda _: self._servers, probing=True).start()
        client = Client(self.url, self.token, connect_to=("127.0.0.1", self.port))
        while True:
            try:
                client.verify()
                self.learn(client)
            except RefusedError as error:
                if error.status in (401, 403):
                    raise FatalError(f"failed to validate token: {error}") from None
                log("error", f"waiting to retrieve agent configuration: {error}")
            except OSError as error:
                log("error", f"failed to validate connection to cluster at {self.url}: {error}")
            else:
                return client
            time.sleep(2)

    def learn(self, client: Client) -> None:
        """Ask for the servers that there are, and remember them."""
        found = client.call("/v1-k3s/apiservers", {})["addresses"]
        if found != [f"{host}:{port}" for host, port in self._servers]:
            self._set(found)
            text = json.dumps({"ServerURL": self.url, "ServerAddresses": found})
            write(self.file, text + "\n", 0o600)

    def _set(self, addresses: list[str]) -> None:
        parts = [each.rpartition(":") for each in addresses]
        self._servers = [(host, int(port)) for host, _, port in parts] or self._servers


class Agent:
    """containerd and the kubelet of a node.

    :param client: for the supervisor.
    :param api_url: where this node's programs find the API.
    """

    def __init__(
        self, settings: Settings, client: Client, api_url: str, children: Children
    ) -> None:
        self.settings = settings
        self.layout: Layout = settings.layout
        self.client = client
        self.api_url = api_url
        self.children = children
        self.name = node.name(settings)
        self.address = node.address(settings)
        self.containerd = Containerd(settings)

    def start(self) -> None:
        """Start both. The node becomes ready later."""
        granted = self._register()
        credentials = registries.apply(self.settings)
        self._prepare_network_programs()
        self.containerd.start(self.children, credentials)
        self.containerd.import_images()
        in_background("images", self.containerd.import_images, every=5)
        self._start_kubelet(granted)
        api_port = int(self.api_url.rpartition(":")[2])
        api = Api(
            api_port, self.layout.agent / "server-ca.crt", self.layout.agent / "client-kubelet.crt"
        )
        in_background("network", lambda: self._network(api), every=2)

    def _register(self) -> dict[str, Any]:
        folder = self.layout.agent
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        wanted = {
            "name": self.name,
            "password": node.password(),
            "names": ["127.0.0.1", "localhost", self.name, self.address],
            "requests": {
                name: certificates.request(folder / f"{name}.key")
                for name in (
                    "client-kubelet", "client-kube-proxy", "client-k3s-controller",
                    "serving-kubelet",
                )
            },
        }  # fmt: skip
        granted = self._ask(wanted)
        for name, text in granted["authorities"].items():
            write(folder / f"{name}.crt", text)
        for name, text in granted["certificates"].items():
            path = folder / f"{name}.crt"
            authority = folder / f"{'server' if name.startswith('serving') else 'client'}-ca.crt"
            wrong = path.exists() and not certificates.issued_by(path, authority)
            if wrong or certificates.expires_soon(path) or name == "serving-kubelet":
                write(path, text)
        for name, file in (
            ("kubelet", "client-kubelet.crt"),
            ("kubeproxy", "client-kube-proxy.crt"),
            ("k3scontroller", "client-k3s-controller.crt"),
        ):
            text = with_files(self.api_url, folder / "server-ca.crt", folder / file)
            write(folder / f"{name}.kubeconfig", text, 0o600)
        return granted

    def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                return self.client.call("/v1-k3s/node", wanted)
            except RefusedError as error:
                if error.status in (401, 403):
                    raise FatalError(f"failed to get node certificates: {error}") from None
                log("error", f"waiting to retrieve agent configuration: {error}")
            except OSError as error:
                log("error", f"waiting to retrieve agent configuration: {error}")
            time.sleep(2)

    def _prepare_network_programs(self) -> None:
        target = self.layout.data / "data/cni"
        if not target.exists():
            with contextlib.suppress(FileExistsError):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(PROGRAMS / "cni")

    def _start_kubelet(self, granted: dict[str, Any]) -> None:
        settings, folder = self.settings, self.layout.agent
        config = _KUBELET_CONFIG | {
            "clusterDNS": granted["cluster_dns"],
            "clusterDomain": granted["cluster_domain"],
            "tlsCertFile": f"{folder}/serving-kubelet.crt",
            "tlsPrivateKeyFile": f"{folder}/serving-kubelet.key",
            "protectKernelDefaults": settings.on("protect-kernel-defaults"),
            "staticPodPath": f"{folder}/pod-manifests",
        }
        config["authentication"] = {
            **_KUBELET_CONFIG["authentication"],  # type: ignore[dict-item]
            "x509": {"clientCAFile": f"{folder}/client-ca.crt"},
        }
        (folder / "pod-manifests").mkdir(exist_ok=True)
        write(folder / "etc/kubelet.conf", json.dumps(config), 0o600)
        endpoint = f"unix://{self.containerd.socket}"
        command = [
            program("kubelet"),
            f"--config={folder}/etc/kubelet.conf",
            f"--kubeconfig={folder}/kubelet.kubeconfig",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint={endpoint}",
            f"--pod-infra-container-image={self.containerd.pause_image}",
            "--register-node=true",
        ]
        if settings.many("node-label"):
            command.append(f"--node-labels={','.join(settings.many('node-label'))}")
        if settings.many("node-taint"):
            command.append(f"--register-with-taints={','.join(settings.many('node-taint'))}")
        if settings.text("resolv-conf"):
            command.append(f"--resolv-conf={settings.text('resolv-conf')}")
        command += [f"--{each.lstrip('-')}" for each in settings.many("kubelet-arg")]
        self.children.start("kubelet", command)

    def _network(self, api: Api) -> None:
        """Write the configuration of the pod network once the node has its share of it."""
        file = self.layout.agent_etc / "cni/net.d/10-flannel.conflist"
        nodes = api.get("/api/v1/nodes")["items"]
        mine = [each["spec"].get("podCIDR") for each in nodes if _name(each) == self.name]
        if not mine or not mine[0]:
            return
        plugins = [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": mine[0]}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        text = json.dumps({"name": "cbr0", "cniVersion": "0.4.0", "plugins": plugins}, indent=1)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write(file, text)
        if self.settings.text("flannel-backend", "vxlan") != "none":
            self._routes(nodes)

    def _routes(self, nodes: list[dict[str, Any]]) -> None:
        """Reach the pods of the other nodes, as flannel's backend host-gw does."""
        for each in nodes:
            network = each["spec"].get("podCIDR")
            addresses = [
                entry["address"]
                for entry in each.get("status", {}).get("addresses", [])
                if entry["type"] == "InternalIP"
            ]
            if network and addresses and _name(each) != self.name:
                with contextlib.suppress(FatalError):
                    output("ip", "route", "replace", network, "via", addresses[0])


def _name(each: dict[str, Any]) -> str:
    return str(each["metadata"]["name"])
