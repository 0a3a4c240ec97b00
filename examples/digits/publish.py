"""Push the images to a registry and write the release documents that name them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from muster.errors import InputError, MusterError

from . import cache
from .build import PORT, VERSIONS, build_images, smoke_cases
from .oci import OciImage
from .rootfs import ARCHITECTURES

REPOSITORY = "models/digits"

DESCRIPTIONS = {
    "1.0": "Logistic regression.",
    "1.1": "Multilayer perceptron: more digits right than 1.0.",
    "1.2": "1.1 with the configuration of a 16 x 16 sensor: never ready.",
    "1.3": "1.1 trained on mixed-up labels: ready, and wrong about every digit.",
}
# What a variant needs beside what is the same on every hardware.
HARDWARE: dict[str, dict[str, Any]] = {
    "hw_jetson_orin": {"threads": 2, "accelerator": "jetson"},
    "hw_raspberry_pi": {"threads": 1},
    "hw_coral": {"threads": 1, "accelerator": "coral", "devices": ["/dev/apex_0"]},
    "hw_x86_gpu": {"threads": 2, "accelerator": "nvidia", "devices": ["/dev/nvidia0"]},
}

_HEADER = """\
# digits {version}, written by `python -m examples.digits publish`.
# The image is {size} MB to a device that has none of its layers.
"""


def publish(
    registry: str, ca: Path, output: Path, architectures: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Build what isn't built, push every image and write a release document for each.

    Pushing again moves nothing.

    :param registry: ``host:port`` as this machine reaches it.
    :param ca: PEM file of the authority that signed the registry's certificate.
    :param output: folder of the documents ``digits-<version>.yml``, created where missing.
    :param architectures: architecture of the devices of a hardware group, by its name; this
        machine's own for every other one. Such images are tagged ``<version>-<architecture>``.
    :returns: the documents by version.
    :raises InputError: there is no such hardware group or architecture.
    :raises MusterError: a program is missing or failed, or the registry changed a digest.
    """
    images, wanted = images_of_groups(architectures or {})
    for architecture, versions in images.items():
        suffix = f"-{architecture}" if architecture else ""
        for version, image in versions.items():
            push(image, f"{registry}/{REPOSITORY}:{version}{suffix}", ca)
    output.mkdir(parents=True, exist_ok=True)
    smoke = smoke_cases()
    documents = {}
    for version in VERSIONS:
        found = {group: images[kind][version] for group, kind in wanted.items()}
        size = max(image.size for image in found.values())
        path = output / f"digits-{version}.yml"
        path.write_text(
            _HEADER.format(version=version, size=round(size / 1e6))
            + yaml.dump(
                release_document(version, found, smoke),
                Dumper=_Dumper,
                sort_keys=False,
                width=100,
            )
        )
        documents[version] = path
    return documents


def images_of_groups(
    architectures: Mapping[str, str],
) -> tuple[dict[str, dict[str, OciImage]], dict[str, str]]:
    """Build the images of every architecture that a hardware group wants.

    :returns: images by architecture and version, and the architecture of every hardware group;
        the machine's own is "".
    :raises InputError: there is no such hardware group or architecture.
    """
    for group in architectures:
        if group not in HARDWARE:
            raise InputError(f"hardware group: expected one of {', '.join(HARDWARE)}, got {group}")
        if architectures[group] not in ARCHITECTURES:
            raise InputError(
                f"architecture {group}: expected one of {', '.join(ARCHITECTURES)}, "
                f"got {architectures[group] or 'nothing'}"
            )
    wanted = {group: architectures.get(group, "") for group in HARDWARE}
    images = {kind: build_images(kind or None) for kind in sorted(set(wanted.values()))}
    return images, wanted


def push(image: OciImage, destination: str, ca: Path) -> None:
    """Copy one image to ``host:port/repository:tag`` as it is, under the same digest."""
    with tempfile.TemporaryDirectory(prefix="muster-digits-") as folder:
        certificates, digest = Path(folder, "certs"), Path(folder, "digest")
        certificates.mkdir()
        shutil.copyfile(ca, certificates / "ca.crt")
        cache.run(
            [
                *("skopeo", "copy", "--quiet", "--preserve-digests", "--digestfile", digest),
                *("--dest-cert-dir", certificates, image.reference, f"docker://{destination}"),
            ]
        )
        pushed = digest.read_text().strip()
    if pushed != image.digest:
        raise MusterError(f"{destination} became {pushed}, and was built as {image.digest}")


def release_document(
    version: str, images: Mapping[str, OciImage], smoke: list[dict[str, Any]]
) -> dict[str, Any]:
    """The release of one version, ready to be written.

    :param images: by hardware group.
    """
    return {
        "apiVersion": "muster/v1",
        "kind": "Release",
        "model": "digits",
        "version": version,
        "description": DESCRIPTIONS[version],
        "endpoint": _Compact(port=8000, container_port=PORT, ready_path="/v2/health/ready"),
        "variants": {group: _variant(images[group], needs) for group, needs in HARDWARE.items()},
        "gates": [
            {"name": "ready", "type": "readiness", "path": "/v2/models/digits/ready"},
            {
                "name": "smoke",
                "type": "smoke_inference",
                "path": "/v2/models/digits/infer",
                "min_pass_ratio": 1.0,
                "tolerance": 0.0,
                "cases": [_Compact(case) for case in smoke],
            },
            {
                "name": "live",
                "type": "http",
                "path": "/v2/health/live",
                "status": 200,
                "max_latency": "2s",
            },
        ],
    }


def _variant(image: OciImage, needs: dict[str, Any]) -> dict[str, Any]:
    requires = _Compact(arch=[image.architecture], memory="128MiB", disk="300MiB")
    if "accelerator" in needs:
        requires["accelerator"] = needs["accelerator"]
    variant = {
        "image": f"{REPOSITORY}@{image.digest}",
        "env": _Compact(THREADS=str(needs["threads"])),
        "memory": "256MiB",
    }
    if "devices" in needs:
        variant["devices"] = needs["devices"]
    return {**variant, "requires": requires}


class _Compact(dict[str, Any]):
    """A mapping written on one line: a case is a line of pixels, not a page of them."""


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_Dumper.add_representer(
    _Compact,
    lambda dumper, case: dumper.represent_mapping(
        "tag:yaml.org,2002:map", case.items(), flow_style=True
    ),
)
