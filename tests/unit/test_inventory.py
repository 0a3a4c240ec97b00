"""Inventories as Ansible reads them."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster import ansible_inventory, variable_files
from muster.errors import InputError
from muster.inventory import Inventory, load_inventory
from muster.paths import COLLECTION_ROOT

TWO_SITES: dict[str, Any] = {
    "all": {
        "vars": {"colour": "inline all", "ansible_user": "ops"},
        "children": {
            "site_a": {"hosts": {"a-[1:3]": None}, "vars": {"shape": "inline site"}},
            "site_b": {"hosts": {"b-1": {"ansible_host": "192.0.2.9", "ansible_port": 2222}}},
            "hw_coral": {"hosts": {"a-1": None, "b-1": None}},
            "hw_hailo": {"hosts": {"a-2": None}},
            "hw_intel": {"hosts": {}},
            "edge": {"children": {"site_a": None}},
        },
    }
}

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Give a function that writes an inventory folder: the hosts, then files by path."""

    def write(hosts: Any, **files: Any) -> Path:
        for name, content in {"hosts.yml": hosts, **files}.items():
            path = tmp_path / "inventory" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else yaml.safe_dump(content)
            path.write_text(text, encoding="utf-8")
        return tmp_path / "inventory"

    return write


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    path = tmp_path_factory.mktemp("two_sites") / "hosts.yml"
    path.write_text(yaml.safe_dump(TWO_SITES), encoding="utf-8")
    return load_inventory(path)


@pytest.fixture
def defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that puts other defaults in the place of the collection's."""

    def set_defaults(**groups: dict[str, Any]) -> None:
        folder = tmp_path / "collection" / "group_vars"
        folder.mkdir(parents=True)
        for group, variables in groups.items():
            (folder / f"{group}.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
        monkeypatch.setattr(variable_files, "COLLECTION_ROOT", tmp_path / "collection")

    return set_defaults


def names(inventory: Inventory, pattern: str) -> list[str]:
    return [device.name for device in inventory.select(pattern)]


def problems(path: Path, limit: str | None = None) -> list[str]:
    with pytest.raises(InputError) as error:
        load_inventory(path, limit)
    return error.value.problems


def test_devices_sites_and_hardware(two_sites: Inventory) -> None:
    inventory = two_sites
    assert [device.name for device in inventory.devices] == ["a-1", "a-2", "a-3", "b-1"]
    first, *_, last = inventory.devices
    assert (first.address, first.port, first.site, first.hardware) == (
        "a-1",
        22,
        "site_a",
        "hw_coral",
    )
    assert (last.address, last.port, last.site) == ("192.0.2.9", 2222, "site_b")
    assert first.groups == ("edge", "hw_coral", "site_a")
    assert inventory.devices[2].hardware is None
    by_hardware = inventory.by_hardware()
    assert [device.name for device in by_hardware["hw_coral"]] == ["a-1", "b-1"]
    assert list(inventory.by_site()) == ["site_a", "site_b"]


def test_what_the_inventory_says_wins_over_the_defaults_of_the_collection(
    write: Write, defaults: Callable[..., None]
) -> None:
    layers = ("colour", "shape", "size", "taste", "smell", "sound")
    defaults(
        all=dict.fromkeys(layers, "default all"),
        hw_coral=dict.fromkeys(layers, "default hardware"),
    )
    files = {
        "group_vars/all.yml": {"size": "file all"},
        "group_vars/site_a.yml": {"taste": "file site"},
        "host_vars/a-1.yml": {"taste": "file host"},
    }
    inventory = load_inventory(write(TWO_SITES, **files))
    found = {device.name: [device.variables[n] for n in layers] for device in inventory.devices}
    coral = "default hardware"
    assert found["a-1"] == ["inline all", "inline site", "file all", "file host", coral, coral]
    assert (
        found["a-3"] == ["inline all", "inline site", "file all", "file site"] + ["default all"] * 2
    )
    assert found["b-1"] == ["inline all", coral, "file all", coral, coral, coral]


def test_the_working_directory_says_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "group_vars").mkdir(parents=True)
    (tmp_path / "elsewhere" / "group_vars" / "all.yml").write_text("colour: of a playbook")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_inventory(write(TWO_SITES)).devices[0].variables["colour"] == "inline all"


