"""Which addresses belong to the public internet. A list of URLs by strangers must not have others fetched.

Others are this machine, its network, and what clouds tell their machines, passwords included, at fixed addresses.
"""

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

_V4_OTHERS = [
    ipaddress.IPv4Network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; one is the metadata service of a cloud
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # a cloud's own, though public by its number
    )
]
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")
_TEREDO = ipaddress.IPv6Network("2001::/32")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "lan", "home.arpa", "intranet", "corp")


def is_public(address: str) -> bool:
    """Tell whether an IP address, as the system writes it, is one of the public internet.

    Addresses of IPv6 that stand for one of IPv4 are what that is.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        embedded = _embedded(ip)
        if embedded is not None and not _is_public_v4(embedded):
            return False
        if embedded is not None and (ip.ipv4_mapped is not None or ip in _NAT64):
            return True
        return ip in _V6_UNICAST and ip not in _TEREDO and ip.is_global and not ip.is_multicast
    return _is_public_v4(ip)


def may_be_public(host: str) -> bool:
    """Tell whether a URL's host, which somebody else will look up, may be one of the public internet.

    Addresses in any form that systems accept are told (`127.1`, `0x7f000001`, `2130706433`, `017700000001`), names only
    where they are of no public kind.
    """
    name = host.strip("[]").rstrip(".").lower()
    try:
        return is_public(name if ":" in name else socket.inet_ntoa(socket.inet_aton(name)))
    except (OSError, ValueError):
        return "." in name and not any(name == local or name.endswith(f".{local}") for local in _LOCAL_NAMES)


def _is_public_v4(ip: IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in net for net in _V4_OTHERS)


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    low = IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _NAT64 or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        return low
    return ip.ipv4_mapped or ip.sixtofour
