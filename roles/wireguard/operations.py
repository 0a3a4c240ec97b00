"""Operations of the role wireguard."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.operations import run_script
from roles.wireguard.facts import WireguardPublicKey
from roles.wireguard.settings import key_path


@operation()
def private_key(interface: str) -> Iterator[StringCommand]:
    """
    Have the device make a private key, which never leaves it.

    One that is there stays.

    + interface: name of the interface that it is for
    """
    if host.get_fact(WireguardPublicKey, interface=interface, _timeout=FACT_SECONDS):
        host.noop("there is a private key")
        return
    path = key_path(interface)
    script = f"umask 077\nwg genkey >{path}.new && sync {path}.new && mv {path}.new {path}\n"
    yield run_script("make-key", script, [QuoteString(path)], 60)
