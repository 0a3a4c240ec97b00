"""What the role registry makes of its variables, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.inventory import Device, Inventory
from muster.role_variables import Subject, variable_problems
from muster.site_authority import SiteAuthority
from roles.registry.client import RegistryClient, client_files
from roles.registry.deploy import FOLDER, _rendered, server_names, settings
from roles.registry.variables import Variables
from roles.variables import OpenPort

NEEDED = {"muster_registry": "reg.pier.example:5000", "muster_upstream_registry": "up.example:443"}


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, str]:
    """Give the paths of PEM files by what they are."""
    authority = SiteAuthority(tmp_path / "pki")
    server, client = authority.server("reg", ["reg"]), authority.client("cam")
    return {
        "ca": str(authority.ensure()),
        "server": str(server.certificate),
        "server_key": str(server.key),
        "client": str(client.certificate),
        "client_key": str(client.key),
    }


def problems(**variables: Any) -> list[str]:
    given = {"registry_enabled": True, **NEEDED, **variables}
    subject = Subject("reg", (), given, Path("/somewhere/hosts.yml"))
    return [
        text.partition("device reg: ")[2] for text in variable_problems([subject], ["registry"])
    ]


def files(pem: dict[str, str]) -> dict[str, str]:
    return {
        "registry_certificate": pem["server"],
        "registry_key": pem["server_key"],
        "registry_client_ca": pem["ca"],
    }


def test_one_folder_for_a_whole_site_is_enough(tmp_path: Path) -> None:
    assert problems(muster_registry_pki=str(tmp_path / "new")) == []
    assert not (tmp_path / "new").exists(), "checking makes nothing"


def test_files_do_as_well(pem: dict[str, str]) -> None:
    assert problems(**files(pem)) == []


def test_it_runs_only_where_it_is_wanted() -> None:
    assert not Variables.chosen({})
    assert not Variables.chosen({"registry_enabled": False})
    assert Variables.chosen({"registry_enabled": "yes"})
    subject = Subject("cam", (), {"registry_enable": True}, Path("/somewhere/hosts.yml"))
    (problem,) = variable_problems([subject], ["registry"])
    assert "did you mean registry_enabled?" in problem


def test_without_any_certificate_every_missing_one_is_told() -> None:
    found = problems()
    assert [text.partition(":")[0] for text in found] == [
        "registry_certificate",
        "registry_key",
        "registry_client_ca",
    ]
    assert "or muster_registry_pki for an authority of the site" in found[0]


def test_what_contradicts_itself_is_told(pem: dict[str, str], tmp_path: Path) -> None:
    both = problems(muster_registry_pki=str(tmp_path), registry_key=pem["server_key"])
    assert both == ["registry_key: expected nothing where muster_registry_pki is given, got a file"]
    client = problems(muster_registry_pki=str(tmp_path), muster_registry_ca=pem["ca"])
    assert client[0].startswith("muster_registry_ca: expected nothing where")
    (same,) = problems(
        muster_registry_pki=str(tmp_path), muster_upstream_registry=NEEDED["muster_registry"]
    )
    assert same.startswith("muster_upstream_registry: expected another registry than")


def test_a_key_of_another_certificate_is_told(pem: dict[str, str]) -> None:
    (problem,) = problems(**files(pem) | {"registry_key": pem["client_key"]})
    assert problem.startswith(f"registry_key: expected the key of {pem['server']}, got another")
    (alone,) = problems(**files(pem), registry_upstream_client_cert=pem["client"])
    assert alone.startswith("registry_upstream_client_key: expected it together with")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"registry_port": 70000}, "registry_port: expected less than or equal to 65535"),
        ({"registry_port": "http"}, "registry_port: expected a valid integer"),
        ({"registry_storage": "/"}, "registry_storage: expected a folder of its own"),
        ({"registry_storage": "/srv"}, "registry_storage: expected a folder of its own"),
        ({"registry_storage": "data"}, "registry_storage: "),
        ({"registry_max_size": "much"}, "registry_max_size: expected a size"),
        ({"registry_stall": 0}, "registry_stall: expected a duration above 0"),
        (
            {"registry_client_ca": "/none.pem"},
            "registry_client_ca: expected a PEM file with a cert",
        ),
        ({"muster_upstream_registry": "up.example"}, "muster_upstream_registry: "),
        ({"registry_names": ["a b"]}, "registry_names: 0: "),
        ({"registry_upstream_authfile": "/none.json"}, "expected a file with credentials"),
    ],
)
def test_wrong_values_are_told(
    pem: dict[str, str], variables: dict[str, Any], expected: str
) -> None:
    found = problems(**files(pem) | variables)
    assert any(expected in text for text in found), found


def test_an_upstream_that_is_not_named_is_told(pem: dict[str, str]) -> None:
    subject = Subject(
        "reg",
        (),
        {"registry_enabled": True, "muster_registry": "reg:5000", **files(pem)},
        Path("/somewhere/hosts.yml"),
    )
    assert any(
        text.endswith("muster_upstream_registry: expected a value, got nothing")
        for text in variable_problems([subject], ["registry"])
    )


def test_credentials_are_checked_and_never_told(pem: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    for text, expected in (
        ("c2VjcmV0", "expected JSON with credentials"),
        ('{"auths": {}}', "expected credentials under the key auths"),
        (
            '{"auths": {"other.example": {"auth": "c2VjcmV0"}}}',
            "expected credentials for up.example",
        ),
    ):
        path.write_text(text)
        (problem,) = problems(**files(pem), registry_upstream_authfile=str(path))
        assert expected in problem
        assert "c2VjcmV0" not in problem
    path.write_text('{"auths": {"up.example:443": {"auth": "c2VjcmV0"}}}')
    assert problems(**files(pem), registry_upstream_authfile=str(path)) == []


def variables(tmp_path: Path, **more: Any) -> Variables:
    return Variables.model_validate({**NEEDED, "muster_registry_pki": str(tmp_path / "p"), **more})


def test_nobody_can_push_to_what_is_served(tmp_path: Path) -> None:
    document = yaml.safe_load(_rendered("serve.yml", variables(tmp_path, registry_port=5443)))
    assert document["storage"]["maintenance"]["readonly"]["enabled"] is True
    assert document["http"]["addr"] == ":5443"
    tls = document["http"]["tls"]
    assert tls["clientcas"] == [f"{FOLDER}/clients.pem"]
    assert tls["minimumtls"] == "tls1.2"
    assert "cache" not in document["storage"], "what was cleared would be said to be there"


def test_only_the_service_that_fills_can_write(tmp_path: Path) -> None:
    given = variables(tmp_path, registry_storage="/srv/images/")
    serving = _rendered("muster-registry.service", given)
    assert "ReadOnlyPaths=/srv/images\n" in serving
    assert "ReadWritePaths" not in serving
    for name in ("muster-registry-work.service", "muster-registry-mend.service"):
        unit = _rendered(name, given)
        assert "ReadWritePaths=/srv/images\n" in unit
        assert "User=docker-registry\n" in unit
        assert "ProtectSystem=strict\n" in unit
        assert "CapabilityBoundingSet=\n" in unit


def test_settings_of_the_program(tmp_path: Path) -> None:
    given = variables(tmp_path, registry_max_size="20GiB", registry_stall="2m")
    assert json.loads(settings(given)) == {
        "storage": "/var/lib/muster-registry",
        "upstream": "up.example:443",
        "certificate": f"{FOLDER}/server.pem",
        "port": 5000,
        "authfile": None,
        "max_size": 20 << 30,
        "min_free": 1 << 30,
        "stall": 120,
    }
    assert given.opens() == (OpenPort(5000, why="the site's image registry"),)


def test_the_certificate_is_for_every_name_of_the_registry(tmp_path: Path) -> None:
    given = variables(tmp_path, registry_names=["registry.lan", "reg"])
    assert server_names(given, "reg", "10.0.0.4") == [
        "reg.pier.example", "reg", "10.0.0.4", "registry.lan", "localhost", "127.0.0.1",
    ]  # fmt: skip


def test_what_a_runtime_needs_to_know_a_registry(tmp_path: Path, pem: dict[str, str]) -> None:
    of_the_site = RegistryClient(muster_registry_pki=str(tmp_path / "pki"))
    found = client_files("/etc/docker/certs.d", of_the_site, "reg:5000", "cam")
    assert [(file.path.rpartition("/")[2], file.mode) for file in found] == [
        ("ca.crt", "644"),
        ("client.cert", "644"),
        ("client.key", "600"),
    ]
    assert {file.path.rpartition("/")[0] for file in found} == {"/etc/docker/certs.d/reg:5000"}
    assert found[2].content == Path(pem["client_key"]).read_text()
    ca_alone = RegistryClient(muster_registry_ca=pem["ca"])
    assert [f.path[-6:] for f in client_files("/x", ca_alone, "reg:5000", "cam")] == ["ca.crt"]
    assert client_files("/x", RegistryClient(), "reg:5000", "cam") == []


def test_every_device_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    given = RegistryClient(muster_registry_pki=str(tmp_path / "pki"))
    first, second = (client_files("/x", given, "reg:5000", name) for name in ("one", "two"))
    assert first[0] == second[0]
    assert first[1:] != second[1:]


def test_the_role_is_known_to_the_inventory() -> None:
    devices = (Device("reg", "reg", 22, None, None, (), {"registry_enabled": True}),)
    from muster.prefetch.choosing import registry_hosts

    assert registry_hosts(Inventory(Path("hosts.yml"), devices)) == {None: [devices[0]]}
