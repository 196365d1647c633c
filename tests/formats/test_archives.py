import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from microdiff.errors import SourceError
from microdiff.formats.archives import BadMember, LargeMember, open_zip, read_member

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


GOOD = zipped({"a.jpg": TEXT, "b.jpg": NOISE})
CENTRAL = GOOD.index(b"PK\x01\x02")  # the directory at the archive's end; a member's flags are 8 bytes into its entry


def write(data: bytes, folder: Path) -> Path:
    path = folder / "pictures.zip"
    path.write_bytes(data)
    return path


def test_members_are_read(tmp_path: Path) -> None:
    with open_zip(write(GOOD, tmp_path)) as archive:
        assert {name: read_member(archive, name) for name in archive.namelist()} == {"a.jpg": TEXT, "b.jpg": NOISE}
        with pytest.raises(KeyError, match=r"c\.jpg"):
            read_member(archive, "c.jpg")


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
        (patched(patched(GOOD, 6, b"\x01\x00"), CENTRAL + 8, b"\x01\x00"), "encrypted"),
        (patched(GOOD, CENTRAL + 10, b"\x63\x00"), "compressed by method 99"),
        (zipped({"a.jpg": TEXT}, zipfile.ZIP_BZIP2), "compressed by method 12"),
        (zipped({"a.jpg": TEXT}, zipfile.ZIP_LZMA), "compressed by method 14"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_member_costs_only_itself(data: bytes, message: str, tmp_path: Path) -> None:
    with open_zip(write(data, tmp_path)) as archive:
        with pytest.raises(BadMember, match=message):
            read_member(archive, "a.jpg")
        assert "b.jpg" not in archive.namelist() or read_member(archive, "b.jpg") == NOISE


@pytest.mark.parametrize(("limit", "refused"), [(len(TEXT) - 1, True), (len(TEXT), False)])
def test_a_member_has_at_most_the_bytes_allowed(limit: int, refused: bool, tmp_path: Path) -> None:
    with open_zip(write(GOOD, tmp_path)) as archive:
        if refused:
            with pytest.raises(LargeMember, match=rf"a\.jpg: more than {limit} bytes"):
                read_member(archive, "a.jpg", limit)
        else:
            assert read_member(archive, "a.jpg", limit) == TEXT


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """An archive of 1 MB whose member has 300."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
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
        with pytest.raises((LargeMember, BadMember)):
            read_member(archive, "a.jpg", 2**20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    dice = random.Random(2014)
    for _ in range(300):
        data = bytearray(GOOD)
        for _ in range(dice.choice((1, 2, 8))):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        cut = dice.choice((0, 0, 0, dice.randrange(len(data))))
        try:
            with open_zip(write(bytes(data[cut:]), tmp_path)) as archive:
                for name in archive.namelist():
                    try:
                        assert read_member(archive, name) in (TEXT, NOISE)
                    except BadMember:
                        continue
        except SourceError:
            continue
