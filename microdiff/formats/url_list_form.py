"""Lists that are almost lists of URLs and captions, told by their first lines: columns swapped, a header, CSV.

Only what speaks plainly is told; a line may be odd in any way, and is then a record that fails.
"""

import re
from collections.abc import Sequence

_URL = re.compile(r"https?://\S", re.IGNORECASE)
_QUOTED_URL = re.compile(r"[\"']https?://", re.IGNORECASE)
_DIGEST = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE)
_NAMES = re.compile(
    r"(?:image|img|picture)?[ _-]?(?:url|link|caption|text|alt|alt[ _-]?text|description|sha256|md5|key)s?"
)
_URL_NAME = re.compile(r"(?:image|img|picture)?[ _-]?(?:url|link)s?")
_MOST = 1000
EXPECTED = "Expected a line for each picture, without a header: its URL, a tab, its caption."


def form_problem(head: bytes) -> str | None:
    """Return what a list is instead of lines of URL, tab, caption; None if nothing speaks against it.

    Args:
        head: Its beginning, whole lines as far as it goes.
    """
    lines = [line.rstrip("\r") for line in head.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines[:_MOST] if line.strip()]
    if not lines:
        return None
    rows = [line.split("\t") for line in lines]
    if _is_header(rows[0]) and (len(rows) == 1 or any(_URL.match(cell) for row in rows[1:] for cell in row)):
        shape = _shape(rows[1:])
        return f"its first line is a header ({_shown(lines[0])}){f', and {shape}' if shape else ''}"
    if "," in lines[0] and _is_header(lines[0].replace('"', "").split(",")):
        return f"it is CSV: its first line is a header with commas ({_shown(lines[0])})"
    return _shape(rows)


def _shape(rows: Sequence[Sequence[str]]) -> str | None:
    """Return what is wrong with most rows."""
    several = [row for row in rows if len(row) > 1]
    with_commas = [row[0] for row in rows if re.match(r"[\"']?https?://[^\t]*,", row[0], re.IGNORECASE)]
    if 10 * len(several) <= len(rows) and 2 * len(with_commas) > len(rows):
        return "it is CSV: there are commas where tabs are expected"
    if not several:
        return None
    first = sum(_URL.match(row[0].strip()) is not None for row in several)
    if not first and 2 * sum(_QUOTED_URL.match(row[0]) is not None for row in several) > len(several):
        return "its fields are in quotation marks"
    if not first and 2 * sum(_URL.match(row[-1].strip()) is not None for row in several) > len(several):
        return "its columns are swapped: the caption comes first, the URL last"
    if 2 * sum(_DIGEST.fullmatch(row[1].strip()) is not None for row in several) > len(several):
        return "it is a list of checksums: URLs, and digests where captions are expected"
    if not first and 2 * sum(any(_URL.match(cell) for cell in row) for row in several) > len(several):
        return "its URLs are not in the first column"
    return None


def _is_header(row: Sequence[str]) -> bool:
    cells = [cell.strip().lower() for cell in row]
    if len(cells) < 2 or any(_URL.match(cell) for cell in cells):
        return False
    return all(_NAMES.fullmatch(cell) for cell in cells) or any(_URL_NAME.fullmatch(cell) for cell in cells)


def _shown(line: str) -> str:
    return ascii(line[:60])
