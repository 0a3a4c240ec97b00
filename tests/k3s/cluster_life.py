"""Clusters that are led through their life by the commands that people type."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from k3s_nodes import Node
from site_driver import Site

STRATEGY = """\
apiVersion: muster/v1
kind: Strategy
waves: [{size: 1}, {size: rest}]
min_healthy_time: 3s
healthy_deadline: 90s
probe_interval: 1s
command_margin: 15s
"""
WITHOUT_THE_REST = """
pgrep -af 'k3s|containerd-shim' | grep -v pgrep
ls -d /etc/rancher/k3s /etc/rancher/node /var/lib/rancher/k3s /var/lib/cni /run/k3s /run/flannel \
  /usr/local/bin/k3s /usr/local/bin/kubectl /etc/systemd/system/k3s* 2>/dev/null
find /var/lib/kubelet -mindepth 1 2>/dev/null
grep -E ' /run/k3s|/var/lib/kubelet/|/run/netns/cni' /proc/mounts
ip -o link show | grep -E ' (cni0|flannel)'
iptables-save 2>/dev/null | grep -E 'KUBE-|CNI-|FLANNEL-'
true
"""


class Life:
    """One cluster, with the inventory that describes it."""

    def __init__(self, site: Site, artifacts: Path, versions: list[str]) -> None:
        self.site, self.artifacts, self.versions = site, artifacts, versions
        self.variables: dict[str, Any] = {}

    def set(self, **variables: Any) -> None:
        """Change what the inventory says of all devices."""
        self.variables |= variables
        folder = self.site.inventory.parent / "group_vars"
        folder.mkdir(exist_ok=True)
        (folder / "all.yml").write_text(yaml.safe_dump(self.variables), encoding="utf-8")

    def set_for(self, device: str, **variables: Any) -> None:
        """Change what it says of one; nothing takes that back."""
        folder = self.site.inventory.parent / "host_vars"
        folder.mkdir(exist_ok=True)
        (folder / f"{device}.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")

    def run(self, *arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.site.muster(*arguments)
        assert done.returncode == expect, done.stderr
        return done

    def node(self, name: str) -> Node:
        return Node(self.site.fleet, name)

    def states(self, expect: int = 0) -> dict[str, dict[str, Any]]:
        """What ``muster k3s status`` says of each node."""
        out = self.run("k3s", "status", "--json", expect=expect).stdout
        return {state["device"]: state for state in json.loads(out)}

    def running(self) -> dict[str, str]:
        return {name: state["running"] for name, state in self.states().items()}


def upgrade(life: Life, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Bring all nodes to ``k3s_version``."""
    strategy = life.site.folder / "strategy.yml"
    return life.run("k3s", "upgrade", "-y", "-s", strategy, *arguments, expect=expect)
