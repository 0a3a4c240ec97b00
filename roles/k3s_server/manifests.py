"""Manifests that K3s applies by itself. Pure but for the files that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from roles.k3s_server.variables import Variables
from roles.operations import File

FOLDER = "/var/lib/rancher/k3s/server/manifests"
_WRITTEN = "# Written by Muster's role k3s_server: what is changed here is lost.\n"
_LABEL = "app.kubernetes.io/name"
_SOCKETS = "/var/lib/kubelet/device-plugins"

_GENERIC = {"coral": "/dev/apex_0", "hailo": "/dev/hailo0"}
"""Device nodes that the generic device plugin gives to pods, as ``squat.ai/<name>``."""


def manifest_files(variables: Variables) -> list[File]:
    """Files in the folder that K3s watches."""
    found = {}
    if variables.k3s_server_nvidia_runtime_class:
        found["nvidia-runtime-class"] = _text([_runtime_class()])
    plugins = variables.k3s_server_device_plugins
    selector = variables.k3s_server_device_plugin_selector
    for kind, image in sorted(plugins.items()):
        found[f"device-plugin-{kind}"] = _text([device_plugin(kind, image, selector)])
    for name, file in variables.k3s_server_manifests.items():
        found[name] = Path(file).expanduser().read_text("utf-8").rstrip("\n") + "\n"
    return [File(f"{FOLDER}/muster-{name}.yaml", text, "600") for name, text in found.items()]


def _text(documents: list[dict[str, Any]]) -> str:
    return _WRITTEN + yaml.safe_dump_all(documents, sort_keys=False)


def _runtime_class() -> dict[str, Any]:
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }


def device_plugin(name: str, image: str, selector: dict[str, str]) -> dict[str, Any]:
    """DaemonSet of a device plugin.

    :param name: of the accelerator: ``coral``, ``hailo``, ``intel`` or ``nvidia``.
    :param selector: labels of the nodes on which it runs.
    """
    labels = {_LABEL: f"muster-device-plugin-{name}"}
    container: dict[str, Any] = {
        "name": "plugin",
        "image": image,
        "volumeMounts": [{"name": "sockets", "mountPath": _SOCKETS}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
    }
    volumes: list[dict[str, Any]] = [{"name": "sockets", "hostPath": {"path": _SOCKETS}}]
    pod: dict[str, Any] = {
        "priorityClassName": "system-node-critical",
        # nodes with accelerators are often tainted so that nothing else comes there
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    if name in _GENERIC:
        device = {"name": name, "groups": [{"paths": [{"path": _GENERIC[name]}]}]}
        container["args"] = ["--device", yaml.safe_dump(device, sort_keys=False)]
        container["securityContext"] = {"privileged": True}
        container["volumeMounts"].append({"name": "dev", "mountPath": "/dev"})
        volumes.append({"name": "dev", "hostPath": {"path": "/dev"}})
    elif name == "intel":
        for path in ("/dev/dri", "/sys/class/drm"):
            volume = path.strip("/").replace("/", "-")
            mount = {"name": volume, "mountPath": path, "readOnly": True}
            container["volumeMounts"].append(mount)
            volumes.append({"name": volume, "hostPath": {"path": path}})
    else:
        pod["runtimeClassName"] = "nvidia"
    pod["volumes"] = volumes
    if selector:
        pod["nodeSelector"] = selector
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": labels[_LABEL],
            "namespace": "kube-system",
            "labels": labels,
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
