"""Findings about a node of a K3s cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from muster.doctor.findings import (
    CERTIFICATE,
    Expected,
    Finding,
    Severity,
    graded,
    ok,
    problem,
    unmeasured,
    warning,
)
from muster.doctor.services import days_left

_PROVISION = "muster provision --limit {0}"


def k3s(measured: Mapping[str, Any], expected: Expected, now: float) -> Iterator[Finding]:
    """Whether a device that ought to be a node is one that is well; nothing of other devices.

    :param now: seconds since 1970 UTC.
    """
    if not expected.k3s_role:
        return
    seen = measured.get("k3s")
    if gap := unmeasured("k3s", seen):
        yield gap
        return
    found = [*_node(seen, expected), *_certificates(seen or {}, expected, now)]
    if found:
        yield from found
        return
    node = (seen or {})["node"]
    voter = ", its etcd votes" if node["voter"] else ""
    yield ok("k3s", f"{seen['role']}, {node['version']}, Ready{voter}" if seen else "")


def _node(seen: Mapping[str, Any] | None, expected: Expected) -> Iterator[Finding]:
    provision = _PROVISION.format(expected.device)
    if seen is None:
        yield problem("k3s", "muster-k3s is missing", provision)
        return
    if seen["role"] != expected.k3s_role:
        is_what = "not installed" if seen["role"] == "none" else f"installed as {seen['role']}"
        what = f"is {is_what}, k3s_role is {expected.k3s_role}"
        remedy = f"muster k3s reset {expected.device}; " if seen["role"] != "none" else ""
        yield problem("k3s", what, remedy + provision)
        return
    unit, node = seen["unit"], seen["node"]
    log = f"journalctl --unit {unit} --lines 50"
    if not seen["active"]:
        yield problem("k3s", f"{unit} does not run", f"systemctl restart {unit}; {log}")
        return
    if node is None and "(NotFound)" in seen["error"]:
        remedy = f"{provision}, together with a server of its cluster"
        yield problem("k3s", "its cluster has no such node", remedy)
        return
    if node is None:
        remedy = f"look at the servers and the network between; {log}"
        yield problem("k3s", f"can't read its Node object: {seen['error']}", remedy)
        return
    if not node["ready"]:
        yield problem("k3s", f"not Ready: {node['reason'] or 'no reason given'}", log)
    if seen["datastore"] == "etcd" and node["voter"] is False:
        what = "its etcd is no voter: the cluster can't count on this server"
        yield problem("k3s", what, log)
    yield from _version(seen, expected)
    if node["unschedulable"]:
        remedy = f"on a server: k3s kubectl uncordon {node['name']}"
        yield warning("k3s", "is cordoned: no pod starts there", remedy)


def _version(seen: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    running = seen["node"]["version"]
    if seen["binary"] not in (None, running):
        remedy = f"systemctl restart {seen['unit']}"
        yield warning("k3s", f"runs {running}, {seen['binary']} is installed", remedy)
    elif expected.k3s_version and running != expected.k3s_version:
        what = f"runs {running}, the inventory says {expected.k3s_version}"
        yield warning("k3s", what, f"muster k3s upgrade {expected.device}")


def _certificates(seen: Mapping[str, Any], expected: Expected, now: float) -> Iterator[Finding]:
    left = {}
    for each in seen.get("certificates") or ():
        days = days_left(each["pem"].encode(), now)
        if days is not None and graded(days, CERTIFICATE, below=True) is not Severity.OK:
            left[each["path"]] = days
    if left:  # one for all: they were made together, and are made anew together
        path, days = min(left.items(), key=lambda entry: entry[1])
        ended = f"ended {-days:.0f} days ago" if days < 0 else f"ends in {days:.0f} days"
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        severity = graded(days, CERTIFICATE, below=True)
        remedy = f"muster k3s rotate-certificates {expected.device}"
        yield Finding("k3s", severity, f"{path} {ended}{more}", remedy)
