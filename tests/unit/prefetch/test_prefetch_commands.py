"""``muster prefetch`` and ``muster registry``: what they ask for, print and return."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from release_documents import release_document

from muster.cli import run
from muster.prefetch import sites
from muster.prefetch.protecting import Protection
from muster.prefetch.sites import Filled
from muster.prefetch.working import Outcome

IMAGE = "models/digits@sha256:" + "ab" * 32
INVENTORY = """\
all:
  children:
    site_pier:
      hosts:
        reg: {registry_enabled: true}
        cam:
    site_quay: {hosts: {far: }}
    hw_coral: {hosts: {cam: , far: }}
  vars: {ansible_host: 127.0.0.1}
"""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("MUSTER_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "release.yml").write_text(yaml.safe_dump(release_document()))
    return {"inventory": str(tmp_path / "hosts.yml"), "release": str(tmp_path / "release.yml")}


def answering(monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[..., Any]) -> list[Any]:
    """Have a function that would reach hosts answer; gives what it was asked."""
    asked: list[Any] = []

    def stand_in(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return answer(*arguments, **options)

    monkeypatch.setattr(sites, name, stand_in)
    return asked


def filled(error: str = "") -> Callable[..., Any]:
    result = {} if error else {"copied": [IMAGE], "copied_bytes": 5 << 20}

    def answer(_inventory: Any, wanted: Any, *_told: Any, **_options: Any) -> list[Filled]:
        return [
            Filled(site, tuple(images), Outcome("reg", result, error, 2.0))
            for site, images in wanted.items()
        ]

    return answer


def test_prefetch_says_what_was_copied(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answering(monkeypatch, "fill", filled())
    command = ["prefetch", paths["release"], "-i", paths["inventory"]]
    assert run([*command, "--site", "pier"]) == 0
    assert "reg (site_pier): 1 of 1 images copied, 5 MiB in 2.0 s" in capsys.readouterr().out
    ((_, wanted, _), options) = asked[0]
    assert (wanted, options) == ({"site_pier": [IMAGE]}, {"verify": False})
    assert run([*command, "--verify", "--json"]) == 0
    (registry,) = json.loads(capsys.readouterr().out)["registries"]
    assert registry["copied"] == [IMAGE]
    assert registry["error"] is None
    assert asked[1][1] == {"verify": True}


def test_prefetch_that_failed_is_an_error(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, "fill", filled("no such host"))
    assert run(["prefetch", paths["release"], "-i", paths["inventory"]]) == 1
    assert "reg (site_pier) could not be filled: no such host" in capsys.readouterr().out


def test_prefetch_of_what_nobody_takes_is_refused(
    paths: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = release_document(variants={"hw_hailo": {"image": IMAGE}})
    Path(paths["release"]).write_text(yaml.safe_dump(document))
    command = ["prefetch", paths["release"], "-i", paths["inventory"], "--site", "pier"]
    assert run(command) == 2
    assert "no device of site_pier takes release" in capsys.readouterr().err
    assert run([*command[:-1], "quay"]) == 2
    assert "no device of site_quay is a registry" in " ".join(capsys.readouterr().err.split())


def cleared(_inventory: Any, digests: Any, *_more: Any, dry: bool) -> Any:
    result = {"images": [IMAGE], "blobs": 3, "freed": 7 << 20, "kept": 2, "dry": dry}
    return {site: [Outcome("reg", result)] for site in digests}


def test_gc_tells_what_it_freed(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, "protection", lambda *_: Protection(frozenset({"sha256:x"}), {}))
    asked = answering(monkeypatch, "clear", cleared)
    assert run(["registry", "gc", "-i", paths["inventory"], "--keep", "2h"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert IMAGE in said
    text = "reg: 1 manifest removed, 7 MiB freed; 2 stay, those younger than 2h among them"
    assert text in said
    assert asked[0][0][1:3] == ({"site_pier": frozenset({"sha256:x"})}, 7200.0)
    assert run(["registry", "gc", "-i", paths["inventory"], "--dry", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry"] is True
    assert document["registries"][0]["freed"] == 7 << 20
    assert asked[1][0][2] == 7 * 86400
    assert run(["registry", "gc", "-i", paths["inventory"], "--keep", "soon"]) == 2


def test_gc_removes_nothing_where_nobody_can_tell(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, "protection", lambda *_: Protection(frozenset(), {"cam": "timed out"}))
    asked = answering(monkeypatch, "clear", cleared)
    command = ["registry", "gc", "-i", paths["inventory"]]
    assert run(command) == 1
    assert "cam: timed out" in capsys.readouterr().err
    assert asked == []
    assert run([*command, "--force"]) == 0
    assert len(asked) == 1


def test_show_tells_what_is_held_and_what_failed(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {
        "working": False,
        "progress": {"task": "fill", "state": "failed", "error": "no such host"},
        "store": {"images": [IMAGE], "bytes": 45 << 20, "free": 3 << 30},
    }
    answering(monkeypatch, "stored", lambda *_: {"reg": answer, "other": "out of reach"})
    assert run(["registry", "show", "-i", paths["inventory"]]) == 1
    said = capsys.readouterr().out
    assert "45 MiB" in said
    assert "last: no such host" in said
    assert "out of reach" in said
