"""Connections to hosts of the public internet alone: the address that is checked is the one that is connected to."""

import socket
from typing import Any

from microdiff.formats.public_address import is_public

ALLOW_PRIVATE = "allow_private_addresses"
NO_NAME = "no name resolution"
_FINAL = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
_unknown: dict[str, str] = {}  # hosts that do not exist: asking again, for another URL or attempt, is in vain


class PrivateAddress(OSError):
    """A host is not one of the public internet."""

    def __init__(self, host: str, where: str) -> None:
        super().__init__(f"not a public address: {host}{where}; {ALLOW_PRIVATE} is off")


def connect_to_public(address: tuple[str, int], timeout: float | None = None, source: Any = None) -> socket.socket:
    """Connect to a host at one of its public addresses, as `socket.create_connection` does.

    Raises:
        PrivateAddress: It has none.
        OSError: None answers.
    """
    host, port = address
    found = _resolve(host, port)
    places = list(dict.fromkeys(place[0] for *_, place in found))
    failure: OSError = PrivateAddress(host, "" if host in places else f" is at {', '.join(map(str, places))}")
    for family, kind, protocol, _, place in found:
        if not is_public(str(place[0])):
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(place)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _resolve(host: str, port: int) -> list[Any]:
    if host in _unknown:
        raise OSError(_unknown[host])
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        problem = f"{NO_NAME} for {host}: {error}"
        if isinstance(error, UnicodeError) or error.errno in _FINAL:
            _unknown[host] = problem
        raise OSError(problem) from None
