"""The digits example as a device sees it: its images run by an engine, asked over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from examples.digits import (
    VERSIONS,
    OciImage,
    accuracy,
    build_images,
    cache,
    golden_cases,
    publish,
    smoke_cases,
)
from muster.documents import load_document
from muster.emulator import EmulatedFleet
from muster.release import Release

NAME = f"muster-digits-{os.getpid()}"
INFER = "/v2/models/digits/infer"
GRACE = 10  # seconds, what engines grant a stop
FLEET = """\
apiVersion: muster/v1
kind: Fleet
name: digits
sites:
  plant: {}
devices:
  pi-1: {site: plant, hardware: raspberry_pi, memory: 512MiB}
"""


@pytest.fixture(scope="module")
def images() -> dict[str, OciImage]:
    return build_images()


@pytest.fixture(scope="module")
def start(images: dict[str, OciImage]) -> Iterator[Callable[[str], Container]]:
    """Start a container of a version, with the limits that a device sets."""
    engine = docker.from_env()
    tags: dict[str, str] = {}
    containers: list[Container] = []

    def start(version: str) -> Container:
        if version not in tags:
            tag = f"{NAME}:{version}"
            source = images[version].reference
            subprocess.run(["skopeo", "copy", "-q", source, f"docker-daemon:{tag}"], check=True)
            tags[version] = tag
        container = engine.containers.create(
            tags[version],
            name=f"{NAME}-{len(containers)}",
            environment={"THREADS": "1"},
            mem_limit="256m",
            read_only=True,
            cap_drop=["ALL"],
            ports={"8080/tcp": ("127.0.0.1", None)},
        )
        containers.append(container)
        container.start()
        container.reload()
        return container

    yield start
    for container in containers:
        container.remove(force=True)
    for tag in tags.values():
        engine.images.remove(tag, force=True)
    engine.close()


@pytest.fixture(scope="module")
def url(start: Callable[[str], Container]) -> Callable[[str], str]:
    """Where a running server of a version is reached; one for all tests."""
    servers: dict[str, str] = {}

    def of(version: str) -> str:
        if version not in servers:
            servers[version] = address(start(version))
            settled(servers[version])
        return servers[version]

    return of


def address(container: Container) -> str:
    return f"http://127.0.0.1:{container.ports['8080/tcp'][0]['HostPort']}"


def ask(url: str, body: object = None) -> tuple[int, Any]:
    """GET, or POST a JSON body or bytes; return the status and the JSON of the answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def settled(server: str) -> None:
    """Wait until a server has its model loaded, or knows that it cannot."""
    deadline = time.monotonic() + 120
    while True:
        try:
            _, answer = ask(f"{server}/v2/health/ready")
        except OSError:
            answer = {"error": "does not listen yet"}
        if answer.get("error") not in ("does not listen yet", "the model is loading"):
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def labels(server: str, inputs: list[dict[str, Any]]) -> list[int]:
    status, answer = ask(server + INFER, {"inputs": inputs, "outputs": [{"name": "label"}]})
    assert status == 200, answer
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"]) == ("label", "INT64")
    return output["data"]


