"""The release document: one immutable version of one model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from muster.accelerators import PARTS, VERSION_RANGE, mismatch, numbers, within
from muster.fields import Document, Problems, Size, Strict, format_size
from muster.gates.documents import Gate, Port, UrlPath

HARDWARE_PREFIX = "hw_"

MODEL_NAME = r"^[a-z0-9][a-z0-9-]{0,40}$"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")]
ReleaseReference = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}(-[0-9a-f]{12})?$")
]
VariantName = Annotated[str, StringConstraints(pattern=r"^hw_[a-z0-9_]{1,40}$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
EnvValue = Annotated[str, StringConstraints(pattern=r"^[^\n\r\x00]*$")]
DevicePath = Annotated[
    str, StringConstraints(pattern=r"^/dev(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", max_length=200)
]
CdiDevice = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_.-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*$",
        max_length=200,
    ),
]
VersionRange = Annotated[str, StringConstraints(pattern=VERSION_RANGE, max_length=200)]
Arch = Literal["amd64", "arm64", "armhf", "i386", "riscv64"]
Accelerator = Literal["coral", "hailo", "intel", "jetson", "nvidia"]

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE_PATTERN = rf"^{_COMPONENT}(/{_COMPONENT})*@sha256:[0-9a-f]{{64}}$"


def _without_registry(image: str) -> str:
    first, slash, _ = image.partition("/")
    if slash and ("." in first or first == "localhost"):
        raise ValueError(
            f"expected an image without registry (each device puts its own before it),"
            f" got {image!r}"
        )
    return image


def _by_digest(image: Any) -> Any:
    name, _, digest = str(image).partition("@")
    if isinstance(image, str) and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        wrong = f"got {digest!r}" if digest else f"{name!r} has none"
        raise ValueError(f"expected NAME@sha256:<64 hex digits>, pulled by digest only; {wrong}")
    return image


Image = Annotated[
    str,
    StringConstraints(pattern=_IMAGE_PATTERN, max_length=255),
    AfterValidator(_without_registry),
    BeforeValidator(_by_digest),
]


class Endpoint(Strict):
    """Where the model answers."""

    port: Port = 8000
    """Port on the device."""
    container_port: Port = 8080
    """Port inside the container."""
    ready_path: UrlPath = "/v2/health/ready"
    """Path that answers 200 when the model is ready; the device waits for it in a switch."""


class Requirements(Strict):
    """What a device must have; one that lacks it is rejected before anything is touched."""

    arch: tuple[Arch, ...] = ()
    """Architectures the image runs on, as Debian names them; empty: any."""
    accelerator: Accelerator | None = None
    """Kind of accelerator that must be present."""
    min_driver_version: (
        Annotated[str, StringConstraints(pattern=r"^[0-9]+([.-][0-9]+)*$")] | None
    ) = None
    """Lowest driver version of that accelerator, such as ``535.104``."""
    driver: VersionRange | None = None
    """Versions of its driver that will do, such as ``>=535.104,<560`` or ``==4.20.0``."""
    library: VersionRange | None = None
    """Versions of its library on the device that will do."""
    firmware: VersionRange | None = None
    """Versions of its firmware that will do."""
    cdi: Annotated[tuple[CdiDevice, ...], Field(min_length=1)] | None = None
    """CDI devices that the device must know, beside those that the container gets."""
    memory: Size | None = None
    """Least total memory."""
    disk: Size | None = None
    """Least free disk space for the container runtime, unless the release is already there."""

    @model_validator(mode="after")
    def _driver_has_accelerator(self) -> Requirements:
        keys = ("min_driver_version", *PARTS)
        alone = [key for key in keys if getattr(self, key) is not None]
        if alone and self.accelerator is None:
            text = "expected only together with accelerator"
            raise Problems([((key,), text) for key in alone])
        return self


class Variant(Strict):
    """What runs on one kind of hardware."""

    image: Image
    """``repository@sha256:<64 hex digits>``, without registry."""
    env: dict[EnvName, EnvValue] = Field(default_factory=dict)
    """Environment of the container. Not for secrets: a release is readable to all."""
    memory: Size | None = None
    """Memory limit of the container; without it there is none."""
    devices: tuple[DevicePath, ...] = ()
    """Device nodes that the container gets."""
    cdi: Annotated[tuple[CdiDevice, ...], Field(min_length=1)] | None = None
    """CDI devices that the container gets, such as ``hailo.ai/npu=0``. A runtime without CDI is
    given what is behind them."""
    requires: Requirements = Requirements()
    """What a device must have to run this variant."""


class Release(Document):
    """One immutable version of one model, with a variant for each kind of hardware, and gates."""

    kind: Literal["Release"] = "Release"
    """Kind of document."""
    model: ModelName
    """Name of the model; a device runs one release of each model."""
    version: Version
    """Version of the model, as people name it."""
    description: str | None = None
    """What is new, for people."""
    endpoint: Endpoint = Endpoint()
    """Where the model answers."""
    variants: Annotated[dict[VariantName, Variant], Field(min_length=1)]
    """What runs on each hardware group (``hw_*``)."""
    requires_from: tuple[ReleaseReference, ...] = ()
    """Versions, or ids, of the releases that a device may come from; empty: any. A device that runs
    nothing may take the release whatever this says. ``muster catch-up`` finds the way there."""
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    """What a device must pass to keep this release. At least one ``readiness`` gate: the endpoint's
    ``ready_path`` is asked only until it answers once, so a model that crashes or flaps right after
    would be confirmed."""

    @model_validator(mode="after")
    def _gates_are_safe(self) -> Release:
        names = [gate.name for gate in self.gates]
        problems: list[tuple[tuple[str | int, ...], str]] = [
            (("gates", index, "name"), f"expected a name used once, got {name!r} again")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        if not any(gate.type == "readiness" for gate in self.gates):
            found = ", ".join(sorted({gate.type for gate in self.gates}))
            problems.append((("gates",), f"expected at least one readiness gate, got only {found}"))
        if problems:
            raise Problems(problems)
        return self

    @cached_property
    def canonical(self) -> str:
        """The one JSON text of this release: what is signed, staged and digested."""
        document = self.model_dump(mode="json", exclude_none=True)
        if not self.requires_from:  # a release that doesn't use it keeps its digest
            del document["requires_from"]
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON in UTF-8, 64 hex digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @classmethod
    def from_canonical(cls, text: str) -> Release:
        """Read back what :attr:`canonical` gave."""
        return cls.model_validate(json.loads(text))

    @property
    def id(self) -> str:
        """Name of this release on devices: ``<version>-<first 12 hex digits of the digest>``."""
        return f"{self.version}-{self.digest[:12]}"


def running(inspected: Mapping[str, Any]) -> str | None:
    """Id of the release that a device runs, from its answer to ``inspect``; None for nothing."""
    current = (inspected.get("model") or {}).get("current")
    return current["id"] if current else None


def version_of(release_id: str) -> str:
    """The version in a release's id."""
    return release_id.rpartition("-")[0]


