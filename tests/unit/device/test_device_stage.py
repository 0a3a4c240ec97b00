"""``stage``: what it refuses, what it fetches, and that nothing that serves is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from device_stand_ins import REGISTRY, Device, device


def test_a_release_is_fetched_and_laid_beside_the_others(dev: Device) -> None:
    release = dev.release("1.0", env={"THREADS": "1"}, memory=64 << 20)
    answer = dev.stage(release)
    image = f"{REGISTRY}/{release.image}"
    assert answer["staged"]
    assert (answer["already"], answer["pulled"]) == (False, True)
    assert answer["image"] == image
    assert dev.world.read()["images"] == [image]
    folder = dev.state / "releases" / release.id
    assert (folder / "release.json").read_text() == release.text
    spec = json.loads((folder / "variant.json").read_text())
    assert spec["env"] == {"THREADS": "1"}
    assert spec["memory"] == 64 << 20
    assert dev.links() == {"current": None, "previous": None, "last_good": None}
    assert dev.world.running() == []


def test_staging_again_changes_nothing(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    before = dev.snapshot()
    answer = dev.stage(release)
    assert (answer["already"], answer["pulled"]) == (True, False)
    assert dev.snapshot() == before


def test_an_image_that_is_gone_is_fetched_again(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["images"] = []
    answer = dev.stage(release)
    assert (answer["already"], answer["pulled"]) == (True, True)


def test_an_image_that_is_here_needs_no_registry_and_no_disk(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = dev.release("1.0")
    with dev.world.change() as content:
        content["images"] = [f"{REGISTRY}/{release.image}"]
        content["pull_error"] = "registry_unreachable"
    monkeypatch.setattr(device, "free_bytes", lambda path: 0)
    assert dev.stage(release)["pulled"] is False


def test_the_registry_of_the_request_wins(dev: Device) -> None:
    release = dev.release("1.0")
    with dev.world.change() as content:
        content["registry"].append(f"other:5000/{release.image}")
    answer = dev.stage(release, registry="other:5000")
    assert answer["image"].startswith("other:5000/")


def test_a_release_may_run_while_the_next_is_staged(dev: Device) -> None:
    old, new, third = dev.release("1.0"), dev.release("2.0"), dev.release("3.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    dev.switch(new, 2)
    before = dev.links(), dev.world.running()
    dev.stage(third)
    assert (dev.links(), dev.world.running()) == before
    assert dev.model()["phase"] == "switched"


def test_staging_does_not_wait_for_a_switch_nor_the_guard_for_staging(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    model = device.Model(dev.host, "digits")
    with model.locked("switch"):
        assert dev.stage(release)["already"]
    with model.stage_locked("stage", 0.0):
        assert dev.switch(release, 1)["ready"]
        assert dev.revert(1)["reverted"]


@pytest.mark.parametrize(("free", "fits"), [((300 << 20) - 1, False), (300 << 20, True)])
def test_the_disk_must_hold_what_the_release_asks_for(
    dev: Device, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    release = dev.release("1.0", requires={"disk": 300 << 20})
    monkeypatch.setattr(device, "free_bytes", lambda path: free)
    answer = dev.call("stage", **dev.stage_document(release))
    assert answer["ok"] is fits
    if not fits:
        assert answer["error"]["code"] == "no_space"
        assert answer["error"]["detail"]["free"] == free
        assert answer["error"]["detail"]["needed"] == 300 << 20
        assert dev.world.read()["images"] == []
        assert dev.model()["releases"] == []


def test_without_a_figure_some_space_is_needed_all_the_same(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "free_bytes", lambda path: 100 << 20)
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0")))
    assert error["code"] == "no_space"
    assert error["detail"]["needed"] == device.DISK_FLOOR


@pytest.mark.parametrize("code", ["registry_unreachable", "pull_failed", "no_space"])
def test_a_failed_pull_leaves_nothing_behind(dev: Device, code: str) -> None:
    with dev.world.change() as content:
        content["pull_error"] = code
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0")))
    assert error["code"] == code
    assert list((dev.state / "releases").iterdir()) == []


def test_a_runtime_that_is_down_is_told(dev: Device) -> None:
    with dev.world.change() as content:
        content["runtime_down"] = True
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0")))
    assert error["code"] == "runtime_unavailable"


def test_a_changed_document_is_refused(dev: Device) -> None:
    release = dev.release("1.0")
    document = dev.stage_document(release, document=release.text.replace("8080", "8081"))
    assert dev.fails("stage", **document)["code"] == "digest_mismatch"


def test_a_document_under_another_id_is_refused(dev: Device) -> None:
    release = dev.release("1.0")
    document = dev.stage_document(release, release_id=dev.release("2.0").id)
    assert dev.fails("stage", **document)["code"] == "digest_mismatch"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, "document.model"),
        ({"kind": "Strategy"}, "document.kind"),
        ({"apiVersion": "muster/v2"}, "document.apiVersion"),
        ({"endpoint": {"port": 0, "container_port": 1, "ready_path": "/"}}, "endpoint.port"),
        ({"endpoint": {"port": 1, "container_port": 1, "ready_path": "x"}}, "ready_path"),
        ({"variants": {}}, "hw_coral"),
        ({"variants": {"hw_coral": {"image": "models/digits:latest"}}}, "hw_coral.image"),
        ({"variants": {"hw_coral": {"command": ["sh"]}}}, "hw_coral.command"),
    ],
)
def test_a_document_that_the_device_can_not_run_is_refused(
    dev: Device, change: dict[str, object], named: str
) -> None:
    release = dev.release("1.0")
    release.body |= change
    error = dev.fails("stage", **dev.stage_document(release))
    assert error["code"] == "bad_input"
    assert named in error["message"]
    assert dev.model()["releases"] == []


@pytest.mark.parametrize(
    ("variant", "named"),
    [
        ({"env": {"A": "x\ny"}}, "env"),
        ({"env": {"A B": "x"}}, "env"),
        ({"devices": ["/dev/../etc/passwd"]}, "devices"),
        ({"devices": "/dev/apex_0"}, "devices"),
        ({"memory": "64MiB"}, "memory"),
        ({"requires": {"disk": 0.5}}, "requires.disk"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused(
    dev: Device, variant: dict[str, object], named: str
) -> None:
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0", **variant)))
    assert error["code"] == "bad_input"
    assert named in error["message"]


def test_a_device_that_was_not_provisioned_stages_nothing(dev: Device) -> None:
    (dev.root / "etc/muster/device.json").unlink()
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0")))
    assert error["code"] == "bad_input"
    assert "device.json" in error["message"]
    assert dev.model()["releases"] == []


def test_a_damaged_release_is_repaired(dev: Device) -> None:
    release = dev.release("1.0")
    dev.roll_out(release, 1)
    path = dev.state / "releases" / release.id / "release.json"
    path.write_text("x" + path.read_text()[1:])
    error = dev.fails("switch", **dev.switch_document(release, 2))
    assert error["code"] == "unknown_release"
    assert "damaged" in error["message"]
    assert dev.stage(release)["already"] is False
    assert path.read_text() == release.text
    assert dev.switch(release, 2)["ready"]


def test_a_release_in_use_can_not_become_another_variant(dev: Device) -> None:
    release = dev.release("1.0")
    release.body["variants"]["hw_hailo"] = release.body["variants"]["hw_coral"]
    dev.stage(release, variant="hw_hailo")
    assert dev.stage(release)["already"] is False, "unused: it may"
    dev.switch(release, 1)
    dev.confirm(1)
    before = dev.snapshot()
    error = dev.fails("stage", **dev.stage_document(release, variant="hw_hailo"))
    assert error["code"] == "bad_input"
    assert dev.snapshot() == before


# Signatures, by the real minisign

needs_minisign = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="minisign, which devices verify with, is not installed"
)


class Signer:
    """A key pair of minisign."""

    def __init__(self, folder: Path) -> None:
        self.public, self.secret = folder / "release.pub", folder / "release.key"
        self._run("-G", "-W", "-p", self.public, "-s", self.secret)

    @staticmethod
    def _run(*arguments: object) -> None:
        command = ["minisign", *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, input=b"")

    def sign(self, text: str) -> str:
        document = self.public.with_name("document")
        document.write_text(text)
        self._run("-S", "-s", self.secret, "-m", document)
        return document.with_name("document.minisig").read_text()


@pytest.fixture
def signer(dev: Device) -> Signer:
    signer = Signer(dev.root / "etc/muster")
    dev.configure(release_public_key="/etc/muster/release.pub", registry=REGISTRY)
    return signer


@needs_minisign
def test_a_signed_release_is_taken(dev: Device, signer: Signer) -> None:
    release = dev.release("1.0")
    dev.stage(release, signature=signer.sign(release.text))
    signature = dev.state / "releases" / release.id / "release.json.minisig"
    assert signature.read_text().startswith("untrusted comment")


@needs_minisign
@pytest.mark.parametrize("signature", [None, "", "nonsense", "other document", "other key"])
def test_a_release_that_is_not_signed_is_refused(
    dev: Device, signer: Signer, signature: str | None, tmp_path: Path
) -> None:
    release = dev.release("1.0")
    if signature == "other document":
        signature = signer.sign(dev.release("2.0").text)
    elif signature == "other key":
        signature = Signer(tmp_path).sign(release.text)
    error = dev.fails("stage", **dev.stage_document(release, signature=signature))
    assert error["code"] == "bad_signature"
    assert dev.world.read()["images"] == []
    assert list((dev.state / "releases").iterdir()) == []


@needs_minisign
def test_a_missing_key_lets_nothing_through(dev: Device, signer: Signer) -> None:
    release = dev.release("1.0")
    signature = signer.sign(release.text)
    signer.public.unlink()
    error = dev.fails("stage", **dev.stage_document(release, signature=signature))
    assert error["code"] == "bad_signature"


def test_a_missing_minisign_lets_nothing_through(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.configure(release_public_key="/etc/muster/release.pub", registry=REGISTRY)
    monkeypatch.setenv("PATH", "/nowhere")
    error = dev.fails("stage", **dev.stage_document(dev.release("1.0"), signature="x"))
    assert error["code"] == "bad_signature"
    assert "minisign is not installed" in error["message"]


def test_what_is_published_was_synced_before(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content first, then its name; the state before what it announces."""
    order: list[str] = []
    real_replace = device.os.replace

    def replace(source: str, target: str) -> None:
        order.append(f"name {Path(target).name}")
        real_replace(source, target)

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        order.append(f"sync {name}")

    monkeypatch.setattr(device.os, "replace", replace)
    monkeypatch.setattr(device.os, "fsync", fsync)
    monkeypatch.setattr(device.os, "sync", lambda: order.append("sync all"))
    release = dev.release("1.0")
    dev.stage(release)
    published = order.index(f"name {release.id}")
    assert order.index("sync release.json.new") < order.index("name release.json") < published
    assert order.index("sync variant.json.new") < order.index("name variant.json") < published
    assert order.index("sync all") < published < order.index("sync releases")
    order.clear()
    dev.switch(release, 1)
    states = [place for place, step in enumerate(order) if step == "name state.json"]
    for place in states:
        assert order[place - 1] == "sync state.json.new"
        assert order[place + 1] == "sync digits"
    assert len(states) == 3
    assert states[1] < order.index("name current") < states[2]
