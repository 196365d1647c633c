"""Texts and JSON as sources have them: every encoding, every wrong type, every contradiction."""

import contextlib
import json
import random
from typing import Any

import pytest

from microdiff.formats.text import (
    CONTRADICTION,
    BadTextError,
    caption_problem,
    captions_problem,
    decode_text,
    is_encoding,
    parse_json,
    utf_8_lines,
)

TEXT = '{"a": "naïve 日本 🙂"}\n\n{"b": "second"}\r\nlast'


def marked(encoding: str) -> bytes:
    """Return the text with the mark of an encoding whose byte order is stated."""
    return "\ufeff".encode(encoding) + TEXT.encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_mark_says_the_encoding(encoding: str) -> None:
    assert decode_text(marked(encoding)) == TEXT
    assert decode_text(marked(encoding), "latin-1") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_come_in_utf_8(encoding: str, size: int) -> None:
    data = marked(encoding)
    pieces = [data[:4], *(data[at : at + size] for at in range(4, len(data), size))]
    assert list(utf_8_lines(pieces)) == TEXT.encode().splitlines(keepends=True)


def test_lines_without_a_mark_are_as_they_were() -> None:
    lines = [b"a\n", b"\xff\n", b"\xef\xbb\xbfb\n", b"c"]
    assert list(utf_8_lines(lines)) == lines
    assert not list(utf_8_lines([]))
    with pytest.raises(BadTextError, match="not utf-16-le"):
        list(utf_8_lines([b"\xff\xfea\0\x00\xd8"]))


def test_no_bytes_escape_as_another_error() -> None:
    dice = random.Random(2014)
    for _ in range(500):
        data = dice.choice((b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")) + dice.randbytes(dice.randrange(12))
        for fallback in (None, "latin-1", "cp1252", "ascii"):
            with contextlib.suppress(BadTextError):
                assert "\0" not in decode_text(data, fallback)


@pytest.mark.parametrize(
    ("document", "value"),
    [
        (b'{"a": 1, "a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 2, "b": 3}', {"a": CONTRADICTION, "b": 3}),
        (b'{"a": [1], "a": [1]}', {"a": [1]}),
        (b'{"a": 1, "a": 2, "a": 1}', {"a": CONTRADICTION}),
        (b'[{"a": 1, "a": "1"}]', [{"a": CONTRADICTION}]),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (json.dumps(10**4000).encode(), 10**4000),
    ],
)
def test_json_is_read(document: bytes, value: Any) -> None:
    assert parse_json(document) == value


@pytest.mark.parametrize(
    "document", [b"", b"{", b"1" * 5000, b"[" * 100_000, b'{"a": "\xe9"}', b'{"a": "\0"}', b"<html>", b"{'a': 1}"]
)
def test_what_is_no_json_is_said_to_be_none(document: bytes) -> None:
    with pytest.raises(BadTextError):
        parse_json(document)


def test_numbers_and_names_are_as_wanted() -> None:
    assert parse_json(b"[NaN, 1e999, 1.5, 2]", number=str) == ["NaN", "1e999", "1.5", 2]
    assert parse_json(b'{"a": {"b": 1, "c": 2}, "c": 3}', keep=frozenset("ab")) == {"a": {"b": 1}}


@pytest.mark.parametrize("value", [None, 1, 1.5, True, b"a", [], ["a"], {}, {"a": "b"}, "a\0", CONTRADICTION])
def test_what_is_no_text_is_no_caption(value: object) -> None:
    assert caption_problem(value)
    assert captions_problem(["a", value])


def test_texts_are_captions() -> None:
    assert not captions_problem(["", " ", "a", "\ud800", "\x1b"])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("latin-1", True),
        ("cp1252", True),
        ("shift_jis", True),
        ("hex", False),
        ("x", False),
        ("", False),
        ("a\0", False),
    ],
)
def test_encodings_are_known_by_name(name: str, known: bool) -> None:
    assert is_encoding(name) == known
