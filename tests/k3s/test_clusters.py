"""Two clusters of one inventory: with a datastore of their own choice, hardened, with plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import MakeFleet
from k3s_clusters import Clusters, up
from k3s_nodes import Node, wait_for

from roles.k3s.hardening import AUDIT_LOGS, SYSCTL

STORE_PORT = 12379
ETCD = "/opt/k3s-stand-in/bin/etcd"
ETCDCTL = f"ETCDCTL_API=3 /opt/k3s-stand-in/bin/etcdctl --endpoints http://127.0.0.1:{STORE_PORT}"
IMAGE = "registry:5000/generic-device-plugin@sha256:" + "0" * 64
EAST, WEST = ("e1", "e2"), ("w1",)


@pytest.fixture(scope="module")
def clusters(
    make_k3s_fleet: MakeFleet,
    k3s_artifacts: Path,
    k3s_versions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Clusters:
    """``east``, two servers with an etcd elsewhere, and ``west``, one server, hardened."""
    west = {
        "k3s_hardening": True,
        "k3s_server_nvidia_runtime_class": True,
        "k3s_server_device_plugins": {"coral": IMAGE},
    }
    servers = {name: {"k3s_cluster": "east"} for name in EAST}
    servers |= {name: {"k3s_cluster": "west", **west} for name in WEST}
    devices = {
        name: {"variables": {"k3s_role": "server", **variables}}
        for name, variables in servers.items()
    }
    made = up(
        make_k3s_fleet,
        "k3s-two",
        devices | {"store": {"variables": {"muster_device_runtime": "docker"}}},
        tmp_path_factory.mktemp("clusters"),
        k3s_version=k3s_versions[0],
        k3s_artifacts=str(k3s_artifacts),
    )
    store = made.nodes.pop("store")
    if store.run(f"ls {ETCD}", expect=None).strip() != ETCD:
        pytest.skip("devices have no etcd to serve as an external datastore: see K3S_BINARY")
    url = f"http://{store.address}:{STORE_PORT}"
    options = f"--listen-client-urls http://0.0.0.0:{STORE_PORT} --advertise-client-urls {url}"
    store.run(f"systemd-run --quiet --unit etcd {ETCD} --data-dir /srv/etcd {options}")
    password = "a-password-from-a-vault"
    variables = made.fleet.inventory_file.parent / "host_vars"
    variables.mkdir(exist_ok=True)
    for name in EAST:
        document = {"k3s_server_datastore_endpoint": url, "k3s_server_token": password}
        (variables / f"{name}.yml").write_text(json.dumps(document), encoding="utf-8")
    # A role leaves the kernel of a container alone, as it is another's.
    values = " ".join(f"{key}={value}" for key, value in SYSCTL.items())
    for name in WEST:
        made.nodes[name].run(f"sysctl -w {values}")
    done = made.converge()
    assert done.code == 0, {name: done.error(name) for name in done.devices}
    return made


def test_each_cluster_has_its_own_nodes(clusters: Clusters) -> None:
    assert sorted(clusters.nodes["e1"].nodes()) == sorted(EAST)
    assert sorted(clusters.nodes["e2"].nodes()) == sorted(EAST)
    assert sorted(clusters.nodes["w1"].nodes()) == sorted(WEST)


def test_a_second_run_changes_nothing_and_starts_nothing(clusters: Clusters) -> None:
    before = clusters.starts()
    done = clusters.converge()
    assert (done.code, done.changed) == (0, [])
    assert clusters.starts() == before


def test_secrets_are_encrypted_in_the_datastore(clusters: Clusters) -> None:
    clusters.nodes["e1"].kubectl("create secret generic mine --from-literal=key=readable-text")
    stored = Node(clusters.fleet, "store").run(f"{ETCDCTL} get /registry/secrets/default/mine")
    assert "k8s:enc:" in stored
    assert "readable-text" not in stored


def test_with_an_external_datastore_either_server_may_die(clusters: Clusters) -> None:
    clusters.fleet.fault("kill", "e1")
    other = clusters.nodes["e2"]
    wait_for(
        "the other server serves on",
        lambda: "created" in other.kubectl("create namespace after", expect=None),
    )
    clusters.fleet.fault("heal", "e1")
    first = clusters.nodes["e1"]
    wait_for("the first is back", lambda: first.condition("e1", "Ready") == "True")
    assert "after" in first.kubectl("get namespace after -o name")


def test_a_hardened_server_writes_its_audit_log(clusters: Clusters) -> None:
    server = clusters.nodes["w1"]
    server.kubectl("create namespace audited")
    assert '"audited"' in server.run(f"cat {AUDIT_LOGS}/audit.log")
    assert "protectKernelDefaults" in server.run("cat /var/lib/rancher/k3s/agent/etc/kubelet.conf")
    assert server.condition("w1", "Ready") == "True"


def test_what_accelerators_need_is_there(clusters: Clusters) -> None:
    server = clusters.nodes["w1"]
    wait_for(
        "the manifests are applied",
        lambda: (
            "nvidia" in server.kubectl("get runtimeclass nvidia -o name", expect=None)
            and IMAGE in server.kubectl("-n kube-system get daemonsets -o yaml", expect=None)
        ),
    )
