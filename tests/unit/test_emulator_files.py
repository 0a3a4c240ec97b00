"""What an emulated fleet writes: keys, certificates and the inventory."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from muster.emulator import inventory
from muster.emulator.containers import DeviceSpec
from muster.emulator.document import FleetDocument
from muster.emulator.keys import ensure_registry_certificate, ensure_ssh_key

DOCUMENT = FleetDocument.model_validate(
    {
        "name": "lab",
        "sites": {"plant": {}, "depot": {}},
        "devices": {
            "coral-1": {"site": "plant", "hardware": "coral", "groups": ["hub"]},
            "pi-1": {"site": "depot", "hardware": "raspberry_pi", "variables": {"port": 9}},
        },
    }
)
ADDRESSES = {"coral-1": "10.0.0.10", "pi-1": "10.0.1.10"}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_an_ssh_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "device"
    first = ensure_ssh_key(path)
    assert ensure_ssh_key(path) == first
    assert first.startswith("ssh-ed25519 ")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.with_suffix(".pub").read_text() == first + "\n"


def test_the_registry_certificate_is_signed_by_the_authority_of_the_fleet(tmp_path: Path) -> None:
    ensure_registry_certificate(tmp_path, "lab")
    ca, leaf = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        for name in ("ca.pem", "registry.pem")
    )
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["registry", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    key = serialization.load_pem_private_key((tmp_path / "registry.key").read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    assert {mode(tmp_path / name) for name in ("ca.key", "registry.key")} == {0o600}
    before = (tmp_path / "registry.pem").read_bytes()
    ensure_registry_certificate(tmp_path, "lab")
    assert (tmp_path / "registry.pem").read_bytes() == before


def test_ansible_sees_sites_hardware_groups_and_variables(tmp_path: Path) -> None:
    data = inventory.render_inventory(DOCUMENT, ADDRESSES, Path("/state"), Path("/run/sockets"))
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    command = Path(sys.executable).with_name("ansible-inventory")
    output = subprocess.run(
        [command, "--inventory", path, "--list"], capture_output=True, check=True, cwd=tmp_path
    ).stdout
    seen = json.loads(output)
    members = {
        group: value["hosts"]
        for group, value in seen.items()
        if group != "_meta" and value.get("hosts")
    }
    assert members == {
        "site_plant": ["coral-1"],
        "site_depot": ["pi-1"],
        "hw_coral": ["coral-1"],
        "hw_raspberry_pi": ["pi-1"],
        "hub": ["coral-1"],
    }
    variables = seen["_meta"]["hostvars"]["pi-1"]
    assert variables["ansible_host"] == "10.0.1.10"
    assert variables["ansible_user"] == "ops"
    assert variables["ansible_become"] is True
    assert variables["ansible_ssh_private_key_file"] == "/state/id_ed25519"
    assert variables["muster_registry"] == "registry:5000"
    for runtime in ("docker", "podman", "containerd"):
        assert variables[f"{runtime}_registry_cas"] == {"registry:5000": "/state/ca.pem"}
    assert variables["muster_device_hardware_root"] == "/etc/muster/emulated-hardware"
    assert variables["port"] == 9
    arguments = shlex.split(variables["ansible_ssh_common_args"])
    assert "UserKnownHostsFile=/state/known_hosts" in arguments
    assert "StrictHostKeyChecking=yes" in arguments


def test_host_keys_are_pinned_for_name_and_address() -> None:
    text = inventory.render_known_hosts(ADDRESSES, {"coral-1": "ssh-x A", "pi-1": "ssh-x B"})
    assert text == "coral-1,10.0.0.10 ssh-x A\npi-1,10.0.1.10 ssh-x B\n"


def test_paths_of_shared_connections_stay_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("long-" * 15)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    folder = inventory.control_folder(deep / "inventories")
    assert not folder.is_relative_to(deep)
    assert len(str(folder / ("x" * 58))) < 108


def test_any_change_of_a_device_makes_another_device() -> None:
    spec = DeviceSpec(
        "coral-1", "lab-coral-1", "image:1", "lab-plant", "10.0.0.10", 1 << 30, None, None,
        "coral", "ssh-x A", "ssh-x B",
    )  # fmt: skip
    changes = {"image": "image:2", "address": "10.0.0.11", "disk": 1 << 30, "hardware": "coral_usb"}
    digests = {DeviceSpec(**{**vars(spec), key: value}).digest for key, value in changes.items()}
    assert len(digests | {spec.digest}) == len(changes) + 1
