"""Many devices at once, with stand-ins for the devices: what is decided, pinned and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.enrolment import enrolling, visiting
from muster.enrolment.enrolling import Result, enroll
from muster.enrolment.hostkeys import HostKey, Rules, judge
from muster.enrolment.inventory_file import InventoryFile
from muster.enrolment.plan import Settings, Visit, plan_visits
from muster.enrolment.session import Place, Trouble
from muster.enrolment.site import write_site
from muster.enrolment.targets import Target, read_targets
from muster.errors import InputError
from muster.inventory import load_inventory

BOX = {"arch": "amd64", "memory": 8 << 30, "model": "ACME", "accelerators": []}


class Boxes:
    """Stand-ins: each answers at its address with a key and what it is."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.trouble: dict[str, Exception] = {}
        self.done: dict[str, list[str]] = {}
        self.worked: list[str] = []
        self.asked: list[str] = []
        self.answer: bool | None = True

    def add(self, host: str, **facts: Any) -> None:
        self.keys[host] = f"key of {host}".encode()
        self.facts[host] = {**BOX, "machine_id": host, **facts}

    def meet(self, visit: Visit, settings: Settings) -> visiting.Met:
        if visit.place.host not in self.keys:
            raise Trouble("nobody answers", silent=True)
        key = HostKey("ssh-ed25519", self.keys[visit.place.host])
        return visiting.Met(key, judge(key, visit.pinned, visit.hosts, settings.rules))

    def work(
        self,
        visit: Visit,
        settings: Settings,
        key: HostKey,
        found: visiting.Found,
        step: Callable[[str], None],
    ) -> None:
        self.worked.append(visit.place.host)
        found.done += self.done.get(visit.place.host, [])
        if error := self.trouble.get(visit.place.host):
            raise error
        found.facts = self.facts[visit.place.host]

    def confirm(self, unknown: Sequence[tuple[Visit, str, str | None]]) -> bool | None:
        self.asked += [visit.place.host for visit, _, _ in unknown]
        return self.answer

    def step(self, host: str, text: str) -> None:
        pass


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> Boxes:
    boxes = Boxes()
    monkeypatch.setattr(enrolling.visiting, "meet", boxes.meet)
    monkeypatch.setattr(enrolling.visiting, "work", boxes.work)
    return boxes