def counters(server: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{server}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_good_version_is_ready_and_answers(url: Callable[[str], str], version: str) -> None:
    server = url(version)

    for path in ("/v2/health/ready", "/v2/models/digits/ready", "/v2/health/live"):
        assert ask(server + path)[0] == 200
    assert ask(f"{server}/v2/models/digits/versions/{version}")[1]["versions"] == [version]
    for case in smoke_cases():
        assert labels(server, case["inputs"]) == case["outputs"][0]["data"]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.3"])
def test_batch_of_golden_cases_is_as_right_as_in_training(
    url: Callable[[str], str], version: str
) -> None:
    cases = golden_cases()
    (tensor,) = cases[0]["inputs"]
    rows = [case["inputs"][0]["data"] for case in cases]

    found = labels(url(version), [{**tensor, "shape": [len(rows), 64], "data": rows}])

    expected = [case["outputs"][0]["data"][0] for case in cases]
    right = sum(label == digit for label, digit in zip(found, expected, strict=True))
    assert right / len(cases) == pytest.approx(accuracy()[version], abs=1 / len(cases))


def test_versions_are_what_their_story_needs() -> None:
    share = accuracy()
    assert share["1.3"] < 0.5 < share["1.0"] < share["1.1"]


def test_version_with_wrong_configuration_is_never_ready(url: Callable[[str], str]) -> None:
    server = url("1.2")

    status, answer = ask(f"{server}/v2/health/ready")
    assert (status, answer["ready"]) == (503, False)
    assert "warm-up failed" in answer["error"]
    assert "Got: 256 Expected: 64" in answer["error"]
    assert ask(f"{server}/v2/models/digits/ready")[0] == 503
    assert ask(server + INFER, smoke_cases()[0])[0] == 503
    assert ask(f"{server}/v2/health/live")[0] == 200


def test_version_with_wrong_labels_is_ready_and_wrong(url: Callable[[str], str]) -> None:
    server = url("1.3")

    assert ask(f"{server}/v2/models/digits/ready") == (200, {"name": "digits", "ready": True})
    for case in smoke_cases():
        assert labels(server, case["inputs"]) != case["outputs"][0]["data"]


def tensor(**changes: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64, **changes}
    return {"inputs": [{key: value for key, value in image.items() if value is not None}]}


REFUSED = {
    "not JSON": (b"{", "not JSON"),
    "nested beyond reason": (b"[" * 100_000, "not JSON"),
    "not an object": ([], "a JSON object"),
    "no inputs": ({}, "inputs must be a list"),
    "unknown input": (tensor(name="picture"), "one of image"),
    "nameless input": (tensor(name=None), "one of image"),
    "same input twice": ({"inputs": tensor()["inputs"] * 2}, "image comes twice"),
    "other datatype": (tensor(datatype="INT64"), "datatype must be FP32"),
    "other width": (tensor(shape=[1, 63], data=[0] * 63), "shape must be [-1, 64]"),
    "other rank": (tensor(shape=[64]), "shape must be [-1, 64]"),
    "empty batch": (tensor(shape=[0, 64], data=[]), "shape must be [-1, 64]"),
    "boolean in shape": (tensor(shape=[True, 64]), "a list of integers"),
    "no data": (tensor(data=None), "data must be a list"),
    "too little data": (tensor(data=[0] * 63), "wants 64 values, data has 63"),
    "uneven data": (tensor(data=[[0] * 32, [0] * 31]), "nested evenly"),
    "text": (tensor(data=["0"] * 64), "FP32 values"),
    "null": (tensor(data=[None] * 64), "FP32 values"),
    "booleans": (tensor(data=[True] * 64), "FP32 values"),
    "not a number": (tensor(data=[float("nan")] * 64), "FP32 cannot hold"),
    "too large a number": (tensor(data=[1e300] * 64), "FP32 cannot hold"),
    "unknown output": ({**tensor(), "outputs": [{"name": "digit"}]}, "one of label"),
    "id is a number": ({**tensor(), "id": 7}, "id must be a string"),
}


@pytest.mark.parametrize(("body", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_request_is_refused_with_a_reason(
    url: Callable[[str], str], body: object, says: str
) -> None:
    status, answer = ask(url("1.1") + INFER, body)
    assert status == 400
    assert says in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/letters", None, 404),
        ("/v2/models/digits/versions/0.9/ready", None, 404),
        ("/v2/models/letters/infer", tensor(), 404),
        ("/nowhere", None, 404),
        (INFER, None, 405),
        (INFER, b" " * (8 * 2**20 + 1), 413),
    ],
)
def test_other_mistakes_have_their_status(
    url: Callable[[str], str], path: str, body: object, status: int
) -> None:
    found, answer = ask(url("1.1") + path, body)
    assert found == status
    assert answer["error"]


def test_answer_names_request_model_and_only_the_wanted_outputs(url: Callable[[str], str]) -> None:
    request = {**tensor(), "id": "a-7"}
    _, answer = ask(url("1.1") + INFER, request)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a-7", "digits", "1.1")
    assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]
    assert answer["outputs"][1]["shape"] == [1, 10]
    assert sum(answer["outputs"][1]["data"]) == pytest.approx(1, abs=1e-4)

    _, answer = ask(url("1.1") + INFER, {**request, "outputs": [{"name": "label"}]})
    assert [output["name"] for output in answer["outputs"]] == ["label"]


