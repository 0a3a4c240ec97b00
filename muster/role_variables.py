"""Checking the variables that roles read, for all devices at once."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from muster.errors import InputError, MusterError
from muster.fields import Problems, describe
from muster.paths import COLLECTION_ROOT
from muster.variable_files import origin

if TYPE_CHECKING:
    from muster.inventory import Inventory

_ALIKE = 0.85
"""How much an unknown variable must look like a known one to count as a typing error."""


def role_names() -> list[str]:
    """Names of the collection's roles.

    :raises MusterError: this is no checkout, so there are none.
    """
    roles = COLLECTION_ROOT / "roles"
    if not roles.is_dir():
        raise MusterError(
            f"{COLLECTION_ROOT}: expected a checkout of Muster, with its roles; in one, run:"
            " pip install -e ."
        )
    return sorted(file.parent.name for file in roles.glob("*/variables.py"))


def role_model(role: str) -> type[BaseModel]:
    """The model of a role's variables."""
    if str(COLLECTION_ROOT) not in sys.path:
        sys.path.insert(0, str(COLLECTION_ROOT))
    model: type[BaseModel] = importlib.import_module(f"roles.{role}.variables").Variables
    return model


@dataclass(frozen=True)
class Subject:
    """A device whose variables are to be checked.

    :param groups: its groups, the more specific ones later.
    :param inventory: file or folder that the variables come from.
    """

    name: str
    groups: Sequence[str]
    variables: Mapping[str, Any]
    inventory: Path


def check_variables(
    inventory: Inventory, roles: Sequence[str] | None = None, *, may_miss: bool = False
) -> None:
    """Check what roles read on every device of an inventory, those that run there.

    :param roles: names of the roles that are about to run, all of the collection if not given.
    :param may_miss: whether required variables may be missing, as they may where it is not yet
        known which roles will run.
    :raises InputError: one problem for each wrong variable of each file, naming the devices.
    """
    subjects, everything = (
        [Subject(each.name, each.groups, each.variables, inventory.path) for each in devices]
        for devices in (inventory.devices, inventory.known or inventory.devices)
    )
    names = roles or role_names()
    problems = variable_problems(subjects, names, may_miss=may_miss, everything=everything)
    if problems:
        raise InputError(problems)


_MISSING = "expected a value, got nothing"


def variable_problems(
    subjects: Iterable[Subject],
    roles: Sequence[str],
    *,
    may_miss: bool = False,
    everything: Sequence[Subject] = (),
) -> list[str]:
    """What is wrong with the variables of some devices, each mistake once.

    :param everything: all devices of the inventory, where some of them must fit together: the
        model of such a role has ``together``, which gives device, variable and problem.
    """
    known = {subject.name: subject for subject in everything}
    # Names are in order, and each once: two roles may read the same variable.
    found: dict[tuple[Path, str], dict[str, None]] = {}
    models = [role_model(role) for role in roles]
    for subject in subjects:
        for variable, text in _problems(models, subject.variables):
            if may_miss and text == _MISSING:
                continue
            file = origin(subject.inventory, subject.name, subject.groups, variable)
            found.setdefault((file, f"{variable}: {_told(text)}"), {})[subject.name] = None
    for model in models:
        if not hasattr(model, "together"):
            continue
        for name, variable, text in model.together(list(everything)):
            subject = known[name]
            file = origin(subject.inventory, subject.name, subject.groups, variable)
            found.setdefault((file, f"{variable}: {_told(text)}"), {})[subject.name] = None
    return [f"{file}: {_devices([*names])}: {text}" for (file, text), names in found.items()]


def _problems(
    models: Sequence[type[BaseModel]], variables: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    known = {name for model in models for name in model.model_fields}
    for model in models:
        if not model.chosen(variables):  # type: ignore[attr-defined]
            continue
        try:
            model.model_validate(dict(variables))
        except ValidationError as error:
            for details in error.errors(include_url=False):
                cause = details.get("ctx", {}).get("error")
                if not details["loc"] and isinstance(cause, Problems):
                    # several variables that do not fit together: each under its own name
                    yield from ((str(place[0]), text) for place, text in cause.problems)
                    continue
                name = str(details["loc"][0]) if details["loc"] else model.__name__
                yield name, _explain(details)
    for name in variables:
        if name not in known and (meant := _meant(name, known)) is not None:
            yield name, f"expected no such variable, did you mean {meant}?"


def _meant(name: str, known: Collection[str]) -> str | None:
    """The variable of a role that an unknown name is a typing error of; None: somebody's own."""
    for each in known:
        if _letters(name) == _letters(each):  # FIREWALL_ENABLED, firewall-enabled, firewallenabled
            return each
    head, underscore, tail = name.partition("_")
    heads = {each.partition("_")[0] for each in known}
    if head in heads:
        close = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
        return close[0] if close else None
    if not underscore:
        return None
    # The prefix itself is mistyped. Many names begin alike, so the rest has to be right.
    meant = sorted(each for each in heads if _is_slip(head, each) and f"{each}_{tail}" in known)
    return f"{meant[0]}_{tail}" if meant else None


def _letters(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


_SHORT = 4
"""Prefixes with fewer letters: another one in their place is a word of its own (cpu, gpu)."""


def _is_slip(written: str, meant: str) -> bool:
    """Whether two prefixes differ by one slip of the fingers: a letter that is missing, too much,
    another one, or two in each other's place. Digits are no slips: ``docker2`` is somebody's own.
    """
    if not written.isalpha():
        return False
    longer, shorter = sorted((written.lower(), meant), key=len, reverse=True)
    if len(longer) == len(shorter):
        wrong = [place for place in range(len(longer)) if longer[place] != shorter[place]]
        if len(wrong) == 1:
            return len(meant) >= _SHORT
        first, *rest = wrong or [0]
        swapped = shorter[first : first + 2][::-1] == longer[first : first + 2]
        return not wrong or (rest == [first + 1] and swapped)
    if len(longer) != len(shorter) + 1 or len(meant) < _SHORT:
        return False
    return any(longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer)))


_PEM = re.compile(r"-----BEGIN .*", re.DOTALL)
_LONGEST = 500


def _told(text: str) -> str:
    """A problem as one line for a terminal or a log.

    Who writes a private key where its file was to be named does not want to read it there.
    """
    text = _PEM.sub("the text of a PEM file", text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _explain(details: ErrorDetails) -> str:
    cause = details.get("ctx", {}).get("error")
    if details["type"] == "missing":
        text = _MISSING
    else:
        text = str(cause) if cause else details["msg"].replace("Input should be", "expected", 1)
    if ", got " not in text:
        text += f", got {describe(details['input'])}"
    below = ".".join(str(part) for part in details["loc"][1:])
    return f"{below}: {text}" if below else text


def _devices(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"device{'s' if len(names) > 1 else ''} {shown}{more}"
