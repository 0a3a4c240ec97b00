from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from release_documents import IMAGE, make_release, release_document

from muster.commands.documents import release as release_command
from muster.documents import load_document, parse_document
from muster.paths import COLLECTION_ROOT
from muster.release import (
    Release,
    Requirements,
    Variant,
    fits,
    may_follow,
    misfits,
    select_variant,
)

EXAMPLE = COLLECTION_ROOT / "examples/release.yml"


def test_the_smallest_release_has_sensible_defaults() -> None:
    release = Release.model_validate(release_document())
    assert (release.endpoint.port, release.endpoint.container_port) == (8000, 8080)
    assert release.endpoint.ready_path == "/v2/health/ready"
    assert release.gates[0].path == "/v2/health/ready"


def test_canonical_json_and_digest_are_what_the_device_checks() -> None:
    release = Release.model_validate(release_document())
    document = json.loads(release.canonical)
    compact = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert release.canonical == compact
    assert release.digest == hashlib.sha256(release.canonical.encode()).hexdigest()
    assert release.id == f"1.1-{release.digest[:12]}"
    assert document["gates"][0]["timeout"] == 5.0
    assert "description" not in document


def test_a_release_that_was_signed_before_requires_from_existed_keeps_its_digest() -> None:
    digest = "5e2f81e36e6e5d0975d067952ef9a6643cb567cb5bebf6223436b9864e3508a3"
    assert Release.model_validate(release_document()).digest == digest
    assert Release.model_validate(release_document(requires_from=[])).digest == digest
    document = Release.model_validate(release_document(requires_from=["1.0"]))
    assert document.digest != digest
    assert json.loads(document.canonical)["requires_from"] == ["1.0"]


def test_the_order_of_keys_and_the_spelling_of_values_do_not_change_the_id() -> None:
    variant = {"image": IMAGE, "memory": "1GiB"}
    one = release_document(variants={"hw_coral": variant, "hw_intel": {"image": IMAGE}})
    variant = {"memory": 2**30, "image": IMAGE}
    other = release_document(variants={"hw_intel": {"image": IMAGE}, "hw_coral": variant})
    other = dict(reversed(other.items()))
    assert Release.model_validate(one).id == Release.model_validate(other).id


def test_the_canonical_json_is_itself_a_document_with_the_same_digest() -> None:
    release = load_document(EXAMPLE, Release)
    again = parse_document(release.canonical, Release, "canonical.json")
    assert again == release
    assert again.digest == release.digest


def test_any_change_changes_the_id() -> None:
    one, other = make_release("hw_coral"), make_release("hw_intel")
    assert one.id != other.id


def test_a_release_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_release("hw_coral").model = "other"  # type: ignore[misc]


def _invalid(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Release.model_validate(release_document(**changes))
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "Digits", "-digits", "a b", "a/b", "a" * 42, "digits\n"])
def test_model_names_are_safe(name: str) -> None:
    assert "model" in _invalid(model=name)


@pytest.mark.parametrize("version", ["", ".1", "1/2", "1 2", "1+2", "../x", "1\n", "v" * 42])
def test_versions_are_safe_in_file_and_container_names(version: str) -> None:
    assert "version" in _invalid(version=version)


@pytest.mark.parametrize(
    "image",
    [
        "models/digits",
        "models/digits:latest",
        "models/digits@sha256:abc",
        "models/digits:1@sha256:" + "ab" * 32,
        "registry:5000/digits@sha256:" + "ab" * 32,
        "ghcr.io/digits@sha256:" + "ab" * 32,
        "localhost/digits@sha256:" + "ab" * 32,
        "Models/digits@sha256:" + "ab" * 32,
        "/digits@sha256:" + "ab" * 32,
        "models/digits@sha256:" + "AB" * 32,
    ],
)
def test_images_are_by_digest_and_without_registry(image: str) -> None:
    assert "image" in _invalid(variants={"hw_coral": {"image": image}})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("devices", ["apex_0"]),
        ("devices", ["/dev"]),
        ("devices", ["/dev/../etc/shadow"]),
        ("devices", ["/dev/sda:/dev/sdb"]),
        ("devices", ["/etc/passwd"]),
        ("env", {"1A": "x"}),
        ("env", {"A-B": "x"}),
        ("env", {"A": "x\ny"}),
        ("env", {"A": 1}),
        ("memory", "lots"),
        ("requires", {"arch": ["x86_64"]}),
        ("requires", {"accelerator": "tpu"}),
        ("requires", {"min_driver_version": "1.0"}),
        ("requires", {"accelerator": "nvidia", "min_driver_version": "new"}),
        ("privileged", True),
    ],
)
def test_variants_are_checked(part: str, value: object) -> None:
    assert part in _invalid(variants={"hw_coral": {"image": IMAGE, part: value}})


