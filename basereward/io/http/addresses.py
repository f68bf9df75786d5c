"""Public and private IP addresses of host names."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

from basereward.errors import DataError


def public_addresses(host: str) -> list[str]:
    """The IP addresses of a host name.

    Raises:
        DataError: there are none, or one of them is of this machine or of a private network.

    >>> public_addresses("localhost")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: 'localhost' is an address of a private network; nothing is downloaded from there
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        # UnicodeError: the name is empty, or has a part of more than 63 characters.
        raise DataError(f"the host {host[:200]!r} is not known: {error}") from error
    if not all(map(is_public, found)):
        raise DataError(f"{host!r} is an address of a private network; nothing is downloaded from there")
    return sorted(found)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:127.0.0.1"), is_public("224.0.0.1")
    (True, False, False, False)
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast
