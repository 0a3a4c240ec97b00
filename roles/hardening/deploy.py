"""Opt-in hardening that leaves an edge device working."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.facts import FACT_SECONDS, ComingIn, InContainer
from roles.guarded import place_guarded, refuse
from roles.hardening.facts import AuthorizedKeys
from roles.hardening.settings import (
    SSHD_CHECK,
    login_files,
    module_file,
    ssh_problem,
    sshd_file,
    sshd_takes_effect,
    sysctl_file,
)
from roles.hardening.variables import Variables
from roles.operations import place_files


@deploy("hardening")
def hardening(variables: Variables) -> None:
    """Make a device harder to break into."""
    session = host.get_fact(ComingIn, _timeout=FACT_SECONDS)
    keys = host.get_fact(AuthorizedKeys, user=session.user or "root", _timeout=FACT_SECONDS)
    by_password = bool(host.data.get("ssh_password")) and not host.data.get("ssh_key")
    if problem := ssh_problem(variables, session, keys=keys, by_password=by_password):
        refuse(name="settings of sshd that would lock the operator out", reason=problem)
        return
    container = host.get_fact(InContainer, _timeout=FACT_SECONDS)
    parameters = sysctl_file(variables)
    place_files(
        name="kernel parameters of hardening",
        files=[parameters],
        then=None if container else f"sysctl -q -p {parameters.path}",
    )
    place_files(name="modules that stay away", files=[module_file(variables)])
    place_files(name="umask, core dumps and banner", files=login_files(variables))
    place_guarded(
        name="settings of sshd",
        title="sshd",
        files=[sshd_file(variables)],
        check=SSHD_CHECK,
        then=sshd_takes_effect(variables),
    )
