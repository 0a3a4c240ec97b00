from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drill import Drill

from muster.rollout.journal import Journal


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    yield Drill(journal)
    journal.close()
