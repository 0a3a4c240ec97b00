"""Findings about what Muster put on a device and what it needs: registry, certificates, guard."""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography import x509

from muster.doctor.findings import (
    CERTIFICATE,
    GUARD_SECONDS,
    Expected,
    Finding,
    Severity,
    graded,
    ok,
    problem,
    span,
    unmeasured,
    warning,
)

_PROVISION = "muster provision --limit {0}"
_ENABLED = {
    "muster-boot.service": ("enabled",),
    "muster-guard@.timer": ("static", "disabled", "indirect", "enabled"),
    "muster-guard@.service": ("static", "disabled", "indirect", "enabled"),
    "muster-model@.service": ("static", "disabled", "indirect", "enabled"),
}
"""What ``systemctl is-enabled`` says of each unit when all is well."""


def days_left(certificate: bytes, now: float) -> float | None:
    """Days until a certificate ends, below 0 if it has; None for what is no certificate.

    :param certificate: PEM or DER.
    :param now: seconds since 1970 UTC.
    """
    try:
        pem = certificate.lstrip().startswith(b"-----")
        read = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
        ends = read(certificate).not_valid_after_utc
    except ValueError:
        return None
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    return (ends - moment).total_seconds() / 86400


def registry(measured: Mapping[str, Any], expected: Expected, now: float) -> Finding:
    """Whether images can be pulled."""
    found = measured.get("registry")
    if found is None:
        return ok("registry", "none is set")
    if gap := unmeasured("registry", found):
        return gap
    address = found["address"]
    left = None
    try:
        shown = base64.b64decode(found.get("certificate") or "")
        left = days_left(shown, now) if shown else None
    except binascii.Error:
        pass
    if found.get("plain"):
        remedy = "give the registry a certificate: role registry"
        return problem("registry", f"{address} speaks no TLS", remedy)
    if found.get("untrusted"):
        return _untrusted(address, str(found["untrusted"]), found.get("ca"), left, expected)
    if found.get("error") and found.get("certificate"):
        # It got as far as showing its own certificate: what it broke off at is ours.
        what = f"{address} does not take this device's certificate: {found['error']}"
        return problem("registry", what, _PROVISION.format(expected.device))
    if found.get("error"):
        remedy = "check the registry, its name, and the network between"
        return problem("registry", f"{address} can't be reached: {found['error']}", remedy)
    if found.get("status") not in (200, 401):
        what = f"{address} answers {found.get('status') or 'no HTTP'}"
        return problem("registry", what, "look at the registry's log")
    if left is not None and (severity := graded(left, CERTIFICATE, below=True)) is not Severity.OK:
        what = f"{address}: its certificate ends in {left:.0f} days"
        return Finding("registry", severity, what, "renew it: role registry at the site")
    days = "" if left is None else f", certificate for {left:.0f} more days"
    return ok("registry", f"{address} answers{days}")


def _untrusted(
    address: str, reason: str, ca: str | None, left: float | None, expected: Expected
) -> Finding:
    if left is not None and left < 0:
        what = f"{address}: its certificate ended {-left:.0f} days ago"
        return problem("registry", what, "renew it: role registry at the site")
    if "hostname" in reason.lower() or "ip address" in reason.lower():
        remedy = "a certificate for that name, or another muster_registry"
        return problem("registry", f"{address}: certificate for another name", remedy)
    what = f"{address}: certificate not trusted: {reason}"
    remedy = _PROVISION.format(expected.device)
    if ca or not expected.registry_ca:
        remedy = f"{expected.runtime or 'docker'}_registry_cas in the inventory, then {remedy}"
    known = f"; {ca} is of another CA" if ca else "; no CA is installed for it"
    return problem("registry", what + known, remedy)


def certificates(measured: Mapping[str, Any], now: float) -> Iterator[Finding]:
    """How long the certificates on the device still hold."""
    found = measured.get("certificates")
    if gap := unmeasured("certificate", found):
        yield gap
        return
    left: dict[str, float] = {}
    for each in found or ():
        if (days := days_left(each["pem"].encode(), now)) is not None:
            left[each["path"]] = min(days, left.get(each["path"], days))
    bad = False
    for path, days in left.items():
        if (severity := graded(days, CERTIFICATE, below=True)) is not Severity.OK:
            bad = True
            ended = f"ended {-days:.0f} days ago" if days < 0 else f"ends in {days:.0f} days"
            yield Finding("certificate", severity, f"{path} {ended}", "renew it, then provision")
    if not bad:
        soonest = f"{min(left.values()):.0f} days left, at the least" if left else "none is there"
        yield ok("certificate", soonest)


