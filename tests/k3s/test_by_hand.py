"""One server and one agent with configuration written by hand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import MakeFleet
from k3s_nodes import KUBELET, TOKEN, Node, wait_for, wait_ready

from examples.digits import publish

DAEMON_SET = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: digits}}
spec:
  selector: {{matchLabels: {{app: digits}}}}
  updateStrategy: {{type: OnDelete}}
  template:
    metadata: {{labels: {{app: digits}}}}
    spec:
      nodeSelector: {{muster.model/digits: first}}
      containers:
      - name: digits
        image: {image}
        ports: [{{containerPort: 8080, hostPort: 8080}}]
        resources: {{limits: {{memory: 256Mi}}}}
"""
PORT = 8080


@pytest.fixture(scope="module")
def nodes(make_k3s_fleet: MakeFleet, k3s_artifacts: Path, k3s_versions: list[str]) -> list[Node]:
    """A server ``one`` and an agent ``two``."""
    fleet = make_k3s_fleet("by-hand", {"one": None, "two": {"memory": "1GiB"}})
    server, agent = nodes = [Node(fleet, name) for name in ("one", "two")]
    registry = {
        "mirrors": {"registry:5000": {"endpoint": ["https://registry:5000"]}},
        "configs": {"registry:5000": {"tls": {"ca_file": "/etc/rancher/k3s/registry.crt"}}},
    }
    for node in nodes:
        node.install(k3s_artifacts, k3s_versions[0])
        node.put("/etc/rancher/k3s/registry.crt", fleet.registry_ca.read_bytes())
        node.put("/etc/rancher/k3s/registries.yaml", yaml.safe_dump(registry).encode(), 0o600)
    server.configure("server", disable=["traefik", "metrics-server"], tls_san=[server.address])
    server.start("server")
    token = server.run(f"cat {TOKEN}").strip()
    assert token.startswith("K10")
    server_url = f"https://{server.address}:6443"
    agent.configure("agent", server=server_url, token=token, node_label=["kind=bench"])
    agent.start("agent")
    wait_ready(server, "one", "two")
    return nodes


def answers(node: Node) -> bool:
    try:
        with urllib.request.urlopen(
            f"http://{node.address}:{PORT}/v2/health/ready", timeout=2
        ) as r:
            return bool(r.status == 200)
    except OSError:
        return False


def test_both_report_the_version_that_was_installed(
    nodes: list[Node], k3s_versions: list[str]
) -> None:
    found = nodes[0].nodes()
    running = {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in found.items()}
    assert running == dict.fromkeys(("one", "two"), k3s_versions[0])
    assert found["two"]["metadata"]["labels"]["kind"] == "bench"


def test_a_node_may_label_itself_and_no_other(nodes: list[Node]) -> None:
    _, agent = nodes
    label = f"k3s kubectl --kubeconfig {KUBELET} label --overwrite node"
    agent.run(f"{label} two muster.model/digits=first")
    refused = agent.run(f"{label} one muster.model/digits=first 2>&1", expect=1)
    assert 'is not allowed to modify node "one"' in refused
    assert "muster.model/digits" not in nodes[0].nodes()["one"]["metadata"]["labels"]


def test_a_daemon_set_serves_on_the_labelled_node_and_outlives_the_agent(
    nodes: list[Node], tmp_path: Path
) -> None:
    server, agent = nodes
    fleet = server.fleet
    releases = publish(fleet.registry_address, fleet.registry_ca, tmp_path)
    release = yaml.safe_load(releases["1.0"].read_text(encoding="utf-8"))
    image = f"registry:5000/{next(iter(release['variants'].values()))['image']}"
    agent.run(f"k3s crictl pull {image}")
    agent.run(
        f"k3s kubectl --kubeconfig {KUBELET} label --overwrite node two muster.model/digits=first"
    )
    server.kubectl("apply -f -", stdin=DAEMON_SET.format(image=image))
    wait_for("the pod serves", lambda: answers(agent))
    assert not answers(server)

    agent.run("systemctl stop k3s-agent")
    assert answers(agent)
    agent.run("systemctl start k3s-agent")
    wait_ready(server, "two")
    pods = json.loads(server.kubectl("get pods -l app=digits -o json"))["items"]
    states = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods]
    assert states == [0]


def test_a_key_that_k3s_does_not_know_stops_it(nodes: list[Node]) -> None:
    said = nodes[1].run("k3s agent --server https://nowhere --token x --embedded-registry 2>&1", 1)
    assert "flag provided but not defined: -embedded-registry" in said


def test_a_token_of_another_cluster_is_refused(nodes: list[Node]) -> None:
    server, agent = nodes
    other = f"K10{'0' * 64}::server:secret"
    url = f"https://{server.address}:6443"
    said = agent.run(
        f"timeout 20 k3s agent --lb-server-port 7444 --server {url} --token {other} 2>&1", None
    )
    assert "CA hash does not match" in said
