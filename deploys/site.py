"""Bring devices up: system, container runtime, accelerator, services of the site, device program.

Which of these a device gets is up to its variables.

pyinfra inventories/emulated/inventory.py deploys/site.py
"""

from __future__ import annotations

from muster.provisioning import SITE_ROLES
from roles.running import begin, run

begin(SITE_ROLES)

run("base")
run("time")
run("storage")
run("watchdog")
run("updates")
run("hardening")
run("wireguard")
run("docker")
run("podman")
run("containerd")
run("nvidia")
run("jetson")
run("coral")
run("hailo")
run("intel")
run("cpu")
run("registry")
run("hub")
run("monitoring")
run("prometheus")
run("k3s_server")
run("k3s_agent")
run("muster_device")
run("firewall")
