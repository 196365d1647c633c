import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from unittest.mock import ANY

import pytest

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.zips import (
    BadMemberError,
    LargeMemberError,
    Refusal,
    UnsupportedMemberError,
    ZipMember,
    open_zip,
    read_member,
    read_picture,
    zip_members,
)

TEXT = b"a picture " * 200
NOISE = random.Random(0).randbytes(2000)


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
BZIP2, LZMA = (zipped({"a.jpg": TEXT}, method) for method in METHODS[2:])
GOOD = zipped({"a.jpg": TEXT, "b.jpg": NOISE})
CENTRAL = GOOD.index(b"PK\x01\x02")  # the directory at the archive's end; a member's flags are 8 bytes into its entry


def write(data: bytes, folder: Path) -> Path:
    path = folder / "pictures.zip"
    path.write_bytes(data)
    return path


def test_members_are_read(tmp_path: Path) -> None:
    with open_zip(write(GOOD, tmp_path)) as archive:
        assert {each.name: read_member(archive, each) for each in zip_members(archive)} == {
            "a.jpg": TEXT,
            "b.jpg": NOISE,
        }


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><p>Not found</p>", "not a zip"),
        (GOOD[: len(GOOD) // 2], "the end is missing"),
        (GOOD[:-1], "the last byte is missing"),
        (GOOD[100:], "the beginning is missing"),
        (patched(GOOD, CENTRAL, b"XX"), "the directory is damaged"),
        (patched(GOOD, CENTRAL + 6, b"\xff\x00"), "a version of zip that Python does not read"),
        (patched(patched(GOOD, CENTRAL + 8, b"\x00\x08"), CENTRAL + 46, b"\xff"), "a name that is not UTF-8"),
    ],
)
def test_a_damaged_archive_is_an_error_that_names_it(data: bytes, why: str, tmp_path: Path) -> None:
    with (
        pytest.raises(SourceError, match=r"pictures\.zip: not a complete zip archive"),
        open_zip(write(data, tmp_path)),
    ):
        pytest.fail(why)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (patched(GOOD, 60, b"\x00\x00\x00"), "a.jpg"),  # inside the first member's compressed bytes
        (patched(zipped({"a.jpg": TEXT}, zipfile.ZIP_STORED), 60, b"?"), "Bad CRC-32"),
        (patched(GOOD, 0, b"XX"), "Bad magic number"),
        (patched(GOOD, 30, b"z"), "differ"),  # the name in front of the bytes is another one
        (patched(patched(GOOD, 6, b"\x00\x08"), 30, b"\xff"), "utf-8"),  # ... or is not UTF-8
        (patched(BZIP2, 60, b"????"), "a.jpg"),
        (patched(LZMA, 60, b"????"), "a.jpg"),
        (patched(BZIP2, BZIP2.index(b"PK\x01\x02") + 16, b"????"), "checksum"),
        (patched(LZMA, LZMA.index(b"PK\x01\x02") + 16, b"????"), "checksum"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_member_costs_only_itself(data: bytes, message: str, tmp_path: Path) -> None:
    with open_zip(write(data, tmp_path)) as archive:
        first, *others = zip_members(archive)
        with pytest.raises(BadMemberError, match=message):
            read_member(archive, first)
        assert read_picture(archive, first) == Refusal(Reason.UNDECODABLE, ANY)
        assert all(read_member(archive, other) == NOISE for other in others)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("limit", "refused"), [(len(TEXT) - 1, True), (len(TEXT), False)])
def test_a_member_has_at_most_the_bytes_allowed(limit: int, refused: bool, method: int, tmp_path: Path) -> None:
    with open_zip(write(zipped({"a.jpg": TEXT}, method), tmp_path)) as archive:
        member = zip_members(archive)[0]
        if refused:
            with pytest.raises(LargeMemberError, match=rf"a\.jpg: more than {limit} bytes"):
                read_member(archive, member, limit)
        else:
            assert read_member(archive, member, limit) == TEXT


