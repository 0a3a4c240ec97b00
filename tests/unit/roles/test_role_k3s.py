"""The variables of the K3s roles: what is wrong with them, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.inventory import Device
from muster.k3s.cluster import Cluster, clusters
from muster.role_variables import Subject, variable_problems
from roles.firewall.deploy import trusted
from roles.firewall.ruleset import Rules, ruleset
from roles.firewall.variables import Variables as FirewallVariables
from roles.k3s import hardening
from roles.k3s.config import (
    Place,
    config_document,
    environment_text,
    node_files,
    registries_document,
    unit,
    yaml_text,
)
from roles.k3s.facts import Host, Node
from roles.k3s.keys import key_problems
from roles.k3s.prerequisites import (
    UPGRADE,
    change_refused,
    host_problem,
    kernel_files,
    kernel_takes_effect,
    missing_parameters,
)
from roles.k3s_agent.variables import Variables as AgentVariables
from roles.k3s_server.deploy import Unclear, whom_to_join
from roles.k3s_server.manifests import manifest_files
from roles.k3s_server.variables import Variables as ServerVariables
from roles.operations import File
from roles.variables import OpenPort

VERSION = "v1.33.4+k3s1"
STORE = "https://store.example/k3s"
NEEDED = {"k3s_version": VERSION, "k3s_artifacts": STORE}
WHERE = Path("/somewhere/hosts.yml")
BOTH = ["k3s_server", "k3s_agent"]


def subject(name: str, role: str = "server", **variables: Any) -> Subject:
    return Subject(name, (), {"k3s_role": role, **NEEDED, **variables}, WHERE)


def problems(*subjects: Subject) -> list[str]:
    found = variable_problems(subjects, BOTH, everything=subjects)
    return [text.removeprefix(f"{WHERE}: ") for text in found]


def device(name: str, role: str = "server", **variables: Any) -> Device:
    given = {"k3s_role": role, **NEEDED, **variables}
    return Device(name, f"10.0.0.{name[-1]}", 22, None, None, (), given)


def place(role: str = "server", servers: int = 1, join: str | None = None, **more: Any) -> Place:
    devices = [device(f"s{number}", **more) for number in range(1, servers + 1)]
    cluster = clusters([*devices, device("a9", "agent")])["default"]
    return Place(cluster, "s1" if role == "server" else "a9", "10.0.0.1", join)


def server(**variables: Any) -> ServerVariables:
    return ServerVariables(**NEEDED, k3s_role="server", **variables)


def agent(**variables: Any) -> AgentVariables:
    return AgentVariables(**NEEDED, k3s_role="agent", **variables)


# What is wrong with variables


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"k3s_version": "1.33.4"}, "k3s_version: expected a version of K3s such as v1.33.4+k3s1"),
        ({"k3s_version": "v1.33.4"}, "k3s_version: expected a version of K3s"),
        ({"k3s_artifacts": "/nowhere"}, "k3s_artifacts: expected a folder on the controller or"),
        ({"k3s_cluster": "Hall 7"}, "k3s_cluster"),
        ({"k3s_node_labels": {"Line!": "7"}}, "Line!: expected a label of Kubernetes"),
        ({"k3s_node_labels": {"line": "a b"}}, "line: expected letters, digits"),
        ({"k3s_node_labels": {"muster.model/digits": "x"}}, "the device program sets by itself"),
        ({"k3s_node_taints": ["line=7:NoSchedul"]}, "did you mean NoSchedule?"),
        ({"k3s_node_taints": ["line=7"]}, "expected key=value:"),
        ({"k3s_node_taints": [":NoSchedule"]}, "expected a taint such as line=7:NoSchedule"),
        ({"k3s_config": {"flanel-backend": "none"}}, "did you mean flannel-backend?"),
        ({"k3s_config": {"flannel_backend": "none"}}, "did you mean flannel-backend?"),
        ({"k3s_config": {"token": "secret"}}, "set k3s_server_token instead"),
        ({"k3s_config": {"data-dir": "/data"}}, "expected no such key: the role sets it"),
        (
            {"k3s_config": {"etcd-snapshot-dir": "/mnt"}},
            "etcd-snapshot-dir: expected no such key: the role sets it",
        ),
        ({"k3s_config": {"debug": [True]}}, "debug: expected one value, got a list"),
        ({"k3s_config": {"kubelet-arg": [{"a": 1}]}}, "text or numbers in the list, got a mapping"),
        ({"k3s_config": {"debug": {"a": 1}}}, "debug: expected text or a number, got a mapping"),
        (
            {"k3s_config_dropins": {"a": {"tokn": 1}}},
            "a: tokn: expected a key of K3s's config.yaml",
        ),
        ({"k3s_config_dropins": {"A b": {}}}, "k3s_config_dropins"),
        ({"k3s_registries": {"mirror": {}}}, "expected mappings called mirrors and configs"),
        (
            {"k3s_registries": {"mirrors": {"x": 5}}},
            "k3s_registries: mirrors: x: expected a mapping, got the number 5",
        ),
        ({"k3s_cluster": "north\n"}, "k3s_cluster"),
        ({"k3s_environment": {"A": "b\n"}}, "k3s_environment"),
        ({"k3s_mirrored_registries": ["docker.io"]}, "expected none without muster_registry"),
        ({"k3s_environment": {"A": "b\nc"}}, "k3s_environment"),
        ({"k3s_api_port": 0}, "k3s_api_port"),
        ({"k3s_start_timeout": "soon"}, "k3s_start_timeout: expected a duration"),
        ({"k3s_role": "master"}, "k3s_role: expected 'none', 'server' or 'agent', got 'master'"),
        ({"k3s_server_datastore": "mysql"}, "k3s_server_datastore"),
        (
            {"k3s_server_datastore_endpoint": "host"},
            "k3s_server_datastore_endpoint: expected a URL",
        ),
        ({"k3s_server_kubeconfig_mode": 640}, "expected the mode in quotes"),
        ({"k3s_server_disable": ["traffik"]}, "k3s_server_disable"),
        ({"k3s_server_manifests": {"a": "/nowhere.yml"}}, "a: expected a file of manifests"),
        ({"k3s_server_manifests": {"a": __file__}}, "a: expected"),
        ({"k3s_server_device_plugins": {"tpu": "x"}}, "k3s_server_device_plugins"),
        ({"k3s_server_token": 7}, "k3s_server_token: expected text"),
        ({"k3s_nodelabels": {}}, "did you mean k3s_node_labels?"),
    ],
)
def test_wrong_values(variables: dict[str, Any], part: str) -> None:
    found = problems(subject("s1", **variables))
    assert found
    assert all(text.startswith("device s1: ") for text in found)
    assert any(part in text for text in found), found


def test_an_agent_knows_fewer_keys() -> None:
    (found,) = key_problems({"embedded-registry": True}, server=False)
    assert "this is one for servers alone" in found
    assert key_problems({"embedded-registry": True}, server=True) == []
    assert key_problems({"kubelet-arg+": ["a=b"], "debug": True}, server=False) == []


@pytest.mark.parametrize("name", ["k3s_server_token", "k3s_server_datastore_endpoint"])
def test_no_error_tells_a_secret(name: str) -> None:
    found = problems(subject("s1", **{name: ["hunter2"]}), subject("s2", **{name: "a\nhunter2"}))
    assert found
    assert "hunter2" not in "".join(found)


def test_a_device_without_a_role_needs_nothing() -> None:
    assert variable_problems([Subject("n", (), {}, WHERE)], BOTH) == []
    assert not ServerVariables.chosen({"k3s_role": "agent"})
    assert AgentVariables.chosen({"k3s_role": "agent"})


def test_agents_wait_for_the_servers_of_the_run() -> None:
    assert ServerVariables.attends({"k3s_role": "agent"})
    assert not ServerVariables.attends({"k3s_role": "server"})
    assert not ServerVariables.attends({})
    assert not AgentVariables.attends({"k3s_role": "server"})


# What does not fit together


def test_an_even_number_of_servers_with_etcd_is_refused_for_each_cluster() -> None:
    found = problems(
        *(subject(f"n{number}", k3s_cluster="north") for number in range(2)),
        *(subject(f"s{number}", k3s_cluster="south") for number in range(3)),
        subject("lonely", k3s_cluster="east"),
    )
    (text,) = found
    assert text.startswith("devices n0, n1: k3s_role: expected an odd number of servers")
    assert "in the cluster north, got 2" in text


def test_any_number_of_servers_may_share_an_external_datastore() -> None:
    url = {"k3s_server_datastore_endpoint": "postgres://u:hunter2@db:5432/k3s"}
    assert problems(subject("s1", **url), subject("s2", **url)) == []
    other = {"k3s_server_datastore_endpoint": "postgres://u:hunter3@db:5432/k3s"}
    (text,) = problems(subject("s1", **url), subject("s2", **other))
    assert text.startswith("device s2: k3s_server_datastore_endpoint: expected the same on all")
    assert "hunter" not in text


@pytest.mark.parametrize(
    ("subjects", "part"),
    [
        (
            [subject("a1", "agent")],
            "device a1: k3s_cluster: expected a server in the cluster default",
        ),
        (
            [subject("s1"), subject("..", "agent")],
            "device ..: k3s_role: expected a name of letters, digits, '-' and '.' for the device",
        ),
        (
            [subject("s1"), subject("a" * 64, "agent")],
            "at most 63: it would be the node",
        ),
        (
            [subject("s1"), subject("cam_1", "agent"), subject("CAM-1", "agent")],
            "CAM-1 and cam_1 would both be the node cam-1",
        ),
        (
            [subject("s1", k3s_server_datastore="sqlite")] + [subject(f"s{n}") for n in (2, 3)],
            "expected etcd or external for 3 servers, got sqlite",
        ),
        (
            [subject("s1", k3s_server_datastore="external")],
            "device s1: k3s_server_datastore_endpoint: expected a URL, got nothing",
        ),
        (
            [
                subject("s1"),
                subject("s2", k3s_config={"cluster-cidr": "10.9.0.0/16"}),
                subject("s3"),
            ],
            "device s2: k3s_config: cluster-cidr: expected the same on all nodes of the cluster"
            " default as on s1, got '10.9.0.0/16'",
        ),
        (
            [subject("s1"), subject("s2", k3s_server_disable=["traefik"]), subject("s3")],
            "device s2: k3s_server_disable: expected the same",
        ),
        (
            [subject("s1"), subject("s2", k3s_server_secrets_encryption=False), subject("s3")],
            "device s2: k3s_server_secrets_encryption: expected the same",
        ),
        (
            [subject("s1"), subject("a1", "agent", k3s_version="v1.34.0+k3s1")],
            "device a1: k3s_version: expected no newer version than on the servers of default",
        ),
        (
            [subject("s1"), subject("a1", "agent", k3s_api_port=7443)],
            "device a1: k3s_api_port: expected the same",
        ),
    ],
)
def test_nodes_of_a_cluster_must_fit_together(subjects: list[Subject], part: str) -> None:
    assert any(part in text for text in problems(*subjects)), problems(*subjects)


def at(site: str, found: Subject) -> Subject:
    return Subject(found.name, ("all", site), found.variables, WHERE)


def test_sites_that_keep_the_default_name_are_not_one_cluster() -> None:
    (text,) = problems(
        at("site_mill", subject("s1")),
        at("site_mill", subject("a1", "agent")),
        at("site_quay", subject("a2", "agent")),
        at("site_pier", subject("n1", "none")),
    )
    assert text.startswith("devices s1, a1, a2: k3s_cluster: expected no cluster called default")
    assert "(site_mill, site_quay): set k3s_cluster" in text
    both = {"k3s_cluster": "harbour"}
    assert problems(at("site_mill", subject("s1")), at("site_mill", subject("a1", "agent"))) == []
    assert (
        problems(
            at("site_mill", subject("s1", **both)), at("site_quay", subject("a1", "agent", **both))
        )
        == []
    )


def test_a_limit_on_a_run_is_no_limit_on_what_must_fit_together() -> None:
    both = [subject("s1"), subject("s2")]
    found = variable_problems(both[:1], BOTH, everything=both)
    assert "odd number" in found[0]


def test_two_clusters_need_not_agree() -> None:
    other = {"k3s_cluster": "b", "k3s_config": {"cluster-cidr": "10.9.0.0/16"}}
    assert problems(subject("s1"), subject("s2", **other)) == []


# What they become


def test_config_of_a_single_server() -> None:
    variables = server(k3s_node_labels={"line": 7, "fast": True}, k3s_node_taints=["a=b:NoExecute"])
    assert config_document(variables, place()) == {
        "agent-token-file": "/etc/rancher/k3s/agent-token",
        "node-label": ["fast=true", "line=7"],
        "node-name": "s1",
        "node-taint": ["a=b:NoExecute"],
        "secrets-encryption": True,
        "tls-san": ["10.0.0.1"],
        "token-file": "/etc/rancher/k3s/token",
        "write-kubeconfig-mode": "0600",
    }


def test_config_of_servers_with_etcd() -> None:
    first = config_document(server(), place(servers=3))
    assert first["cluster-init"] is True
    assert "server" not in first
    second = config_document(server(), place(servers=3, join="https://10.0.0.1:6443"))
    assert "cluster-init" not in second
    assert second["server"] == "https://10.0.0.1:6443"


def test_config_with_an_external_datastore() -> None:
    url = {"k3s_server_datastore_endpoint": "mysql://u:p@tcp(db:3306)/k3s"}
    found = config_document(server(**url), place(servers=2, join="https://x:6443", **url))
    assert found["datastore-endpoint"] == url["k3s_server_datastore_endpoint"]
    assert "server" not in found
    assert "cluster-init" not in found


def test_config_of_an_agent() -> None:
    assert config_document(agent(), place("agent", join="https://10.0.0.1:6443")) == {
        "node-name": "a9",
        "server": "https://10.0.0.1:6443",
        "token-file": "/etc/rancher/k3s/token",
    }


def test_further_keys_win_and_lists_grow() -> None:
    variables = server(
        k3s_api_address="api.example",
        k3s_server_tls_sans=["k3s.example"],
        k3s_config={"tls-san": "api.lan", "kubelet-arg": ["max-pods=30"], "debug": True},
    )
    found = config_document(variables, place())
    assert found["tls-san"] == ["api.example", "10.0.0.1", "k3s.example", "api.lan"]
    assert (found["kubelet-arg"], found["debug"]) == (["max-pods=30"], True)


def test_registries_name_the_sites_registry_with_its_certificates() -> None:
    folder = "/etc/rancher/k3s/registry/reg:5000"
    trusted = [File(f"{folder}/{name}", "x") for name in ("ca.crt", "client.cert", "client.key")]
    variables = agent(
        muster_registry="reg:5000",
        k3s_mirrored_registries=["docker.io"],
        k3s_registries={"mirrors": {"docker.io": {"rewrite": {"^library/(.*)": "hub/$1"}}}},
    )
    assert registries_document(variables, trusted) == {
        "configs": {
            "reg:5000": {
                "tls": {
                    "ca_file": f"{folder}/ca.crt",
                    "cert_file": f"{folder}/client.cert",
                    "key_file": f"{folder}/client.key",
                }
            }
        },
        "mirrors": {
            "docker.io": {
                "endpoint": ["https://reg:5000"],
                "rewrite": {"^library/(.*)": "hub/$1"},
            },
            "reg:5000": {"endpoint": ["https://reg:5000"]},
        },
    }
    assert registries_document(agent(), []) == {}


def test_documents_are_read_back() -> None:
    document = {"a": "yes", "b": "0640", "c": "1e3", "d": ["é: #", True, 7], "e": "null"}
    assert yaml.safe_load(yaml_text(document)) == document
    with pytest.raises(ValueError, match="expected values that YAML has a form for"):
        yaml_text({"a": object()})


def test_secrets_are_for_root_alone() -> None:
    variables = server(k3s_config_dropins={"more": {"kubelet-arg+": ["a=b"]}})
    files = {file.path: file for file in node_files(variables, place(), [], "unit\n")}
    private = ["config.yaml", "registries.yaml", "config.yaml.d/50-muster-more.yaml"]
    for name in private:
        assert files[f"/etc/rancher/k3s/{name}"].mode == "600"
    assert files["/etc/systemd/system/k3s.service.env"].mode == "600"
    assert unit("agent") == "k3s-agent.service"


def test_the_environment_is_quoted_for_systemd() -> None:
    text = environment_text(agent(k3s_environment={"HTTPS_PROXY": 'http://u:"p\\@proxy'}))
    assert text.splitlines()[1:] == ['HTTPS_PROXY="http://u:\\"p\\\\@proxy"']


def test_hardening_is_opt_in() -> None:
    plain = config_document(server(), place())
    assert "protect-kernel-defaults" not in plain
    variables = server(k3s_hardening=True, k3s_config={"kube-apiserver-arg": ["v=2"]})
    found = config_document(variables, place())
    assert found["protect-kernel-defaults"] is True
    assert found["kube-apiserver-arg"][-1] == "v=2"
    assert f"audit-policy-file={hardening.AUDIT_POLICY}" in found["kube-apiserver-arg"]
    admission = yaml.safe_load(hardening.files(variables)[1].content)
    assert [each["name"] for each in admission["plugins"]] == ["EventRateLimit", "PodSecurity"]
    old = ServerVariables(k3s_version="v1.20.2+k3s1", k3s_artifacts=STORE, k3s_hardening=True)
    admission = yaml.safe_load(hardening.files(old)[1].content)
    assert [each["name"] for each in admission["plugins"]] == ["EventRateLimit"]
    assert "kube-apiserver-arg" not in config_document(
        agent(k3s_hardening=True), place("agent", join="https://x:6443")
    )
    sysctl = kernel_files(variables)[1].content
    assert "vm.panic_on_oom = 0\n" in sysctl
    assert "vm.panic_on_oom" not in kernel_files(server())[1].content


def test_a_container_has_the_kernel_of_its_host() -> None:
    assert kernel_takes_effect(container=True) is None
    assert "modprobe" in str(kernel_takes_effect(container=False))


def test_ports_for_the_firewall() -> None:
    networks = {"k3s_node_networks": ["10.0.0.0/24"]}
    assert server(**networks).opens()[1] == OpenPort(10250, "tcp", "kubelet", ("10.0.0.0/24",))
    ports = {port.port for port in server(**networks).opens()}
    assert ports == {6443, 10250, 8472, 2379, 2380}
    wireguard = server(
        k3s_config={"flannel-backend": "wireguard-native", "embedded-registry": True},
        k3s_server_datastore="sqlite",
    )
    assert {port.port for port in wireguard.opens()} == {6443, 10250, 51820, 51821, 5001}


def test_an_agent_is_open_for_all_that_its_servers_may_choose() -> None:
    found = agent(k3s_node_networks=["10.0.0.0/24"], k3s_api_port=7443).opens()
    assert [(port.port, port.protocol) for port in found] == [
        (10250, "tcp"),
        (8472, "udp"),
        (51820, "udp"),
        (51821, "udp"),
        (5001, "tcp"),
        (7443, "tcp"),
    ]
    assert {port.sources for port in found} == {("10.0.0.0/24",)}


def test_a_firewall_takes_what_pods_send() -> None:
    inventory = {"k3s_role": "agent", "muster_device_runtime": "k3s", "muster_registry": "r:5000"}
    assert trusted({**NEEDED, **inventory}) == ["cni0", "flannel*"]
    assert trusted({"muster_registry": "r:5000"}) == []
    with_pods = FirewallVariables(firewall_enabled=True, firewall_trusted_interfaces=["cni0"])
    assert 'iifname "cni0" accept' in ruleset(with_pods, Rules([22], []))


def test_manifests_for_accelerators_are_opt_in(tmp_path: Path) -> None:
    assert manifest_files(server()) == []
    own = tmp_path / "own.yml"
    own.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: line}\n", encoding="utf-8")
    variables = server(
        k3s_server_nvidia_runtime_class=True,
        k3s_server_device_plugins={
            "coral": "reg:5000/generic-device-plugin:1",
            "hailo": "reg:5000/generic-device-plugin:1",
            "intel": "reg:5000/intel-gpu-plugin:1",
            "nvidia": "reg:5000/k8s-device-plugin:1",
        },
        k3s_server_device_plugin_selector={"accelerator": "yes"},
        k3s_server_manifests={"own": str(own)},
    )
    files = {Path(f.path).name: yaml.safe_load(f.content) for f in manifest_files(variables)}
    assert files["muster-nvidia-runtime-class.yaml"]["handler"] == "nvidia"
    assert files["muster-own.yaml"]["kind"] == "Namespace"
    coral = files["muster-device-plugin-coral.yaml"]["spec"]["template"]["spec"]
    assert coral["nodeSelector"] == {"accelerator": "yes"}
    (option, text) = coral["containers"][0]["args"]
    assert option == "--device"
    assert yaml.safe_load(text) == {
        "name": "coral",
        "groups": [{"paths": [{"path": "/dev/apex_0"}]}],
    }
    hailo = files["muster-device-plugin-hailo.yaml"]["spec"]["template"]["spec"]
    assert "/dev/hailo0" in hailo["containers"][0]["args"][1]
    nvidia = files["muster-device-plugin-nvidia.yaml"]["spec"]["template"]["spec"]
    assert nvidia["runtimeClassName"] == "nvidia"
    assert files["muster-device-plugin-intel.yaml"]["spec"]["template"]["spec"]["volumes"]


# Whom a server joins


SERVERS = ["s1", "s2", "s3"]
NEW, OLD = Node(), Node(version=VERSION, has_data=True)
JOINED = Node(version=VERSION, has_data=True, joined="https://10.0.0.1:6443")


@pytest.mark.parametrize(
    ("own", "nodes", "joins"),
    [
        (0, {"s1": NEW, "s2": NEW, "s3": NEW}, None),
        (1, {"s1": NEW, "s2": NEW, "s3": NEW}, "s1"),
        (2, {"s3": NEW}, "s1"),
        (0, {"s1": OLD, "s2": JOINED, "s3": JOINED}, None),
        (0, {"s1": OLD}, None),
        (1, {"s1": OLD, "s2": JOINED}, "s1"),
        # a first server that comes back empty must not make a second cluster
        (0, {"s1": NEW, "s2": JOINED, "s3": JOINED}, "s2"),
        (0, {"s1": JOINED, "s2": JOINED, "s3": JOINED}, "s2"),
        (2, {"s1": NEW, "s2": JOINED, "s3": NEW}, "s2"),
    ],
)
def test_whom_a_server_joins(own: int, nodes: dict[str, Node], joins: str | None) -> None:
    assert whom_to_join(SERVERS, own, nodes) == joins


def test_the_first_server_makes_no_cluster_while_others_are_unknown() -> None:
    found = whom_to_join(SERVERS, 0, {"s1": NEW, "s2": NEW})
    assert isinstance(found, Unclear)
    assert "s3 is not" in found.reason
    assert whom_to_join(["s1"], 0, {"s1": NEW}) is None


# What a device must be like


def test_a_device_must_have_a_route_and_a_known_architecture() -> None:
    assert host_problem(Host("amd64", route=True)) == ""
    assert "expected a default route" in host_problem(Host("arm64"))
    assert "got riscv64" in host_problem(Host("riscv64", route=True))
    assert "got no answer" in host_problem(Host())


def test_a_raspberry_pi_lacks_parameters_of_its_kernel() -> None:
    assert missing_parameters(Host(parameters="rootwait")) == (
        "cgroup_memory=1",
        "cgroup_enable=memory",
    )
    assert (
        missing_parameters(Host(parameters="cgroup_enable=memory rootwait cgroup_memory=1")) == ()
    )


def node(version: str, state: str = "active", unit_name: str = "k3s.service") -> Node:
    return Node(version=version, units={unit_name: state})


def test_the_version_of_a_running_node_changes_only_by_an_upgrade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(UPGRADE, raising=False)
    older = node("v1.32.9+k3s1")
    assert "run `muster k3s upgrade`" in change_refused(server(), older)
    assert change_refused(server(), node(VERSION)) == ""
    assert change_refused(server(), Node()) == ""
    monkeypatch.setenv(UPGRADE, "v1.33.0+k3s1")
    assert change_refused(server(), older) != ""
    monkeypatch.setenv(UPGRADE, VERSION)
    assert change_refused(server(), older) == ""
    assert "can't be downgraded" in change_refused(server(), node("v1.34.0+k3s1"))
    assert "no minor version may be left out" in change_refused(server(), node("v1.31.9+k3s1"))


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("activating", True),  # a K3s that ends and starts anew is mostly in this state
        ("deactivating", True),
        ("reloading", True),
        ("inactive", False),
        ("failed", False),
        ("unknown", False),
    ],
)
def test_only_a_unit_that_is_stopped_does_not_run(
    monkeypatch: pytest.MonkeyPatch, state: str, refused: bool
) -> None:
    monkeypatch.delenv(UPGRADE, raising=False)
    found = change_refused(server(), node("v1.32.9+k3s1", state))
    assert ("run `muster k3s upgrade`" in found) is refused


def test_an_agent_does_not_become_a_server() -> None:
    found = change_refused(server(), node(VERSION, unit_name="k3s-agent.service"))
    assert "muster k3s reset" in found
    assert change_refused(agent(), node(VERSION, unit_name="k3s-agent.service")) == ""


def test_clusters_of_an_inventory() -> None:
    found = clusters([device("s1"), device("a2", "agent"), device("s3", k3s_cluster="b")])
    assert isinstance(found["b"], Cluster)
    assert [len(each.servers) for each in found.values()] == [1, 1]
