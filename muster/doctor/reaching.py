"""What it means that a device can't be reached, or that its answer is none. Pure."""

from __future__ import annotations

from muster.doctor.findings import Expected, Finding, ok, problem, warning

_HOST_KEY_CHANGED = ("does not match", "host key error")
_HOST_KEY_UNKNOWN = ("no host key for", "not found in known_hosts")
_SUDO = ("sudo", "doas", "dzdo", "a password is required", "permission denied")


def connection_findings(error: str, expected: Expected) -> list[Finding]:
    """What to make of a connection that failed.

    :param error: what the connector said; "" if there is a connection.
    """
    name, text = expected.device, error.lower()
    if not error:
        found = [ok("ssh", "answers"), ok("login", "accepted")]
        if expected.strict:
            return [*found, ok("host_key", "is the pinned one")]
        what = "is not checked: the inventory switches that off"
        remedy = f"remove StrictHostKeyChecking=no; muster enroll {name}"
        return [*found, warning("host_key", what, remedy)]
    if any(part in text for part in _HOST_KEY_CHANGED):
        return [
            ok("ssh", "answers"),
            problem(
                "host_key",
                "is not the pinned one: somebody is in between, or it was reinstalled",
                f"look at the device; if it was: muster enroll {name} --replace-key",
            ),
        ]
    if any(part in text for part in _HOST_KEY_UNKNOWN):
        remedy = f"muster enroll {name}, after comparing its fingerprint"
        return [ok("ssh", "answers"), problem("host_key", "is not pinned", remedy)]
    if "no authentication methods" in text:
        # The device was shown nothing: neither the inventory, an agent nor ~/.ssh has a key.
        remedy = (
            "set ansible_ssh_private_key_file; where there is no key at all: ssh-keygen, then"
            f" muster enroll {name} --ask-password"
        )
        return [
            ok("ssh", "answers"),
            ok("host_key", "is the pinned one"),
            problem("login", "no private key to log in with", remedy),
        ]
    if "authentication" in text:
        return [
            ok("ssh", "answers"),
            ok("host_key", "is the pinned one"),
            problem(
                "login",
                "refused: the device does not know the key",
                f"muster enroll {name} --ask-password, or --identity with a key that it knows",
            ),
        ]
    if "could not resolve" in text:
        return [problem("ssh", f"no address: {error}", "check ansible_host, or the name server")]
    if "refused" in text:
        remedy = f"at the device: systemctl start ssh; check the port of {name}"
        return [problem("ssh", "the port is closed: no SSH server runs there", remedy)]
    remedy = "check power, cable and address; look at the site's network"
    return [problem("ssh", f"does not answer: {error}", remedy)]


def no_answer(error: str, stderr: str, ok_status: bool) -> Finding:
    """What to make of a measurement that brought nothing, on a device that is connected.

    :param error: why the command could not be run, "" if it was.
    :param stderr: what it wrote.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = error or (lines[-1] if lines else "silence")
    text = f"{error} {stderr}".lower()
    if "python3" in text and "not found" in text:
        return problem("python", "Python 3 is missing", "muster enroll brings it, or apt-get")
    if not ok_status and any(part in text for part in _SUDO):
        if "wants a password" in text or "password is required" in text:
            remedy = "set ansible_become_password (in a vault), or allow sudo without a password"
        else:
            remedy = "at the device, as root: visudo -c, then look into /etc/sudoers.d"
        return problem("sudo", f"does not work: {said[:200]}", remedy)
    return problem("ssh", f"connected, but gave no measurements: {said[:200]}", "try again; look"
                   " at the device")  # fmt: skip
