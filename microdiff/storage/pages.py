"""Pages in place of files: servers that ask for a login or report an error with status 200 send HTML, XML or JSON.

The first bytes tell. Only what cannot be the beginning of the file wanted is taken for a page: tars, zips, pictures and
parquet files hold bytes that no text has, and a table or a JSON file does not begin as HTML does.
"""

import re

from microdiff.errors import FinalSourceError
from microdiff.storage.codings import GZIP_MAGIC, start_of_gzip

HEAD_BYTES = 1024
_MARKUP = re.compile(r"<(?:[!?/]|[a-z][\w:.-]*[\s>/])", re.IGNORECASE)
_HTML = re.compile(r"<(?:!doctype\s|!--|html\b|head\b|body\b|title\b|meta\b|script\b|h1\b|p\b)", re.IGNORECASE)
_XML = re.compile(r"<(?:\?xml\b|error\b)", re.IGNORECASE)
_JSON = re.compile(r'\{\s*["}]|\[\s*[{"\]]')
_JSON_ERROR = re.compile(r'\{\s*"(?:error|errors|error_?code|error_?message|message|detail)"\s*:', re.IGNORECASE)
_BINARY = (
    *("tar", "tgz", "taz", "gz", "zip", "parquet", "arrow", "npz", "npy", "safetensors", "mds", "zstd", "bz2", "xz"),
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif"),
)
_TEXT = ("tsv", "csv", "txt", "json", "jsonl")
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


class PageInstead(FinalSourceError):
    """A server sent a page in place of a file."""


def page_in_place_of(name: str, head: bytes) -> str | None:
    """Return what a server sent in place of a file, such as `a web page (HTML)`; None if it may be the file.

    Args:
        name: The file's: what it ends in says what is expected. Of an unknown kind, anything is.
        head: Its first `HEAD_BYTES` bytes, fewer if it is shorter.
    """
    suffix = name.rpartition("/")[2].rpartition(".")[2].lower()
    if suffix not in _BINARY and suffix not in _TEXT:
        return None
    if head.startswith(GZIP_MAGIC):
        if suffix not in ("tar", "tgz", "taz") and not name.lower().endswith(".tar.gz"):
            return None
        head = start_of_gzip(head, HEAD_BYTES)
    text = _text(head)
    if text is None:
        return None
    html, xml = _HTML.match(text), _XML.match(text)
    if suffix in _TEXT:
        error = _JSON_ERROR.match(text)
    else:
        xml, error = xml or _MARKUP.match(text), _JSON.match(text)
    return "a web page (HTML)" if html else "XML" if xml else "a message in JSON" if error else None


def refusal(where: str, page: str, setting: str) -> PageInstead:
    """Return the error for a page that came."""
    return PageInstead(
        f"{where}: the server sent {page} in its place, with a status that says all is well: it wants a login, or "
        f"reports an error.\nNothing of it is kept. Check {setting} and your access to it (token, terms to accept, a "
        "link that has expired), then run again."
    )


def _text(head: bytes) -> str | None:
    """Return the beginning of a text without blanks before it, None if it is none."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, "replace").lstrip()
    return None if b"\0" in head else head.decode("utf-8", "replace").lstrip()
