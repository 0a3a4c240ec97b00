"""A node of K3s in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from k3s_stand_ins import Node


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch, "agent")
