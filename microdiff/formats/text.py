"""Texts and JSON as sources have them: in what encoding, of which type, and how much of it can be believed."""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

# The longest first: UTF-32 begins as UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


_BEGINNINGS = {mark[:1] for mark, _ in _MARKS}


class BadTextError(ValueError):
    """Bytes are no text in a known encoding, or no JSON."""


class _Contradiction:
    """Stands for the value of a name that a JSON object has twice, with different values."""

    def __repr__(self) -> str:
        return "two different values"


CONTRADICTION = _Contradiction()


def decode_text(data: bytes, fallback: str | None = None) -> str:
    """Return a text: by its byte order mark if it has one, else as UTF-8, else by the fallback.

    Args:
        data: The text's bytes. A byte order mark is left out.
        fallback: Encoding of what has no mark and is not UTF-8, such as `latin-1`; None if there is none.

    Raises:
        BadTextError: It cannot be decoded, or holds NUL, which texts do not: UTF-16 without a mark does.
    """
    mark, encoding = b"", "utf-8"
    if data[:1] in _BEGINNINGS:
        mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (mark, encoding))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if mark or fallback is None:
            raise BadTextError(f"not {encoding}: {error.reason} at byte {error.start}") from None
        try:
            text = data.decode(fallback)
        except UnicodeDecodeError as other:
            raise BadTextError(f"neither utf-8 nor {fallback}: {other.reason} at byte {other.start}") from None
    if "\0" in text:
        raise BadTextError("it holds NUL")
    return text


def utf_8_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text in UTF-8, whichever encoding its byte order mark says it is in.

    Args:
        pieces: The text, in pieces of any size; lines, where there is no mark, which come as they are.

    Raises:
        BadTextError: It cannot be decoded.
    """
    pieces = iter(pieces)
    first = next(pieces, b"")
    mark, encoding = next((pair for pair in _MARKS[1:] if first.startswith(pair[0])), (b"", ""))
    if not mark:
        yield from chain([first] if first else [], pieces)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    for piece in chain([first[len(mark) :]], pieces, [None]):
        try:
            *lines, rest = (rest + decoder.decode(piece or b"", final=piece is None)).split("\n")
        except UnicodeDecodeError as error:
            raise BadTextError(f"not {encoding}: {error.reason}") from None
        yield from (f"{line}\n".encode("utf-8", "surrogatepass") for line in lines)
    if rest:
        yield rest.encode("utf-8", "surrogatepass")


def is_encoding(name: str) -> bool:
    """Tell whether Python knows a text encoding by this name."""
    try:
        b"a".decode(name)
    except (LookupError, ValueError):
        return False
    return True


def parse_json(
    data: bytes,
    fallback: str | None = None,
    *,
    keep: frozenset[str] | None = None,
    number: Callable[[str], float | None] | None = None,
) -> Any:
    """Return what a JSON document says.

    Args:
        data: Its bytes, as `decode_text` takes them.
        fallback: Likewise.
        keep: Names that matter, in whatever object; others are dropped as soon as they are read. None keeps all.
        number: Makes values of numbers with a point, NaN and infinity.

    Returns:
        Its value. What an object says twice, and differently, is `CONTRADICTION`.

    Raises:
        BadTextError: It is no JSON, or nested too deeply, or has a number of thousands of digits.
    """

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            values.update(_contradictions(pairs))
        return values if keep is None else {name: value for name, value in values.items() if name in keep}

    try:
        return json.loads(
            decode_text(data, fallback), object_pairs_hook=make, parse_float=number, parse_constant=number
        )
    except (ValueError, RecursionError) as error:
        raise BadTextError(str(error)) from None


def caption_problem(value: object) -> str:
    """Return why a value cannot be a caption, which is a text without NUL; nothing if it can.

    Halves of surrogate pairs, which JSON may contain, are no problem: they are shown as `?` later on.
    """
    if value is CONTRADICTION:
        return "two different values"
    if not isinstance(value, str):
        return f"expected text, got {'null' if value is None else type(value).__name__}"
    return "it holds NUL" if "\0" in value else ""


def captions_problem(values: Iterable[object]) -> str:
    """Return why one of the values cannot be a caption; nothing if all can."""
    return next((problem for value in values if (problem := caption_problem(value))), "")


def without_contradictions(value: Any) -> Any:
    """Return a JSON value with null in place of what is said twice."""
    if isinstance(value, list):
        return [without_contradictions(each) for each in value]
    if isinstance(value, dict):
        return {name: without_contradictions(each) for name, each in value.items()}
    return None if value is CONTRADICTION else value


def _contradictions(pairs: list[tuple[str, Any]]) -> dict[str, _Contradiction]:
    seen: dict[str, Any] = {}
    return {name: CONTRADICTION for name, value in pairs if seen.setdefault(name, value) != value}
