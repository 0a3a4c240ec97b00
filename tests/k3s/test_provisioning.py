"""Clusters brought up by the roles k3s_server and k3s_agent, without the internet."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from conftest import MakeFleet
from k3s_clusters import Clusters, up
from k3s_nodes import wait_for

BROKEN = """#!/bin/sh
case $1 in
--version) echo "k3s version {version} (broken)" ;;
*) case $* in *--help*) exit 0 ;; esac
    echo 'level=fatal msg="this version does not run"' >&2; exit 1 ;;
esac
"""
STORE_PORT = 8099


@pytest.fixture(scope="module")
def site(
    make_k3s_fleet: MakeFleet,
    k3s_artifacts: Path,
    k3s_versions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Clusters:
    """One server with two agents."""
    folder = tmp_path_factory.mktemp("site")
    manifest = folder / "line.yml"
    manifest.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: line-7}\n")
    server = {"variables": {"k3s_role": "server", "k3s_server_manifests": {"line": str(manifest)}}}
    agent = {"memory": "1GiB", "variables": {"k3s_role": "agent"}}
    labelled = {"k3s_role": "agent", "k3s_node_labels": {"line": 7}}
    labelled["k3s_node_taints"] = ["line=7:NoSchedule"]
    devices = {"s1": server, "a1": agent, "a2": {**agent, "variables": labelled}}
    return up(
        make_k3s_fleet,
        "k3s-site",
        devices,
        folder,
        k3s_version=k3s_versions[0],
        k3s_artifacts=str(k3s_artifacts),
    )


def test_one_server_and_two_agents_serve(site: Clusters, k3s_versions: list[str]) -> None:
    done = site.converge()
    assert done.code == 0, {name: done.error(name) for name in done.devices}
    nodes = site.nodes["s1"].nodes()
    assert sorted(nodes) == ["a1", "a2", "s1"]
    for node in nodes.values():
        assert node["status"]["nodeInfo"]["kubeletVersion"] == k3s_versions[0]
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
    assert nodes["a2"]["metadata"]["labels"]["line"] == "7"
    assert {"key": "line", "value": "7", "effect": "NoSchedule"} in nodes["a2"]["spec"]["taints"]
    wait_for(
        "the manifest is applied",
        lambda: "line-7" in site.nodes["s1"].kubectl("get namespace line-7 -o name", expect=None),
    )


def test_tokens_are_for_root_alone_and_agents_get_their_own(site: Clusters) -> None:
    listed = {name: node.run("cat /etc/rancher/k3s/token") for name, node in site.nodes.items()}
    assert listed["a1"].startswith("K10")
    assert "::server:" not in listed["a1"]
    assert listed["s1"].strip() not in listed["a1"]
    for node in site.nodes.values():
        assert node.run("stat -c %a /etc/rancher/k3s/token").strip() == "600"
        assert node.run("stat -c %a /etc/rancher/k3s/config.yaml").strip() == "600"


def test_a_second_run_changes_nothing_and_starts_nothing(site: Clusters) -> None:
    before = site.starts()
    done = site.converge()
    assert (done.code, done.changed) == (0, [])
    assert site.starts() == before


def test_a_damaged_binary_is_refused_on_the_controller(
    site: Clusters, k3s_artifacts: Path, k3s_versions: list[str], tmp_path: Path
) -> None:
    if len(k3s_versions) < 2:
        pytest.skip("needs a second version")
    folder, binaries, starts = tmp_path / "store", site.binaries(), site.starts()
    shutil.copytree(k3s_artifacts / k3s_versions[1], folder / k3s_versions[1])
    _damage(folder / k3s_versions[1])
    done = site.converge(
        upgrade=k3s_versions[1], k3s_version=k3s_versions[1], k3s_artifacts=str(folder)
    )
    assert done.code != 0
    for name in site.nodes:
        assert "expected the checksum" in done.error(name)
    assert (site.binaries(), site.starts()) == (binaries, starts)


def _damage(folder: Path) -> None:
    """Change the program, and leave its checksum."""
    (binary,) = (path for path in folder.iterdir() if path.name in ("k3s", "k3s-arm64"))
    binary.write_bytes(binary.read_bytes() + b"x")


def test_a_damaged_binary_is_refused_on_the_device(
    site: Clusters, k3s_artifacts: Path, k3s_versions: list[str], tmp_path: Path
) -> None:
    if len(k3s_versions) < 2:
        pytest.skip("needs a second version")
    version, server = k3s_versions[1], site.nodes["s1"]
    shutil.copytree(k3s_artifacts / version, tmp_path / version)
    _damage(tmp_path / version)
    for file in (tmp_path / version).iterdir():
        server.put(f"/srv/store/{version}/{file.name}", file.read_bytes())
    server.run(
        f"systemd-run --quiet --unit store python3 -m http.server {STORE_PORT} -d /srv/store"
    )
    binaries, starts = site.binaries(), site.starts()
    url = f"http://{server.address}:{STORE_PORT}"
    done = site.converge(upgrade=version, k3s_version=version, k3s_artifacts=url)
    assert done.code != 0
    for name in site.nodes:
        assert "expected the checksum" in done.error(name)
        assert "nothing was replaced" in done.error(name)
    assert (site.binaries(), site.starts()) == (binaries, starts)


def test_a_configuration_that_k3s_does_not_understand_is_refused_before_a_start(
    site: Clusters,
) -> None:
    starts = site.starts()
    done = site.converge(k3s_config={"lb-server-port": "many"})
    assert done.code != 0
    assert "K3s does not understand the new configuration" in done.error("s1")
    assert "lb-server-port" in done.error("s1")
    assert site.starts() == starts
    assert site.nodes["s1"].condition("a1", "Ready") == "True"
    assert site.converge().changed == []


def test_a_configuration_with_which_k3s_does_not_run_is_put_back(site: Clusters) -> None:
    agent = site.nodes["a1"]
    before = agent.run("cat /etc/rancher/k3s/config.yaml")
    done = site.converge("--limit", "a1", k3s_config={"lb-server-port": 22})
    assert done.code != 0
    assert "runs again with its former configuration" in done.error("a1")
    assert agent.run("cat /etc/rancher/k3s/config.yaml") == before
    assert site.nodes["s1"].condition("a1", "Ready") == "True"
    assert site.converge().changed == []


def test_a_version_that_does_not_run_makes_room_for_the_former(
    site: Clusters, k3s_artifacts: Path, k3s_versions: list[str], tmp_path: Path
) -> None:
    version, following = k3s_versions[0], _next_minor(k3s_versions[0])
    shutil.copytree(k3s_artifacts / version, tmp_path / following)
    folder, server = tmp_path / following, site.nodes["s1"]
    (binary,) = (path for path in folder.iterdir() if path.name in ("k3s", "k3s-arm64"))
    binary.write_text(BROKEN.format(version=following))
    (sums,) = folder.glob("sha256sum-*.txt")
    sums.write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(folder.iterdir())
            if path != sums
        )
    )
    before = server.run("sha256sum /usr/local/bin/k3s")
    wanted = {"k3s_version": following, "k3s_artifacts": str(tmp_path)}
    refused = site.converge("--limit", "s1", **wanted)
    assert "run `muster k3s upgrade`" in refused.error("s1")
    done = site.converge("--limit", "s1", upgrade=following, **wanted)
    assert done.code != 0
    assert f"K3s {version} runs again" in done.error("s1")
    assert server.run("sha256sum /usr/local/bin/k3s") == before
    wait_for("the server is ready", lambda: server.condition("s1", "Ready") == "True")
    starts = site.starts()
    site.converge()  # the checksums of the version that runs are written down again
    assert site.converge().changed == []
    assert site.starts() == starts


def _next_minor(version: str) -> str:
    major, minor, _ = version.split(".", 2)
    return f"{major}.{int(minor) + 1}.0+k3s1"


def test_three_servers_of_which_one_may_die(
    make_k3s_fleet: MakeFleet,
    k3s_artifacts: Path,
    k3s_versions: list[str],
    tmp_path: Path,
) -> None:
    names = ("n1", "n2", "n3")
    cluster = up(
        make_k3s_fleet,
        "k3s-three",
        {name: {"variables": {"k3s_role": "server"}} for name in names},
        tmp_path,
        k3s_version=k3s_versions[0],
        k3s_artifacts=str(k3s_artifacts),
    )
    done = cluster.converge()
    assert done.code == 0, {name: done.error(name) for name in done.devices}
    for name in names:
        assert cluster.nodes["n1"].condition(name, "EtcdIsVoter") == "True"
    before = cluster.starts()
    done = cluster.converge()
    assert (done.code, done.changed) == (0, [])
    assert cluster.starts() == before

    cluster.fleet.fault("kill", "n1")
    second = cluster.nodes["n2"]
    wait_for(
        "the cluster serves without its first server",
        lambda: "created" in second.kubectl("create namespace after", expect=None),
    )
    assert second.condition("n3", "Ready") == "True"

    # it comes back empty: there must be no second cluster
    cluster.fleet.fault("heal", "n1")
    first = cluster.nodes["n1"]
    first.run("systemctl disable --now k3s; pkill -f '[k]3s|[c]ontainerd'; true", expect=None)
    first.run("rm -rf /etc/rancher /var/lib/rancher/* /usr/local/bin/k3s")
    second.kubectl("delete node n1")
    done = cluster.converge()
    assert done.code == 0, {name: done.error(name) for name in done.devices}
    assert f"server: https://{second.address}:6443" in first.run("cat /etc/rancher/k3s/config.yaml")
    assert sorted(first.nodes()) == sorted(names)
    assert "after" in first.kubectl("get namespace after -o name")
    assert cluster.converge().changed == []
