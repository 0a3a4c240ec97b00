"""Networks and addresses, as the variables of several roles have them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from pydantic import BeforeValidator

from muster.fields import describe


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError(
            f"expected a network such as 10.1.0.0/16 or an address, got {describe(value)}"
        ) from None


def _interface_address(value: Any) -> str:
    try:
        if isinstance(value, str) and "/" in value:
            return str(ipaddress.ip_interface(value))
    except ValueError:
        pass
    raise ValueError(
        f"expected an address with the length of its network such as 10.90.0.5/24,"
        f" got {describe(value)}"
    )


Network = Annotated[str, BeforeValidator(_network)]
"""A network or an address, IPv4 or IPv6."""

InterfaceAddress = Annotated[str, BeforeValidator(_interface_address)]
"""An address of an interface together with its network, IPv4 or IPv6."""