def may_follow(requires_from: Collection[str], current: str | None) -> bool:
    """Whether a device may go from ``current`` (a release id; None: nothing) to a release."""
    if not requires_from or current is None:
        return True
    return current in requires_from or version_of(current) in requires_from


def misfits(
    release: Release, variant: str, inspected: Mapping[str, Any], *, mode: str, back: bool = False
) -> list[str]:
    """Give the reasons why a device can't take a release now; empty when it can.

    :param variant: name of the variant for the device.
    :param inspected: the device program's answer to ``inspect``.
    :param mode: ``switch`` of the strategy, ``recreate`` or ``blue_green``.
    :param back: the release is gone back to: ``requires_from`` does not count then, and a device
        that runs nothing is left alone.
    """
    found = release.variants[variant]
    reasons = fits(found, inspected, release.id)
    current = running(inspected)
    if back and current is None:
        reasons.append("runs no release that could be taken back: roll one out")
    if not back and current != release.id and not may_follow(release.requires_from, current):
        wanted = " or ".join(release.requires_from)
        reasons.append(f"runs {current}, needed {wanted} first: see `muster catch-up`")
    if mode == "blue_green":
        reasons += _blue_green_reasons(found, inspected, current)
    if (inspected.get("runtime") or {}).get("name") == "k3s":
        reasons += [
            f"Kubernetes takes no label that ends in {name[-1]!r}, as {name} does"
            for name in (release.model, variant)
            if not name[-1].isalnum()
        ]
    return reasons


def _blue_green_reasons(
    variant: Variant, inspected: Mapping[str, Any], current: str | None
) -> list[str]:
    if "blue_green" not in (inspected.get("switch_modes") or ()):
        return ["can't switch by blue_green: it has no proxy (muster_device_proxy)"]
    available = inspected.get("memory_available")
    needed = variant.memory or variant.requires.memory
    if current is None or needed is None or available is None or available >= needed:
        return []
    has, wanted = format_size(available), format_size(needed)
    return [f"can't run both releases for blue_green: {has} of memory available, needed {wanted}"]


