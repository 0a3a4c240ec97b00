"""Node exporter with a folder for facts of our own, and the timer that writes them."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy

from roles.monitoring.variables import Variables
from roles.operations import File, absent_files, enable_unit, packages, place_files
from roles.secrets import read_pem
from roles.services import restart_and_listen
from roles.templates import render
from roles.web_config import web_config

_OPTIONS = "/etc/default/prometheus-node-exporter"
_WEB = "/etc/prometheus/node-exporter-web.yml"
_CERTIFICATE = "/etc/prometheus/tls/node-exporter.crt"
_KEY = "/etc/prometheus/tls/node-exporter.key"
_CLIENT_CA = "/etc/prometheus/tls/node-exporter-client-ca.crt"
_TMPFILES = "/etc/tmpfiles.d/muster-metrics.conf"
_UNIT = "prometheus-node-exporter.service"
_UNITS = "/etc/systemd/system"


@deploy("monitoring")
def monitoring(variables: Variables) -> None:
    """Have a device show what it is and how it does."""
    packages(name="packages", names=variables.monitoring_packages)
    folder = variables.monitoring_textfile_directory
    place_files(
        name="folder of own metrics",
        files=[File(_TMPFILES, f"# written by the role monitoring\nd {folder} 0755 root root -\n")],
        then=f"systemd-tmpfiles --create {_TMPFILES}",
    )
    place_files(
        name="own metrics",
        files=[
            File(
                f"{_UNITS}/muster-metrics.service",
                render(
                    "monitoring/muster-metrics.service",
                    file=f"{folder}/muster.prom",
                    certificates=variables.monitoring_certificates,
                ),
            ),
            File(
                f"{_UNITS}/muster-metrics.timer",
                render(
                    "monitoring/muster-metrics.timer",
                    seconds=math.ceil(variables.monitoring_interval),
                ),
            ),
        ],
        then="systemctl daemon-reload && systemctl try-restart muster-metrics.timer",
    )
    enable_unit(name="own metrics are written", unit="muster-metrics.timer")
    wanted = exporter_files(variables)
    place_files(
        name="exporter",
        files=wanted,
        then=restart_and_listen(_UNIT, variables.monitoring_port),
    )
    names = {file.path for file in wanted}
    optional = (_CERTIFICATE, _KEY, _CLIENT_CA)
    absent_files(name="files of former settings", paths=[p for p in optional if p not in names])
    enable_unit(name="exporter runs", unit=_UNIT)


def exporter_files(variables: Variables) -> list[File]:
    """Options of the exporter and what they name; keys are for its user alone."""
    listen = variables.monitoring_listen
    shown = f"[{listen}]" if ":" in listen else listen
    options = [
        f"--web.listen-address={shown}:{variables.monitoring_port}",
        f"--web.config.file={_WEB}",
        f"--collector.textfile.directory={variables.monitoring_textfile_directory}",
    ]
    copies = {
        _CERTIFICATE: variables.monitoring_certificate,
        _KEY: variables.monitoring_key,
        _CLIENT_CA: variables.monitoring_client_ca,
    }
    given = {path: file for path, file in copies.items() if file is not None}
    web = web_config(
        _CERTIFICATE if _CERTIFICATE in given else None,
        _KEY if _KEY in given else None,
        _CLIENT_CA if _CLIENT_CA in given else None,
        variables.monitoring_users,
    )
    return [
        File(_OPTIONS, f'# written by the role monitoring\nARGS="{" ".join(options)}"\n'),
        File(_WEB, web, "640", "root:prometheus"),
        *(File(path, read_pem(file), "640", "root:prometheus") for path, file in given.items()),
    ]
