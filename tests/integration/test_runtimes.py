"""The same rollouts on Docker, Podman and containerd, one device of each."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_driver import Site
from steady_load import SteadyLoad

from examples.digits import answering_versions, publish
from muster.documents import load_document
from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory
from muster.release import Release

RUNTIMES = ("docker", "podman", "containerd")
DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: runtimes
sites: {workshop: {}}
devices:
"""
RELAY_PORT = 9000
BLUE_GREEN = """
apiVersion: muster/v1
kind: Strategy
waves: [{size: rest}]
min_healthy_time: 2s
healthy_deadline: 60s
probe_interval: 1s
command_margin: 15s
drain_deadline: 10s
switch: blue_green
"""
LISTED = {
    "docker": "docker images --quiet --no-trunc | sort -u",
    "podman": "podman images --quiet --no-trunc | sort -u",
    "containerd": "ctr --namespace muster images list -q",
}
EVERYBODY = "[{size: rest}]"


def document() -> str:
    kind = "site: workshop, hardware: coral"
    lines = [
        f"  {name}: {{{kind}, variables: {{muster_device_runtime: {name}}}}}\n" for name in RUNTIMES
    ]
    return DOCUMENT + "".join(lines)


@pytest.fixture(scope="module")
def site(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """Three devices that serve 1.0, and Podman a container of its own beside it."""
    fleet = make_fleet("runtimes", document())
    fleet.up()
    folder = tmp_path_factory.mktemp("runtimes")
    site = Site(fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder / "r"))
    release = yaml.safe_load(site.releases["1.1"].read_text(encoding="utf-8"))
    image = f"registry:5000/{release['variants']['hw_coral']['image']}"
    relay = {"image": image, "ports": [f"{RELAY_PORT}:8080"], "environment": {"WHAT": "relay"}}
    with_variables(site, podman_containers={"relay": relay})
    site.rollout("1.0", waves=EVERYBODY)
    return site


def with_variables(site: Site, **variables: Any) -> None:
    """Provision with further variables."""
    path = site.fleet.inventory_dir / "group_vars" / "all.yml"
    path.parent.mkdir(exist_ok=True)
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {"muster_accelerator": "none", **known, **variables}
    path.write_text(yaml.safe_dump(known), encoding="utf-8")
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr


def on_device(site: Site, device: str, command: str) -> str:
    code, output = site.fleet.exec(device, ["sh", "-c", command])
    assert code == 0, output
    return output


def addresses(site: Site) -> dict[str, str]:
    return {device.name: str(device.address) for device in load_inventory(site.inventory).devices}


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 180) -> None:
    """Poll until something holds; the limit is far beyond what it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)


def read_until(process: subprocess.Popen[str], count: int, **wanted: object) -> None:
    """Read events of a rollout until so many have these fields."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        count -= all(event.get(key) == value for key, value in wanted.items())
        if count == 0:
            return
    raise AssertionError(f"no event {wanted}; {process.stderr and process.stderr.read()}")


def states(result: dict[str, Any]) -> Counter[str]:
    return Counter(device["state"] for device in result["devices"])


def test_the_roles_change_nothing_the_second_time(site: Site) -> None:
    done = site.muster("provision", "--expect-no-change")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_container_gets_what_the_release_says_and_no_more(site: Site, runtime: str) -> None:
    told = on_device(site, runtime, "echo '{}' | muster-device inspect")
    assert json.loads(told.splitlines()[-1])["runtime"]["name"] == runtime
    process = on_device(
        site,
        runtime,
        "for p in $(pgrep -f ^/usr/bin/python3./app/serve.py); do"
        " grep -qz WHAT=relay /proc/$p/environ || echo $p; done",
    ).split()[-1]
    at = f"/proc/{process}"
    on_device(site, runtime, f"test -c {at}/root/dev/apex_0")
    on_device(site, runtime, f"test -f {at}/root/run/muster/digits.lock")
    status = on_device(site, runtime, f"cat {at}/status")
    assert "NoNewPrivs:\t1" in status
    variant = yaml.safe_load(site.releases["1.0"].read_text(encoding="utf-8"))["variants"][
        "hw_coral"
    ]
    environment = on_device(site, runtime, f"tr '\\0' '\\n' <{at}/environ").splitlines()
    assert {f"{key}={value}" for key, value in variant["env"].items()} <= set(environment)
    limit = on_device(
        site,
        runtime,
        f"group=$(sed -n 's/^[0-9]*:memory://p' {at}/cgroup);"
        ' if [ -n "$group" ]; then cat /sys/fs/cgroup/memory$group/memory.limit_in_bytes;'
        f" else cat /sys/fs/cgroup$(sed -n 's/^0:://p' {at}/cgroup)/memory.max; fi",
    )
    assert int(limit) == 256 << 20


def test_a_release_follows_another(site: Site) -> None:
    site.everywhere("1.0")
    result = site.rollout("1.1")[-1]
    assert states(result) == {"committed": 3}
    assert site.answering() == dict.fromkeys(RUNTIMES, "1.1")
    assert max(device["commands"] for device in result["devices"]) <= 8


def test_a_bad_release_goes_back_by_its_gate(site: Site) -> None:
    site.everywhere("1.1")
    result = site.rollout("1.3", waves=EVERYBODY, expect=3)[-1]
    assert states(result) == {"rolled_back": 3}
    assert site.answering() == dict.fromkeys(RUNTIMES, "1.1")
    for runtime in RUNTIMES:
        state = site.device_state(runtime)
        assert (state["phase"], state["guard"]["armed"]) == ("idle", False)


