"""URLs as people write them, made into URLs as servers want them: https://www.rfc-editor.org/rfc/rfc3986.

What a URL may not hold is percent-encoded, as UTF-8; what is encoded already stays so. Names of hosts in other scripts
are encoded by IDNA. A fragment is for browsers, and is not sent.
"""

import re
import string
from urllib.parse import quote, unquote, urlsplit

_PATH = "/:@!$&'*+(),;=~%"
_QUERY = _PATH + "?"
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_BLANKS = string.whitespace + "\0"
_LINE_BREAKS = str.maketrans("", "", "\t\r\n")


NOT_WEB, NO_HOST, USER, NO_NAME = (
    "not an http or https URL",
    "no host given",
    "a user name in the URL",
    "not a host's name",
)
PROBLEMS = (NOT_WEB, NO_HOST, USER, NO_NAME)  # what is wrong with a URL, not with who answers


def request_url(url: str) -> str:
    """Return a URL in the form it is requested in.

    Raises:
        ValueError: It is none of HTTP, or has no host, or names a user; the text says which.
    """
    parts = urlsplit(url.strip(_BLANKS).translate(_LINE_BREAKS))
    if parts.scheme not in ("http", "https"):
        raise ValueError(NOT_WEB)
    if "@" in parts.netloc:
        raise ValueError(USER)
    if not parts.hostname:
        raise ValueError(NO_HOST)
    port = f":{parts.port}" if parts.port is not None else ""
    query = f"?{_encoded(parts.query, _QUERY)}" if parts.query else ""
    return f"{parts.scheme}://{_host(parts.hostname)}{port}{_encoded(parts.path, _PATH) or '/'}{query}"


def _encoded(text: str, safe: str) -> str:
    return quote(_LONE_PERCENT.sub("%25", text), safe=safe, errors="replace")


def _host(name: str) -> str:
    if ":" in name:
        return f"[{quote(name, safe=':.')}]"  # IPv6
    name = unquote(name)
    try:
        host = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{NO_NAME} ({error})") from None
    if not re.fullmatch(r"[\w.~-]+", host, re.ASCII):
        raise ValueError(NO_NAME)
    return host
