"""What URLs say beyond where something is: whose they are, what in them is secret, and until when they work."""

import re
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from microdiff.config.roots import without_secrets as without_secrets

_ORDINARY_PORTS = {"http": 80, "https": 443}


def same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs have the same scheme, host and port."""
    first, second = (
        (parts.scheme, parts.hostname, parts.port or _ORDINARY_PORTS.get(parts.scheme))
        for parts in (urlsplit(one), urlsplit(other))
    )
    return first == second


def expires_at(url: str) -> float | None:
    """Return the Unix time at which a signed URL stops working, None where it does not say.

    Known are Meta's `oe` (hexadecimal), `Expires` of CloudFront, S3 and Google, and the date and lifetime that newer
    signatures of S3 and Google have.
    """
    query = {name.lower(): values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        if "oe" in query:
            return float(int(query["oe"], 16))
        for vendor in ("amz", "goog"):
            if f"x-{vendor}-date" in query and f"x-{vendor}-expires" in query:
                signed = datetime.strptime(query[f"x-{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return signed.timestamp() + int(query[f"x-{vendor}-expires"])
        if re.fullmatch(r"\d+", query.get("expires", "")):
            return float(query["expires"])
    except (ValueError, OverflowError):
        pass
    return None
