"""What a site sees of its devices, from outside with testinfra; alerts really fire."""

# ruff: noqa: S101
from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import testinfra

from muster.paths import COLLECTION_ROOT

SERVER, DEVICE = "ansible://mill-server", "ansible://mill-cam"
RULES = Path(__file__).with_name("alerts.test.yml")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Any:
    inventory = request.config.getoption("--ansible-inventory")
    return testinfra.get_host(SERVER, ansible_inventory=inventory)


@pytest.fixture(scope="module")
def cam(request: pytest.FixtureRequest) -> Any:
    inventory = request.config.getoption("--ansible-inventory")
    return testinfra.get_host(DEVICE, ansible_inventory=inventory)


def asked(server: Any, path: str, port: int = 9090) -> Any:
    return json.loads(server.check_output("curl -fsS 'http://127.0.0.1:%s%s'", str(port), path))


def values(server: Any, query: str) -> dict[str, float]:
    """Value of a query by device."""
    answer = asked(server, f"/api/v1/query?query={quote(query)}")
    return {
        each["metric"].get("device", ""): float(each["value"][1])
        for each in answer["data"]["result"]
    }


def eventually(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
    return found


def test_the_devices_of_the_site_are_scraped_and_no_others(server: Any) -> None:
    assert eventually(lambda: values(server, 'up{job="devices"} == 1')).keys() <= {
        "mill-server",
        "mill-cam",
    }
    eventually(lambda: len(values(server, 'up{job="devices"} == 1')) == 2)
    assert values(server, 'up{device="annex-cam"}') == {}
    query = quote('up{device="mill-cam",job="models"}')
    (model,) = asked(server, f"/api/v1/query?query={query}")["data"]["result"]
    assert model["metric"]["site"] == "site_mill"
    assert model["metric"]["hardware"] == "hw_hailo"
    assert model["metric"]["model"] == "digits"


def test_devices_tell_their_own_facts(server: Any) -> None:
    eventually(lambda: len(values(server, "muster_device_info")) == 2)
    eventually(lambda: values(server, "muster_accelerators").get("mill-cam") == 1)
    assert values(server, 'muster_accelerator_info{kind="hailo",driver="4.20.0"}') == {
        "mill-cam": 1.0
    }
    days = "(muster_certificate_not_after_timestamp_seconds - time()) / 86400"
    left = values(
        server,
        days + ' and on (path) label_replace(vector(1), "path",'
        ' "/etc/prometheus/tls/node-exporter.crt", "", "")',
    )
    assert len(left) == 2
    assert all(28 < value <= 30 for value in left.values())


def test_the_facts_are_new(server: Any) -> None:
    age = 'time() - node_textfile_mtime_seconds{file=~".*muster[.]prom"}'
    eventually(lambda: len(found := values(server, age)) == 2 and max(found.values()) < 15)


def test_nobody_reads_metrics_without_the_password(cam: Any) -> None:
    assert cam.run("curl -sk https://127.0.0.1:9100/metrics").stdout.strip() == "Unauthorized"
    ok = "curl -sk -u prometheus:sees-everything https://127.0.0.1:9100/metrics"
    assert "node_memory_MemTotal_bytes" in cam.check_output(ok)


def test_passwords_are_for_prometheus_alone(server: Any) -> None:
    for name in ("scrape-password", "desk"):
        file = server.file(f"/etc/prometheus/secrets/{name}")
        assert (file.user, oct(file.mode)) == ("prometheus", "0o600")
    with server.sudo():
        assert server.run("grep -rl sees-everything /etc/prometheus --exclude-dir=secrets").rc == 1
        journal = "journalctl --no-pager | grep -v 'sudo[[]'"  # which tells of this test itself
        assert server.run(f"{journal} | grep sees-everything").stdout == ""


def test_the_rules_do_what_they_say(server: Any) -> None:
    # the limit of this scenario is shorter than the default that the tests are written for
    rules = server.file("/etc/prometheus/rules/muster.yml").content_string
    rules = rules.replace("for: 6s", "for: 5m").replace("for 6s", "for 5m")
    folder = server.check_output("mktemp -d")
    for name, text in (("rules.yml", rules), (RULES.name, RULES.read_text(encoding="utf-8"))):
        server.check_output("printf %%s %s > %s", text, f"{folder}/{name}")
    done = server.run("promtool test rules %s", f"{folder}/{RULES.name}")
    assert done.rc == 0, done.stdout + done.stderr


def test_every_rule_is_healthy(server: Any) -> None:
    groups = asked(server, "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 10
    eventually(
        lambda: all(
            rule["health"] == "ok"
            for group in asked(server, "/api/v1/rules")["data"]["groups"]
            for rule in group["rules"]
        )
    )


def test_a_silent_device_is_told_and_a_device_that_came_back_no_more(server: Any, cam: Any) -> None:
    def told() -> list[str]:
        alerts = asked(server, "/api/v2/alerts?active=true", 9093)
        return [a["labels"]["device"] for a in alerts if a["labels"]["alertname"] == "DeviceSilent"]

    with cam.sudo():
        cam.check_output("systemctl stop prometheus-node-exporter")
    try:
        eventually(lambda: told() == ["mill-cam"])
    finally:
        with cam.sudo():
            cam.check_output("systemctl start prometheus-node-exporter")
    eventually(lambda: values(server, 'ALERTS{alertname="DeviceSilent"}') == {})


def test_the_dashboard_asks_for_metrics_that_are_there(server: Any) -> None:
    dashboard = json.loads((COLLECTION_ROOT / "files/dashboards/muster.json").read_text("utf-8"))
    panels = [panel for panel in dashboard["panels"] if "targets" in panel]
    for expression in (target["expr"] for panel in panels for target in panel["targets"]):
        query = expression.replace("$__rate_interval", "1m")
        for variable in ("$site", "$device", "$model"):
            query = query.replace(variable, ".*")
        answer = asked(server, f"/api/v1/query?query={quote(query)}")
        assert answer["status"] == "success", expression


def test_nothing_is_left_of_former_settings(server: Any) -> None:
    with server.sudo():
        assert server.check_output("ls /etc/prometheus/rules") == "muster.yml"
        found = server.check_output("ls /etc/prometheus/secrets").split()
        assert found == ["desk", "scrape-password"]
        assert server.check_output("find /etc/prometheus -name '.*.muster-*'") == ""


def test_nothing_failed(server: Any, cam: Any) -> None:
    for host in (server, cam):
        assert host.check_output("systemctl --failed --no-legend") == ""
