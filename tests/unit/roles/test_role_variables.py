"""What roles read: checked for all devices at once, and documented."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.errors import InputError
from muster.inventory import Device, Inventory
from muster.paths import COLLECTION_ROOT
from muster.provisioning import SITE_ROLES
from muster.role_variables import check_variables, role_model, role_names, variable_problems
from roles.docker.daemon import daemon_json
from roles.docker.variables import Variables as DockerVariables
from roles.variables import RoleVariables, with_table

SOMEWHERE = Path("/somewhere/hosts.yml")


def device(name: str, *groups: str, **variables: Any) -> Device:
    return Device(name, name, 22, None, None, groups, {"muster_registry": "reg:5000", **variables})


def problems(*devices: Device, path: Path = SOMEWHERE, **options: Any) -> list[str]:
    try:
        check_variables(Inventory(path, devices), SITE_ROLES, **options)
    except InputError as error:
        return error.problems
    return []


def test_all_mistakes_of_all_devices_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    files = {
        "hosts.yml": "all: {hosts: {n1: , n2: , n3: }}",
        "group_vars/all.yml": "watchdog_runtime: soon",
        "group_vars/hw_coral.yml": "docker_log_max_files: 0",
        "host_vars/n3.yml": "docker_log_max_files: many",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = problems(
        device("n1", "hw_coral", watchdog_runtime="soon", docker_log_max_files=0),
        device("n2", "hw_coral", watchdog_runtime="soon", docker_log_max_files=0),
        device("n3", "hw_coral", watchdog_runtime="soon", docker_log_max_files="many"),
        path=path,
    )
    where = tmp_path / "group_vars"
    expected = "expected greater than or equal to 1, got the number 0"
    assert f"{where}/hw_coral.yml: devices n1, n2: docker_log_max_files: {expected}" in found
    assert any(
        p.startswith(f"{where}/all.yml: devices n1, n2, n3: watchdog_runtime: ") for p in found
    )
    assert any(p.startswith(f"{tmp_path}/host_vars/n3.yml: device n3: docker_log_") for p in found)
    assert len(found) == 3


def test_an_inherited_default_is_blamed_on_its_file() -> None:
    (problem,) = problems(device("n1", "hw_raspberry_pi", watchdog_runtime="x"))
    assert problem.startswith(f"{COLLECTION_ROOT}/group_vars/hw_raspberry_pi.yml: device n1: ")


def test_many_devices_are_counted() -> None:
    (problem,) = problems(*(device(f"n{i}", watchdog_runtime=-1) for i in range(9)))
    assert "devices n0, n1, n2, n3 and 5 more: watchdog_runtime: expected a duration" in problem


def test_a_required_variable_may_be_missing_while_the_roles_are_not_known() -> None:
    without = Device("n1", "n1", 22, None, None, (), {})
    assert problems(without) == [
        f"{SOMEWHERE}: device n1: muster_registry: expected a value, got nothing"
    ]
    assert problems(without, may_miss=True) == []
    wrong = Device("n1", "n1", 22, None, None, (), {"muster_registry": "reg"})
    assert len(problems(wrong, may_miss=True)) == 1


def test_a_typing_error_in_a_name_is_found_but_names_of_others_are_left_alone() -> None:
    found = problems(device("n1", docker_registry_ca={}, docker_users=["ops"], base_url="x"))
    assert found == [
        f"{SOMEWHERE}: device n1: docker_registry_ca:"
        " expected no such variable, did you mean docker_registry_cas?"
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("firewal_enabled", "firewall_enabled"),
        ("firewalll_enabled", "firewall_enabled"),
        ("fierwall_enabled", "firewall_enabled"),
        ("hardning_enabled", "hardening_enabled"),
        ("update_hold", "updates_hold"),
        ("hbu_enabled", "hub_enabled"),
        ("muter_registry", "muster_registry"),
        ("Firewall_enabled", "firewall_enabled"),
        ("firewall-enabled", "firewall_enabled"),
        ("firewallenabled", "firewall_enabled"),
        ("firewall_enable", "firewall_enabled"),
    ],
)
def test_a_slip_in_the_prefix_of_a_name_is_found(written: str, meant: str) -> None:
    assert problems(device("n1", **{written: True})) == [
        f"{SOMEWHERE}: device n1: {written}: expected no such variable, did you mean {meant}?"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "site_domain",
        "ssh_pinning",
        "gpu_smoke_test",  # cpu_smoke_test is ours
        "docker2_data_root",
        "timer_interval",
        "database_packages",
        "tube_enabled",
        "sub_keepalive",
        "hardened_enabled",
        "packages",
        "key",
        "enabled",
        "\u00fcn\u00efcode_enabled",
        "_",
        "",
    ],
)
def test_a_name_of_somebodys_own_is_no_typing_error(name: str) -> None:
    assert problems(device("n1", **{name: True})) == []


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"base_packages": ["Not A Name"]}, "base_packages"),
        ({"time_servers": []}, "time_servers"),
        ({"storage_journal": "disk"}, "'persistent', 'volatile' or 'auto'"),
        ({"base_sysctl": {"a b": 1}}, "base_sysctl"),
        ({"docker_registry_mirrors": ["mirror"]}, "docker_registry_mirrors"),
        ({"docker_registry_cas": {"reg:5000": "/nowhere.pem"}}, "reg:5000: expected a PEM file"),
        ({"docker_registry_cas": {"reg:5000": __file__}}, "has no certificate"),
        ({"docker_extra": {"pidfile": "/x"}}, "pidfile"),
        ({"docker_address_pools": [{"base": "10.0.0.0/8"}]}, "docker_address_pools: 0.size"),
        ({"docker_data_root": "data"}, "docker_data_root"),
        ({"muster_registry": "https://reg:5000"}, "muster_registry"),
        ({"muster_device_runtime": "rkt"}, "expected 'docker', 'podman', 'containerd' or 'k3s'"),
        ({"muster_device_release_public_key": __file__}, "minisign public key"),
    ],
)
def test_wrong_values(variables: dict[str, Any], part: str) -> None:
    (problem,) = problems(device("n1", **variables))
    assert part in problem


@pytest.mark.parametrize(
    "value", ["x" * 100_000, "a\nb", "\x1b[2J", "\u202e", "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n"]
)
@pytest.mark.parametrize("name", ["registry_key", "muster_registry_client_key", "time_nts_ca"])
def test_a_wrong_value_is_told_in_one_short_line_and_no_secret(name: str, value: str) -> None:
    on = {"registry_enabled": True, "muster_upstream_registry": "up:443"}
    told = [each for each in problems(device("n1", **on, **{name: value})) if f": {name}" in each]
    assert told
    for each in told:
        assert each.isprintable()
        assert len(each) < 700
        assert "MC4CAQ" not in each


def test_docker_is_told_to_use_cdi_unless_extra_settings_say_otherwise() -> None:
    assert json.loads(daemon_json(DockerVariables(), cdi=True))["features"] == {"cdi": True}
    variables = DockerVariables(docker_extra={"features": {"cdi": False, "buildkit": True}})
    found = json.loads(daemon_json(variables, cdi=True))["features"]
    assert found == {"cdi": False, "buildkit": True}


def test_daemon_json_is_one_document_in_which_extra_settings_win() -> None:
    variables = DockerVariables(
        docker_log_max_size="1MiB",
        docker_data_root="/data",
        docker_address_pools=[{"base": "10.1.0.0/16", "size": 24}],
        docker_extra={"log-opts": {"compress": "false"}, "live-restore": False, "debug": True},
    )
    assert json.loads(daemon_json(variables)) == {
        "data-root": "/data",
        "debug": True,
        "default-address-pools": [{"base": "10.1.0.0/16", "size": 24}],
        "live-restore": False,
        "log-driver": "local",
        "log-opts": {"compress": "false", "max-file": "3", "max-size": "1048576"},
    }


@pytest.mark.parametrize("role", role_names())
class TestEveryRole:
    """What holds for all roles."""

    def test_variables_are_prefixed_and_described(self, role: str) -> None:
        model = role_model(role)
        assert issubclass(model, RoleVariables)
        readers = Counter(name for each in role_names() for name in role_model(each).model_fields)
        for name, field in model.model_fields.items():
            assert name.startswith((f"{role}_", "muster_")) or readers[name] > 1
            assert field.description

    def test_defaults_are_valid(self, role: str) -> None:
        subject = Inventory(SOMEWHERE, (device("n1"),))
        check_variables(subject, [role])

    def test_the_readme_has_the_current_table(self, role: str) -> None:
        readme = COLLECTION_ROOT / "roles" / role / "README.md"
        text = readme.read_text(encoding="utf-8")
        model = importlib.import_module(f"roles.{role}.variables").Variables
        assert text == with_table(text, model), "run: python -m roles.variables"


def test_every_default_of_the_collection_is_read_by_a_role() -> None:
    known = {name for role in role_names() for name in role_model(role).model_fields}
    for file in (COLLECTION_ROOT / "group_vars").glob("*.yml"):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert set(values) <= known, file
        assert variable_problems([], role_names()) == []
        assert problems(device("n1", **values)) == []
