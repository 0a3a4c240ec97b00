"""What a site's Prometheus is told: targets, rules, receivers, the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from muster.commands.monitoring import targets
from muster.inventory import Device
from muster.monitoring import device_targets, model_targets
from muster.paths import COLLECTION_ROOT
from muster.role_variables import Subject, variable_problems
from roles.monitoring.deploy import exporter_files
from roles.monitoring.variables import Variables as MonitoringVariables
from roles.prometheus.configuration import (
    alertmanager_file,
    configuration_files,
    option_files,
    prometheus_document,
    secret_files,
)
from roles.prometheus.rules import rules_file
from roles.prometheus.variables import Variables

RULE_TESTS = COLLECTION_ROOT / "molecule/monitoring/tests/alerts.test.yml"
HASH = "$2b$05$" + "x" * 53


def device(name: str, site: str | None = "site_a", **variables: Any) -> Device:
    known = {"monitoring_enabled": True, **variables}
    return Device(name, f"10.0.0.{len(name)}", 22, site, "hw_coral", (), known)


def problems(**variables: Any) -> list[str]:
    known = {"prometheus_enabled": True, "monitoring_enabled": True, **variables}
    subject = Subject("n1", (), known, Path("/inv/hosts.yml"))
    start = "/inv/hosts.yml: device n1: "
    found = variable_problems([subject], ["monitoring", "prometheus"])
    return [text.removeprefix(start) for text in found]


# targets


def test_every_monitored_device_is_a_target_with_its_labels() -> None:
    devices = [
        device("camera-2", monitoring_port=9200, monitoring_address="cam2.example"),
        device("cam"),
        device("dark", monitoring_enabled=False),
        device("roaming", site=None, monitoring_address="fd00::5"),
    ]
    assert device_targets(devices) == [
        {
            "targets": ["10.0.0.3:9100"],
            "labels": {"device": "cam", "site": "site_a", "hardware": "hw_coral"},
        },
        {
            "targets": ["cam2.example:9200"],
            "labels": {"device": "camera-2", "site": "site_a", "hardware": "hw_coral"},
        },
        {"targets": ["[fd00::5]:9100"], "labels": {"device": "roaming", "hardware": "hw_coral"}},
    ]


def test_only_the_sites_asked_for_and_a_device_that_is_gone_vanishes() -> None:
    devices = [device("a"), device("bb", site="site_b")]
    assert [each["labels"]["device"] for each in device_targets(devices, ["site_b"])] == ["bb"]
    assert device_targets(devices[:1], ["site_b"]) == []


def test_models_are_scraped_at_their_own_port_and_path() -> None:
    models = [{"model": "digits", "port": 8002, "path": "/metrics"}, {"model": "faces"}]
    first, second = model_targets([device("cam", monitoring_models=models)])
    assert first["targets"] == ["10.0.0.3:8002"]
    assert first["labels"]["model"] == "digits"
    assert first["labels"]["__metrics_path__"] == "/metrics"
    assert second["targets"] == ["10.0.0.3:8000"]


# documents


def test_exporters_are_asked_with_tls_and_a_password_from_a_file() -> None:
    document = prometheus_document(
        Variables(
            prometheus_scrape_tls=True,
            prometheus_scrape_user="prometheus",
            prometheus_scrape_password="secret-word",
        )
    )
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}
    assert jobs["devices"]["scheme"] == "https"
    assert jobs["devices"]["basic_auth"] == {
        "username": "prometheus",
        "password_file": "/etc/prometheus/secrets/scrape-password",
    }
    assert "basic_auth" not in jobs["models"]
    assert "secret-word" not in json.dumps(document)


def test_secrets_are_files_for_prometheus_alone() -> None:
    variables = Variables(
        prometheus_scrape_user="p",
        prometheus_scrape_password="scrape-word",
        prometheus_secrets={"pager": "pager-word"},
    )
    files = {file.path: file for file in secret_files(variables)}
    assert {file.mode for file in files.values()} == {"600"}
    assert files["/etc/prometheus/secrets/pager"].content == "pager-word\n"
    others = [*option_files(variables), *configuration_files(variables)]
    text = "".join(file.content for file in [*others, alertmanager_file(variables)])
    assert "scrape-word" not in text
    assert "pager-word" not in text


def test_the_first_receiver_is_told_unless_the_route_says_otherwise() -> None:
    receivers = [{"name": "desk"}, {"name": "night", "webhook_configs": [{"url": "http://x/"}]}]
    variables = Variables(prometheus_receivers=receivers, prometheus_route={"receiver": "night"})
    document = yaml.safe_load(alertmanager_file(variables).content)
    assert document["route"]["receiver"] == "night"
    assert document["route"]["group_by"] == ["alertname", "site"]
    assert document["receivers"] == receivers
    plain = yaml.safe_load(alertmanager_file(Variables()).content)
    assert plain["receivers"] == [{"name": "nobody"}]


def test_further_rules_get_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("groups: []")
    files = configuration_files(Variables(prometheus_rule_files=[str(tmp_path / "ours.yaml")]))
    assert files[-1].path == "/etc/prometheus/rules/ours.yml"
    assert files[-1].content == "groups: []\n"


def test_the_exporter_asks_for_passwords_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    (tmp_path / "k.pem").write_text("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
    pem = {"certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    variables = MonitoringVariables(
        monitoring_certificate=pem["certificate"],
        monitoring_key=pem["key"],
        monitoring_users={"prometheus": HASH},
    )
    files = {file.path: file for file in exporter_files(variables)}
    web = json.loads(files["/etc/prometheus/node-exporter-web.yml"].content)
    assert web["basic_auth_users"] == {"prometheus": HASH}
    assert files[web["tls_server_config"]["key_file"]].mode == "640"
    plain = {file.path: file.content for file in exporter_files(MonitoringVariables())}
    assert plain["/etc/prometheus/node-exporter-web.yml"] == "{}\n"


# rules and the dashboard


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(rules_file(Variables()))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_limits_come_from_variables() -> None:
    text = rules_file(Variables(prometheus_alert_latency="80ms", prometheus_alert_certificate="3d"))
    assert "muster:request_duration_seconds:p95 > 0.08\n" in text
    assert "/ 86400 < 3\n" in text


def test_every_alert_is_tested(rules: list[dict[str, Any]]) -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
    tested = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in rules if "alert" in rule}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool runs in molecule/monitoring")
def test_the_rules_do_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rules_file(Variables()))
    shutil.copy(RULE_TESTS, tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / RULE_TESTS.name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


WELL_KNOWN = {
    # Prometheus itself and its node exporter
    "up", "ALERTS", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes",
    "node_cpu_seconds_total", "node_filesystem_avail_bytes", "node_filesystem_size_bytes",
    "node_thermal_zone_temp", "node_textfile_mtime_seconds",
    # model servers
    "rest_server_request_duration_seconds_bucket", "ovms_request_time_us_bucket",
    ":tensorflow:serving:request_latency_bucket", "nv_inference_request_success",
    "nv_inference_request_failure", "ovms_requests_success", "ovms_requests_fail",
}  # fmt: skip
WORDS = {
    "abs", "and", "avg", "bool", "by", "count", "histogram_quantile", "increase", "label_replace",
    "le", "max", "min", "on", "or", "rate", "sum", "time", "unless", "vector",
    "site", "hardware", "device", "model",
}  # fmt: skip


def exported() -> set[str]:
    """Names that the device program, the reference model and the recording rules give."""
    program = (COLLECTION_ROOT / "files/muster_device.py").read_text(encoding="utf-8")
    section = program[program.index("def _device_metrics") : program.index("COMMANDS:")]
    found = set(re.findall(r'"(muster_\w+)"', section))
    found |= {f"muster_{name}" for name in re.findall(r'\badd\(\s*"(\w+)"', section)}
    server = (COLLECTION_ROOT / "examples/digits/serve.py").read_text(encoding="utf-8")
    found |= {f"{name}_total" for name in re.findall(r'Counter\("(\w+)"', server)}
    found |= {f"{name}_bucket" for name in re.findall(r'Histogram\(\s*"(\w+)"', server)}
    groups = yaml.safe_load(rules_file(Variables()))["groups"]
    return found | {rule["record"] for g in groups for rule in g["rules"] if "record" in rule}


def named(expression: str) -> set[str]:
    """Names of metrics in an expression of PromQL."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - WORDS


