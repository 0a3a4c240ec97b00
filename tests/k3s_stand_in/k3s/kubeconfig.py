"""Kubeconfig files, as K3s words them."""

from __future__ import annotations

import base64
from pathlib import Path


def with_files(server: str, authority: Path, certificate: Path) -> str:
    """One that names certificates by their paths, as those of a node's own programs do."""
    return f"""apiVersion: v1
clusters:
- cluster:
    server: {server}
    certificate-authority: {authority}
  name: local
contexts:
- context:
    cluster: local
    namespace: default
    user: user
  name: Default
current-context: Default
kind: Config
preferences: {{}}
users:
- name: user
  user:
    client-certificate: {certificate}
    client-key: {certificate.with_suffix(".key")}
"""


def embedded(server: str, authority: Path, certificate: Path) -> str:
    """One that holds everything, for administrators."""

    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    return f"""apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {data(authority)}
    server: {server}
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {{}}
users:
- name: default
  user:
    client-certificate-data: {data(certificate)}
    client-key-data: {data(certificate.with_suffix(".key"))}
"""