def guard(measured: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    """Whether an unconfirmed switch would be taken back, and whether one is overdue."""
    units, models = measured.get("units") or {}, measured.get("models")
    if gap := unmeasured("guard", units) or unmeasured("guard", models):
        yield gap
        return
    bad = False
    wrong: dict[str, list[str]] = {}
    for unit, good in _ENABLED.items():
        state = (units.get("ours") or {}).get(unit, "not-found").splitlines()[-1]
        if state not in good:
            wrong.setdefault(state, []).append(unit)
    for state, names in wrong.items():
        bad = True
        first = f"systemctl unmask {' '.join(names)}; " if state.startswith("masked") else ""
        what = f"{', '.join(names)}: {state}; a device that loses its controller can't go back"
        yield problem("guard", what, first + _PROVISION.format(expected.device))
    for model in models or ():
        if "damaged" in model:
            bad = True
            remedy = f"muster status --model {model['name']} has the device mend it"
            yield problem("guard", str(model["damaged"]), remedy)
            continue
        if model["phase"] == "idle":
            continue
        bad = True
        name, since = model["name"], model["since"] or 0.0
        generation = f"{name}: switch {model['generation']} ({model['phase']})"
        remedy = (
            f"muster status; muster resume, if its rollout still lives; else at the device:"
            f" systemctl start muster-guard@{name}.timer, which takes it back"
        )
        if not model["guard"]:
            yield problem("guard", f"{generation} is unfinished, and no guard runs", remedy)
        elif since > GUARD_SECONDS:
            what = f"{generation} is unconfirmed for {span(since)}, longer than any rollout takes"
            yield problem("guard", what, remedy)
        else:
            what = f"{generation} is under way, {span(model['remaining'] or 0)} left"
            yield warning("guard", what, "wait for its rollout: muster status")
    if not bad:
        yield ok("guard", "ready, nothing is unconfirmed")


def program(measured: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    """Whether the device program is there and that of this checkout."""
    found, remedy = measured.get("program") or {}, _PROVISION.format(expected.device)
    if gap := unmeasured("program", found):
        yield gap
    elif not found.get("present"):
        yield problem("program", "muster-device is not installed", remedy)
    elif not found.get("executable"):
        yield problem("program", "muster-device can't be executed", remedy)
    elif found.get("configuration"):
        yield problem("program", str(found["configuration"]), remedy)
    elif found.get("sha256") != expected.program:
        yield warning("program", "muster-device is of another version than here", remedy)
    else:
        installed = found.get("units") or {}
        other = [name for name, digest in expected.units.items() if installed.get(name) != digest]
        if other:
            yield warning("program", f"other units than here: {', '.join(sorted(other))}", remedy)
        else:
            yield ok("program", "of this version")


def release(measured: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    """Whether the models serve, and whether one waits for a person."""
    models = measured.get("models")
    if gap := unmeasured("release", models):
        yield gap
        return
    models = [model for model in models or () if "damaged" not in model]
    bad = False
    for model, reason in expected.quarantined.items():
        bad = True
        yield problem("release", f"{model}: {reason}", "look at it, then --include-quarantined")
    for model in models or ():
        name, outcome = model["name"], model["last_outcome"] or {}
        log = f"journalctl --unit muster-model@{name} --lines 50"
        if outcome.get("outcome") == "revert_failed":
            bad = True
            what = f"{name}: the way back failed: {outcome.get('reason')}"
            yield problem("release", what, f"{log}; then roll out again")
        elif model["not_ready"]:
            bad = True
            yield problem("release", f"{name} does not serve: {model['not_ready']}", log)
        elif model["phase"] == "idle" and model["current"] and not model["last_good"]:
            bad = True
            yield warning("release", f"{name}: no good release to go back to", "roll one out")
    if not bad:
        names = [
            f"{model['name']} {model['current']}" for model in models or () if model["current"]
        ]
        yield ok("release", ", ".join(names) or "no model yet")