def test_metrics_tell_answers_from_refusals(url: Callable[[str], str]) -> None:
    server = url("1.0")
    before = counters(server)
    ask(server + INFER, tensor())
    ask(server + INFER, tensor())
    ask(server + INFER, {})
    after = counters(server)

    prefix = "model_infer_request_"
    grown = {name: after[name] - before[name] for name in after if name.startswith(prefix)}
    assert grown[f"{prefix}success_total"] == grown[f"{prefix}duration_count"] == 2
    assert grown[f"{prefix}rejected_total"] == 1
    assert grown[f"{prefix}failure_total"] == 0
    assert after["model_ready"] == 1


def test_terminate_signal_ends_the_server_by_itself(start: Callable[[str], Container]) -> None:
    container = start("1.0")
    settled(address(container))
    container.kill("SIGTERM")
    assert container.wait(timeout=GRACE)["StatusCode"] == 0


def test_image_says_what_it_is_and_runs_without_rights(start: Callable[[str], Container]) -> None:
    container = start("1.1")
    assert container.labels["org.opencontainers.image.title"] == "digits"
    assert container.labels["org.opencontainers.image.version"] == "1.1"
    assert container.attrs["Config"]["User"] == "65532:65532"
    assert "ORT_DISABLE_TELEMETRY=1" in container.attrs["Config"]["Env"]


def test_update_moves_only_the_model(images: dict[str, OciImage]) -> None:
    stacks = [manifest(images[version])["layers"] for version in VERSIONS]
    for *below, top in stacks:
        assert below == stacks[0][:-1]
        assert top["size"] < 64 * 1024


def manifest(image: OciImage) -> dict[str, Any]:
    layout = Path(image.reference.removeprefix("oci:").rpartition(":")[0])
    return json.loads(
        (layout / "blobs" / "sha256" / image.digest.removeprefix("sha256:")).read_text()
    )


def test_another_build_gives_the_same_digests(
    images: dict[str, OciImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = cache.folder()
    monkeypatch.setenv("MUSTER_CACHE_DIR", str(tmp_path))
    # The distribution's packages may have moved on since; all that is pinned is made again.
    for root in kept.glob("root-????????????????"):
        (cache.folder() / root.name).symlink_to(root)

    again = build_images()

    assert {version: image.digest for version, image in again.items()} == {
        version: image.digest for version, image in images.items()
    }
    assert again["1.0"].reference != images["1.0"].reference


@pytest.fixture
def fleet_of_one(make_fleet: Callable[[str, str], EmulatedFleet]) -> Iterator[EmulatedFleet]:
    fleet = make_fleet("digits", FLEET)
    fleet.up()
    yield fleet
    fleet.down()


def test_publish_pushes_and_writes_valid_releases(
    images: dict[str, OciImage], fleet_of_one: EmulatedFleet, tmp_path: Path
) -> None:
    fleet = fleet_of_one
    paths = publish(fleet.registry_address, fleet.registry_ca, tmp_path / "releases")

    assert [path.name for path in paths.values()] == [f"digits-{v}.yml" for v in VERSIONS]
    for version, path in paths.items():
        release = load_document(path, Release)
        assert (release.model, release.version) == ("digits", version)
        variants = release.variants
        assert set(variants) == {"hw_jetson_orin", "hw_raspberry_pi", "hw_coral", "hw_x86_gpu"}
        assert {v.image for v in variants.values()} == {f"models/digits@{images[version].digest}"}
    texts = {path: path.read_text() for path in paths.values()}
    publish(fleet.registry_address, fleet.registry_ca, tmp_path / "releases")
    assert {path: path.read_text() for path in paths.values()} == texts

    folder = "/etc/docker/certs.d/registry:5000"
    authority = fleet.registry_ca.read_text()
    image = f"registry:5000/models/digits@{images['1.1'].digest}"
    for command in (
        ["sh", "-c", f"mkdir -p {folder} && echo '{authority}' > {folder}/ca.crt"],
        ["systemctl", "start", "docker"],
        ["docker", "pull", "--quiet", image],
    ):
        status, output = fleet.exec("pi-1", command)
        assert status == 0, output