@pytest.fixture(scope="module", params=METHODS[1:], ids=["deflate", "bzip2", "lzma"])
def bomb(request: pytest.FixtureRequest) -> bytes:
    """A small archive whose member has 300 MB."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", request.param, compresslevel=1) as archive,
        archive.open("a.jpg", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    return out.getvalue()


@pytest.mark.parametrize("stated", [300 * 2**20, 1000], ids=["honest", "lying"])
def test_a_zip_bomb_is_not_unpacked(bomb: bytes, stated: int, tmp_path: Path) -> None:
    path = write(patched(bomb, bomb.rindex(b"PK\x01\x02") + 24, struct.pack("<I", stated)), tmp_path)
    with open_zip(path) as archive:
        tracemalloc.start()
        with pytest.raises((LargeMemberError, BadMemberError)):
            read_member(archive, zip_members(archive)[0], 2**20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize("method", METHODS[1:], ids=["deflate", "bzip2", "lzma"])
def test_no_damage_escapes_as_another_error(method: int, tmp_path: Path) -> None:
    dice = random.Random(2014)
    good = zipped({"a.jpg": TEXT, "b.jpg": NOISE}, method)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(dice.choice((1, 2, 8))):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        cut = dice.choice((0, 0, 0, dice.randrange(len(data))))
        try:
            with open_zip(write(bytes(data[cut:]), tmp_path)) as archive:
                for member in zip_members(archive):
                    try:
                        assert read_member(archive, member) in (TEXT, NOISE)
                    except (BadMemberError, UnsupportedMemberError, LargeMemberError):
                        continue
        except SourceError:
            continue


# --- what others write


@pytest.mark.parametrize(
    ("method", "flags", "cause"),
    [
        (9, 0, "compressed by method 9 (Deflate64)"),
        (93, 0, "compressed by method 93 (Zstandard)"),
        (98, 0, "compressed by method 98 (PPMd)"),
        (77, 0, "compressed by method 77 (an unknown one)"),
        (99, 1, "encrypted (AES)"),
        (8, 1, "encrypted"),
        (0, 1, "encrypted"),
        (12, 1, "encrypted"),
        (8, 0x41, "encrypted"),
    ],
)
def test_what_cannot_be_read_is_named(method: int, flags: int, cause: str, tmp_path: Path) -> None:
    data = patched(GOOD, 6, struct.pack("<HH", flags, method))
    path = write(patched(data, CENTRAL + 8, struct.pack("<HH", flags, method)), tmp_path)
    with open_zip(path) as archive:
        first, second = zip_members(archive)
        assert read_picture(archive, first) == Refusal(Reason.UNSUPPORTED_MEMBER, cause)
        assert read_picture(archive, second) == NOISE


def names_of(data: bytes, folder: Path) -> list[str]:
    with open_zip(write(data, folder)) as archive:
        assert all(read_member(archive, member) == TEXT for member in zip_members(archive))
        return [member.path for member in zip_members(archive)]


@pytest.mark.parametrize(
    ("stored", "is_utf8", "name"),
    [
        ("é.jpg".encode("cp437"), False, "é.jpg"),
        ("é.jpg".encode(), True, "é.jpg"),
        ("é.jpg".encode(), False, "é.jpg"),  # as the zip of Linux and macOS writes it
        ("日本.jpg".encode(), False, "日本.jpg"),
        (b"a\\b\\c.jpg", False, "a/b/c.jpg"),
        (b"./a//b/./c.jpg", False, "a/b/c.jpg"),
        (b"/a.jpg", False, "/a.jpg"),
        (b"a\x1b[31m.jpg", False, "a\x1b[31m.jpg"),
    ],
)
def test_names_are_taken_as_they_were_meant(stored: bytes, is_utf8: bool, name: str, tmp_path: Path) -> None:
    placeholder = b"x" * len(stored)
    data = zipped({placeholder.decode(): TEXT}).replace(placeholder, stored)
    if is_utf8:
        data = patched(patched(data, 6, b"\x00\x08"), data.index(b"PK\x01\x02") + 8, b"\x00\x08")
    assert names_of(data, tmp_path) == [name]


@pytest.mark.parametrize("checksum", [zlib.crc32(b"\x82.jpg"), 0], ids=["of this name", "of another"])
def test_a_unicode_path_is_believed_if_it_is_of_this_name(checksum: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x.jpg")
    info.extra = struct.pack("<HHBI", 0x7075, 5 + len("Ж.jpg".encode()), 1, checksum) + "Ж.jpg".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, TEXT)
    assert names_of(out.getvalue().replace(b"x.jpg", b"\x82.jpg"), tmp_path) == ["Ж.jpg" if checksum else "é.jpg"]


@pytest.mark.parametrize(
    "name", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "c:/a.jpg", "\\\\a\\b.jpg"]
)
def test_paths_that_lead_out_are_unsafe(name: str, tmp_path: Path) -> None:
    with open_zip(write(zipped({name: TEXT}), tmp_path)) as archive:
        (member,) = zip_members(archive)
        assert read_picture(archive, member) == Refusal(Reason.UNSAFE_MEMBER)


class _OneWay(io.BytesIO):
    """A file that cannot go back, so that sizes come behind the data."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["comment", "descriptor", "zip64", "behind a program"])
def test_odd_forms_are_read(method: int, form: str, tmp_path: Path) -> None:
    out = _OneWay() if form == "descriptor" else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        with archive.open("a.jpg", "w", force_zip64=form == "zip64") as file:
            file.write(TEXT)
        archive.comment = b"a comment " * 50 if form == "comment" else b""
    data = out.getvalue()
    assert (data[6] & 8 != 0) == (form == "descriptor")
    assert names_of(b"#!/bin/sh\n" + data if form == "behind a program" else data, tmp_path) == ["a.jpg"]


def test_repeated_names_are_all_members(tmp_path: Path) -> None:
    data = zipped({"a.jpg": TEXT, "b.jpg": NOISE}).replace(b"b.jpg", b"a.jpg")
    with open_zip(write(data, tmp_path)) as archive:
        first, second = zip_members(archive)
        assert (read_member(archive, first), read_member(archive, second)) == (TEXT, NOISE)
        assert isinstance(first, ZipMember)
        assert not first.is_same(second)
        assert first.is_same(first)
