"""Comparing answers of the Open Inference Protocol with what is right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.gates.documents import ExpectedOutput


def flatten(data: Any) -> list[Any]:
    """Give the elements of nested lists in row-major order."""
    elements: list[Any] = []
    pending = [data]
    while pending:
        item = pending.pop()
        if isinstance(item, (list, tuple)):
            pending.extend(reversed(item))
        else:
            elements.append(item)
    return elements


def compare_answer(body: str, expected: tuple[ExpectedOutput, ...], tolerance: float) -> str | None:
    """Say what is wrong with the body of an inference answer; None when it is right.

    Numbers are compared as numbers, whatever their datatype; the output's name decides which is
    which, other outputs are ignored.

    :param tolerance: largest absolute difference between two numbers.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return f"got no valid JSON: {shorten(body)}"
    outputs = answer.get("outputs") if isinstance(answer, dict) else None
    if not isinstance(outputs, list):
        return f"got no outputs: {shorten(body)}"
    by_name = {str(output.get("name")): output for output in outputs if isinstance(output, dict)}
    for output in expected:
        if output.name not in by_name:
            return f"expected output {output.name}, got {shorten(', '.join(by_name))}"
        if wrong := _compare_output(by_name[output.name], output, tolerance):
            return f"expected {output.name} {wrong}"
    return None


def _compare_output(got: dict[str, Any], right: ExpectedOutput, tolerance: float) -> str | None:
    shape = got.get("shape")
    if right.shape is not None and shape != list(right.shape):
        return f"of shape {list(right.shape)}, got shape {shorten(shape)}"
    elements, expected = flatten(got.get("data")), flatten(right.data)
    if len(elements) != len(expected):
        return f"{shorten(right.data)}, got {len(elements)} elements instead of {len(expected)}"
    if not all(_same(e, x, tolerance) for e, x in zip(elements, expected, strict=True)):
        return f"{shorten(right.data)}, got {shorten(got.get('data'))}"
    return None


def _same(got: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        try:
            # NaN is never within a tolerance, so it is never right.
            return got == expected or abs(got - expected) <= tolerance
        except OverflowError:
            return False
    return type(got) is type(expected) and bool(got == expected)


def shorten(value: Any) -> str:
    """Write a value on one short line."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        text = "deeply nested lists"
    text = " ".join(text.split()) or "nothing"
    # A model answers what it likes: no escapes for terminals, nothing that no database stores.
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:81])
    return text if len(text) <= 80 else text[:77] + "..."