def select_variant(release: Release, groups: Collection[str]) -> tuple[str, Variant] | str:
    """Find the variant for a device.

    :param groups: names of the device's inventory groups.
    :returns: name and variant, or the reason why there is none, as text.
    """
    hardware = sorted(group for group in groups if group.startswith(HARDWARE_PREFIX))
    if not hardware:
        return f"it is in no hardware group ({HARDWARE_PREFIX}*)"
    matching = [name for name in hardware if name in release.variants]
    if len(matching) == 1:
        return matching[0], release.variants[matching[0]]
    if matching:
        return f"more than one variant fits its groups: {', '.join(matching)}"
    offered = ", ".join(sorted(release.variants))
    return f"no variant for {', '.join(hardware)}; release {release.id} has {offered}"


def fits(
    variant: Variant, inspected: Mapping[str, Any], release_id: str | None = None
) -> list[str]:
    """Give the reasons why a device can't run a variant; empty when it can.

    :param inspected: the device program's answer to ``inspect``.
    :param release_id: the release to be staged; its disk space isn't asked for again on a device
        that holds it already.
    """
    needs = variant.requires
    reasons: list[str] = []
    arch = inspected.get("arch")
    if needs.arch and arch not in needs.arch:
        reasons.append(f"architecture {arch or 'unknown'}, needed {' or '.join(needs.arch)}")
    if needs.accelerator is not None:
        found = list(inspected.get("accelerators") or ())
        reasons += _accelerator_reasons(needs.accelerator, needs, found)
    reasons += _cdi_reasons(variant, inspected.get("cdi"))
    reasons += _space_reason("memory", inspected.get("memory"), needs.memory)
    held = (inspected.get("model") or {}).get("releases") or ()
    if release_id is None or release_id not in held:
        reasons += _space_reason("free disk", inspected.get("disk_free"), needs.disk)
    runtime = inspected.get("runtime") or {}
    if not runtime.get("ready"):
        reasons.append(f"container runtime {runtime.get('name') or 'unknown'} is not ready")
    return reasons


def _accelerator_reasons(
    kind: str, needs: Requirements, found: list[Mapping[str, Any]]
) -> list[str]:
    matching = [accelerator for accelerator in found if accelerator.get("kind") == kind]
    if not matching:
        kinds = ", ".join(sorted({str(accelerator.get("kind")) for accelerator in found}))
        return [f"accelerator {kind} not found, it has {kinds or 'none'}"]
    reasons = []
    drivers = [accelerator.get("driver") for accelerator in matching]
    least = needs.min_driver_version
    if least is not None and not any(d and numbers(d) >= numbers(least) for d in drivers):
        versions = ", ".join(str(driver or "of unknown version") for driver in drivers)
        reasons.append(f"{kind} driver {versions}, needed {least} or newer")
    for part in PARTS:
        wanted = getattr(needs, part)
        has = [accelerator.get(part) for accelerator in matching]
        if wanted is not None and not any(within(version, wanted) for version in has):
            versions = ", ".join(dict.fromkeys(str(v or "of unknown version") for v in has))
            reasons.append(f"{kind} {part} {versions}, needed {wanted}")
    if all(accelerator.get("working") is False for accelerator in matching):
        reasons.append(f"{kind} did not pass its smoke test when the device was provisioned")
    told = (mismatch(kind, accelerator) for accelerator in matching)
    return reasons + list(dict.fromkeys(text for text in told if text))


def _cdi_reasons(variant: Variant, known: Collection[str] | None) -> list[str]:
    """Reasons why the runtime could not give a container its CDI devices.

    :param known: devices that the device can resolve; None if it doesn't tell.
    """
    wanted = [*(variant.cdi or ()), *(variant.requires.cdi or ())]
    unknown = [device for device in dict.fromkeys(wanted) if device not in (known or ())]
    if not unknown:
        return []
    has = ", ".join(sorted(known)) if known else "none"
    return [f"CDI device {', '.join(unknown)} can't be resolved, it has {has}"]


def _space_reason(what: str, has: int | None, needed: int | None) -> list[str]:
    if needed is None or (has is not None and has >= needed):
        return []
    return [
        f"{what} {'unknown' if has is None else format_size(has)}, needed {format_size(needed)}"
    ]