def test_every_metric_of_the_rules_is_there(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        assert named(rule["expr"]) <= exported() | WELL_KNOWN, rule


class TestDashboard:
    """``files/dashboards/muster.json``."""

    @pytest.fixture
    def dashboard(self) -> Any:
        file = COLLECTION_ROOT / "files/dashboards/muster.json"
        return json.loads(file.read_text(encoding="utf-8"))

    def test_every_metric_is_there(self, dashboard: Any) -> None:
        asked = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
        asked += [
            variable["definition"].removeprefix("label_values(").rsplit(",", 1)[0]
            for variable in dashboard["templating"]["list"]
            if variable["type"] == "query"
        ]
        assert len(asked) > 15
        names = set().union(*map(named, asked))
        assert names <= exported() | WELL_KNOWN
        assert names & exported()

    def test_grafana_can_import_it(self, dashboard: Any) -> None:
        assert isinstance(dashboard["schemaVersion"], int)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", dashboard["uid"])
        assert dashboard["title"]
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        cells: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            own = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & own, f"{panel['title']} lies over another panel"
            cells |= own
            for target in panel.get("targets", ()):
                assert target["datasource"]["uid"] == "${datasource}"
        known = {variable["name"] for variable in dashboard["templating"]["list"]}
        text = json.dumps(dashboard["panels"])
        assert set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"} <= known


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"monitoring_users": {"p": HASH}}, "monitoring_users: expected monitoring_certificate"),
        ({"monitoring_users": {"p": "geheim"}}, "monitoring_users: p: expected a bcrypt hash"),
        ({"monitoring_models": [{"model": "A B"}]}, "monitoring_models: 0.model"),
        ({"monitoring_models": [{"model": "a"}] * 2}, "monitoring_models: expected each model"),
        ({"monitoring_certificates": ["*.pem"]}, "monitoring_certificates: 0"),
        ({"monitoring_certificates": ["/a b/$(x)"]}, "monitoring_certificates: 0"),
        ({"monitoring_key": "/nowhere"}, "monitoring_key: expected a PEM file"),
        ({"monitoring_intervall": "5s"}, "did you mean monitoring_interval?"),
        ({"prometheus_alert_memory": 2}, "prometheus_alert_memory: expected less than 1"),
        ({"prometheus_receivers": [{"nam": "x"}]}, "expected a mapping with a name"),
        ({"prometheus_route": {"receiver": "x"}}, "prometheus_route: receiver: expected one of"),
        ({"prometheus_secrets": {"a/b": "x"}}, "prometheus_secrets: a/b"),
        ({"prometheus_secrets": {"a": None}}, "prometheus_secrets: a: expected text"),
        ({"prometheus_scrape_user": "p"}, "prometheus_scrape_user: expected user and password"),
        ({"prometheus_rule_files": ["/etc/hostname"]}, "expected YAML files with rules"),
        ({"prometheus_sites": ["harbour"]}, "prometheus_sites: 0"),
        ({"muster_prometheus": "prometheus:9090"}, "muster_prometheus: "),
    ],
)
def test_wrong_values(variables: dict[str, Any], expected: str) -> None:
    found = problems(**variables)
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    "receiver",
    [
        {"name": "desk", "slack_configs": [{"api_url": "geheim"}]},
        {
            "name": "desk",
            "webhook_configs": [{"http_config": {"basic_auth": {"password": "geheim"}}}],
        },
        {"name": 5, "token": "geheim"},
    ],
)
def test_a_secret_in_a_receiver_is_refused_and_not_told(receiver: dict[str, Any]) -> None:
    found = problems(prometheus_receivers=[receiver])
    assert found
    assert "geheim" not in "".join(found)
    assert "geheim" not in "".join(problems(monitoring_users={"p": "geheim"}))


def test_the_command_prints_what_prometheus_reads(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(
        "all: {children: {site_a: {hosts: {cam: {ansible_host: 10.0.0.9, monitoring_enabled: true},"
        " dark: {}}}}}"
    )
    done = CliRunner().invoke(targets, ["--inventory", str(path)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == [
        {"targets": ["10.0.0.9:9100"], "labels": {"device": "cam", "site": "site_a"}}
    ]
