"""What the headers of an HTTP answer say: the file's size, its version, who answers, and when to ask again."""

import re
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests

from microdiff.storage.codings import coding_names
from microdiff.storage.urls import same_origin
from microdiff.storage.versions import FileVersion

_LONGEST_WAIT_S = 300.0  # also the window of the hub's rate limits


def stated_size(answer: requests.Response) -> int | None:
    """Return the size of the whole file."""
    size = answer.headers.get("Content-Length", "").strip()
    if answer.status_code in (206, 416):
        size = answer.headers.get("Content-Range", "").partition("/")[2]
    size = size.strip()
    return int(size) if size.isascii() and size.isdecimal() else None


def starts_at(answer: requests.Response) -> int:
    """Return with which byte of the file a partial answer begins, -1 if that is not said."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def version(answer: requests.Response) -> FileVersion:
    """Return what tells this version of the file from others."""
    headers = answer.headers
    size = None if is_coded(answer) else stated_size(answer)
    return FileVersion(headers.get("ETag", ""), headers.get("Last-Modified", ""), size)


def is_coded(answer: requests.Response) -> bool:
    """Tell whether an answer's body is said to be compressed for the way: its size is then not the file's."""
    return bool(coding_names(answer.headers.get("Content-Encoding", "")))


def status(answer: requests.Response, asked: str) -> str:
    """Return the status, and whose it is if a redirect led from the URL asked to another server."""
    elsewhere = "" if same_origin(asked, answer.url) else f" from {urlsplit(answer.url).hostname}"
    return f"HTTP {answer.status_code}{elsewhere}"


def wait_asked_for(answer: requests.Response) -> float:
    """Return for how many seconds the server wants no further request, at most five minutes.

    Servers say it by Retry-After, a number or a date; the Hugging Face hub by RateLimit, such as `"api";r=0;t=55`.
    """
    text = answer.headers.get("Retry-After", "")
    limit = re.search(r";\s*t=(\d+)", answer.headers.get("RateLimit", ""))
    if not text and answer.status_code == 429 and limit is not None:
        text = limit[1]
    try:
        wait_s = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S)
