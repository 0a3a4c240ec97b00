"""Which hardware group a device belongs to, from what was found on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GROUPS = {"nvidia": "hw_x86_gpu", "coral": "hw_coral", "hailo": "hw_hailo", "intel": "hw_intel"}
_PROCESSING_ACCELERATOR = "12"
_KNOWN_ACCELERATORS = ("1e60", "8086", "1ac1", "10de")  # vendors that detection knows


@dataclass(frozen=True)
class Hardware:
    """What a device is.

    :param group: its ``hw_*`` group; None where none fits.
    :param what: what it is, in words: model and accelerators.
    :param problem: why there is no group, "" if there is one.
    """

    group: str | None
    what: str
    problem: str = ""


def decide_hardware(found: Mapping[str, Any]) -> Hardware:
    """Choose the hardware group of a device.

    Nothing is guessed: a board or an accelerator that is not known, or several accelerators at
    once, leave the group to the operator.

    :param found: what :mod:`muster.enrolment.on_device` said.
    """
    accelerators = list(found.get("accelerators") or [])
    kinds = list(dict.fromkeys(str(each.get("kind")) for each in accelerators))
    # An Intel GPU is part of most processors: it decides only where there is nothing else.
    special = [kind for kind in kinds if kind not in ("intel", "cpu")]
    model = str(found.get("model") or "")
    what = _words(model, found, accelerators)

    def unknown(problem: str) -> Hardware:
        return Hardware(None, what, f"{problem}: no hardware group fits, choose with --hardware")

    if len(special) > 1:
        return unknown(f"several accelerators ({', '.join(special)})")
    if special == ["jetson"] or "jetson" in model.lower():
        orin = "orin" in model.lower() or "nvidia,tegra234" in (found.get("compatible") or ())
        return Hardware("hw_jetson_orin", what) if orin else unknown(model or "a Jetson")
    if special:
        group = _GROUPS.get(special[0])
        wrong = special[0] == "nvidia" and found.get("arch") != "amd64"
        if group is None or wrong:
            return unknown(f"accelerator {special[0]} on {found.get('arch')}")
        return Hardware(group, what)
    if strange := [name for name in found.get("pci") or () if _is_strange(name)]:
        return unknown(f"unknown accelerator {strange[0]['vendor']}:{strange[0]['device']}")
    if model.startswith("Raspberry Pi"):
        return Hardware("hw_raspberry_pi", what)
    if kinds == ["intel"]:
        return Hardware("hw_intel", what)
    if found.get("compatible"):
        return unknown(model or str(found["compatible"][0]))
    if found.get("arch") in ("amd64", "arm64"):
        return Hardware("hw_cpu", what)
    return unknown(f"architecture {found.get('arch')}")


def agree(decided: Hardware, said: str | None, present: str | None) -> tuple[str | None, str]:
    """Bring what was found together with what people say.

    :param said: the group that the operator gave now.
    :param present: the group that the inventory has.
    :returns: the group to write, and what is wrong ("" if nothing is).
    """
    word = said or present
    if word is None:
        return decided.group, ""
    if said and present and said != present:
        return present, f"the inventory has it in {present}, you say {said}: move it there first"
    if decided.group is not None and decided.group != word:
        who = "you say" if said else "the inventory says"
        return word, f"{who} {word}, but it is {decided.what} ({decided.group})"
    return word, ""


def _is_strange(function: Mapping[str, Any]) -> bool:
    kind = str(function.get("class", ""))
    vendor = function.get("vendor")
    return kind.startswith(_PROCESSING_ACCELERATOR) and vendor not in _KNOWN_ACCELERATORS


def _words(model: str, found: Mapping[str, Any], accelerators: Sequence[Mapping[str, Any]]) -> str:
    names = [str(each.get("model") or each.get("kind")) for each in accelerators]
    extra = [name for name in dict.fromkeys(names) if name != model]
    base = model or f"a computer of unknown make ({found.get('arch')})"
    return " with ".join([base, ", ".join(extra)] if extra else [base])
