"""The work on one device, with a stand-in for the connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from muster.enrolment import visiting
from muster.enrolment.hostkeys import HostKey
from muster.enrolment.plan import Settings, Visit
from muster.enrolment.session import Place, Ran, Trouble
from muster.enrolment.targets import Target

KEY = HostKey("ssh-ed25519", b"key")
PROBED = "uid=1000\npython=3.11\nsudo=password\napt=yes\n"


class Box:
    """A device that lets anybody in, takes keys, and wants a password for sudo."""

    host_key = KEY
    method = "password"

    def log_in(self, login: Any) -> None:
        pass

    def run(self, command: str, given: str = "", seconds: float = 60.0) -> Ran:
        return Ran(0, "key=installed\n" if "authorized_keys" in given else PROBED, "")

    def close(self) -> None:
        pass


def test_a_key_counts_as_installed_although_sudo_wants_a_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(visiting, "Session", lambda *_arguments: Box())
    place = Place("10.0.0.1", 22)
    visit = Visit(
        Target("10.0.0.1"), None, place, "ops", "site_a", "ops", 22, tmp_path / "known_hosts",
        None, ("10.0.0.1",), (KEY,), (),
    )  # fmt: skip
    found = visiting.Found()
    with pytest.raises(Trouble, match="--ask-sudo-password"):
        visiting.work(visit, Settings("ssh-ed25519 AAAA me"), KEY, found, lambda _text: None)
    assert found.done == ["public key installed"]
