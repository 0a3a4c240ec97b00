"""Clearing a site's registry: what must stay stays whole, and all of the rest goes or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_stand_ins import World, digest_of, registry


class Cut(BaseException):
    """The power goes: nothing that cleans up may run."""


class Shelf:
    """A store that is written directly: many of them, fast."""

    def __init__(self, folder: Path) -> None:
        self.store = registry.Store(str(folder))
        Path(self.store.own).mkdir(parents=True)

    def _blob(self, content: bytes) -> dict[str, object]:
        digest = digest_of(content)
        Path(self.store.blob_folder(digest)).mkdir(parents=True, exist_ok=True)
        Path(self.store.blob(digest)).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    def _link(self, folder: str, digest: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "link").write_text(digest)

    def _manifest(self, repository: str, text: str) -> str:
        digest = str(self._blob(text.encode())["digest"])
        self._link(self.store.revision(repository, digest), digest)
        return f"{repository}@{digest}"

    def image(self, repository: str, layers: tuple[int, ...]) -> str:
        blobs = [self._blob(f"layer {layer}".encode()) for layer in layers]
        config = self._blob(f"config {layers}".encode())
        for blob in [config, *blobs]:
            self._link(self.store.layer(repository, str(blob["digest"])), str(blob["digest"]))
        return self._manifest(repository, json.dumps({"config": config, "layers": blobs}))

    def index(self, repository: str, images: list[str]) -> str:
        entries = [{"digest": image.partition("@")[2], "size": 1} for image in images]
        return self._manifest(repository, json.dumps({"manifests": entries}))

    def snapshot(self) -> dict[str, bytes]:
        base = Path(self.store.base)
        return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


@contextlib.contextmanager
def shelf() -> Iterator[Shelf]:
    with tempfile.TemporaryDirectory() as folder:
        yield Shelf(Path(folder))


REPOSITORIES = st.sampled_from(["models/a", "models/b", "c"])
LAYERS = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[tuple[str, tuple[int, ...]]], list[list[int]]]:
    """Images as repository and layers, and indexes as lists of images."""
    images = draw(st.lists(st.tuples(REPOSITORIES, LAYERS), min_size=1, max_size=5))
    places = st.lists(st.integers(0, len(images) - 1), min_size=1, max_size=3, unique=True)
    return images, draw(st.lists(places, max_size=2))


def put(on: Shelf, what: tuple[list[tuple[str, tuple[int, ...]]], list[list[int]]]) -> list[str]:
    images = [on.image(*image) for image in what[0]]
    indexes = []
    for places in what[1]:
        repository = images[places[0]].partition("@")[0]
        members = [i for i in (images[place] for place in places) if i.startswith(repository + "@")]
        indexes.append(on.index(repository, members))
    return images + indexes


@settings(max_examples=60, deadline=None)
@given(contents(), st.data())
def test_what_is_protected_stays_whole_and_all_of_the_rest_goes(
    what: tuple[list[tuple[str, tuple[int, ...]]], list[list[int]]], data: st.DataObject
) -> None:
    with shelf() as on:
        everything = put(on, what)
        keep = data.draw(st.lists(st.sampled_from(everything), unique=True))
        digests = {image.partition("@")[2] for image in keep}
        plan = registry.plan_clearing(on.store, digests, 0, time.time() + 10)
        registry.clear(on.store, plan, keep)
        for image in keep:
            assert on.store.lacking(image) == {}
            assert on.store.damaged(on.store.everything(image)) == []
        needed = {digest for image in keep for digest in on.store.everything(image)}
        assert set(on.store.blobs()) == needed
        assert not Path(on.store.trash).exists()
        again = registry.plan_clearing(on.store, digests, 0, time.time() + 10)
        assert again == registry.Clearing([], [])


@settings(max_examples=60, deadline=None)
@given(contents(), st.data())
def test_a_cut_at_any_moment_leaves_all_or_nothing(
    what: tuple[list[tuple[str, tuple[int, ...]]], list[list[int]]], data: st.DataObject
) -> None:
    with shelf() as on:
        everything = put(on, what)
        keep = data.draw(st.lists(st.sampled_from(everything), unique=True))
        digests = {image.partition("@")[2] for image in keep}
        plan = registry.plan_clearing(on.store, digests, 0, time.time() + 10)
        before = on.snapshot()
        _cut_at(data.draw(st.integers(1, 25)), lambda: registry.clear(on.store, plan, keep))
        registry.mend(on.store)
        after = on.snapshot()
        assert all(on.store.lacking(image) == {} for image in keep)
        blobs = set(on.store.blobs())
        if after != before:
            assert blobs == {d for image in keep for d in on.store.everything(image)}
        assert not Path(on.store.trash).exists()
        assert registry.mend(on.store) is False


def _cut_at(number: int, action: object) -> None:
    """Lose the power at the n-th change of the disk."""
    left = [number]

    def counted(real: object) -> object:
        def change(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Cut
            return real(*arguments, **options)  # type: ignore[operator]

        return change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(registry, "write_file", counted(registry.write_file))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with contextlib.suppress(Cut):
            action()  # type: ignore[operator]


def test_what_would_break_an_image_that_stays_is_undone(tmp_path: Path) -> None:
    on = Shelf(tmp_path)
    image = on.image("models/a", (1, 2))
    before = on.snapshot()
    wrong = registry.Clearing([], [digest_of(b"layer 1")])
    with pytest.raises(registry.Failure, match="would not be complete: nothing was removed"):
        registry.clear(on.store, wrong, [image])
    assert on.snapshot() == before


def test_a_disk_that_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = Shelf(tmp_path)
    for number in range(3):
        on.image("models/a", (number,))
    before = on.snapshot()
    plan = registry.plan_clearing(on.store, [], 0, time.time() + 10)
    real, calls = os.rename, []

    def rename(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == 4:
            raise OSError("input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="input/output"):
        registry.clear(on.store, plan, [])
    assert on.snapshot() == before


def test_the_parts_of_an_index_that_stays_stay(world: World) -> None:
    parts = [world.image("amd64"), world.image("arm64")]
    index, other = world.index(parts), world.image("other")
    world.fill(index, other)
    result = world.clear(index)
    assert result["images"] == [other]
    assert all(world.store.lacking(image) == {} for image in (index, *parts))


def test_a_part_stays_though_its_index_goes(world: World) -> None:
    part, second = world.image("amd64"), world.image("arm64")
    index = world.index([part, second])
    world.fill(index)
    assert set(world.clear(part)["images"]) == {index, second}
    assert world.store.lacking(part) == {}


def test_what_was_asked_for_lately_stays(world: World) -> None:
    old, new = world.image("old"), world.image("new")
    world.fill(old, new)
    _age(world, 1000)
    assert world.fill(new)["copied"] == []  # asked for again
    assert world.clear(newer=500)["images"] == [old]
    assert world.store.lacking(new) == {}


def test_a_layer_of_a_copy_that_was_cut_off_stays_for_a_while(world: World) -> None:
    image = world.image("first", "second")
    world.way(cut_after=digest_of(b"first"))
    with pytest.raises(registry.Failure):
        world.fill(image)
    assert world.clear(newer=500)["blobs"] == 0
    _age(world, 1000)
    assert world.clear(newer=500)["blobs"] == 2


def _age(world: World, seconds: float) -> None:
    for path in Path(world.settings.storage).rglob("*"):
        if path.is_file():
            at = path.stat().st_mtime - seconds
            os.utime(path, (at, at))


def test_a_dry_run_tells_what_a_real_one_frees(world: World) -> None:
    keep, gone = world.image("base", "a"), world.image("base", "b" * 1000)
    world.fill(keep, gone)
    before = world.files()
    told = world.clear(keep, dry=True)
    assert world.files() == before
    freed = world.clear(keep)
    assert freed == {**told, "dry": False}
    size = sum(len(c) for n, c in before.items() if n.endswith("/data"))
    left = sum(len(c) for n, c in world.files().items() if n.endswith("/data"))
    assert freed["freed"] == size - left > 1000
    assert world.fill(gone)["copied"] == [gone]  # and it can come back


def test_an_image_that_is_damaged_anyway_stops_nothing(world: World) -> None:
    broken, gone = world.image("a"), world.image("b")
    world.fill(broken, gone)
    Path(world.store.blob(digest_of(b"a"))).unlink()
    assert world.clear(broken)["images"] == [gone]
    assert world.fill(broken)["copied"] == [broken]


def test_nothing_is_mended_while_work_is_under_way(world: World) -> None:
    Path(world.store.trash).mkdir()
    with world.program._locked("work.lock"):
        assert world.program.mend() == {"mended": False}
    assert world.program.mend() == {"mended": True}