def test_ini_files_beside_files_of_pyinfra_and_of_muster(write: Write) -> None:
    others = {"strategy.yml": "apiVersion: muster/v1\nwaves: []\n", "inventory.py": "x"}
    others |= {"known_hosts": "n1 ssh-ed25519 AAAA", "site-ca.pem": "-----BEGIN CERTIFICATE-----"}
    path = write("[site_a]\nn1 ansible_host=192.0.2.1\n", **others)
    (path / "hosts.yml").rename(path / "hosts")
    assert load_inventory(path).devices[0].site == "site_a"
    assert load_inventory(path / "hosts").devices[0].address == "192.0.2.1"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-2", ["a-2"]),
        ("site_b:a-1", ["a-1", "b-1"]),
        ("site_a,!hw_coral", ["a-2", "a-3"]),
        ("site_a:&hw_coral", ["a-1"]),
        ("!site_a", ["b-1"]),
        ("hw_intel", []),
        ("edge:&hw_hailo:!a-2", []),
    ],
)
def test_patterns_of_names(two_sites: Inventory, pattern: str, expected: list[str]) -> None:
    assert names(two_sites, pattern) == expected


def test_patterns_of_every_other_kind(two_sites: Inventory, tmp_path: Path) -> None:
    inventory = two_sites
    (tmp_path / "retry").write_text("a-3\nb-1\n", encoding="utf-8")
    assert names(inventory, "*-1") == ["a-1", "b-1"]
    assert names(inventory, "~[ab]-[13]$") == ["a-1", "a-3", "b-1"]
    assert names(inventory, "site_a[0:1]") == ["a-1", "a-2"]
    assert names(inventory, f"@{tmp_path / 'retry'}") == ["a-3", "b-1"]


@pytest.mark.parametrize(
    "pattern",
    [
        *("site_c", "site_a:!hw_corals", "~(", "site_a[7]", "", "@/none"),
        # Ansible would take these for all devices, or for a part of what was meant.
        *(",", ":", ",,", "[", " ", "~", "!", "&", "~[", "a-1["),
    ],
)
def test_a_pattern_that_matches_nothing_there_is(two_sites: Inventory, pattern: str) -> None:
    with pytest.raises(InputError, match="pattern"):
        two_sites.select(pattern)


def test_an_unknown_name_in_a_pattern_brings_a_suggestion(two_sites: Inventory) -> None:
    with pytest.raises(InputError, match="did you mean hw_coral"):
        two_sites.select("site_a:!hw_corals")


def test_limit(write: Write) -> None:
    path = write(TWO_SITES)
    inventory = load_inventory(path, "site_a")
    assert names(inventory, "all") == ["a-1", "a-2", "a-3"]
    assert names(inventory, "hw_coral") == ["a-1"]
    assert names(inventory, "b-1") == []
    assert problems(path, "site_b:&hw_hailo") == [
        f"{path}: limit 'site_b:&hw_hailo' selects no device"
    ]


def test_templates_are_rendered_in_what_muster_and_its_roles_read(write: Write) -> None:
    variables = {
        "domain": "{{ group_names | last }}.example.com",
        "ansible_host": "{{ inventory_hostname }}.{{ domain }}",
        "muster_registry": "{{ hostvars['b-1'].ansible_host }}:5000",
        "docker_registry_cas": {"x:1": "{{ inventory_dir }}/ca.pem"},
        "docker_log_max_files": "{{ groups['site_a'] | length }}",
        "playbook_only": "{{ something_of_a_playbook }}",
    }
    path = write(TWO_SITES, **{"group_vars/site_a.yml": variables})
    device = load_inventory(path).devices[0]
    assert device.address == "a-1.site_a.example.com"
    assert device.variables["muster_registry"] == "192.0.2.9:5000"
    assert device.variables["docker_registry_cas"] == {"x:1": f"{path}/ca.pem"}
    assert int(device.variables["docker_log_max_files"]) == 3
    assert device.variables["playbook_only"] == "{{ something_of_a_playbook }}"


