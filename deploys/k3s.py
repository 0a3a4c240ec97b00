"""Bring the nodes of K3s clusters up, and nothing else of their devices.

pyinfra INVENTORY deploys/k3s.py [--limit CLUSTER]
"""

from __future__ import annotations

from roles.running import begin, run

begin(["k3s_server", "k3s_agent"])

run("k3s_server")
run("k3s_agent")