def test_variants_and_gates_are_required() -> None:
    assert "variants" in _invalid(variants={})
    assert "hw_" in _invalid(variants={"coral": {"image": IMAGE}})
    assert "gates" in _invalid(gates=[])


def test_a_readiness_gate_is_required_and_gate_names_are_unique() -> None:
    live = {"name": "live", "type": "http", "path": "/live"}
    text = _invalid(gates=[live, live])
    assert "expected a name used once, got 'live' again" in text
    assert "expected at least one readiness gate, got only http" in text


def test_select_variant_takes_the_one_of_the_hardware_group() -> None:
    release = make_release("hw_coral", "hw_intel")
    selected = select_variant(release, ("all", "site_x", "hw_intel"))
    assert selected == ("hw_intel", release.variants["hw_intel"])


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (("site_x",), "it is in no hardware group (hw_*)"),
        (("hw_hailo",), "no variant for hw_hailo; release {id} has hw_coral, hw_intel"),
        (("hw_intel", "hw_coral"), "more than one variant fits its groups: hw_coral, hw_intel"),
    ],
)
def test_select_variant_says_why_there_is_none(groups: tuple[str, ...], reason: str) -> None:
    release = make_release("hw_coral", "hw_intel")
    assert select_variant(release, groups) == reason.format(id=release.id)


def _inspected(**changes: Any) -> dict[str, Any]:
    answer = {
        "ok": True,
        "arch": "arm64",
        "memory": 2**30,
        "disk_free": 10 * 2**30,
        "runtime": {"name": "docker", "version": "20.10.24", "ready": True},
        "accelerators": [{"kind": "nvidia", "device": "/dev/nvidia0", "driver": "535.183.01"}],
        "model": {"name": "digits", "releases": ["1.0-0123456789ab"]},
    }
    return answer | changes


def _variant(**requires: Any) -> Variant:
    return Variant.model_validate({"image": IMAGE, "requires": requires})


@pytest.mark.parametrize(
    ("requires", "changes", "reasons"),
    [
        ({}, {}, []),
        ({"arch": ["amd64", "arm64"], "memory": "1GiB", "disk": "10GiB"}, {}, []),
        ({"arch": ["amd64", "i386"]}, {}, ["architecture arm64, needed amd64 or i386"]),
        ({"memory": "2GiB"}, {}, ["memory 1 GiB, needed 2 GiB"]),
        ({"memory": "2GiB"}, {"memory": None}, ["memory unknown, needed 2 GiB"]),
        ({"disk": "11GiB"}, {}, ["free disk 10 GiB, needed 11 GiB"]),
        ({"accelerator": "nvidia", "min_driver_version": "535.104.05"}, {}, []),
        (
            {"accelerator": "nvidia", "min_driver_version": "550"},
            {},
            ["nvidia driver 535.183.01, needed 550 or newer"],
        ),
        (
            {"accelerator": "nvidia", "min_driver_version": "550"},
            {"accelerators": [{"kind": "nvidia", "driver": None}]},
            ["nvidia driver of unknown version, needed 550 or newer"],
        ),
        ({"accelerator": "coral"}, {}, ["accelerator coral not found, it has nvidia"]),
        (
            {"accelerator": "coral"},
            {"accelerators": []},
            ["accelerator coral not found, it has none"],
        ),
        (
            {},
            {"runtime": {"name": "docker", "version": None, "ready": False}},
            ["container runtime docker is not ready"],
        ),
        (
            {"arch": ["amd64"], "memory": "2GiB"},
            {"runtime": None},
            [
                "architecture arm64, needed amd64",
                "memory 1 GiB, needed 2 GiB",
                "container runtime unknown is not ready",
            ],
        ),
    ],
)
def test_fits(requires: dict[str, Any], changes: dict[str, Any], reasons: list[str]) -> None:
    assert fits(_variant(**requires), _inspected(**changes)) == reasons


def test_a_device_that_holds_the_release_needs_no_disk_for_it() -> None:
    variant = _variant(disk="11GiB")
    assert fits(variant, _inspected(), "1.0-0123456789ab") == []
    assert fits(variant, _inspected(), "1.1-0123456789ab") != []