def test_a_template_that_cannot_be_rendered_names_device_and_variable(write: Write) -> None:
    path = write(TWO_SITES, **{"host_vars/a-2.yml": {"muster_registry": "{{ regstry }}:5000"}})
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: device a-2: muster_registry: can't be rendered")
    assert "regstry" in problem


def test_two_groups_of_a_kind(write: Write) -> None:
    hosts = {
        "all": {
            "children": {g: {"hosts": {"x": None}} for g in ("site_a", "site_b", "hw_a", "hw_b")}
        }
    }
    path = write(hosts)
    assert problems(path) == [
        f"{path}: device x: expected one site_* group, got site_a, site_b",
        f"{path}: device x: expected one hw_* group, got hw_a, hw_b",
    ]


def test_wrong_addresses_name_device_and_variable(write: Write) -> None:
    wrong = [
        ("ansible_connection", "docker"),
        ("ansible_port", 70000),
        ("ansible_port", "ssh"),
        ("ansible_host", ""),
    ]
    hosts = {f"x{number}": {name: value} for number, (name, value) in enumerate(wrong)}
    path = write({"all": {"hosts": hosts}})
    for number, ((name, _), problem) in enumerate(zip(wrong, problems(path), strict=True)):
        assert problem.startswith(f"{path}: device x{number}: {name}: expected ")


@pytest.mark.parametrize("content", ["all: [", "all: {hosts: [a, b]}"])
def test_an_invalid_file_is_named(write: Write, content: str) -> None:
    path = write(content)
    (problem,) = problems(path)
    assert "hosts.yml" in problem


def test_an_inventory_without_devices(write: Write, tmp_path: Path) -> None:
    path = write({"all": {"children": {"site_a": {"hosts": {}}}}})
    assert problems(path) == [f"{path}: expected at least one device, the inventory has none"]
    missing = tmp_path / "missing"
    assert problems(missing) == [f"{missing}: expected an inventory file or folder, there is none"]


def test_the_example_is_valid() -> None:
    inventory = load_inventory(COLLECTION_ROOT / "inventories" / "example")
    assert all(device.site and device.hardware for device in inventory.devices)


