"""What the roles of accelerators read, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.paths import COLLECTION_ROOT
from muster.role_variables import Subject, variable_problems
from roles.accelerators.operations import repository_files
from roles.hailo.variables import Variables as HailoVariables

KINDS = ("nvidia", "jetson", "coral", "hailo", "intel", "cpu")


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key.asc"
    path.write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nx\n-----END PGP PUBLIC KEY BLOCK-----")
    return str(path)


def test_repositories_are_signed_by_their_own_key(key: str) -> None:
    flat = {"name": "flat", "uri": "https://mirror.site/cuda", "suite": "./", "key": key}
    usual = {
        "name": "coral", "uri": "https://mirror.site/apt", "suite": "coral-edgetpu-stable",
        "components": ["main"], "key": key,
    }  # fmt: skip
    variables = HailoVariables.model_validate({"accelerator_apt_repositories": [flat, usual]})
    files = {f.path: f.content for f in repository_files(variables.accelerator_apt_repositories)}
    assert files["/etc/apt/sources.list.d/muster-coral.sources"] == (
        "Types: deb\nURIs: https://mirror.site/apt\nSuites: coral-edgetpu-stable\n"
        "Components: main\nSigned-By: /etc/apt/keyrings/muster-coral.asc\n"
    )
    assert "Components" not in files["/etc/apt/sources.list.d/muster-flat.sources"]
    assert files["/etc/apt/keyrings/muster-flat.asc"].endswith("BLOCK-----\n")


def problems(**variables: Any) -> list[str]:
    subject = Subject("d1", (), variables, Path("/somewhere/hosts.yml"))
    return variable_problems([subject], KINDS)


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_a_role_reads_its_variables_only_where_it_is_chosen(kind: str) -> None:
    assert problems(muster_accelerator=kind) == []
    wrong = {f"{name}_smoke_test": "" for name in KINDS if name not in ("intel", kind)}
    assert problems(muster_accelerator=kind, **wrong) == []


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"muster_accelerator": "nvida"}, "got 'nvida'; did you mean nvidia?"),
        ({"muster_accelerator": "tpu"}, "muster_accelerator"),
        ({"muster_accelerator": ["coral"]}, "muster_accelerator"),
        ({"muster_accelerator": "hailo", "hailo_package": {}}, "did you mean hailo_packages?"),
        ({"muster_accelerator": "hailo", "hailo_packages": ["hailo-all"]}, "hailo_packages"),
        ({"muster_accelerator": "hailo", "hailo_packages": {}}, "hailo_packages"),
        ({"muster_accelerator": "hailo", "hailo_packages": {"hailo-all": 4.2}}, "hailo_packages"),
        (
            {
                "muster_accelerator": "hailo",
                "hailo_packages": {"hailo-all": None, "hailo-h10-all": None},
            },
            "hailo-all or hailo-h10-all, never both",
        ),
        (
            {
                "muster_accelerator": "hailo",
                "hailo_packages": {"hailort": None},
                "hailo_version": "4.20.0",
            },
            "hailo_version: expected the version in hailo_packages",
        ),
        ({"muster_accelerator": "hailo", "hailo_group": "a b"}, "hailo_group"),
        ({"muster_accelerator": "coral", "coral_gasket_kernel_limit": 6.8}, "kernel_limit"),
        (
            {
                "muster_accelerator": "coral",
                "coral_packages": {"libedgetpu1-std": None, "libedgetpu1-max": None},
            },
            "never both",
        ),
        ({"muster_accelerator": "coral", "coral_smoke_test": ""}, "coral_smoke_test"),
        ({"muster_accelerator": "nvidia", "nvidia_min_driver_version": "new"}, "nvidia_min"),
        ({"muster_accelerator": "nvidia", "nvidia_toolkit_version": "1.17; reboot"}, "toolkit"),
        ({"muster_accelerator": "jetson", "jetson_packages": {"Not A Name": None}}, "jetson_"),
        ({"muster_accelerator": "intel", "intel_npu_packages": {}}, "intel_npu_packages"),
        ({"muster_accelerator": "cpu", "cpu_smoke_test": "a\nb"}, "cpu_smoke_test"),
        ({"muster_accelerator": "cpu", "accelerator_test_timeout": "soon"}, "a duration"),
    ],
)
def test_wrong_values(variables: dict[str, Any], part: str) -> None:
    (problem,) = problems(**variables)
    assert part in problem


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"key": "/nowhere.asc"}, "expected an ASCII-armored OpenPGP public key"),
        ({"key": "/dev/null"}, "expected an ASCII-armored OpenPGP public key"),
        ({"uri": "mirror.site"}, "uri"),
        ({"components": []}, "expected components, or a flat suite"),
        ({"suite": "./"}, "expected no components with the flat suite"),
        ({"name": "A b"}, "name"),
        ({"trusted": True}, "trusted"),
    ],
)
def test_wrong_repositories(key: str, changes: dict[str, Any], part: str) -> None:
    repository = {
        "name": "site", "uri": "https://mirror.site/apt", "suite": "stable",
        "components": ["main"], "key": key,
    }  # fmt: skip
    given: dict[str, Any] = {"muster_accelerator": "coral"}
    assert problems(**given, accelerator_apt_repositories=[repository]) == []
    (problem,) = problems(**given, accelerator_apt_repositories=[repository | changes])
    assert part in problem
    (twice,) = problems(**given, accelerator_apt_repositories=[repository, repository])
    assert "expected each name once" in twice


def test_a_private_key_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "private.asc"
    path.write_text("-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    repository = {"name": "a", "uri": "https://b/", "suite": "./", "key": str(path)}
    (problem,) = problems(muster_accelerator="cpu", accelerator_apt_repositories=[repository])
    assert "holds a private one" in problem


@pytest.mark.parametrize(
    "file",
    sorted((COLLECTION_ROOT / "group_vars").glob("hw_*.yml")),
    ids=lambda file: file.stem,
)
def test_every_kind_of_hardware_has_a_role(file: Path) -> None:
    assert yaml.safe_load(file.read_text())["muster_accelerator"] in KINDS
