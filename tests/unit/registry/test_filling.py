"""Filling a site's registry: what is copied, what is not copied again, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registry_stand_ins import World, registry


def failed(world: World, *images: str, **options: Any) -> str:
    with pytest.raises(registry.Failure) as caught:
        world.fill(*images, **options)
    assert world.progress()["state"] == "failed"
    assert world.progress()["error"] == str(caught.value)
    return str(caught.value)


def test_an_image_is_complete_afterwards_and_not_copied_again(world: World) -> None:
    image = world.image("base", "model")
    result = world.fill(image)
    assert result["copied"] == [image]
    assert result["copied_bytes"] == sum(
        (world.upstream / digest).stat().st_size for digest in world.moved()
    )
    assert world.store.lacking(image) == {}
    progress = world.progress()
    assert (progress["state"], progress["done"], progress["images"]) == ("done", 1, 1)
    assert progress["bytes"] == progress["bytes_done"] == result["copied_bytes"]
    world.way(down=True)  # nobody is asked for what is there
    assert world.fill(image) == {"copied": [], "copied_bytes": 0}


def test_every_architecture_of_an_index_is_copied(world: World) -> None:
    index = world.index([world.image("amd64"), world.image("arm64")])
    world.fill(index)
    assert world.store.lacking(index) == {}
    assert "--all" in world.calls()[-1]


def test_only_what_differs_crosses_the_uplink(world: World) -> None:
    world.fill(world.image("base", "model 1"))
    before = len(world.moved())
    second = world.image("base", "model 2")
    copied = world.fill(second)["copied_bytes"]
    assert len(world.moved()) - before == 3  # manifest, configuration and one layer
    assert copied < sum(len(text) for text in ("base",)) + 1000


def test_a_layer_of_another_repository_does_not_cross_the_uplink_again(world: World) -> None:
    world.fill(world.image("base", "x" * 5000))
    before = len(world.moved())
    other = world.image("base", "x" * 5000, repository="models/other")
    world.fill(other)
    assert world.store.lacking(other) == {}
    assert world.moved()[before:] == [other.partition("@")[2]]  # its manifest alone
    assert world.fill(other)["copied"] == []


def test_a_copy_that_was_cut_off_goes_on(world: World) -> None:
    image = world.image("first", "second")
    first = registry.digest_of(b"first")
    world.way(cut_after=first)
    assert "connection reset" in failed(world, image)
    assert world.store.lacking(image)
    world.way()
    world.fill(image)
    assert world.moved().count(first) == 1
    assert world.store.lacking(image) == {}


def test_an_uplink_that_is_down_is_told_briefly(world: World) -> None:
    image = world.image("a")
    world.way(down=True)
    assert failed(world, image) == "no such host"


def test_a_copy_that_stalls_is_given_up(world: World) -> None:
    world.settings = world.settings._replace(stall=0)
    world.way(hangs=True)
    assert "nothing came for 0 s" in failed(world, world.image("a"))


def test_what_is_not_what_its_digest_says_is_removed(world: World) -> None:
    image = world.image("a", "b")
    layer = registry.digest_of(b"b")
    world.way(spoils=[layer])
    assert f"{layer} is not what its digest says" in failed(world, image)
    assert world.store.size(layer) is None
    world.way()
    world.fill(image)
    assert world.store.lacking(image) == {}


def test_an_upstream_that_gives_another_manifest_is_not_believed(world: World) -> None:
    image, other = world.image("a"), world.image("b")
    digest, wrong = (name.partition("@")[2] for name in (image, other))
    (world.upstream / digest).write_bytes((world.upstream / wrong).read_bytes())
    assert "gave something else" in failed(world, image)
    assert world.moved() == []


def test_damage_on_the_disk_is_found_when_asked_for(world: World) -> None:
    image = world.image("a", "b")
    world.fill(image)
    layer = registry.digest_of(b"b")
    Path(world.store.blob(layer)).write_bytes(b"?")
    Path(world.store.blob(layer)).write_bytes(b"c")  # of the same size
    assert world.fill(image)["copied"] == []
    assert world.fill(image, verify=True)["copied"] == [image]
    assert world.store.damaged([layer]) == []


def test_what_would_not_fit_is_refused_before_anything_is_copied(world: World) -> None:
    image = world.image("x" * (3 << 20))
    world.settings = world.settings._replace(max_size=2 << 20)
    assert "of at most 2 MiB are used" in failed(world, image)
    world.settings = world.settings._replace(max_size=None, min_free=1 << 60)
    assert "must stay free" in failed(world, image)
    assert world.moved() == []
    world.settings = world.settings._replace(max_size=4 << 20, min_free=0)
    world.fill(image)


def test_credentials_are_named_by_their_file_alone(world: World) -> None:
    world.settings = world.settings._replace(authfile="/etc/muster/registry/upstream.json")
    world.fill(world.image("a"))
    copy = next(call for call in world.calls() if call[0] == "copy" and "--help" not in call)
    assert "--src-authfile=/etc/muster/registry/upstream.json" in copy
    assert "--preserve-digests" in copy
    assert not any("creds" in word for word in copy)


def test_what_earlier_copies_left_half_done_is_removed(world: World) -> None:
    world.fill(world.image("a"))
    upload = Path(world.store.at("repositories", "models/digits", "_uploads", "u1"))
    upload.mkdir(parents=True)
    (upload / "data").write_bytes(b"half")
    assert world.store.uploading() == 4
    world.fill(world.image("b"))
    assert not upload.exists()


def test_the_gate_takes_a_certificate_that_nobody_else_has(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    folder.mkdir()
    with registry.Gate(world.store, str(folder)) as gate:
        settings = json.loads((folder / "fill.yml").read_text())
        assert settings["http"]["addr"] == f"127.0.0.1:{gate.port}"
        tls = settings["http"]["tls"]
        assert tls["clientcas"] == [tls["certificate"]]
        assert Path(tls["key"]).stat().st_mode & 0o077 == 0
        assert (folder / "fill.yml").stat().st_mode & 0o077 == 0
    assert not registry.answers(gate.port)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"task": "drop"}, "task: expected fill or clear"),
        ({"task": "fill"}, "images: expected a list"),
        ({"task": "fill", "images": ["models/digits:latest"]}, "images: expected a list"),
        ({"task": "fill", "images": ["../x@sha256:" + "a" * 64]}, "images: expected a list"),
        ({"task": "fill", "images": [], "dry": True}, "dry: no such key"),
        ({"task": "clear", "keep": ["all"]}, "keep: expected a list"),
        ({"task": "clear", "keep": [], "newer": -1}, "newer: expected seconds"),
        ({"task": "clear", "keep": [], "newer": float("nan")}, "newer: expected seconds"),
        ({"task": "clear", "keep": [], "dry": "no"}, "dry: expected true or false"),
        ({"task": "fill", "images": [], "id": "../x"}, "id: expected letters"),
        ([], "expected an object"),
    ],
)
def test_bad_requests_are_refused(world: World, request_: Any, expected: str) -> None:
    given = {"id": "r1", **request_} if isinstance(request_, dict) else request_
    with pytest.raises(registry.Failure, match=expected):
        world.program.submit(given)
    assert not (world.root / "systemctl").exists()


def test_work_is_begun_once_and_one_at_a_time(world: World) -> None:
    image = world.image("a")
    request = {"id": "one", "task": "fill", "images": [image]}
    assert world.program.submit(request) == {"id": "one"}
    calls = (world.root / "systemctl").read_text()
    assert "start --no-block muster-registry-work.service" in calls
    world.program.work()
    world.program.submit(request)  # a repetition of what was begun already
    assert (world.root / "systemctl").read_text().count("start") == 1
    (world.root / "active").write_text("activating\n")
    with pytest.raises(registry.Failure, match="fill is under way here") as caught:
        world.program.submit({**request, "id": "two"})
    assert caught.value.code == "busy"


def test_work_that_lost_its_power_counts_as_failed(world: World) -> None:
    progress = registry.Progress(
        str(Path(world.store.own, "progress.json")), {"id": "r1", "task": "fill"}
    )
    progress.tell()
    (world.root / "active").write_text("activating\n")
    assert world.program.status({})["progress"]["state"] == "running"
    (world.root / "active").unlink()
    told = world.program.status({})["progress"]
    assert (told["state"], told["error"]) == ("failed", "it was cut off; ask for it again")


def test_status_tells_what_is_stored(world: World) -> None:
    images = [world.image("a"), world.image("b", repository="models/other")]
    world.fill(*images)
    store = world.program.status({"store": True})["store"]
    assert sorted(store["images"]) == sorted(images)
    assert store["bytes"] == sum(len(c) for n, c in world.files().items() if n.endswith("data"))


def test_a_device_that_was_not_provisioned_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, registry.__file__, "status"], input="{}", capture_output=True, text=True
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["error"]["code"] == "bad_config"
    assert "provision this device" in answer["error"]["message"]
