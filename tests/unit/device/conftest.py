"""A device in a folder, with stand-ins for systemd and the container runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_stand_ins import Device, ModelServer, Release


@pytest.fixture(scope="session")
def server() -> Iterator[ModelServer]:
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote; a test of its own looks at what is synced."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def dev(tmp_path: Path, server: ModelServer) -> Device:
    return Device(tmp_path / "device", server)


@pytest.fixture
def old(dev: Device) -> Release:
    """The release that the device serves for good."""
    release = dev.release("1.0")
    dev.roll_out(release, 1)
    return release