def test_without_its_controller_every_device_goes_back_by_itself(site: Site) -> None:
    site.everywhere("1.0")
    strategy = site.strategy(EVERYBODY, healthy_deadline="30s", confirm_timeout="70s")
    strategy.write_text(
        strategy.read_text().replace("min_healthy_time: 3s", "min_healthy_time: 20s")
    )
    process = site.start("rollout", site.releases["1.1"], "-s", strategy, "--json")
    read_until(process, 3, event="device", to="soaking")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(site.device_state(runtime)["guard"]["armed"] for runtime in RUNTIMES)
    for runtime in RUNTIMES:
        wait_for("the guard", lambda name=runtime: site.device_state(name)["phase"] == "idle")
        assert site.device_state(runtime)["last_outcome"]["outcome"] == "reverted"
    assert site.answering() == dict.fromkeys(RUNTIMES, "1.0")
    assert site.muster("resume", "--json").returncode == 3


def test_models_return_after_a_reboot(site: Site) -> None:
    before = site.answering()
    for runtime in RUNTIMES:
        site.fleet.fault("reboot", runtime)
    wait_for("the models", lambda: site.answering() == before)
    for runtime in RUNTIMES:
        assert on_device(site, runtime, "systemctl --failed --no-legend").strip() == ""


def test_models_return_after_a_crash(site: Site) -> None:
    before = site.answering()
    for runtime in RUNTIMES:
        on_device(site, runtime, "pkill -KILL -f ^/usr/bin/python3./app/serve.py")
    wait_for("the models", lambda: site.answering() == before)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_unit_stops_the_container(site: Site, runtime: str) -> None:
    before = site.answering()[runtime]
    on_device(site, runtime, "systemctl stop muster-model@digits.service")
    assert site.answering()[runtime].startswith("no answer")
    on_device(site, runtime, "systemctl start muster-model@digits.service")
    wait_for("the model", lambda: site.answering()[runtime] == before)


def test_a_registry_that_is_down_is_not_the_fault_of_the_release(site: Site) -> None:
    release = load_document(site.releases["1.2"], Release)
    request = {
        "model": "digits",
        "release_id": release.id,
        "digest": release.digest,
        "document": release.canonical,
        "variant": "hw_coral",
        "pull_deadline": 60,
    }
    site.fleet.fault("registry-down")
    try:
        for runtime in RUNTIMES:
            given = shlex.quote(json.dumps(request))
            said = on_device(site, runtime, f"echo {given} | muster-device stage || true")
            error = json.loads(said.splitlines()[-1])["error"]
            assert error["code"] == "registry_unreachable", error
    finally:
        site.fleet.fault("heal", "registry")
    assert release.id not in site.device_state("containerd")["releases"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_pruned_leaves_nothing(site: Site, runtime: str) -> None:
    pruned = on_device(
        site, runtime, 'echo \'{"model": "digits", "retain": 0}\' | muster-device prune'
    )
    assert json.loads(pruned.splitlines()[-1])["ok"]
    kept = len(site.device_state(runtime)["releases"])
    assert kept <= 2
    images = len(on_device(site, runtime, LISTED[runtime]).split())
    assert images == kept, "and that of the container beside the model is one of them"


def test_a_container_beside_the_models(site: Site) -> None:
    at = {"podman": addresses(site)["podman"]}
    wait_for("the container", lambda: answering_versions(at, RELAY_PORT) == {"podman": "1.1"})
    assert on_device(site, "podman", "systemctl is-enabled relay.service").strip() == "enabled"
    on_device(site, "podman", "systemctl stop relay.service")
    assert answering_versions(at, RELAY_PORT)["podman"].startswith("no answer")


def test_a_device_that_serves_does_not_change_its_runtime(site: Site, tmp_path: Path) -> None:
    text = site.inventory.read_text(encoding="utf-8")
    changed = tmp_path / "hosts.yml"
    changed.write_text(
        text.replace("muster_device_runtime: docker", "muster_device_runtime: podman"), "utf-8"
    )
    done = site.muster("provision", "-i", changed, "--limit", "docker")
    assert done.returncode == 1
    assert "reset the device first" in done.stdout + done.stderr
    assert site.answering()["docker"].startswith("1.")


def test_no_request_is_lost_behind_the_proxy(site: Site) -> None:
    with_variables(site, muster_device_proxy=True)
    site.everywhere("1.0")
    strategy = site.folder / "blue_green.yml"
    strategy.write_text(BLUE_GREEN, encoding="utf-8")
    for version in ("1.1", "1.0"):  # the first moves what runs behind the proxy
        places = addresses(site)
        loads = {name: SteadyLoad(places[name], rate=20.0) for name in RUNTIMES}
        with ExitStack() as stack:
            for load in loads.values():
                stack.enter_context(load)
            done = site.muster("rollout", site.releases[version], "-s", strategy, "--json")
        assert done.returncode == 0, done.stderr
        assert site.answering() == dict.fromkeys(RUNTIMES, version)
    for name, load in loads.items():
        print(f"{name}: {load.requests}")
        assert load.requests.lost.total() == 0, name
        assert set(load.requests.versions) == {"1.1", "1.0"}, name
