"""Names that Muster gives to what it makes in a cluster."""

from __future__ import annotations

import re

NAMESPACE = "muster"
MANAGED_BY = {"app.kubernetes.io/managed-by": "muster"}
MODEL_LABEL = "muster.model/"
"""Prefix of the label of a node whose value is the id of the release that it wants of a model."""
VARIANT_LABEL = "muster.variant/"
"""Prefix of the label of a node whose value is the variant of that release."""
REGISTRY_LABEL = "muster.registry/"
"""Prefix of the label of a node whose value stands for the registry that it pulled from."""


_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
NAME_LENGTH = 63
"""Characters of a node's name: it is also the value of a label."""


def is_node_name(name: str) -> bool:
    """Whether Kubernetes takes a node of that name."""
    return len(name) <= NAME_LENGTH and bool(_NAME.fullmatch(name))


def node_name(device: str) -> str:
    """Name of a device as a node: names of nodes are DNS names, in lower case and without ``_``.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
    """
    return device.lower().replace("_", "-")
