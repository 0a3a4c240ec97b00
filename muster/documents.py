"""Reading documents from YAML, with errors that name file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from muster.errors import InputError
from muster.fields import Document, Location, Problems, describe

D = TypeVar("D", bound=Document)

_MOST_PROBLEMS = 100

_HEADER = ("apiVersion", "kind")


def load_document(path: Path, model: type[D]) -> D:
    """Read a YAML (or JSON) file into a document.

    :raises InputError: unreadable or invalid; one problem for each mistake, in order of lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, {error.reason}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read, {error.strerror or error}") from None
    return parse_document(text, model, str(path))


def parse_document(text: str, model: type[D], source: str) -> D:
    """Read YAML (or JSON) text into a document.

    :param source: what error messages call the text, usually its path.
    :raises InputError: invalid; one problem for each mistake, in order of lines.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise InputError(f"{source}: expected a {_kind(model)} document, got an empty file")
        problems = list(_repeated_keys(root))
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{source}{line}: not valid YAML, {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML, {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        problems = [(_line(root), (), f"expected a mapping, got {describe(data)}")]
    elif header := list(_header_problems(data, model)):
        # Of another kind of document every key would be wrong: one problem says it all.
        problems = [(_line_of(root, location), location, text) for location, text in header]
    else:
        try:
            document = model.model_validate(data)
        except ValidationError as error:
            found = _validation_problems(error, data, model)
            problems += [(_line_of(root, location), location, text) for location, text in found]
        else:
            if not problems:
                return document
    problems.sort(key=lambda problem: problem[0])
    told = [_message(source, *problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > len(told):
        told.append(f"{source}: and {len(problems) - len(told)} more problems")
    raise InputError(told)


def _kind(model: type[Document]) -> str:
    return str(model.model_fields["kind"].default)


def _message(source: str, line: int, location: Location, text: str) -> str:
    return f"{source}:{line}: {f'{_key_path(location)}: ' if location else ''}{text}"


def _key_path(location: Location) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-3 is a number and 2026-01-31 is text.

    The first is how JSON writes small numbers, the second how people write versions.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (a class attribute of PyYAML)
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[int, Location, str]]:
    """Find keys that a mapping has twice, and refuse a node that holds itself."""
    done: set[int] = set()

    def visit(
        node: yaml.Node, location: Location, above: frozenset[int]
    ) -> Iterator[tuple[int, Location, str]]:
        if id(node) in above:
            raise yaml.MarkedYAMLError(
                problem="an alias holds itself", problem_mark=node.start_mark
            )
        if id(node) in done:
            return
        above |= {id(node)}
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name = str(key.value)
                place = (*location, name)
                if name in lines and name != "<<":
                    text = f"expected every key once, got it again (first in line {lines[name]})"
                    yield _line(key), place, text
                lines.setdefault(name, _line(key))
                yield from visit(value, place, above)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                yield from visit(value, (*location, index), above)
        done.add(id(node))

    return visit(root, (), frozenset())


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line_of(root: yaml.Node, location: Location) -> int:
    """Give the line of a key; of what it would be in, when it is missing."""
    node, line = root, _line(root)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            entry = next((pair for pair in reversed(node.value) if pair[0].value == part), None)
            if entry is None:
                break
            line, node = _line(entry[0]), entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = _line(node)
        else:
            break
    return line


def _header_problems(
    data: Mapping[Any, Any], model: type[Document]
) -> Iterator[tuple[Location, str]]:
    for key in _HEADER:
        expected = model.model_fields[key].default
        if key not in data:
            yield (key,), f"expected {expected}, got nothing"
        elif data[key] != expected:
            yield (key,), f"expected {expected}, got {describe(data[key])}"


def _validation_problems(
    error: ValidationError, data: Any, model: type[Document]
) -> Iterator[tuple[Location, str]]:
    for details in error.errors(include_url=False):
        location = _location(details["loc"], data)
        cause = details.get("ctx", {}).get("error")
        if _follows(details):
            continue
        if details["type"] == "extra_forbidden":
            yield location, f"expected no such key{_suggestion(details['loc'], model)}"
        elif isinstance(cause, Problems):
            yield from (((*location, *below), text) for below, text in cause.problems)
        elif cause is not None:
            yield location, str(cause)
        else:
            if details["type"].startswith("union_tag"):
                location = (*location, "type")
            yield location, f"expected {_expected(details)}, got {_got(details)}"


def _follows(details: ErrorDetails) -> bool:
    """Whether an error only follows from others: pydantic counts invalid entries as missing."""
    if details["type"] == "too_short":
        return len(details["input"]) >= int(details["ctx"]["min_length"])
    return details["type"] == "default_factory_not_called"


def _location(loc: Location, data: Any) -> Location:
    """Leave out what pydantic adds to a location: the tag of a union and ``[key]``."""
    location: list[str | int] = []
    for position, part in enumerate(loc):
        missing = isinstance(data, dict) and part not in data
        if part == "[key]" or (missing and position < len(loc) - 1):
            continue
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        location.append(part)
    return tuple(location)


_EXPECTED = {
    "missing": "a value",
    "string_type": "text",
    "string_pattern_mismatch": "text like {pattern}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "union_tag_invalid": "one of {expected_tags}",
    "union_tag_not_found": "a value",
}


def _expected(details: ErrorDetails) -> str:
    template = _EXPECTED.get(details["type"])
    return template.format(**details.get("ctx", {})) if template else details["msg"]


def _got(details: ErrorDetails) -> str:
    kind, value = details["type"], details["input"]
    if kind in ("missing", "union_tag_not_found"):
        return "nothing"
    if kind == "too_short":
        return str(len(value))
    if kind == "union_tag_invalid":
        return describe(details["ctx"]["tag"])
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f"{describe(value)} (put it in quotes)"
    return describe(value)


@lru_cache
def _schema(model: type[Document]) -> dict[str, Any]:
    return model.model_json_schema()


def _suggestion(loc: Location, model: type[Document]) -> str:
    known = _keys_beside(loc, _schema(model))
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f", known are {', '.join(known)}" if known else ""


def _keys_beside(loc: Location, schema: dict[str, Any]) -> list[str]:
    """List the keys that a model knows where an unknown one was found."""
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> dict[str, Any]:
        node: dict[str, Any] = part if isinstance(part, dict) else {}
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in node:
            return resolve(node["anyOf"][0])
        return node

    here = resolve(schema)
    for part in loc[:-1]:
        if isinstance(part, int):
            here = resolve(here.get("items"))
        elif "oneOf" in here:
            here = resolve({"$ref": here["discriminator"]["mapping"][part]})
        else:
            below = here.get("properties", {}).get(part) or here.get("additionalProperties")
            if below is None:
                below = next(iter(here.get("patternProperties", {}).values()), None)
            here = resolve(below)
    return list(here.get("properties", {}))
