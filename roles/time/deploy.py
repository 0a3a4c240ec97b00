"""The time: chrony, and a clock in a file where there is none in the device."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.facts import FACT_SECONDS, InContainer
from roles.operations import File, enable_unit, packages, place_files
from roles.secrets import read_pem
from roles.templates import render
from roles.time.facts import RealTimeClock
from roles.time.variables import Variables

_CONFIGURATION = "/etc/chrony/chrony.conf"
_CA = "/etc/chrony/muster-nts-ca.pem"


@deploy("time")
def time(variables: Variables) -> None:
    """Have a device know what time it is."""
    container = host.get_fact(InContainer, _timeout=FACT_SECONDS)
    clock = host.get_fact(RealTimeClock, _timeout=FACT_SECONDS)
    # First, so that chrony never runs without it: in a container it would set its host's clock.
    place_files(
        name="time",
        files=chrony_files(variables, container=container, clock=clock),
        check="! command -v chronyd >/dev/null ||"
        f' chronyd -p -f "$(newest {_CONFIGURATION})" >/dev/null',
        then="! systemctl cat chrony.service >/dev/null 2>&1 || systemctl restart chrony.service",
    )
    packages(name="time service", names=["chrony"])
    enable_unit(name="time service", unit="chrony.service")
    if keeps_time_in_file(variables.time_fake_hwclock, container=container, clock=clock):
        packages(name="clock in a file", names=["fake-hwclock"])
        enable_unit(name="clock in a file", unit="fake-hwclock.service")


def keeps_time_in_file(choice: str, *, container: bool, clock: bool) -> bool:
    """Whether the device has to keep the time in a file.

    :param choice: the variable ``time_fake_hwclock``.
    :param clock: whether there is a real-time clock.
    """
    # it would set the clock of the container's host
    return not container and (choice == "always" or (choice == "auto" and not clock))


def chrony_files(variables: Variables, *, container: bool, clock: bool) -> list[File]:
    """What chrony reads."""
    set_clock = variables.time_set_clock and not container
    ca = variables.time_nts_ca
    text = render(
        "time/chrony.conf",
        servers=variables.time_servers,
        nts=variables.time_nts,
        ca=_CA if ca else None,
        clock=clock,
        set_clock=set_clock,
    )
    options = "-F 1" if set_clock else "-F 1 -x"
    files = [
        File(_CONFIGURATION, text),
        File("/etc/default/chrony", f'# written by the role time\nDAEMON_OPTS="{options}"\n'),
    ]
    return [*files, File(_CA, read_pem(ca))] if ca else files
