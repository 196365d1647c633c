"""URLs that could not be fetched: how many may be, and what to do about them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from microdiff.errors import SourceError
from microdiff.formats import url_fetcher
from microdiff.formats.public_connection import ALLOW_PRIVATE, NO_NAME
from microdiff.formats.request_url import PROBLEMS
from microdiff.formats.url_list_form import EXPECTED

_MOSTLY = 0.5  # share of failures that decides what is said of them


class FailedFetch(SourceError):
    """Pictures could not be fetched; nothing is wrong with the list."""


class Fetched(NamedTuple):
    """What became of a URL: a file with the picture's bytes, or why there is none."""

    path: Path | None
    cause: str = ""


def check_failures(where: str, fetched: Sequence[Fetched], max_failed_share: float) -> None:
    """Check that no more URLs failed than may.

    Args:
        where: What the URLs are of, for the message.
        fetched: What became of each.
        max_failed_share: Largest share that may fail, 0 to 1.

    Raises:
        FailedFetch: More did.
    """
    causes = Counter(each.cause for each in fetched if each.path is None)
    if causes.total() > max_failed_share * len(fetched):
        cause, often = causes.most_common(1)[0]
        raise FailedFetch(
            f"{where}: {causes.total()} of {len(fetched)} URLs failed ({often} of them: "
            f"{cause}), more than max_failed_share {max_failed_share:.0%}.\n{_remedy(causes)}"
        )


def _remedy(causes: Counter[str]) -> str:
    """Return what to do about failures: the network is to blame only where no answer came."""

    def share(*words: str) -> float:
        return sum(number for cause, number in causes.items() if any(word in cause for word in words)) / causes.total()

    raise_share = "raise max_failed_share if so many links are dead."
    if share(url_fetcher.BY_PROXY) > _MOSTLY:
        return "Check the proxy (http_proxy, https_proxy, no_proxy) and run again."
    if share("Temporary failure in name resolution") > _MOSTLY:
        return (
            "Names cannot be resolved here: check DNS (behind a proxy, set http_proxy and https_proxy), and run again."
        )
    if share(ALLOW_PRIVATE) > _MOSTLY:
        return f"Such addresses are fetched only where {ALLOW_PRIVATE} is set."
    if sum(number for cause, number in causes.items() if cause.startswith(PROBLEMS)) > _MOSTLY * causes.total():
        return f"Check the list. {EXPECTED}"
    if share("HTTP Error", NO_NAME, "disallowed", "compressed") > _MOSTLY:
        return f"Run again later, or {raise_share}"
    return f"Check the network and run again, or {raise_share}"
