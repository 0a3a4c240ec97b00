"""A site with a registry of its own: the emulator's registry is its upstream, behind the uplink.

One story on one fleet, each test going on from where the one before has left it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_driver import Site

from examples.digits import publish
from muster.emulator import EmulatedFleet

HOST, DEVICE = "pier-registry", "pier-pi"
PKI = '"{{ inventory_dir }}/.state/pki"'
FLEET = f"""\
apiVersion: muster/v1
kind: Fleet
name: siteregistry
sites: {{pier: {{}}}}
devices:
  {HOST}:
    site: pier
    hardware: raspberry_pi
    variables:
      muster_registry: {HOST}:5000
      muster_registry_pki: {PKI}
      muster_upstream_registry: registry:5000
      registry_enabled: true
      registry_upstream_ca: "{{{{ inventory_dir }}}}/.state/ca.pem"
      registry_min_free: 100MiB
      registry_stall: 15s
  {DEVICE}:
    site: pier
    hardware: raspberry_pi
    variables: {{muster_registry: "{HOST}:5000", muster_registry_pki: {PKI}}}
"""
CERTIFICATES = f"/etc/docker/certs.d/{HOST}:5000"
BLOBS = "/var/lib/muster-registry/docker/registry/v2/blobs/sha256"
# Slow enough that the smaller of two large layers is here well before the other.
SLOW = """\
table inet slow {
    chain input {
        type filter hook input priority 0;
        tcp sport 5000 ip saddr != 127.0.0.1 limit rate over 4 mbytes/second drop
    }
}
"""
CUT = "nft add rule inet slow input tcp sport 5000 ip saddr != 127.0.0.1 drop"


@pytest.fixture(scope="module")
def pier(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Bring up the site, and provision it."""
    fleet = make_fleet("siteregistry", FLEET)
    fleet.up()
    folder = tmp_path_factory.mktemp("pier")
    site = Site(
        fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder / "releases")
    )
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    yield site
    fleet.down()


@pytest.fixture
def no_uplink(pier: Site) -> Iterator[None]:
    """Cut the site off from its upstream registry."""
    pier.fleet.fault("registry-down")
    yield
    pier.fleet.fault("heal", "registry")


def asked(site: Site, *arguments: str | Path, expect: int = 0) -> dict[str, Any]:
    """Run a command that prints a JSON document."""
    done = site.muster(*arguments, "--json")
    assert done.returncode == expect, done.stderr
    return dict(json.loads(done.stdout))


def prefetch(site: Site, version: str, *options: str, expect: int = 0) -> dict[str, Any]:
    document = asked(site, "prefetch", site.releases[version], *options, expect=expect)
    (registry,) = document["registries"]
    return dict(registry)


def on(site: Site, device: str, script: str) -> str:
    """Run a shell script as root on a device; it must succeed."""
    code, output = site.fleet.exec(device, ["sh", "-c", script])
    assert code == 0, output
    return output


def image(site: Site, version: str) -> str:
    document = yaml.safe_load(site.releases[version].read_text())
    return str(document["variants"]["hw_raspberry_pi"]["image"])


def stored_bytes(site: Site) -> int:
    """Bytes of every blob that the site's registry has whole."""
    return int(on(site, HOST, f"cat $(find {BLOBS} -name data) </dev/null | wc -c"))


def held(site: Site) -> set[str]:
    """The images that the site's registry says it holds."""
    found = asked(site, "registry", "show")["registries"][HOST]
    return set(found["store"]["images"])


def pulled(site: Site, version: str) -> tuple[int, str]:
    """Have a device pull an image, and forget it again."""
    name = f"{HOST}:5000/{image(site, version)}"
    return site.fleet.exec(DEVICE, ["sh", "-c", f"echo; docker pull --quiet {name} 2>&1"])


def test_a_second_run_changes_nothing(pier: Site) -> None:
    assert pier.muster("provision", "--expect-no-change").returncode == 0


def test_a_copy_that_is_cut_off_goes_on_where_it_was(pier: Site) -> None:
    on(pier, HOST, f"nft -f - <<'END'\n{SLOW}\nEND")
    process = pier.start("prefetch", pier.releases["1.0"], "--site", "pier", "--json")
    # Cut by the device itself: layers come side by side, so the next may be there soon after.
    large = f"find {BLOBS} -name data -size +1000k 2>/dev/null | grep -q ."
    on(pier, HOST, f"timeout 120 sh -c 'until {large}; do sleep 0.05; done'; {CUT}")
    pier.fleet.fault("registry-down")
    try:
        out, err = process.communicate(timeout=150)
        assert process.returncode == 1, out + err
        (cut,) = json.loads(out)["registries"]
        assert cut["error"]
        assert held(pier) == set()
        there = stored_bytes(pier)
        assert there > 1e6, "the layer that had come is not kept"
    finally:
        pier.fleet.fault("heal", "registry")
        on(pier, HOST, "nft delete table inet slow")
    again = prefetch(pier, "1.0", "--site", "pier")
    assert again["copied"] == [image(pier, "1.0")]
    came = stored_bytes(pier) - there
    assert again["copied_bytes"] <= came + 1e5, "a layer that was there came again"
    assert prefetch(pier, "1.0")["copied"] == []


def test_only_what_differs_is_copied(pier: Site) -> None:
    assert 0 < prefetch(pier, "1.1")["copied_bytes"] < 1e6
    assert held(pier) == {image(pier, "1.0"), image(pier, "1.1")}


