"""Members by their names: pictures, what is known to be none, and keys."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microdiff.core.printable import escape_key, is_key
from microdiff.formats.members import (
    PICTURE_EXTENSIONS,
    Tally,
    is_other,
    is_picture,
    is_unsafe,
    normal_path,
    sample_path,
)
from microdiff.images.normalize import _FORMATS

OTHERS = ["a/", ".a", "._a.jpg", "a/._b.jpg", ".git/config", "__MACOSX/a.jpg", "x/__MACOSX/a.jpg", ".DS_Store"]
OTHERS += ["Thumbs.db", "a/thumbs.db", "desktop.ini", "SHA256SUMS", "md5sums.txt", "a.jpg.md5", "a.sha256", "README"]
OTHERS += ["readme.md", "x/LICENSE.txt", "licence", "COPYING"]
RECORDS = ["a.jpg", "a", "a.txt", "a.json", "a.md", "./a.jpg", "../a.jpg", "..", "readme.jpg", "license.png", "a b", ""]
RECORDS += ["MACOSX/a.jpg", "a.b/c.gif", "thumbs.jpg", "md5/a.jpg", "a.heic", "\udce9"]


def test_pictures_are_what_can_be_decoded() -> None:
    Image.init()
    known = {end.removeprefix(".") for end, form in Image.registered_extensions().items() if form in (*_FORMATS, "MPO")}
    assert known - {"apng"} <= PICTURE_EXTENSIONS
    assert known | {"jpc", "jpf", "j2c", "jpx", "avifs", "apng"} >= PICTURE_EXTENSIONS


@pytest.mark.parametrize("name", OTHERS)
def test_some_members_are_known_to_be_no_records(name: str) -> None:
    assert is_other(name)
    tally = Tally()
    assert not tally.unless(is_other)(name)
    assert tally.other_members == 1


@pytest.mark.parametrize("name", RECORDS)
def test_all_others_are_records(name: str) -> None:
    assert not is_other(name)


@pytest.mark.parametrize(
    "name", ["a.gif", "a.AVIF", "a.jfif", "a.bmp", "a.tiff", "x/a.TIF", "a.jp2", "a.mask.png", "./a.jpe"]
)
def test_pictures_have_many_extensions(name: str) -> None:
    assert is_picture(name)


@pytest.mark.parametrize(
    ("name", "path", "sample"),
    [
        ("./a/b.c.jpg", "a/b.c.jpg", "a/b"),
        ("a.b//c.jpg", "a.b/c.jpg", "a.b/c"),
        ("/a.jpg", "/a.jpg", "/a"),
        ("a/../b.jpg", "a/../b.jpg", "a/../b"),
        ("a", "a", "a"),
    ],
)
def test_paths_are_taken_as_webdataset_does(name: str, path: str, sample: str) -> None:
    assert (normal_path(name), sample_path(name)) == (path, sample)


@pytest.mark.parametrize(
    ("name", "unsafe"), [("/a", True), ("C:/a", True), ("a/../b", True), ("a..b/c", False), ("a", False)]
)
def test_paths_that_lead_out_are_unsafe(name: str, unsafe: bool) -> None:
    assert is_unsafe(name) == unsafe


@given(
    st.binary(min_size=1, max_size=12)
    | st.text(min_size=1, max_size=8).map(lambda text: text.encode("utf-8", "replace"))
)
def test_keys_are_printable_and_say_what_the_name_was(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    key = escape_key(name)
    assert is_key(key)
    assert key.isprintable() or not name.isprintable()
    assert _unescaped(key) == data


def _unescaped(key: str) -> bytes:
    """Return the bytes of a name from its key: an escape has capital letters."""
    kept = "".join(
        f"%25{part}" if i and not _is_escape(part) else f"%{part}" if i else part
        for i, part in enumerate(key.split("%"))
    )
    return unquote_to_bytes(kept)


def _is_escape(part: str) -> bool:
    return len(part) >= 2 and set(part[:2]) <= set("0123456789ABCDEF")


@pytest.mark.parametrize(
    "name", ["000000001", "sa_1", "COCO_val2014_000000000042", "0a3b185f-b0e4-4650-90cd-91909c523b49"]
)
def test_usual_names_are_their_own_keys(name: str) -> None:
    assert escape_key(name) == name
