"""Rollouts whose gates a site's real Prometheus answers, on emulated devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_driver import Site

from examples.digits import publish
from muster.emulator import EmulatedFleet

DEVICE = "gate-cam"
DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: gates
sites: {workshop: {}}
devices:
  gate-server:
    site: workshop
    hardware: cpu
    variables:
      prometheus_enabled: true
      prometheus_listen: 0.0.0.0
      prometheus_interval: 1s
  gate-cam:
    site: workshop
    hardware: coral
    variables:
      monitoring_enabled: true
      monitoring_interval: 1s
      monitoring_models: [{model: digits, port: 8000}]
      muster_prometheus: "http://{{ hostvars['gate-server']['ansible_host'] }}:9090"
"""
SCRAPED = 'up{job="models", device="$device"}'


@pytest.fixture(scope="module")
def gated(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    fleet = make_fleet("gates", DOCUMENT)
    fleet.up()
    folder = tmp_path_factory.mktemp("gates")
    releases = publish(fleet.registry_address, fleet.registry_ca, folder / "releases")
    site = Site(fleet, folder, releases)
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def with_gate(site: Site, version: str, name: str, query: str, **limits: float) -> Path:
    """Write a release with one more gate."""
    document = yaml.safe_load(site.releases[version].read_text(encoding="utf-8"))
    gate = {"name": name, "type": "metrics", "prometheus": {"query": query}, **limits}
    document["gates"].append(gate)
    path = site.folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def rollout(
    site: Site, release: Path, expect: int, *arguments: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Roll a release onto the device; returns its record and what the new gate said."""
    events = Site(site.fleet, site.folder, {"this": release}).rollout(
        "this", "--limit", DEVICE, *arguments, expect=expect, waves="[{size: rest}]"
    )
    told = [event for event in events if event.get("gate") == release.stem]
    return events[-1], told


def test_a_device_keeps_a_release_that_prometheus_finds_good(gated: Site) -> None:
    release = with_gate(gated, "1.0", "scraped", SCRAPED, min_value=1)
    _, told = rollout(gated, release, 0)
    assert [gate["verdict"] for gate in told][-1] == "passed"
    assert gated.answering()[DEVICE] == "1.0"


def test_a_device_goes_back_from_a_release_that_prometheus_finds_bad(gated: Site) -> None:
    release = with_gate(gated, "1.1", "too-much", SCRAPED, max_value=0)
    _, told = rollout(gated, release, 3)
    assert [gate["verdict"] for gate in told] == ["failed"]
    assert told[0]["figures"]["value"] == 1
    assert gated.answering()[DEVICE] == "1.0"


def test_what_prometheus_does_not_know_is_no_pass(gated: Site) -> None:
    release = with_gate(gated, "1.1", "unknown", 'no_such_metric{device="$device"}', max_value=1)
    result, told = rollout(gated, release, 5)
    assert {gate["verdict"] for gate in told} == {"inconclusive"}
    assert gated.answering()[DEVICE] == "1.0"
    done = gated.muster("abort", str(result["rollout"]))
    assert done.returncode in (0, 3), done.stderr
