"""What a run was asked for on pyinfra's command line, read and checked once for all devices."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from muster.documents import load_document
from muster.errors import InputError
from muster.fields import describe
from muster.release import Release
from muster.role_variables import role_model, role_names
from muster.rollout.controller import read_signature
from muster.rollout.journal import new_rollout_id
from muster.rollout.orders import Orders
from muster.strategy import Strategy
from roles.model.variables import ModelOptions, Options, RollbackOptions

O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class RollbackRequest:
    """What ``deploys/rollback.py`` was asked for."""

    model: str
    to: str | None
    strategy: Strategy


def read_orders(data: Mapping[str, Any]) -> Orders:
    """Make of ``--data`` what ``deploys/model.py`` orders, under one rollout id for all devices.

    :raises InputError: everything that is wrong with the options and the documents they name.
    """
    return _read_orders(json.dumps(dict(data), sort_keys=True, default=str))


def read_rollback(data: Mapping[str, Any]) -> RollbackRequest:
    """Make of ``--data`` what ``deploys/rollback.py`` does.

    :raises InputError: everything that is wrong with the options and the strategy.
    """
    problems: list[str] = []
    options = _options(RollbackOptions, data, problems)
    strategy = _strategy(options.strategy, problems)
    if problems:
        raise InputError(problems)
    return RollbackRequest(options.model, options.to, strategy)


@cache
def _read_orders(data: str) -> Orders:
    problems: list[str] = []
    options = _options(ModelOptions, json.loads(data), problems)
    release, signature = None, None
    try:
        release = load_document(Path(options.release), Release)
        signature = read_signature(Path(options.release))
    except InputError as error:
        problems += error.problems
    strategy = _strategy(options.strategy, problems)
    if release is None or problems:
        raise InputError(problems)
    return Orders(f"pyinfra-{new_rollout_id()}", release, strategy, signature)


def _strategy(path: str | None, problems: list[str]) -> Strategy:
    try:
        return load_document(Path(path), Strategy) if path else Strategy()
    except InputError as error:
        problems += error.problems
        return Strategy()


def _options(model: type[O], data: Mapping[str, Any], problems: list[str]) -> O:
    problems += [f"--data {name}: {text}" for name, text in _unknown(model, data)]
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        for details in error.errors(include_url=False):
            name = str(details["loc"][0])
            expected = str(model.model_fields[name].description).partition(";")[0]
            got = "nothing" if details["type"] == "missing" else describe(details["input"])
            problems.append(f"--data {name}: expected a {expected}, got {got}")
        raise InputError(problems) from None


def _unknown(model: type[Options], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find data that nothing reads: variables of roles and of pyinfra itself may be overridden."""
    own = list(model.model_fields)
    known = {*own, *(name for role in role_names() for name in role_model(role).model_fields)}
    found = []
    for name in data:
        if name in known or name.startswith(("_", "ssh_")):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(own)}"
        found.append((name, f"expected no such key, {hint}"))
    return found
