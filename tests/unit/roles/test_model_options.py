"""What ``--data`` asks for, and how it is documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from release_documents import release_document

from muster.errors import InputError
from muster.paths import COLLECTION_ROOT
from muster.release import Release
from roles.model.options import read_orders, read_rollback
from roles.model.variables import ModelOptions, Options, RollbackOptions
from roles.variables import table

STRATEGY = {"apiVersion": "muster/v1", "kind": "Strategy", "min_healthy_time": "3s"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    path = tmp_path / "release.yml"
    path.write_text(yaml.dump(release_document(), sort_keys=False))
    return path


@pytest.fixture
def strategy(tmp_path: Path) -> Path:
    path = tmp_path / "strategy.yml"
    path.write_text(yaml.dump(STRATEGY))
    return path


def problems(read: Any, **data: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(data)
    return caught.value.problems


def test_release_strategy_and_signature_are_read(release: Path, strategy: Path) -> None:
    release.with_name("release.yml.minisig").write_text("signed")
    orders = read_orders({"release": str(release), "strategy": str(strategy)})
    assert orders.release.id == Release.model_validate(release_document()).id
    assert orders.strategy.min_healthy_time == 3
    assert orders.signature == "signed"


def test_all_devices_of_a_run_have_one_rollout(release: Path, strategy: Path) -> None:
    first = read_orders({"release": str(release)})
    assert read_orders({"release": str(release)}) is first
    assert first.rollout.startswith("pyinfra-")
    other = read_orders({"release": str(release), "strategy": str(strategy)})
    assert other.rollout != first.rollout


def test_data_of_roles_and_of_pyinfra_may_be_overridden(release: Path) -> None:
    read_orders(
        {"release": str(release), "ssh_user": "ops", "_sudo": True, "muster_registry": "reg:5000"}
    )


def test_all_mistakes_are_told_at_once(release: Path) -> None:
    found = problems(read_orders, release="/nowhere.yml", strategy=str(release), stratgy="x", zzz=1)
    assert found == [
        "--data stratgy: expected no such key, did you mean strategy?",
        "--data zzz: expected no such key, known are release, strategy",
        "/nowhere.yml: can't be read, No such file or directory",
        f"{release}:2: kind: expected Strategy, got 'Release'",
    ]


def test_release_must_be_named() -> None:
    assert problems(read_orders, strategy="x") == [
        "--data release: expected a file with the release, got nothing"
    ]


def test_rollback_needs_a_model_and_takes_a_release_id() -> None:
    request = read_rollback({"model": "digits", "to": "1.0-0123456789ab"})
    assert (request.model, request.to) == ("digits", "1.0-0123456789ab")
    assert read_rollback({"model": 2048}).model == "2048"  # pyinfra makes a number of it
    assert problems(read_rollback, to="1.0", release="x") == [
        "--data release: expected no such key, known are model, to, strategy",
        "--data model: expected a name of a model, got nothing",
        "--data to: expected a release id such as `1.0-0123456789ab`, got '1.0'",
    ]


@pytest.mark.parametrize("options", [ModelOptions, RollbackOptions])
def test_options_are_documented(options: type[Options]) -> None:
    readme = (COLLECTION_ROOT / "roles/model/README.md").read_text(encoding="utf-8")
    assert table(options) in readme
