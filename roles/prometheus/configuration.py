"""The documents of Prometheus and Alertmanager, and the files that they name. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from muster.fields import format_duration
from muster.monitoring import TargetGroup
from roles.operations import File
from roles.prometheus.rules import rules_file
from roles.prometheus.variables import Variables
from roles.secrets import chosen_secret, read_pem
from roles.web_config import web_config

FOLDER = "/etc/prometheus"
CONFIGURATION, ALERTMANAGER = f"{FOLDER}/prometheus.yml", f"{FOLDER}/alertmanager.yml"
RULES, TARGETS = f"{FOLDER}/rules", f"{FOLDER}/targets"
SECRETS = f"{FOLDER}/secrets"
WEB = f"{FOLDER}/web.yml"
PASSWORD = f"{SECRETS}/scrape-password"
CERTIFICATE, KEY = f"{FOLDER}/tls/web.crt", f"{FOLDER}/tls/web.key"
SCRAPE_CA = f"{FOLDER}/tls/scrape-ca.crt"
SCRAPE_CERTIFICATE, SCRAPE_KEY = f"{FOLDER}/tls/scrape.crt", f"{FOLDER}/tls/scrape.key"
OPTIONAL = (CERTIFICATE, KEY, SCRAPE_CA, SCRAPE_CERTIFICATE, SCRAPE_KEY)
"""Files that are there only when the configuration names them."""

ALERTMANAGER_PORT = 9093
_NOTE = "# written by the role prometheus\n"
_OWNER = "root:prometheus"


def secret_files(variables: Variables) -> list[File]:
    """Give what only Prometheus and Alertmanager may read."""
    copies = {
        CERTIFICATE: variables.prometheus_certificate,
        KEY: variables.prometheus_key,
        SCRAPE_CA: variables.prometheus_scrape_ca,
        SCRAPE_CERTIFICATE: variables.prometheus_scrape_certificate,
        SCRAPE_KEY: variables.prometheus_scrape_key,
    }
    found = {path: read_pem(file) for path, file in copies.items() if file is not None}
    password = chosen_secret(
        variables.prometheus_scrape_password, variables.prometheus_scrape_password_file
    )
    if password is not None:
        found[PASSWORD] = f"{password}\n"
    for name, value in variables.prometheus_secrets.items():
        found[f"{SECRETS}/{name}"] = f"{value}\n"
    return [File(path, text, "600", "prometheus:prometheus") for path, text in found.items()]


def option_files(variables: Variables) -> list[File]:
    """Give the options of both programs; a change of them takes a restart."""
    listen = variables.prometheus_listen
    shown = f"[{listen}]" if ":" in listen else listen
    prometheus = [
        f"--web.listen-address={shown}:{variables.prometheus_port}",
        f"--web.config.file={WEB}",
        f"--storage.tsdb.retention.time={math.ceil(variables.prometheus_retention)}s",
        f"--storage.tsdb.retention.size={variables.prometheus_retention_size}B",
    ]
    # it has no peers here, and nobody else talks to it
    alertmanager = [
        f"--web.listen-address=127.0.0.1:{ALERTMANAGER_PORT}",
        "--cluster.listen-address=",
    ]
    certificate, key = (
        (CERTIFICATE, KEY) if variables.prometheus_certificate is not None else (None, None)
    )
    web = web_config(certificate, key, None, variables.prometheus_users)
    return [
        File("/etc/default/prometheus", f'{_NOTE}ARGS="{" ".join(prometheus)}"\n'),
        File("/etc/default/prometheus-alertmanager", f'{_NOTE}ARGS="{" ".join(alertmanager)}"\n'),
        File(WEB, web, "640", _OWNER),
    ]


def target_files(devices: Sequence[TargetGroup], models: Sequence[TargetGroup]) -> list[File]:
    """Give what is scraped; Prometheus reads these files again by itself."""
    return [
        File(f"{TARGETS}/{name}.json", json.dumps(list(groups), indent=2, sort_keys=True) + "\n")
        for name, groups in (("devices", devices), ("models", models))
    ]


def configuration_files(variables: Variables) -> list[File]:
    """Give the configuration and the rules."""
    found = [
        File(CONFIGURATION, _NOTE + _dump(prometheus_document(variables)), "640", _OWNER),
        File(f"{RULES}/muster.yml", rules_file(variables)),
    ]
    for file in variables.prometheus_rule_files:
        path = Path(file).expanduser()
        text = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
        found.append(File(f"{RULES}/{path.stem}.yml", text))
    return found


def prometheus_document(variables: Variables) -> dict[str, Any]:
    """Give ``prometheus.yml``."""
    interval = format_duration(math.ceil(variables.prometheus_interval))
    own: dict[str, Any] = {
        "job_name": "prometheus",
        "static_configs": [{"targets": [f"localhost:{variables.prometheus_port}"]}],
    }
    if variables.prometheus_certificate is not None or variables.prometheus_users:
        own = {}  # it would need a password of its own
    devices: dict[str, Any] = {
        "job_name": "devices",
        "file_sd_configs": [{"files": [f"{TARGETS}/devices.json"]}],
    }
    if variables.prometheus_scrape_tls:
        tls: dict[str, Any] = {}
        if variables.prometheus_scrape_ca is not None:
            tls["ca_file"] = SCRAPE_CA
        if variables.prometheus_scrape_certificate is not None:
            tls |= {"cert_file": SCRAPE_CERTIFICATE, "key_file": SCRAPE_KEY}
        devices |= {"scheme": "https", "tls_config": tls}
    if variables.prometheus_scrape_user is not None:
        devices["basic_auth"] = {
            "username": variables.prometheus_scrape_user,
            "password_file": PASSWORD,
        }
    models = {
        "job_name": "models",
        "file_sd_configs": [{"files": [f"{TARGETS}/models.json"]}],
    }
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [f"{RULES}/*.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ALERTMANAGER_PORT}"]}]}]
        },
        "scrape_configs": [job for job in (own, devices, models) if job],
    }


def alertmanager_file(variables: Variables) -> File:
    """Give ``alertmanager.yml``: what is merged for a device, and who is told."""
    receivers = variables.prometheus_receivers or [{"name": "nobody"}]
    route: dict[str, Any] = {
        "receiver": receivers[0]["name"],
        "group_by": ["alertname", "site"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "12h",
    }
    document = {
        "route": {**route, **variables.prometheus_route},
        "receivers": receivers,
        # who hears that a device is silent need not hear what else is wrong with it
        "inhibit_rules": [
            {
                "source_matchers": ['alertname = "DeviceSilent"'],
                "target_matchers": ['alertname != "DeviceSilent"'],
                "equal": ["device"],
            }
        ],
    }
    return File(ALERTMANAGER, _NOTE + _dump(document), "640", _OWNER)


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, width=100)
