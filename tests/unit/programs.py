"""Loads the programs that land on devices, as modules."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from muster.paths import COLLECTION_ROOT


def load_program(name: str) -> Any:
    """Load ``files/<name>.py`` under its own name, in which its dataclasses look themselves up."""
    path = COLLECTION_ROOT / "files" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
