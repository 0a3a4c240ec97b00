"""What the CIS benchmark asks of K3s, as far as K3s does not do it by itself. Pure.

Source: https://docs.k3s.io/security/hardening-guide
"""

from __future__ import annotations

from typing import Any

import yaml

from muster.k3s.versions import minor
from roles.k3s.inputs import K3sVariables
from roles.operations import File

AUDIT_POLICY = "/etc/rancher/k3s/audit.yaml"
ADMISSION = "/etc/rancher/k3s/admission.yaml"
AUDIT_LOGS = "/var/lib/rancher/k3s/server/logs"

SYSCTL = {
    "kernel.panic": 10,
    "kernel.panic_on_oops": 1,
    "vm.overcommit_memory": 1,
    "vm.panic_on_oom": 0,
}
"""What the kubelet checks when it must not change kernel parameters itself."""

_POD_SECURITY_SINCE = (1, 25)
_EXEMPT = ["kube-system", "muster"]
"""Namespaces whose pods may do more: those of K3s, and models, which use devices and host ports."""


def keys(variables: K3sVariables) -> dict[str, Any]:
    """Keys of ``config.yaml``."""
    found: dict[str, Any] = {
        "protect-kernel-defaults": True,
        "kubelet-arg": ["streaming-connection-idle-timeout=5m"],
    }
    if variables.node_role == "server":
        found["kube-apiserver-arg"] = [
            "enable-admission-plugins=NodeRestriction,EventRateLimit",
            f"admission-control-config-file={ADMISSION}",
            f"audit-log-path={AUDIT_LOGS}/audit.log",
            f"audit-policy-file={AUDIT_POLICY}",
            "audit-log-maxage=30",
            "audit-log-maxbackup=10",
            "audit-log-maxsize=100",
        ]
        found["kube-controller-manager-arg"] = ["terminated-pod-gc-threshold=10"]
    return found


def files(variables: K3sVariables) -> list[File]:
    """Files that the keys name."""
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [{"level": "Metadata"}],
    }
    return [
        File(AUDIT_POLICY, yaml.safe_dump(policy, sort_keys=False), "600"),
        File(ADMISSION, yaml.safe_dump(_admission(variables), sort_keys=False), "600"),
    ]


def _admission(variables: K3sVariables) -> dict[str, Any]:
    limits = {
        "apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
        "kind": "Configuration",
        "limits": [{"type": "Server", "qps": 5000, "burst": 20000}],
    }
    plugins: list[dict[str, Any]] = [{"name": "EventRateLimit", "configuration": limits}]
    if minor(variables.k3s_version) >= _POD_SECURITY_SINCE:
        levels = dict.fromkeys(("enforce", "audit", "warn"), "restricted")
        versions = {f"{mode}-version": "latest" for mode in levels}
        security = {
            "apiVersion": "pod-security.admission.config.k8s.io/v1",
            "kind": "PodSecurityConfiguration",
            "defaults": levels | versions,
            "exemptions": {"usernames": [], "runtimeClasses": [], "namespaces": _EXEMPT},
        }
        plugins.append({"name": "PodSecurity", "configuration": security})
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": plugins,
    }
