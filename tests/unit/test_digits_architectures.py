"""The release of the digits example for devices of several architectures."""

from __future__ import annotations

import sys

import pytest

from examples.digits import OciImage
from examples.digits.publish import HARDWARE, images_of_groups, release_document
from examples.digits.rootfs import architecture
from muster.errors import InputError
from muster.release import Release

CASE = {
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1], "data": [0]}],
    "outputs": [{"name": "label", "data": [0]}],
}


def image(architecture: str, version: str) -> OciImage:
    number = version.replace(".", "") + {"amd64": "0", "arm64": "1"}[architecture]
    digest = f"sha256:{number:0>64}"
    return OciImage(digest, 40_000_000, architecture, f"oci:/layout:{version}")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The architectures that were built for; nothing is really built."""
    asked: list[str | None] = []

    def build(kind: str | None = None) -> dict[str, OciImage]:
        asked.append(kind)
        return {version: image(kind or architecture(), version) for version in ("1.0", "1.1")}

    # the package has a function of the module's name
    monkeypatch.setattr(sys.modules[release_document.__module__], "build_images", build)
    return asked


def test_each_variant_names_the_image_of_its_devices_architecture(built: list[str | None]) -> None:
    images, wanted = images_of_groups({"hw_raspberry_pi": "arm64", "hw_coral": "amd64"})
    found = {group: images[kind]["1.1"] for group, kind in wanted.items()}
    release = Release.model_validate(release_document("1.1", found, [CASE]))
    for group, kind in (("hw_raspberry_pi", "arm64"), ("hw_coral", "amd64")):
        variant = release.variants[group]
        assert variant.requires.arch == (kind,)
        assert variant.image.endswith(image(kind, "1.1").digest)
    assert release.variants["hw_x86_gpu"].requires.arch == (architecture(),)
    assert len(built) == len(set(built)) == 3, "each architecture once, and the machine's own"


def test_without_a_word_all_are_for_the_machine_itself(built: list[str | None]) -> None:
    _, wanted = images_of_groups({})
    assert built == [None]
    assert set(wanted) == set(HARDWARE)


@pytest.mark.parametrize(
    ("architectures", "problem"),
    [
        ({"hw_raspberry": "arm64"}, "expected one of hw_jetson_orin, hw_raspberry_pi"),
        ({"hw_raspberry_pi": "armhf"}, "hw_raspberry_pi: expected one of amd64, arm64, got armhf"),
        ({"hw_raspberry_pi": ""}, "expected one of amd64, arm64, got nothing"),
    ],
)
def test_nothing_is_built_for_what_is_not_known(
    built: list[str | None], architectures: dict[str, str], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        images_of_groups(architectures)
    assert built == []
