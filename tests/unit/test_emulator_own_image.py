"""Devices with a Docker image of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ImageNotFound

from muster.emulator.document import FleetDocument
from muster.emulator.images import Images
from muster.emulator.reconcile import reconcile
from muster.errors import InputError


class Engine:
    """An engine that has no image, and must not be asked for more."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(images=self)

    def get(self, name: str) -> Any:
        raise ImageNotFound(name)


def test_a_missing_image_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    device = {"site": "plant", "hardware": "cpu", "image": "lab/own:1"}
    document = FleetDocument.model_validate(
        {
            "apiVersion": "muster/v1",
            "kind": "Fleet",
            "name": "lab",
            "sites": {"plant": {}},
            "devices": {"box-1": device},
        }
    )
    engine: Any = Engine()
    with pytest.raises(InputError, match=r"devices\.box-1\.image: .*got lab/own:1"):
        reconcile(engine, document, Images("device:1", "registry:1"), tmp_path)