def read(path: Path) -> dict[str, Any]:
    """What Ansible says of such an inventory, without the seconds that it takes."""
    top = yaml.safe_load((path / "hosts.yml").read_text())["all"]
    document: dict[str, Any] = {"all": {"children": list(top["children"])}}
    variables: dict[str, dict[str, Any]] = {}
    for file in (path / "group_vars" / "all.yml", path / "group_vars" / "site_north.yml"):
        for host in [h for g in top["children"].values() for h in g.get("hosts") or {}]:
            words = file.read_text().replace("{{ inventory_dir }}", str(path))
            variables.setdefault(host, {}).update(yaml.safe_load(words))
    for name, group in top["children"].items():
        document[name] = {"hosts": list(group.get("hosts") or {})}
        for host, own in (group.get("hosts") or {}).items():
            variables[host].update(own or {})
    return {**document, "_meta": {"hostvars": variables}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("muster.inventory.read_inventory", read)
    write_site("north", tmp_path / "north", "ops", "r.x:5000")
    return tmp_path / "north"


ACCEPT = Settings(public_key="ssh-ed25519 AAAA me", rules=Rules(accept_new=True))


def run(site: Path, boxes: Boxes, *words: str, settings: Settings = ACCEPT) -> dict[str, Result]:
    return {result.host: result for result in enroll(site, read_targets(words), settings, boxes)}


def text(site: Path) -> str:
    return (site / "hosts.yml").read_text()


def test_one_failing_device_stops_no_other(site: Path, boxes: Boxes) -> None:
    for number in (1, 2, 3):
        boxes.add(f"10.0.0.{number}")
    boxes.trouble = {"10.0.0.2": Trouble("no room"), "10.0.0.3": RuntimeError("library fell over")}
    found = run(site, boxes, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
    assert {host: result.outcome for host, result in found.items()} == {
        "10.0.0.1": "enrolled", "10.0.0.2": "failed", "10.0.0.3": "failed", "10.0.0.4": "failed",
    }  # fmt: skip
    assert found["10.0.0.2"].problem == "no room"
    assert "library fell over" in found["10.0.0.3"].problem
    (device,) = load_inventory(site).devices
    assert (device.name, device.hardware) == ("north-10-0-0-1", "hw_cpu")
    # Their keys were found good, so that a second attempt need not ask again.
    assert (site / "known_hosts").read_text().count("ssh-ed25519") == 3


def test_what_was_done_before_a_device_failed_is_told(site: Path, boxes: Boxes) -> None:
    for number, error in ((1, Trouble("sudo wants a password")), (2, RuntimeError("fell over"))):
        boxes.add(f"10.0.0.{number}")
        boxes.done[f"10.0.0.{number}"] = ["public key installed"]
        boxes.trouble[f"10.0.0.{number}"] = error
    for result in run(site, boxes, "10.0.0.1", "10.0.0.2").values():
        assert result.outcome == "failed"
        assert result.done == ["public key installed", "host key pinned"]


def test_a_second_run_leaves_every_byte(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1")
    run(site, boxes, "10.0.0.1")
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    found = run(site, boxes, "10.0.0.1", settings=Settings(public_key="x"))
    assert found["10.0.0.1"].outcome == "unchanged"
    assert before == {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}


def test_silence_in_a_range_is_no_failure(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.2")
    found = run(site, boxes, "10.0.0.1-3")
    assert [result.outcome for result in found.values()] == ["absent", "enrolled", "absent"]


@pytest.mark.parametrize(
    ("answer", "word"), [(False, "was not confirmed"), (None, "--accept-new-keys")]
)
def test_unconfirmed_keys_are_neither_used_nor_pinned(
    site: Path, boxes: Boxes, answer: bool | None, word: str
) -> None:
    boxes.add("10.0.0.1")
    boxes.answer = answer
    found = run(site, boxes, "10.0.0.1", settings=Settings(public_key="x"))
    assert boxes.asked == ["10.0.0.1"]
    assert boxes.worked == []
    assert word in found["10.0.0.1"].problem
    assert "ssh-ed25519" not in (site / "known_hosts").read_text()
    assert load_inventory(site, may_be_empty=True).devices == ()


def test_a_reinstalled_device(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1")
    run(site, boxes, "cam=10.0.0.1")
    boxes.keys["10.0.0.1"] = b"another"
    before = text(site)
    found = run(site, boxes, "cam")
    assert "host key changed" in found["cam"].problem
    assert text(site) == before
    replacing = Settings(public_key="x", rules=Rules(accept_new=True, replace=True))
    found = run(site, boxes, "cam", settings=replacing)
    assert (found["cam"].outcome, found["cam"].done) == (
        "updated", ["host key replaced", "inventory updated"],
    )  # fmt: skip
    assert run(site, boxes, "cam")["cam"].outcome == "unchanged"


def test_a_device_that_has_moved(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1")
    run(site, boxes, "cam=10.0.0.1")
    boxes.keys["10.0.0.9"], boxes.facts["10.0.0.9"] = (
        boxes.keys["10.0.0.1"],
        boxes.facts["10.0.0.1"],
    )
    found = run(site, boxes, "10.0.0.9")
    assert "same machine-id as cam" in found["10.0.0.9"].problem
    found = run(site, boxes, "cam=10.0.0.9")
    assert "address changed from 10.0.0.1" in found["10.0.0.9"].done
    (device,) = load_inventory(site).devices
    assert (device.name, device.address) == ("cam", "10.0.0.9")


def test_copied_images_in_one_run_are_told_apart(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1", machine_id="same")
    boxes.add("10.0.0.2", machine_id="same")
    found = run(site, boxes, "10.0.0.1-2")
    assert [result.outcome for result in found.values()] == ["enrolled", "failed"]


def test_unknown_hardware_is_written_without_a_group(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1", model="Radxa ROCK 5B", arch="arm64", compatible=["radxa,rock-5b"])
    found = run(site, boxes, "rock=10.0.0.1")
    assert found["10.0.0.1"].outcome == "enrolled"
    assert "unknown hardware: Radxa ROCK 5B" in found["10.0.0.1"].notes[0]
    (device,) = load_inventory(site).devices
    assert (device.site, device.hardware) == ("site_north", None)
    chosen = Settings(public_key="x", hardware="hw_rock")
    assert run(site, boxes, "rock", settings=chosen)["rock"].hardware == "hw_rock"
    assert run(site, boxes, "rock")["rock"].outcome == "unchanged"


def test_a_wrong_word_about_hardware_fails_that_device(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1", accelerators=[{"kind": "coral", "model": "Edge TPU"}])
    chosen = Settings(public_key="x", hardware="hw_hailo", rules=Rules(accept_new=True))
    found = run(site, boxes, "10.0.0.1", settings=chosen)
    assert "you say hw_hailo, but it is ACME with Edge TPU" in found["10.0.0.1"].problem
    assert load_inventory(site, may_be_empty=True).devices == ()


def test_login_and_port_are_written_where_they_differ(site: Path, boxes: Boxes) -> None:
    boxes.add("10.0.0.1")
    run(site, boxes, "cam=pi@10.0.0.1:2222")
    (device,) = load_inventory(site).devices
    assert (device.port, device.variables["ansible_user"]) == (2222, "pi")
    assert (site / "known_hosts").read_text().splitlines()[-1].startswith("[10.0.0.1]:2222 ")
    assert run(site, boxes, "cam")["cam"].outcome == "unchanged"


def test_what_is_missing_is_told_before_anything_is_connected_to(site: Path, boxes: Boxes) -> None:
    (site / "hosts.yml").write_text(
        "all:\n  children:\n    site_a: {hosts: }\n    site_b: {hosts: }\n"
    )
    with pytest.raises(InputError, match=r"expected --site NAME, .* has site_a, site_b"):
        run(site, boxes, "10.0.0.1")
    (site / "group_vars" / "all.yml").unlink()
    with pytest.raises(InputError, match="expected a login"):
        enroll(site, [Target("10.0.0.1", site="site_a")], ACCEPT, boxes)
    assert boxes.worked == []


def test_keys_pinned_elsewhere_than_the_inventory_looks_are_told(
    site: Path, boxes: Boxes, tmp_path: Path
) -> None:
    boxes.add("10.0.0.1")
    elsewhere = Settings(
        public_key="x", rules=Rules(accept_new=True), known_hosts=tmp_path / "other" / "hosts"
    )
    found = run(site, boxes, "10.0.0.1", settings=elsewhere)
    assert "but the inventory uses" in found["10.0.0.1"].notes[0]
    assert (tmp_path / "other" / "hosts").exists()


def test_an_inventory_that_somebody_changed_meanwhile_is_left_as_it_is(
    site: Path, boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes.add("10.0.0.1")
    work = boxes.work

    def slow(*arguments: Any) -> None:
        (site / "hosts.yml").write_text(text(site) + "# mine\n")
        work(*arguments)

    monkeypatch.setattr(enrolling.visiting, "work", slow)
    found = run(site, boxes, "10.0.0.1")
    assert (found["10.0.0.1"].outcome, text(site)[-7:]) == ("failed", "# mine\n")
    assert "run this again" in found["10.0.0.1"].problem


def test_a_key_that_the_inventory_does_not_name_is_told(
    site: Path, boxes: Boxes, tmp_path: Path
) -> None:
    boxes.add("10.0.0.1")
    settings = Settings("x", private_key=tmp_path / "key", rules=Rules(accept_new=True))
    found = run(site, boxes, "10.0.0.1", settings=settings)
    assert "set ansible_ssh_private_key_file" in found["10.0.0.1"].notes[0]


def test_the_jump_host_and_the_password_for_sudo_come_from_the_inventory(
    site: Path, boxes: Boxes
) -> None:
    boxes.add("10.0.0.1")
    jumping = Settings("x", jump="ops@bastion", rules=Rules(accept_new=True))
    found = run(site, boxes, "cam=10.0.0.1", settings=jumping)
    assert "add -o ProxyJump=ops@bastion" in found["10.0.0.1"].notes[0]
    words = (site / "group_vars" / "all.yml").read_text()
    words = words.replace("=yes\n", "=yes -o ProxyJump=ops@bastion\nansible_become_pass: secret\n")
    (site / "group_vars" / "all.yml").write_text(words)
    (visit,) = plan_visits(
        read_targets(["cam"]), load_inventory(site), InventoryFile(site), Settings("x")
    )
    assert visit.place == Place("10.0.0.1", 22, "ops@bastion")
    assert visit.sudo_password is not None
    assert visit.sudo_password.reveal() == "secret"
    assert "secret" not in repr(visit.sudo_password)
