"""Inputs of the role k3s_agent."""

from __future__ import annotations

from typing import ClassVar

from roles.k3s.inputs import K3sVariables, NodeRole


class Variables(K3sVariables):
    """A node that runs pods and no part of the control plane."""

    node_role: ClassVar[NodeRole] = "agent"
