"""The work on one device: look at its key, log in, install, ask what it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muster import on_device
from muster.enrolment import on_device as task
from muster.enrolment import steps
from muster.enrolment.authority import certificate_problem
from muster.enrolment.hostkeys import HostKey, Judgement, judge
from muster.enrolment.plan import Settings, Visit
from muster.enrolment.session import Login, Ran, Session, Trouble, scan_certificates
from muster.secret import Secret

INSPECT_SECONDS = 60.0
SUDO_NOTE = "sudo wants a password: put ansible_become_password into a vault"


@dataclass(frozen=True)
class Met:
    """A device that showed its key, and what to think of it."""

    key: HostKey
    judgement: Judgement


@dataclass
class Found:
    """What the visit of a device brought.

    :param done: what was changed on the device, in words.
    :param notes: what the operator should know.
    :param facts: what :mod:`muster.enrolment.on_device` said.
    """

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def meet(visit: Visit, settings: Settings) -> Met:
    """Look at the host key of a device, without logging in.

    :raises Trouble: nobody answers.
    """
    session = Session(visit.place, [key.kind for key in visit.pinned])
    session.close()
    shown = session.host_key
    certified = None
    if settings.authority and shown not in visit.pinned:
        certified = _certified(visit, settings, shown)
    return Met(
        shown,
        judge(
            shown,
            visit.pinned,
            visit.hosts,
            settings.rules,
            said=visit.target.fingerprint,
            certified=certified,
            revoked=visit.revoked,
        ),
    )


def _certified(visit: Visit, settings: Settings, shown: HostKey) -> str:
    if visit.place.jump:
        return "its certificate can't be asked for through a jump host: use --fingerprints"
    problems = [
        certificate_problem(line, shown, visit.hosts, settings.authority, time.time())
        for line in scan_certificates(visit.place)
    ]
    # A server may show certificates of several keys; one that vouches for this key is enough.
    if "" in problems:
        return ""
    told = [problem for problem in problems if "another key" not in problem]
    return next(iter(told or problems), "it shows no certificate")


def work(
    visit: Visit, settings: Settings, key: HostKey, found: Found, step: Callable[[str], None]
) -> None:
    """Bring a device so far that Muster can work on it, and ask what it is.

    :param key: the key that was found to be good; any other one ends the visit.
    :param found: takes what the visit brings as soon as it does, also of one that fails later.
    :param step: called with what happens next.
    :raises Trouble: something does not work.
    """
    secret = settings.sudo_password or visit.sudo_password
    own = (settings.private_key,) if settings.private_key else ()
    first = (settings.identity,) if settings.identity else ()
    step("logging in")
    session = _connect(visit, key)
    try:
        login = Login(visit.user, (*own, *first), settings.password)
        session.log_in(login)
        probed = _probe(session)
        if not own or session.method != f"key {own[0]}":
            step("installing the key")
            state = _install_key(session, settings.public_key)
            if state != "present":
                found.done.append(f"public key {state}")
            _check_key(visit, key, own, found, changed=state != "present")
        if probed.root is steps.Root.PASSWORD and visit.sudo_password is None:
            found.notes.append(SUDO_NOTE)
        if probed.python is None:
            step("bringing Python")
            _bring_python(session, probed, secret)
            found.done.append("Python installed")
            probed = _probe(session)
        if probed.python is None:
            raise Trouble("apt-get brought no python3 that works")
        if probed.python < steps.OLDEST_PYTHON:
            raise Trouble(
                f"Python {'.'.join(map(str, probed.python))}: expected"
                f" {'.'.join(map(str, steps.OLDEST_PYTHON))} or newer"
            )
        step("inspecting")
        found.facts = _inspect(session, visit, probed, secret)
    finally:
        session.close()


def _connect(visit: Visit, key: HostKey) -> Session:
    session = Session(visit.place, [key.kind])
    if session.host_key != key:
        session.close()
        raise Trouble(f"it showed {key.fingerprint} before, and now {session.host_key.fingerprint}")
    return session


def _probe(session: Session) -> steps.Probed:
    done = session.run("sh -s", steps.PROBE)
    try:
        return steps.read_probe(done.out)
    except ValueError as error:
        raise Trouble(f"{error}: {done.said}") from None


def _install_key(session: Session, line: str) -> str:
    done = session.run("sh -s", steps.install_key(line))
    state = steps.read_key_state(done.out)
    if state is None:
        raise Trouble(f"the key could not be installed: {done.said}")
    return state


def _check_key(
    visit: Visit, key: HostKey, own: tuple[Any, ...], found: Found, *, changed: bool
) -> None:
    """Log in as everything will from now on: better to fail here than when the password is gone."""
    session = _connect(visit, key)
    try:
        session.log_in(Login(visit.user, own))
    except Trouble as trouble:
        if own:
            raise Trouble(f"the key is installed, but does not log in: {trouble}") from None
        if changed:
            found.notes.append("the new key was not tried: its private half is not here")
    finally:
        session.close()


def _as_root(
    session: Session,
    command: str,
    given: str,
    root: steps.Root,
    secret: Secret | None,
    seconds: float,
) -> Ran:
    try:
        wrapped, stdin = steps.as_root(command, given, root, secret.reveal() if secret else None)
    except ValueError as error:
        raise Trouble(str(error)) from None
    done = session.run(wrapped, stdin, seconds)
    if done.status and root is steps.Root.PASSWORD and "incorrect password" in done.err:
        raise Trouble("sudo refused the password")
    return done


def _bring_python(session: Session, probed: steps.Probed, secret: Secret | None) -> None:
    if not probed.apt:
        raise Trouble("it has neither Python 3 nor apt-get: install Python 3.8 or newer by hand")
    done = _as_root(session, "sh -s", steps.PYTHON, probed.root, secret, steps.PYTHON_SECONDS)
    if done.status:
        raise Trouble(f"apt-get could not install python3: {done.said}")


def _inspect(
    session: Session, visit: Visit, probed: steps.Probed, secret: Secret | None
) -> dict[str, Any]:
    text = on_device.request(task, {"hardware_root": visit.hardware_root})
    done = _as_root(session, on_device.COMMAND, text, probed.root, secret, INSPECT_SECONDS)
    try:
        return on_device.read_answer(done.out)
    except on_device.NoAnswer as error:
        raise Trouble(f"inspection failed: {error if done.out.strip() else done.said}") from None