def test_nobody_gets_in_without_a_certificate_and_nobody_can_push(pier: Site) -> None:
    on(pier, DEVICE, f"rm -rf /run/c && cp -r {CERTIFICATES} /run/c")
    curl = f"curl -sS -m 20 --cacert /run/c/ca.crt https://{HOST}:5000/v2/_catalog"
    assert pier.fleet.exec(DEVICE, ["sh", "-c", curl])[0] != 0
    known = f"{curl} --cert /run/c/client.cert --key /run/c/client.key"
    assert json.loads(on(pier, DEVICE, known)) == {"repositories": ["models/digits"]}
    push = f"{known} -o /dev/null -w '%{{http_code}}' -X POST".replace(
        "_catalog", "models/digits/blobs/uploads/"
    )
    assert on(pier, DEVICE, push) == "405"
    name, _, digest = image(pier, "1.0").partition("@")
    remove = push.replace("POST", "DELETE").replace(
        "models/digits/blobs/uploads/", f"{name}/manifests/{digest}"
    )
    assert on(pier, DEVICE, remove) == "405"


def test_a_rollout_needs_no_uplink(pier: Site, no_uplink: None) -> None:
    events = pier.rollout("1.0", waves="[{size: rest}]")
    said = [event["text"] for event in events if event["event"] == "decision"]
    assert f"{HOST} (site_pier) had the image already" in said
    assert set(pier.answering().values()) == {"1.0"}


def test_it_serves_after_a_restart_without_uplink(pier: Site, no_uplink: None) -> None:
    pier.fleet.fault("reboot", HOST)
    pier.rollout("1.1", waves="[{size: rest}]")
    assert set(pier.answering().values()) == {"1.1"}


def test_a_release_that_can_not_be_fetched_fails_nobody(pier: Site, no_uplink: None) -> None:
    failed = prefetch(pier, "1.3", expect=1)
    assert "registry:5000" in failed["error"]
    # Nobody could take it, so the rollout stops; but no device is to blame.
    events = pier.rollout("1.3", waves="[{size: rest}]", expect=3)
    assert events[-1]["reason"] == "stopped before any device had switched"
    devices = events[-1]["devices"]
    assert {device["state"] for device in devices} == {"deferred"}
    assert all("could not be filled" in device["reason"] for device in devices)
    assert not any(event.get("failed") for event in events)
    said = " ".join(event["text"] for event in events if event["event"] == "decision")
    assert "could not be filled" in said
    assert set(pier.answering().values()) == {"1.1"}


def test_damage_on_its_disk_is_found_and_mended(pier: Site) -> None:
    digest = image(pier, "1.1").rpartition(":")[2]
    layer = on(
        pier, HOST, f"grep -o 'sha256:[0-9a-f]*' {BLOBS}/{digest[:2]}/{digest}/data | tail -1"
    ).strip()
    name = layer.rpartition(":")[2]
    spoil = f"dd if=/dev/zero of={BLOBS}/{name[:2]}/{name}/data bs=1 count=8 conv=notrunc"
    on(pier, HOST, f"{spoil} status=none")
    assert prefetch(pier, "1.1")["copied"] == []
    assert prefetch(pier, "1.1", "--verify")["copied"] == [image(pier, "1.1")]
    assert prefetch(pier, "1.1", "--verify")["copied"] == []


def test_clearing_keeps_what_devices_may_go_back_to(pier: Site) -> None:
    prefetch(pier, "1.2")
    needed = {image(pier, "1.0"), image(pier, "1.1")}
    assert held(pier) == {*needed, image(pier, "1.2")}
    assert asked(pier, "registry", "gc")["registries"][0]["removed"] == []  # it is new
    dry = asked(pier, "registry", "gc", "--keep", "0s", "--dry")["registries"][0]
    assert dry["removed"] == [image(pier, "1.2")]
    assert len(held(pier)) == 3

    pier.fleet.fault("cut", DEVICE)
    try:  # out of reach, but the journal knows what it was given
        done = asked(pier, "registry", "gc", "--site", "pier", "--keep", "0s")["registries"][0]
    finally:
        pier.fleet.fault("heal", DEVICE)
    assert done["removed"] == [image(pier, "1.2")]
    assert done["freed"] == dry["freed"] > 0
    assert held(pier) == needed
    assert prefetch(pier, "1.0", "--verify")["copied"] == []
    assert prefetch(pier, "1.1", "--verify")["copied"] == []
    code, said = pulled(pier, "1.2")
    assert code != 0
    assert "unknown" in said


def test_without_the_journal_nothing_is_removed_from_under_a_device_that_is_away(
    pier: Site, tmp_path: Path
) -> None:
    other = f"sqlite:///{tmp_path}/other.sqlite"
    pier.fleet.fault("cut", DEVICE)
    try:
        done = pier.muster("registry", "gc", "--keep", "0s", "--journal", other)
    finally:
        pier.fleet.fault("heal", DEVICE)
    assert done.returncode == 1
    assert DEVICE in done.stderr
    assert "--force" in done.stderr


def test_a_clearing_that_lost_its_power_is_undone(pier: Site) -> None:
    digest = image(pier, "1.0").rpartition(":")[2]
    trash = "/var/lib/muster-registry/muster/trash"
    part = f"blobs/sha256/{digest[:2]}"
    aside = (
        f"mkdir -p {trash}/{part} && chown -R docker-registry: {trash}"
        f" && mv {BLOBS}/{digest[:2]}/{digest} {trash}/{part}/"
    )
    on(pier, HOST, aside)
    pier.fleet.fault("kill", HOST)
    pier.fleet.fault("heal", HOST)
    assert on(pier, HOST, f"ls {trash} 2>&1 || true").endswith("No such file or directory\n")
    code, said = pulled(pier, "1.0")
    assert code == 0, said
