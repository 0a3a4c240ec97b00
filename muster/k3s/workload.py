"""What a release is in a cluster: one DaemonSet for each variant, for the nodes that ask for it.

A node asks by its labels, which it sets itself in a switch. So two releases can run side by side on
two nodes, a node goes back without any other noticing, and a pod that is made again is the release
that its node was switched to, whatever is newest in the cluster.
"""

from __future__ import annotations

import hashlib
from typing import Any

from muster.k3s.naming import MANAGED_BY, MODEL_LABEL, NAMESPACE, REGISTRY_LABEL, VARIANT_LABEL
from muster.release import Release

_STOP_SECONDS = 10
"""How long a model may take to stop by itself, as the device program grants on other runtimes."""

_LOCKS = "/run/muster"
"""Folder of the lock that an application holds while its model must not be switched."""

KEPT = 10
"""Newest releases of a model whose DaemonSets stay although no node asks for them: a node may go
back to one that it holds."""


def daemon_set_name(release: Release, variant: str, registry: str) -> str:
    """Name of the DaemonSet of a variant, for nodes that pulled from one registry: what runs on a
    node must not change because others pull from another one.

    Not longer than 63 characters, as it becomes the value of a label.
    """
    return f"muster-{release.model}-{_short(f'{release.id}/{variant}/{registry}')}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def namespace() -> dict[str, Any]:
    """The namespace of all models."""
    metadata = {"name": NAMESPACE, "labels": MANAGED_BY}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def daemon_set(release: Release, variant: str, registry: str) -> dict[str, Any]:
    """The DaemonSet of a variant of a release.

    Its strategy is ``OnDelete``: Kubernetes never replaces a pod by itself.

    :param registry: ``host:port`` from which its nodes have pulled the image.
    """
    name = daemon_set_name(release, variant, registry)
    labels = {"muster.model": release.model, "muster.release": release.id}
    about = {**labels, "muster.variant": variant, **MANAGED_BY}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": about},
        "spec": {
            "selector": {"matchLabels": {"muster.daemonset": name}},
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 1,
            "template": {
                "metadata": {
                    "labels": {"muster.daemonset": name, **about},
                    "annotations": _annotations(release, variant),
                },
                "spec": _pod(release, variant, registry),
            },
        },
    }


def _annotations(release: Release, variant: str) -> dict[str, str]:
    found = {"muster.container": f"muster-{release.model}-{release.id}"}
    if cdi := release.variants[variant].cdi:
        # https://github.com/cncf-tags/container-device-interface#kubernetes
        found["cdi.k8s.io/muster"] = ",".join(cdi)
    return found


def _pod(release: Release, variant: str, registry: str) -> dict[str, Any]:
    chosen, endpoint = release.variants[variant], release.endpoint
    # The folder, as a restart empties it: a file below one that is missing is never made.
    mounts = [{"name": "lock", "mountPath": _LOCKS, "readOnly": True}]
    volumes: list[dict[str, Any]] = [
        {"name": "lock", "hostPath": {"path": _LOCKS, "type": "DirectoryOrCreate"}}
    ]
    for number, path in enumerate(chosen.devices):
        mounts.append({"name": f"device-{number}", "mountPath": path, "readOnly": False})
        volumes.append({"name": f"device-{number}", "hostPath": {"path": path}})
    container: dict[str, Any] = {
        "name": "model",
        "image": f"{registry}/{chosen.image}",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": value} for name, value in sorted(chosen.env.items())],
        "ports": [{"containerPort": endpoint.container_port, "hostPort": endpoint.port}],
        "readinessProbe": {
            "httpGet": {"path": endpoint.ready_path, "port": endpoint.container_port},
            "periodSeconds": 5,
            "timeoutSeconds": 2,
        },
        "volumeMounts": mounts,
        # A device node by its path needs it; a CDI device does not.
        "securityContext": (
            {"privileged": True} if chosen.devices else {"allowPrivilegeEscalation": False}
        ),
    }
    if chosen.memory is not None:
        container["resources"] = {"limits": {"memory": str(chosen.memory)}}
    return {
        "nodeSelector": {
            MODEL_LABEL + release.model: release.id,
            VARIANT_LABEL + release.model: variant,
            REGISTRY_LABEL + release.model: _short(registry),
        },
        # Which nodes are fit is decided before they ask for it.
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": _STOP_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": volumes,
    }
