"""`muster site new`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.cli import run
from muster.connection import connection_data
from muster.enrolment.inventory_file import InventoryFile
from muster.errors import InputError
from muster.inventory import load_inventory
from muster.role_variables import check_variables


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(tmp_path / "cache"))


def test_the_inventory_is_valid_from_the_first_device_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["site", "new", "site_north_1", "--user", "admin", "--registry", "r.x:5000"]) == 0
    folder = Path("inventories/north_1")
    assert load_inventory(folder, may_be_empty=True).devices == ()
    file = InventoryFile(folder)
    assert file.sites() == ["site_north_1"]
    file.put("site_north_1", "n1", {"ansible_host": "10.0.0.1"})
    file.put("hw_cpu", "n1")
    file.save()
    (device,) = load_inventory(folder).devices
    assert (device.site, device.hardware, device.address) == ("site_north_1", "hw_cpu", "10.0.0.1")
    assert device.variables["muster_registry"] == "r.x:5000"
    data = connection_data(device.variables, device.name)
    assert data["ssh_user"] == "admin"
    assert data["ssh_known_hosts_file"] == str(tmp_path / "inventories" / "north_1" / "known_hosts")
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert "# Kinds of hardware" in (folder / "hosts.yml").read_text()
    shown = capsys.readouterr().out
    assert "muster enroll -i inventories/north_1" in shown
    assert "muster_registry" not in shown
    check_variables(load_inventory(folder), ["muster_device"])


def test_a_registry_that_was_not_given_is_asked_for_not_made_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["site", "new", "north"]) == 0
    folder = Path("inventories/north")
    hint = "set muster_registry in inventories/north/group_vars/site_north.yml"
    assert hint in capsys.readouterr().out
    text = (folder / "group_vars" / "site_north.yml").read_text()
    assert "\n# muster_registry: registry.north.example:5000\n" in text
    file = InventoryFile(folder)
    file.put("site_north", "n1", {"ansible_host": "10.0.0.1"})
    file.save()
    inventory = load_inventory(folder)
    assert "muster_registry" not in inventory.devices[0].variables
    with pytest.raises(InputError, match="muster_registry") as caught:
        check_variables(inventory, ["muster_device"])
    assert len(caught.value.problems) == 1


def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    assert run(["site", "new", "north", "-d", "x", "--json"]) == 0  # an empty folder is fine
    assert json.loads(capsys.readouterr().out)["inventory"] == "x"
    (tmp_path / "x" / "hosts.yml").write_text("mine")
    assert run(["site", "new", "north", "-d", "x"]) == 2
    assert (tmp_path / "x" / "hosts.yml").read_text() == "mine"
    assert [path.name for path in tmp_path.glob(".x*")] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["Harbour North"], "such as harbour_north"),
        (["9lives"], "expected a name of small letters"),
        (["north", "--registry", "nowhere"], "expected HOST:PORT"),
        (["north", "--user", "a b"], "expected a user's name"),
        (["north", "-d", "a b"], "without spaces"),
    ],
)
def test_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run(["site", "new", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "inventories").exists()
