"""Hosts that are this machine alone, by whatever name or address it is told."""

import ipaddress

__all__ = ["is_loopback"]


def is_loopback(host: str) -> bool:
    """True for `localhost` and for an address that loops back, as 127.0.0.2 and ::1.

    No other name is looked up: whoever owns one has it mean what he likes (DNS rebinding).
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