class TestCache:
    """Static inventories are read once, whatever is computed is read each time."""

    @pytest.fixture(autouse=True)
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        made: list[str] = []
        real = ansible_inventory._ask_ansible

        def counted(path: Path) -> dict[str, Any]:
            made.append(str(path))
            return real(path)

        monkeypatch.setattr(ansible_inventory, "_ask_ansible", counted)
        return made

    def test_a_static_inventory_is_read_again_when_its_content_changes(
        self, write: Write, calls: list[str], own_cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(TWO_SITES, **{"host_vars/a-1.yml": {"colour": "red"}})
        with caplog.at_level(logging.WARNING):
            assert load_inventory(path) == load_inventory(path)
        assert len(calls) == 1
        (path / "host_vars" / "a-1.yml").write_text("colour: blue", encoding="utf-8")
        assert load_inventory(path).devices[0].variables["colour"] == "blue"
        assert len(calls) == 2
        assert {oct(file.stat().st_mode) for file in (own_cache / "inventory").iterdir()} == {
            "0o100600"
        }
        assert not caplog.records

    def test_defaults_of_the_collection_are_not_cached(
        self, write: Write, calls: list[str], defaults: Callable[..., None]
    ) -> None:
        path = write(TWO_SITES)
        load_inventory(path)
        defaults(all={"taste": "salt"})
        assert load_inventory(path).devices[0].variables["taste"] == "salt"
        assert len(calls) == 1

    def test_a_script_is_asked_each_time(self, write: Write, calls: list[str]) -> None:
        answer = json.dumps({"site_a": {"hosts": ["n1"]}, "_meta": {"hostvars": {}}})
        path = write(f"#!/bin/sh\necho '{answer}'\n")
        script = path / "hosts.yml"
        script.chmod(0o755)
        script = script.rename(path / "hosts.sh")
        for _ in range(2):
            assert load_inventory(script).devices[0].site == "site_a"
        assert len(calls) == 2

    def test_a_plugin_is_asked_each_time(self, write: Write, calls: list[str]) -> None:
        plugin = {"plugin": "ansible.builtin.constructed", "groups": {"hw_coral": "true"}}
        path = write("[site_a]\nn1\n", **{"z.yml": plugin})
        (path / "hosts.yml").rename(path / "hosts")
        for _ in range(2):
            assert load_inventory(path).devices[0].hardware == "hw_coral"
        assert len(calls) == 2

    def test_vaults(
        self, write: Write, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = tmp_path / "vault-password"
        secret.write_text("open sesame", encoding="utf-8")
        monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(secret))
        path = write(
            TWO_SITES,
            **{
                "host_vars/a-1.yml": {"ansible_become_password": "whole file"},
                "host_vars/b-1.yml": "ansible_become_password: " + _encrypted("one value"),
            },
        )
        whole = path / "host_vars" / "a-1.yml"
        done = ansible_inventory.run_ansible("vault", ["encrypt", str(whole)])
        assert done.returncode == 0, done.stderr
        for _ in range(2):
            found = {
                d.name: d.variables.get("ansible_become_password")
                for d in load_inventory(path).devices
            }
            assert (found["a-1"], found["b-1"]) == ("whole file", "one value")
        assert len(calls) == 2
        other = tmp_path / "other-password"
        other.write_text("something else", encoding="utf-8")
        text = whole.read_text()
        whole.unlink()
        monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(other))
        (problem,) = problems(path)
        assert problem.startswith(
            f"{path}: device b-1: ansible_become_password: can't be decrypted"
        )
        # Without any password one line says so, whatever is encrypted and however often.
        monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
        none = [f"{path}: no vault password: set ANSIBLE_VAULT_PASSWORD_FILE"]
        whole.write_text(text)
        assert problems(path) == none
        whole.write_text((path / "host_vars" / "b-1.yml").read_text())
        assert problems(path) == none


def _encrypted(value: str) -> str:
    done: subprocess.CompletedProcess[str] = ansible_inventory.run_ansible(
        "vault", ["encrypt_string", value]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["all", "ungrouped", "hw_cpu"])
def test_a_device_with_the_name_of_a_group_is_refused(tmp_path: Path, name: str) -> None:
    # `muster reset hw_cpu` would have two meanings, and a host called all hides the others
    file = tmp_path / "hosts.yml"
    hosts = f"{name}: {{ansible_host: 127.0.0.1}}, b: {{ansible_host: 127.0.0.1}}"
    file.write_text(f"all: {{children: {{hw_cpu: {{hosts: {{{hosts}}}}}}}}}")
    with pytest.raises(InputError, match=f"{name}: expected another name, a group is called so"):
        load_inventory(file)


def test_folders_of_keys_and_secrets_are_no_inventories(write: Write) -> None:
    beside = {
        "pki/harbour/ca.pem": "-----BEGIN CERTIFICATE-----",
        "pki/harbour/clients/a-1.key": "-----BEGIN PRIVATE KEY-----",
        "tls/server.key": "-----BEGIN PRIVATE KEY-----",
        "secrets/collector": "hush",
        "files/motd.txt": "hello",
    }
    path = write(TWO_SITES, **beside)
    (path / "empty").mkdir()
    assert len(load_inventory(path).devices) == 4


def test_a_folder_of_inventories_is_still_read(write: Write) -> None:
    more = {"all": {"children": {"site_c": {"hosts": {"c-1": None}}}}}
    path = write(TWO_SITES, **{"more/hosts.yml": more, "more/ca.pem": "-----BEGIN"})
    assert "c-1" in load_inventory(path).names
