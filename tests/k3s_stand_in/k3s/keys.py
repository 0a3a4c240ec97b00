"""Keys of ``config.yaml``, which are flags as well, and what each takes."""

from __future__ import annotations

# fmt: off
_LISTS_OF_ALL = (
    "kube-proxy-arg", "kubelet-arg", "node-external-dns", "node-external-ip", "node-internal-dns",
    "node-ip", "node-label", "node-taint",
)
_LISTS_OF_SERVER = (
    "cluster-cidr", "cluster-dns", "disable", "etcd-arg", "kube-apiserver-arg",
    "kube-cloud-controller-manager-arg", "kube-controller-arg", "kube-controller-manager-arg",
    "kube-scheduler-arg", "service-cidr", "tls-san",
)
_SWITCHES_OF_ALL = (
    "alsologtostderr", "debug", "disable-apiserver-lb", "disable-default-registry-endpoint",
    "docker", "enable-pprof", "nonroot-devices", "prefer-bundled-bin", "protect-kernel-defaults",
    "rootless", "selinux", "with-node-id",
)
_NUMBERS_OF_ALL = (
    "lb-server-port", "v",
)
_TEXTS_OF_ALL = (
    "airgap-extra-registry", "bind-address", "cluster-secret", "config",
    "container-runtime-endpoint", "data-dir", "default-runtime", "flannel-cni-conf",
    "flannel-conf", "flannel-iface", "image-credential-provider-bin-dir",
    "image-credential-provider-config", "image-service-endpoint", "log", "node-name",
    "pause-image", "private-registry", "resolv-conf", "server", "snapshotter", "token",
    "token-file", "vmodule", "vpn-auth", "vpn-auth-file",
)
_SWITCHES_OF_SERVER = (
    "cluster-init", "cluster-reset", "disable-agent", "disable-apiserver",
    "disable-cloud-controller", "disable-controller-manager", "disable-etcd",
    "disable-helm-controller", "disable-kube-proxy", "disable-network-policy",
    "disable-scheduler", "embedded-registry", "etcd-disable-snapshots", "etcd-expose-metrics",
    "etcd-s3", "etcd-s3-insecure", "etcd-s3-skip-ssl-verify", "etcd-snapshot-compress",
    "flannel-external-ip", "flannel-ipv6-masq", "kine-tls", "secrets-encryption",
    "supervisor-metrics", "tls-san-security",
)
_NUMBERS_OF_SERVER = (
    "advertise-port", "apiserver-port", "etcd-snapshot-retention", "helm-job-image-retention",
    "https-listen-port", "supervisor-port",
)
_TEXTS_OF_SERVER = (
    "advertise-address", "agent-token", "agent-token-file", "cluster-domain",
    "cluster-reset-restore-path", "datastore-cafile", "datastore-certfile", "datastore-endpoint",
    "datastore-keyfile", "default-local-storage-path", "egress-selector-mode",
    "etcd-s3-access-key", "etcd-s3-bucket", "etcd-s3-config-secret", "etcd-s3-endpoint",
    "etcd-s3-endpoint-ca", "etcd-s3-folder", "etcd-s3-proxy", "etcd-s3-region",
    "etcd-s3-retention", "etcd-s3-secret-key", "etcd-s3-timeout", "etcd-snapshot-dir",
    "etcd-snapshot-name", "etcd-snapshot-schedule-cron", "flannel-backend", "helm-job-image",
    "secrets-encryption-provider", "service-node-port-range", "servicelb-namespace",
    "system-default-registry", "write-kubeconfig", "write-kubeconfig-group",
    "write-kubeconfig-mode",
)
# fmt: on

_OF_ALL = {
    **dict.fromkeys(_LISTS_OF_ALL, "list"),
    **dict.fromkeys(_SWITCHES_OF_ALL, "switch"),
    **dict.fromkeys(_NUMBERS_OF_ALL, "number"),
    **dict.fromkeys(_TEXTS_OF_ALL, "text"),
}
_OF_SERVER = {
    **dict.fromkeys(_LISTS_OF_SERVER, "list"),
    **dict.fromkeys(_SWITCHES_OF_SERVER, "switch"),
    **dict.fromkeys(_NUMBERS_OF_SERVER, "number"),
    **dict.fromkeys(_TEXTS_OF_SERVER, "text"),
}


def kinds(command: str) -> dict[str, str]:
    """Keys that a command knows, with what each takes: list, switch, number or text."""
    return {**_OF_ALL, **(_OF_SERVER if command == "server" else {})}
