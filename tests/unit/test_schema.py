from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError
from release_documents import release_document

from muster.commands.documents import schema as schema_command
from muster.documents import load_document
from muster.paths import COLLECTION_ROOT
from muster.release import Release
from muster.schema import DIALECT, KINDS, json_schema
from muster.strategy import Ramp, Strategy


def example(kind: str) -> Any:
    return yaml.safe_load((COLLECTION_ROOT / f"examples/{kind}.yml").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_valid(kind: str) -> None:
    load_document(COLLECTION_ROOT / f"examples/{kind}.yml", KINDS[kind])
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example(kind), schema)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_have_every_section(kind: str) -> None:
    assert set(example(kind)) == set(KINDS[kind].model_fields)


def alternatives(kind: str) -> list[dict[str, Any]]:
    """What an example shows in lines such as ``# key: value``."""
    text = (COLLECTION_ROOT / f"examples/{kind}.yml").read_text()
    keys = "|".join(KINDS[kind].model_fields)
    return [yaml.safe_load(line) for line in re.findall(rf"(?m)^# ((?:{keys}): .+)$", text)]


def test_the_alternatives_in_the_examples_are_valid_and_no_defaults() -> None:
    shown = alternatives("strategy")
    assert {key for change in shown for key in change} == {
        *("waves", "ramp", "pull_concurrency", "rate_per_minute", "maintenance_window", "switch")
    }
    for change in shown:
        document = {key: value for key, value in example("strategy").items() if key != "waves"}
        jsonschema.validate(document | change, json_schema("strategy"))
        made = Strategy.model_validate(document | change)
        ((key, _),) = change.items()
        assert getattr(made, key) != getattr(Strategy(), key)


def test_the_example_shows_the_defaults_of_a_ramp() -> None:
    (ramp,) = [change["ramp"] for change in alternatives("strategy") if "ramp" in change]
    assert set(ramp) == set(Ramp.model_fields)
    assert Ramp.model_validate(ramp) == Ramp()


def _properties(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            yield f"{path}.{name}", value
        for key, value in schema.items():
            yield from _properties(value, f"{path}.{key}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described(kind: str) -> None:
    schema = json_schema(kind)
    for name, found in _properties(schema):
        # A description that is the same as that of the model stands there alone.
        below = schema["$defs"].get(found.get("$ref", "").rsplit("/")[-1], {})
        if not name.endswith(".type"):
            assert found.get("description") or below.get("description"), name


def test_the_schema_says_what_it_is() -> None:
    schema = json_schema("release")
    assert schema["$schema"] == DIALECT
    assert schema["title"] == "Release"
    assert schema["required"][:2] == ["apiVersion", "kind"]


def test_the_canonical_json_is_valid_too() -> None:
    release = load_document(COLLECTION_ROOT / "examples/release.yml", Release)
    jsonschema.validate(json.loads(release.canonical), json_schema("release"))


@pytest.mark.parametrize(
    "changes",
    [
        {"apiVersion": None},
        {"kind": "Strategy"},
        {"versoin": "1"},
        {"version": 1.1},
        {"variants": {}},
        {"variants": {"coral": {}}},
        {"gates": [{"name": "x", "type": "unknown"}]},
        {"gates": [{"name": "x", "type": "readiness", "timeout": "soon"}]},
        {"gates": [{"name": "x", "type": "readiness", "timeout": 0}]},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(changes: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(release_document(**changes), json_schema("release"))


@pytest.mark.parametrize(
    "changes",
    [
        {"waves": [{"size": "0%"}, {"size": "rest"}]},
        {"waves": [{"pattern": ""}, {"size": "rest"}]},
        {"ramp": {"base": 0}},
        {"ramp": {"factor": 1}},
        {"pull_concurrency": 0},
        {"rate_per_minute": 0},
        {"maintenance_window": [{"opens": "22:00"}]},
        {"maintenance_window": [{"opens": "24:00", "closes": "05:00"}]},
        {"maintenance_window": [{"opens": 1320, "closes": "05:00"}]},
        {"maintenance_window": [{"days": [], "opens": "22:00", "closes": "05:00"}]},
        {"lock_deadline": 0},
        {"offline": {"catch_up": "oldest"}},
        {"switch": "rolling"},
    ],
)
def test_the_schema_and_the_loader_refuse_the_same_strategies(changes: dict[str, object]) -> None:
    document = {"apiVersion": "muster/v1", "kind": "Strategy"} | changes
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema("strategy"))
    with pytest.raises(ValidationError):
        Strategy.model_validate(document)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_the_schema(kind: str) -> None:
    assert json.loads(CliRunner().invoke(schema_command, [kind]).stdout) == json_schema(kind)
