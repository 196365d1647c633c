"""Why a request got no answer, in words: no name resolution, a proxy in the way, or no connection."""

import re
import socket

import requests
import urllib3

from microdiff.storage import TryAgain

_DNS = "that the host is spelled right and that names are resolved here (DNS; behind a proxy, set https_proxy)"
_CERTIFICATE = "its certificate (REQUESTS_CA_BUNDLE names your own authorities)"
_PAGE = "the network (is it a login page or a proxy that answers?)"
_PROXY = "the proxy (http_proxy, https_proxy, no_proxy)"
_REFUSED = re.compile(r"(?:Tunnel connection failed:|response code|status code)\s*(\d{3})")


class ProxyRefuses(Exception):
    """A proxy says no; asking again cannot help.

    Args:
        status: What it says, of HTTP.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy refuses (HTTP {status}). Check {_PROXY}.")


def reason(error: BaseException, host: str | None) -> TryAgain:
    """Return what is wrong, as an error after which a request may be repeated.

    Args:
        error: What requests or urllib3 raised; its text may hold a URL, and is not shown.
        host: The host asked for.

    Raises:
        ProxyRefuses: It is a proxy's refusal, such as of missing credentials.
    """
    causes = _causes(error)
    if any("ProxyError" in type(cause).__name__ or "ProxyConnectionError" in type(cause).__name__ for cause in causes):
        if status := next((found[1] for cause in causes if (found := _REFUSED.search(str(cause)))), None):
            if int(status) < 500 and status not in ("408", "429"):
                raise ProxyRefuses(int(status))
            return TryAgain(f"the proxy answers HTTP {status}", remedy=_PROXY)
        if any(_is_unresolved(cause) for cause in causes):
            return TryAgain("the proxy's name cannot be resolved", remedy=_PROXY)
        return TryAgain("no connection to the proxy", remedy=_PROXY)
    if any(_is_unresolved(cause) for cause in causes):
        return TryAgain(f"no name resolution for {host or 'the host'}", remedy=_DNS)
    if isinstance(error, requests.exceptions.SSLError):
        return TryAgain(type(error).__name__, remedy=_CERTIFICATE)
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return TryAgain(type(error).__name__, remedy=_PAGE)
    return TryAgain(type(error).__name__)


def _is_unresolved(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror | urllib3.exceptions.NameResolutionError)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error with all that it was made of, wherever libraries put that."""
    found: list[BaseException] = []
    left: list[object] = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseException) and not any(each is known for known in found):
            found.append(each)
            left += [*each.args, each.__cause__, each.__context__]
            left += [getattr(each, name, None) for name in ("reason", "original_error")]
    return found