@pytest.mark.parametrize(
    ("requires_from", "current", "may"),
    [
        ([], "0.1-0123456789ab", True),
        (["1.0"], None, True),
        (["1.0"], "1.0-0123456789ab", True),
        (["1.0"], "1.0-ba9876543210", True),
        (["1.0-0123456789ab"], "1.0-0123456789ab", True),
        (["1.0-0123456789ab"], "1.0-ba9876543210", False),
        (["1.0"], "1.0.1-0123456789ab", False),
        (["1.0"], "1.0-rc1-0123456789ab", False),  # the version is 1.0-rc1
        (["1.0-rc1"], "1.0-rc1-0123456789ab", True),
        (["0.9", "1.0"], "0.9-0123456789ab", True),
        (["0.9", "1.0"], "0.8-0123456789ab", False),
    ],
)
def test_which_release_may_follow_which(
    requires_from: list[str], current: str | None, may: bool
) -> None:
    assert may_follow(requires_from, current) is may


@pytest.mark.parametrize("reference", ["", ".1", "1/2", "1 2", "1\n", "v" * 60])
def test_what_requires_from_refuses(reference: str) -> None:
    assert "requires_from" in _invalid(requires_from=[reference])


def _reasons(
    variant: dict[str, Any], *, mode: str = "recreate", back: bool = False, **inspected: Any
) -> list[str]:
    document = release_document(
        variants={"hw_coral": {"image": IMAGE} | variant}, requires_from=["1.0", "0.9"]
    )
    release = Release.model_validate(document)
    return misfits(release, "hw_coral", _inspected(**inspected), mode=mode, back=back)


def _runs(release_id: str | None) -> dict[str, Any]:
    return {"current": {"id": release_id, "serving": True} if release_id else None, "releases": []}


def test_a_node_does_not_take_what_kubernetes_has_no_label_for() -> None:
    document = release_document(model="digits-", variants={"hw_coral": {"image": IMAGE}})
    release = Release.model_validate(document)
    reasons = [
        misfits(release, "hw_coral", _inspected(runtime=runtime), mode="recreate")
        for runtime in ({"name": "docker", "ready": True}, {"name": "k3s", "ready": True})
    ]
    assert reasons == [[], ["Kubernetes takes no label that ends in '-', as digits- does"]]


def test_a_device_that_runs_another_than_required_does_not_take_the_release() -> None:
    old = _runs("0.8-0123456789ab")
    reason = "runs 0.8-0123456789ab, needed 1.0 or 0.9 first: see `muster catch-up`"
    assert _reasons({}, model=old) == [reason]
    assert _reasons({}, model=_runs("0.9-0123456789ab")) == []
    assert _reasons({}, model=_runs(None)) == []
    assert _reasons({"requires": {"memory": "2GiB"}}, model=old) == [
        "memory 1 GiB, needed 2 GiB",
        reason,
    ]


def test_requires_from_does_not_count_for_going_back_nor_for_what_it_runs() -> None:
    newer = _runs("2.0-0123456789ab")
    assert _reasons({}, model=newer) != []
    assert _reasons({}, model=newer, back=True) == []
    release = Release.model_validate(release_document(requires_from=["1.0"]))
    seen = _inspected(model=_runs(release.id))
    assert misfits(release, "hw_coral", seen, mode="recreate") == []


BOTH = {"switch_modes": ["recreate", "blue_green"]}
NO_PROXY = ["can't switch by blue_green: it has no proxy (muster_device_proxy)"]
TIGHT = ["can't run both releases for blue_green: 512 MiB of memory available, needed 1 GiB"]


@pytest.mark.parametrize(
    ("variant", "inspected", "reasons"),
    [
        ({}, {}, NO_PROXY),
        ({}, {"switch_modes": None}, NO_PROXY),
        ({}, {"switch_modes": ["recreate"]}, NO_PROXY),
        ({}, BOTH, []),
        ({"memory": "1GiB"}, BOTH | {"memory_available": 2**29}, TIGHT),
        ({"memory": "1GiB"}, BOTH | {"memory_available": 2**30}, []),
        # Without a limit of the container what the variant requires says how much it takes.
        ({"requires": {"memory": "1GiB"}}, BOTH | {"memory_available": 2**29}, TIGHT),
        ({"memory": "1GiB"}, BOTH | {"memory_available": None}, []),
        ({}, BOTH | {"memory_available": 1}, []),
        # The first release runs alone.
        ({"memory": "1GiB"}, BOTH | {"memory_available": 2**29, "model": _runs(None)}, []),
    ],
)
def test_what_blue_green_needs_of_a_device(
    variant: dict[str, Any], inspected: dict[str, Any], reasons: list[str]
) -> None:
    inspected = {"model": _runs("1.0-0123456789ab")} | inspected
    assert _reasons(variant, mode="blue_green", **inspected) == reasons
    assert _reasons(variant, mode="recreate", **inspected) == []


def test_nothing_is_required_by_default() -> None:
    assert Requirements() == Requirements(arch=(), accelerator=None)


