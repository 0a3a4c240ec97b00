"""``k3s certificate check`` and ``k3s certificate rotate``."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from . import config
from .certificates import RENEW_BEFORE, pem_parts
from .config import Settings
from .paths import Layout
from .processes import FatalError, log, output

_SERVICES = {
    "admin": ("client-admin",),
    "api-server": ("client-kube-apiserver", "serving-kube-apiserver"),
    "controller-manager": ("client-controller",),
    "scheduler": ("client-scheduler",),
    "supervisor": ("client-supervisor",),
    "k3s-controller": ("client-k3s-controller",),
    "cloud-controller": ("client-k3s-cloud-controller",),
    "auth-proxy": ("client-auth-proxy",),
    "etcd": ("etcd/server-client", "etcd/peer-server-client", "etcd/client"),
    "kubelet": ("client-kubelet", "serving-kubelet"),
    "kube-proxy": ("client-kube-proxy",),
}
_USAGES = {
    "TLS Web Client Authentication": "ClientAuth",
    "TLS Web Server Authentication": "ServerAuth",
}


def run(arguments: list[str]) -> int:
    """Run one command.

    :raises FatalError: when it fails.
    """
    if not arguments or arguments[0] not in ("check", "rotate"):
        raise FatalError("expected check or rotate after certificate")
    services: list[str] = []
    flags: list[str] = []
    output_as = "text"
    words = arguments[1:]
    while words:
        name, equals, value = words.pop(0).lstrip("-").partition("=")
        value = value if equals else (words.pop(0) if words else "")
        if name in ("s", "service"):
            services += value.split(",")
        elif name in ("o", "output"):
            output_as = value
        else:
            flags.append(f"--{name}={value}")
    unknown = [each for each in services if each not in _SERVICES]
    if unknown:
        raise FatalError(f"{unknown[0]} is not a recognized service")
    settings = config.load("server", flags) if flags else Settings("server", {})
    layout = settings.layout
    names = [name for each in services or _SERVICES for name in _SERVICES[each]]
    if arguments[0] == "rotate":
        _rotate(layout, names)
    else:
        _check(layout, names, output_as)
    return 0


def _files(layout: Layout, names: list[str]) -> list[Path]:
    found = [folder / f"{name}.crt" for folder in (layout.tls, layout.agent) for name in names]
    return [path for path in found if path.exists()]


@dataclass(frozen=True)
class _Certificate:
    subject: str
    usages: str
    end: datetime

    @property
    def days(self) -> float:
        return (self.end - datetime.now(timezone.utc)).total_seconds() / 86400

    @property
    def status(self) -> str:
        if self.days < 0:
            return "EXPIRED"
        return "WARNING" if self.days < RENEW_BEFORE else "OK"

    @property
    def residual(self) -> str:
        days = math.ceil(self.days)
        if days >= 365:
            years = days // 365
            return f"{years} year{'s' if years > 1 else ''}"
        return f"{max(days, 0)} days"


def _parse(pem: str) -> _Certificate:
    text = output(
        "openssl", "x509", "-noout", "-subject", "-enddate", "-nameopt", "multiline",
        "-ext", "extendedKeyUsage,basicConstraints", stdin=pem,
    )  # fmt: skip
    subject, end, usages = "", "", []
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        if name.strip() == "commonName":
            subject = value.strip()
        elif name == "notAfter":
            end = value
        elif "CA:TRUE" in line:
            usages.append("CertSign")
        usages += [short for long, short in _USAGES.items() if long in line]
    moment = datetime.strptime(end, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
    return _Certificate(subject, ",".join(usages), moment)


def _check(layout: Layout, names: list[str], output_as: str) -> None:
    is_server = layout.tls.exists()
    log("info", f"{'Server' if is_server else 'Agent'} detected, checking certificates")
    rows = [
        (path.name, _parse(pem))
        for path in _files(layout, names)
        for pem in pem_parts(path.read_text(encoding="ascii"))
    ]
    if output_as == "text":
        for name, each in rows:
            good = {"OK": "is ok, expires", "EXPIRED": "has expired: expired"}
            words = good.get(each.status, f"will expire within {RENEW_BEFORE} days")
            log(
                "info" if each.status == "OK" else "warning",
                f"{name}: certificate {each.subject} ({each.usages}) {words} at "
                f"{each.end:%Y-%m-%dT%H:%M:%SZ}",
            )
        return
    if output_as != "table":
        raise FatalError(f"invalid output format {output_as}: the stand-in knows text and table")
    heads = ("FILENAME", "SUBJECT", "USAGES", "EXPIRES", "RESIDUAL TIME", "STATUS")
    lines = [heads, tuple("-" * len(head) for head in heads)]
    for name, each in rows:
        end = f"{each.end:%b %d, %Y %H:%M} UTC"
        lines.append((name, each.subject, each.usages, end, each.residual, each.status))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    print()
    for line in lines:
        print(
            "   ".join(
                f"{part:<{width}}" for part, width in zip(line, widths, strict=True)
            ).rstrip()
        )


def _rotate(layout: Layout, names: list[str]) -> None:
    if layout.tls.exists():
        backup = layout.server / f"tls-{int(time.time())}"
        shutil.copytree(layout.tls, backup)
        log("info", f"Server detected, rotating agent and server certificates; backup in {backup}")
    for path in _files(layout, names):
        log("info", f"Rotating certificate {path}")
        path.unlink()
        path.with_suffix(".key").unlink(missing_ok=True)
    log(
        "info",
        "Successfully backed up certificates, please restart k3s server or agent to rotate "
        "certificates",
    )
