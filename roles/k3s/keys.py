"""The keys of K3s's ``config.yaml``: the names of its flags. Pure.

Source: https://docs.k3s.io/cli/server and https://docs.k3s.io/cli/agent. K3s itself only warns of
an unknown key and goes on without it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from muster.fields import describe


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LISTS = _words("kubelet-arg kube-proxy-arg node-external-ip node-ip")
_AGENT = _words(
    """
    alsologtostderr bind-address container-runtime-endpoint debug default-runtime
    disable-apiserver-lb disable-default-registry-endpoint docker enable-pprof flannel-cni-conf
    flannel-conf flannel-iface image-credential-provider-bin-dir image-credential-provider-config
    image-service-endpoint kubelet-arg kube-proxy-arg lb-server-port log node-external-dns
    node-external-ip node-internal-dns node-ip nonroot-devices pause-image prefer-bundled-bin
    private-registry protect-kernel-defaults resolv-conf selinux snapshotter v vmodule vpn-auth
    vpn-auth-file with-node-id
    """
)
_SERVER_LISTS = _words(
    """
    cluster-cidr cluster-dns disable etcd-arg kube-apiserver-arg
    kube-cloud-controller-manager-arg kube-controller-manager-arg kube-scheduler-arg service-cidr
    tls-san
    """
)
_SERVER = _SERVER_LISTS | _words(
    """
    advertise-address advertise-port cluster-domain datastore-cafile datastore-certfile
    datastore-keyfile default-local-storage-path disable-agent disable-apiserver
    disable-cloud-controller disable-controller-manager disable-etcd disable-helm-controller
    disable-kube-proxy disable-network-policy disable-scheduler egress-selector-mode
    embedded-registry etcd-disable-snapshots etcd-expose-metrics etcd-s3 etcd-s3-access-key
    etcd-s3-bucket etcd-s3-bucket-lookup-type etcd-s3-config-secret etcd-s3-endpoint
    etcd-s3-endpoint-ca etcd-s3-folder etcd-s3-insecure etcd-s3-proxy etcd-s3-region
    etcd-s3-retention etcd-s3-secret-key etcd-s3-session-token etcd-s3-skip-ssl-verify
    etcd-s3-timeout etcd-snapshot-compress etcd-snapshot-name
    etcd-snapshot-reconcile-interval etcd-snapshot-retention etcd-snapshot-schedule-cron
    flannel-backend flannel-external-ip flannel-ipv6-masq helm-job-image
    kine-tls multi-cluster-cidr secrets-encryption-provider service-node-port-range
    servicelb-namespace supervisor-metrics system-default-registry tls-san-security
    write-kubeconfig-group
    """
)
_OF_THE_ROLE = {
    "agent-token": "k3s_server_agent_token",
    "agent-token-file": "k3s_server_agent_token",
    "cluster-init": "k3s_server_datastore",
    "data-dir": "",
    "datastore-endpoint": "k3s_server_datastore_endpoint",
    "etcd-snapshot-dir": "",
    "https-listen-port": "k3s_api_port",
    "node-label": "k3s_node_labels",
    "node-name": "",
    "node-taint": "k3s_node_taints",
    "rootless": "",
    "secrets-encryption": "k3s_server_secrets_encryption",
    "server": "k3s_api_address",
    "token": "k3s_server_token",
    "token-file": "k3s_server_token",
    "write-kubeconfig": "",
    "write-kubeconfig-mode": "k3s_server_kubeconfig_mode",
    "cluster-reset": "",
    "cluster-reset-restore-path": "",
    "config": "",
}
"""Keys that are the role's, and the variable that stands for each, if there is one."""

AGREED = (
    "cluster-cidr",
    "cluster-dns",
    "cluster-domain",
    "disable-cloud-controller",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "egress-selector-mode",
    "embedded-registry",
    "flannel-backend",
    "flannel-external-ip",
    "flannel-ipv6-masq",
    "secrets-encryption-provider",
    "service-cidr",
)
"""Keys that all servers of a cluster must agree on; the role sees to the others."""

LISTS = _LISTS | _SERVER_LISTS
"""Keys that may come several times: their values are put together."""


def key_problems(document: Mapping[str, Any], *, server: bool) -> list[str]:
    """What is wrong with keys of ``config.yaml``; empty when nothing is.

    :param document: as an inventory has it; a key may end with ``+``, which appends.
    :param server: whether it is for a server; an agent knows fewer keys.
    """
    known = _AGENT | _LISTS | (_SERVER if server else frozenset())
    problems = []
    for written, value in document.items():
        key = str(written).removesuffix("+")
        if key in _OF_THE_ROLE:
            variable = _OF_THE_ROLE[key]
            hint = f", set {variable} instead" if variable else ""
            problems.append(f"{key}: expected no such key: the role sets it{hint}")
        elif key not in known:
            problems.append(f"{key}: {_unknown(key, known, server=server)}")
        elif problem := _value_problem(key, value):
            problems.append(f"{key}: {problem}")
    return problems


def _unknown(key: str, known: Iterable[str], *, server: bool) -> str:
    if not server and key in _SERVER:
        return "expected a key that an agent knows, this is one for servers alone"
    close = difflib.get_close_matches(key.replace("_", "-"), sorted(known), n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"expected a key of K3s's config.yaml, got an unknown one{hint}"


def _value_problem(key: str, value: Any) -> str:
    if isinstance(value, list):
        if key not in LISTS:
            return "expected one value, got a list"
        if wrong := [each for each in value if not _is_scalar(each)]:
            return f"expected text or numbers in the list, got {describe(wrong[0])}"
        return ""
    return "" if _is_scalar(value) else f"expected text or a number, got {describe(value)}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value.isprintable())