def test_show_writes_the_canonical_bytes() -> None:
    result = CliRunner().invoke(release_command, ["show", str(EXAMPLE), "--canonical"])
    release = load_document(EXAMPLE, Release)
    assert result.exit_code == 0
    assert hashlib.sha256(result.stdout_bytes).hexdigest() == release.digest


def test_show_names_id_digest_and_variants(tmp_path: Path) -> None:
    release = load_document(EXAMPLE, Release)
    text = CliRunner().invoke(release_command, ["show", str(EXAMPLE)]).stdout
    assert release.id in text
    shown = json.loads(CliRunner().invoke(release_command, ["show", str(EXAMPLE), "--json"]).stdout)
    assert shown["digest"] == release.digest
    assert list(shown["variants"]) == sorted(release.variants)


# Accelerators: parts and their versions, CDI


def _hailo(**changes: Any) -> dict[str, Any]:
    return (
        {"kind": "hailo", "device": "/dev/hailo0", "driver": "4.20.0"}
        | {
            "library": "4.20.0",
            "firmware": "4.20.0",
            "working": True,
        }
        | changes
    )


@pytest.mark.parametrize(
    ("requires", "accelerators", "reasons"),
    [
        ({"accelerator": "hailo", "driver": "==4.20"}, [_hailo()], []),
        ({"accelerator": "hailo", "driver": ">=4.19, <4.21"}, [_hailo()], []),
        (
            {"accelerator": "hailo", "driver": ">=4.21", "library": "!=4.20.0"},
            [_hailo()],
            ["hailo driver 4.20.0, needed >=4.21", "hailo library 4.20.0, needed !=4.20.0"],
        ),
        (
            {"accelerator": "hailo", "firmware": "==4.20.0"},
            [_hailo(firmware=None)],
            ["hailo firmware of unknown version, needed ==4.20.0"],
        ),
        (  # what nobody asked for, and yet would not run
            {"accelerator": "hailo"},
            [_hailo(library="4.19.0")],
            [
                "hailo driver 4.20.0, library 4.19.0, firmware 4.20.0: they must be of the same"
                " version"
            ],
        ),
        ({"accelerator": "hailo"}, [_hailo(library=None, firmware=None)], []),
        (
            {"accelerator": "hailo"},
            [_hailo(working=False)],
            ["hailo did not pass its smoke test when the device was provisioned"],
        ),
        ({"arch": ["arm64"]}, [_hailo(library="4.19.0", working=False)], []),
    ],
)
def test_versions_of_an_accelerator(
    requires: dict[str, Any], accelerators: list[dict[str, Any]], reasons: list[str]
) -> None:
    assert fits(_variant(**requires), _inspected(accelerators=accelerators)) == reasons


@pytest.mark.parametrize(
    ("variant", "known", "missing"),
    [
        ({"cdi": ["hailo.ai/npu=0"]}, ["hailo.ai/npu=0", "hailo.ai/npu=all"], None),
        ({"requires": {"cdi": ["hailo.ai/npu=all"]}}, ["hailo.ai/npu=all"], None),
        ({"cdi": ["hailo.ai/npu=1"]}, ["hailo.ai/npu=0"], "it has hailo.ai/npu=0"),
        ({"requires": {"cdi": ["nvidia.com/gpu=all"]}}, [], "it has none"),
        ({"cdi": ["hailo.ai/npu=0"]}, None, "it has none"),  # an older device program
    ],
)
def test_cdi_devices_that_can_not_be_resolved(
    variant: dict[str, Any], known: list[str] | None, missing: str | None
) -> None:
    found = fits(Variant.model_validate({"image": IMAGE} | variant), _inspected(cdi=known))
    assert bool(found) is (missing is not None)
    assert all(missing in reason and reason.startswith("CDI device ") for reason in found)


@pytest.mark.parametrize(
    "requires",
    [
        {"driver": ">=4.20"},
        {"library": "==4.20"},
        {"accelerator": "hailo", "driver": "4.20"},
        {"accelerator": "hailo", "driver": ">=4.20,"},
        {"accelerator": "hailo", "driver": "=>4.20"},
        {"accelerator": "hailo", "firmware": ">= new"},
        {"cdi": ["/dev/hailo0"]},
        {"cdi": ["hailo.ai/npu"]},
        {"cdi": []},
    ],
)
def test_what_can_not_be_required_of_an_accelerator(requires: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _variant(**requires)


def test_a_release_that_asks_for_none_of_this_keeps_its_digest() -> None:
    document = json.loads(Release.model_validate(release_document()).canonical)
    for variant in document["variants"].values():
        assert "cdi" not in variant
        assert not {"cdi", "driver", "library", "firmware"} & variant["requires"].keys()
