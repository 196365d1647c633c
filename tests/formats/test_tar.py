import errno
import gzip
import io
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats import archives
from microdiff.formats.archives import (
    DamagedArchive,
    TarMember,
    read_tar,
    read_tar_lines,
    salvage_tar,
)
from microdiff.formats.members import is_picture, stem
from microdiff.formats.tar import TarReader

TEXT = b"a picture " * 200
NOISE = random.Random(0).randbytes(2000)


def tarred(members: Sequence[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def header(name: str, size: int = 0, kind: bytes = b"0", form: int = tarfile.GNU_FORMAT, link: str = "") -> bytes:
    """A header without the data that it speaks of."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member.tobuf(form)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def everything(_: str) -> bool:
    return True


def read_all(data: bytes, folder: Path) -> tuple[list[TarMember], bool]:
    """The members of an archive, and whether it is damaged."""
    path = folder / "pictures.tar"
    path.write_bytes(data)
    members: list[TarMember] = []
    try:
        members.extend(read_tar(path, everything))
    except DamagedArchive:
        return members, True
    return members, False


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


THREE = [("a.jpg", NOISE), ("b.jpg", TEXT[:1024]), ("c.jpg", b"c")]
END = bytes(1024)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("packed", [lambda data: data, gzipped], ids=["plain", "gzip"])
def test_what_tarfile_writes_is_read(form: int, packed: Callable[[bytes], bytes], tmp_path: Path) -> None:
    dice = random.Random(form)
    members = [
        ("/".join(["folder" * dice.randrange(1, 4)] * dice.randrange(1, 6)) + f"/{number}.jpg", dice.randbytes(size))
        for number, size in enumerate([0, 1, 511, 512, 513, 1024, 70_000, *(dice.randrange(3000) for _ in range(40))])
    ]
    if form != tarfile.USTAR_FORMAT:
        members += [("x" * 99 + ".jpg", b"99"), ("y" * 300 + "/" + "z" * 200, b"long"), ("grün/絵.jpg", b"not ascii")]
    assert read_all(packed(tarred(members, form)), tmp_path) == (
        [TarMember(name, data) for name, data in members],
        False,
    )


def test_other_ways_to_write_the_same_are_read(tmp_path: Path) -> None:
    binary = bytearray(header("binary.jpg"))
    binary[124:136] = b"\x80" + (4).to_bytes(11, "big")
    binary[148:156] = b"%06o\0 " % (sum(binary) - sum(binary[148:156]) + 256)
    pax = b"".join(b"%d %s\n" % (len(fact) + 4, fact) for fact in (b"path=odd.jpg\0.exe", b"size=5" + b" " * 4))
    data = (
        unmarked("folder/", 0)
        + unmarked("old.jpg", 3)
        + padded(b"old")
        + header("pax_global_header", 16, b"g")
        + padded(b"16 comment=none\n")
        + bytes(binary)
        + padded(b"four")
        + header("ext", len(pax), b"x")
        + padded(pax)
        + header("ignored", 1)
        + padded(b"fives")
        + header("contiguous.jpg", 1, b"7")
        + padded(b"7")
        + END
    )
    assert read_all(data, tmp_path) == (
        [
            TarMember("old.jpg", b"old"),
            TarMember("binary.jpg", b"four"),
            TarMember("odd.jpg", b"fives"),
            TarMember("contiguous.jpg", b"7"),
        ],
        False,
    )


def test_only_members_that_are_wanted_are_read_and_folders_never(tmp_path: Path) -> None:
    path = tmp_path / "pictures.tar"
    folder = tarfile.TarInfo("folder.jpg")
    folder.type = tarfile.DIRTYPE
    path.write_bytes(tarred([(folder, b""), ("a.json", TEXT), *THREE]) + bytes(9000))
    assert [member.name for member in read_tar(path, lambda name: name != "b.jpg")] == ["a.json", "a.jpg", "c.jpg"]
    asked: list[str] = []
    assert not list(read_tar(path, lambda name: bool(asked.append(name))))
    assert asked == ["folder.jpg/", "a.json", "a.jpg", "b.jpg", "c.jpg"]


# --- members that nobody should follow

PAX_SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=s.jpg\n"
OLD_SPARSE = bytearray(header("s.jpg", 512, b"S"))
OLD_SPARSE[482] = 1
OLD_SPARSE[148:156] = b"%06o\0 " % (sum(OLD_SPARSE) - sum(OLD_SPARSE[148:156]) + 256)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("/etc/passwd.jpg", header("/etc/passwd.jpg", 1) + padded(b"x")),
        ("../up.jpg", header("../up.jpg", 1) + padded(b"x")),
        ("a/../../up.jpg", header("a/../../up.jpg", 1) + padded(b"x")),
        ("..", header("..", 1) + padded(b"x")),
        ("s.jpg", header("s.jpg", 0, b"2", link="/etc/passwd")),
        ("s.jpg", header("s.jpg", 0, b"1", link="first.jpg")),
        ("s.jpg", header("s.jpg", 5, b"1", link="first.jpg")),
        ("s.jpg", header("s.jpg", 0, b"3")),
        ("s.jpg", header("s.jpg", 0, b"4")),
        ("s.jpg", header("s.jpg", 0, b"6")),
        ("s.jpg", header("s.jpg", 3, b"V") + padded(b"???")),
        ("s.jpg", bytes(OLD_SPARSE) + bytes(504) + b"\1" + bytes(7) + bytes(512) + bytes(512)),
        ("s.jpg", header("x", len(PAX_SPARSE), b"x") + padded(PAX_SPARSE) + header("GNUSparseFile.0/s.jpg")),
        ("s\udcff.jpg", header("s\udcff.jpg", 0, b"2")),
    ],
    ids=[
        "absolute",
        "out of it",
        "out of it by a detour",
        "its parent",
        "symbolic link",
        "hard link",
        "hard link with a size",
        "character device",
        "block device",
        "pipe",
        "unknown",
        "sparse",
        "sparse, pax",
        "a name that is not UTF-8",
    ],
)
def test_an_unsafe_member_is_a_problem_and_nothing_else(name: str, data: bytes, tmp_path: Path) -> None:
    archive = tarred([("first.jpg", NOISE)])[: 512 + 2048] + data + tarred([("last.jpg", TEXT)])
    assert read_all(archive, tmp_path) == (
        [TarMember("first.jpg", NOISE), TarMember(name, problem=Reason.UNSAFE_MEMBER), TarMember("last.jpg", TEXT)],
        False,
    )
    assert os.listdir(tmp_path) == ["pictures.tar"]  # noqa: PTH208 - hidden ones too


def test_a_member_that_is_not_read_has_no_content() -> None:
    assert TarMember("a.jpg", b"a").content == b"a"
    with pytest.raises(ValueError, match=r"a\.jpg: too_large"):
        _ = TarMember("a.jpg", problem=Reason.TOO_LARGE).content


@pytest.mark.parametrize(("limit", "problem"), [(len(NOISE) - 1, Reason.TOO_LARGE), (len(NOISE), None)])
def test_a_tar_member_has_at_most_the_bytes_allowed(limit: int, problem: Reason | None, tmp_path: Path) -> None:
    path = tmp_path / "pictures.tar"
    path.write_bytes(tarred(THREE))
    first, *others = read_tar(path, everything, limit)
    assert first == TarMember("a.jpg", None if problem else NOISE, problem)
    assert len(others) == 2


# --- memory

MIB = 2**20
HUGE = 8 * 2**30
BIG_NAME = header("@", HUGE, b"L", tarfile.GNU_FORMAT)
BIG_PAX = header("@", HUGE, b"x")
BIG_GLOBAL = header("@", HUGE, b"g")


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MIB:.1f} MiB"


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Archives of a hundred kB that unpack to 60 MB."""
    kinds = {
        "one member": [header("a.jpg", 60 * MIB), *[bytes(MIB)] * 60, END],
        "behind its end": [END, *[bytes(MIB)] * 60],
        "a long name": [header("@", 60 * MIB, b"L"), *[b"a" * MIB] * 60, END],
        "an extended header": [header("@", 60 * MIB, b"x"), *[b"a" * MIB] * 60, END],
        "sparse": [bytes(OLD_SPARSE), *[b"\1" * MIB] * 60, END],
        "no tar": [b"a" * MIB] * 60,
    }
    folder = tmp_path_factory.mktemp("bombs")
    for name, pieces in kinds.items():
        with gzip.open(folder / name, "wb", compresslevel=1) as file:
            for piece in pieces:
                file.write(piece)
    return {name: folder / name for name in kinds}


@pytest.mark.parametrize(
    ("kind", "found", "damaged"),
    [
        ("one member", [TarMember("a.jpg", problem=Reason.TOO_LARGE)], False),
        ("behind its end", [], False),
        ("a long name", [], True),
        ("an extended header", [], True),
        ("sparse", [TarMember("s.jpg", problem=Reason.UNSAFE_MEMBER)], True),
        ("no tar", [], True),
    ],
)
def test_a_tar_bomb_is_not_unpacked(
    bombs: Mapping[str, Path], kind: str, found: list[TarMember], damaged: bool
) -> None:
    members: list[TarMember] = []
    with memory_below(6 * MIB), pytest.raises(DamagedArchive) if damaged else nullcontext():
        members.extend(read_tar(bombs[kind], everything, 16 * MIB))
    assert members == found


@pytest.mark.parametrize("packed", [lambda data: data, gzipped], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("claim", "damaged"),
    [
        (header("b.jpg", 2 * 2**30), TarMember("b.jpg", problem=Reason.TOO_LARGE)),
        (header("b.jpg", 200 * MIB), None),
        (header("b.jpg", HUGE), TarMember("b.jpg", problem=Reason.TOO_LARGE)),
        (header("b.jpg", 2**87), TarMember("b.jpg", problem=Reason.TOO_LARGE)),
        (BIG_NAME, None),
        (BIG_PAX, None),
        (BIG_GLOBAL, None),
        (header("@", 21, b"x") + padded(b"21 size=999999999999\n") + header("b.jpg"), "too large"),
    ],
    ids=["2 GB", "200 MB", "8 GB", "2^87", "long name", "pax header", "global header", "pax size"],
)
def test_a_header_that_claims_gigabytes_does_not_get_them(
    packed: Callable[[bytes], bytes], claim: bytes, damaged: TarMember | str | None, tmp_path: Path
) -> None:
    data = packed(tarred([("a.jpg", NOISE)])[:2560] + claim + padded(TEXT))
    expected = [TarMember("a.jpg", NOISE)]
    if damaged is not None:
        expected.append(TarMember("b.jpg", problem=Reason.TOO_LARGE))
    with memory_below(8 * MIB):
        assert read_all(data, tmp_path) == (expected, True)


def test_many_members_take_no_more_memory_than_few(tmp_path: Path) -> None:
    path = tmp_path / "captions.tar"
    path.write_bytes(b"".join(header(f"sa_{i}.txt", 9) + padded(b"a caption") for i in range(20_000)) + END)
    with memory_below(4 * MIB):
        assert sum(member.content == b"a caption" for member in read_tar(path, everything)) == 20_000


def test_a_compressed_archive_is_never_rewound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pictures.tar"
    path.write_bytes(gzipped(tarred([(f"{i}.jpg", bytes(512 * i)) for i in range(100)])))
    monkeypatch.delattr(gzip.GzipFile, "seek")
    monkeypatch.delattr(gzip.GzipFile, "rewind")
    assert len(list(read_tar(path, everything))) == 100


# --- damage


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>" * 100, gzipped(b""), gzipped(b"<html>" * 1000), b"\x1f\x8b"])
def test_what_is_no_tar_is_an_error(data: bytes, tmp_path: Path) -> None:
    assert read_all(data, tmp_path) == ([], True)


def test_every_truncation_is_noticed_and_costs_only_what_is_cut_off(tmp_path: Path) -> None:
    data = tarred(THREE)
    end = data.rindex(b"c") + 512  # of the last member, counted generously
    whole = [TarMember(name, content) for name, content in THREE]
    for length in range(0, end + 1, 97):
        members, damaged = read_all(data[:length], tmp_path)
        assert damaged
        assert members == whole[: len(members)]
        complete = sum(length >= at for at in (512 + len(NOISE), 2560 + 512 + 1024, 2560 + 1536 + 513))
        assert len(members) == complete
    assert read_all(data[: end + 1024], tmp_path) == (whole, False)


def test_every_truncation_of_a_compressed_archive_is_noticed(tmp_path: Path) -> None:
    data = gzipped(tarred(THREE))
    for length in [*range(0, len(data), 61), len(data) - 1]:
        members, damaged = read_all(data[:length], tmp_path)
        assert damaged
        assert members == [TarMember(name, content) for name, content in THREE[: len(members)]]
    assert len(members) == 3  # all but the checksum was there


def test_what_comes_before_a_flipped_byte_is_read(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", random.Random(number).randbytes(50_000)) for number in range(40)]
    data = bytearray(gzipped(tarred(members)))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    read, damaged = read_all(bytes(data), tmp_path)
    assert damaged
    assert 18 <= len(read) <= 40
    assert [(member.name, member.content) for member in read[:18]] == members[:18]


def test_no_damage_of_a_tar_escapes_or_goes_unnoticed(tmp_path: Path) -> None:
    dice = random.Random(2014)
    good = tarred([*THREE, ("long" * 60 + ".jpg", TEXT)], tarfile.PAX_FORMAT)
    whole = read_all(good, tmp_path)
    for packed in (gzipped(good), good):
        for _ in range(300):
            data = bytearray(packed)
            for _ in range(dice.choice((1, 2, 8))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            members, damaged = read_all(bytes(data), tmp_path)
            if packed is not good:
                # Flags, time and system in the gzip header are what no checksum covers.
                assert damaged or (members, damaged) == whole


def test_a_damaged_header_costs_only_its_member(tmp_path: Path) -> None:
    data = tarred(THREE)
    for at in (0, 100, 124, 130, 148, 156):
        assert read_all(patched(data, 2560 + at, b"\xff"), tmp_path) == (
            [TarMember("a.jpg", NOISE), TarMember("c.jpg", b"c")],
            True,
        )


def unmarked(name: str, size: int) -> bytes:
    """A header as V7 had it: no type, no mark."""
    block = bytearray(header(name, size))
    block[156:157], block[257:265] = b"\0", bytes(8)
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return bytes(block)


def test_what_only_looks_like_a_header_is_not_taken_for_one_behind_damage(tmp_path: Path) -> None:
    nested = unmarked("nested.jpg", 0)
    good = tarred([("a.jpg", nested), ("b.jpg", b"b")])
    assert [member.name for member in read_all(good, tmp_path)[0]] == ["a.jpg", "b.jpg"]
    assert [member.name for member in read_all(patched(good, 0, b"?"), tmp_path)[0]] == ["b.jpg"]
    assert [member.name for member in read_all(tarred([]) + nested + good, tmp_path)[0]] == ["a.jpg", "b.jpg"]


def test_it_is_not_taken_for_one_either_where_another_piece_of_the_file_begins(tmp_path: Path) -> None:
    piece = 2**20  # what is read at once: the search ends there
    behind = bytes(512) + b"?" * (piece - 512) + unmarked("nested.jpg", 0) + tarred([("b.jpg", b"b")])
    members, is_damaged = read_all(behind, tmp_path)
    assert ([member.name for member in members], is_damaged) == (["b.jpg"], True)


def test_an_extended_header_does_not_reach_over_damage(tmp_path: Path) -> None:
    long = header("@", 5, b"L") + padded(b"long\0")
    data = tarred(THREE)
    damaged = long + patched(data, 0, b"\xff")
    assert [member.name for member in read_all(damaged, tmp_path)[0]] == ["b.jpg", "c.jpg"]
    assert [member.name for member in read_all(long + data, tmp_path)[0]] == ["long", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    "record", [b"9999 path=b.jpg\n", b"0 path=b.jpg\n", b"-1 p=b\n", b"no number", b"11 size=-5\n", b"11 size=xy\n"]
)
def test_a_damaged_extended_header_is_noticed(record: bytes, tmp_path: Path) -> None:
    data = header("@", len(record), b"x") + padded(record) + tarred(THREE)
    assert read_all(data, tmp_path) == ([TarMember(name, content) for name, content in THREE], True)


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (bytes(10_000), 0),
        (b"garbage", 0),
        (b"garbage" * 1000, 0),
        (bytes(3000) + b"garbage", 0),
        (tarred([("d.jpg", TEXT)]), 1),  # an archive added to another
        (padded(b"garbage" * 1000) + tarred([("d.jpg", TEXT)]), 1),
        (padded(b"garbage" * 1000), 0),
        (padded(b"a mark, ustar, in the wrong place" * 60) + tarred([("d.jpg", TEXT)]), 1),
    ],
)
@pytest.mark.parametrize("packed", [lambda data: data, gzipped], ids=["plain", "gzip"])
def test_nothing_behind_the_end_goes_unnoticed(
    packed: Callable[[bytes], bytes], tail: bytes, found: int, tmp_path: Path
) -> None:
    members, damaged = read_all(packed(tarred(THREE) + tail), tmp_path)
    assert [member.name for member in members] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"][: 3 + found]
    assert damaged == bool(tail.strip(b"\0"))


def test_garbage_behind_compressed_data_is_noticed_and_zeros_are_none(tmp_path: Path) -> None:
    data = gzipped(tarred(THREE))
    whole = [TarMember(name, content) for name, content in THREE]
    assert read_all(data + b"garbage", tmp_path) == (whole, True)
    assert read_all(data + bytes(100), tmp_path) == (whole, False)
    assert read_all(patched(data, len(data) - 6, b"\xff"), tmp_path) == (whole, True)  # a wrong checksum
    half = tarred(THREE)[:2000]
    assert read_all(gzipped(half) + gzipped(tarred(THREE)[2000:]), tmp_path) == (whole, False)


def test_a_hole_in_an_archive_is_not_its_end(tmp_path: Path) -> None:
    data = tarred(THREE)
    members, damaged = read_all(patched(data, 2560, bytes(1536)), tmp_path)
    assert ([member.name for member in members], damaged) == (["a.jpg", "c.jpg"], True)


def test_a_disk_that_fails_is_not_a_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else what cannot be read now would be gone for good."""

    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(TarReader(Failing()).headers())
    with pytest.raises(FileNotFoundError):
        list(read_tar(tmp_path / "absent.tar", everything))


# --- what the handlers use


def test_salvage_makes_damage_the_last_member(tmp_path: Path) -> None:
    path = tmp_path / "sa_000001.tar"
    path.write_bytes(tarred(THREE))
    whole = [TarMember(name, content) for name, content in THREE]
    assert list(salvage_tar(path, is_picture)) == whole
    path.write_bytes(tarred(THREE)[:4100])
    damage = TarMember("sa_000001_damaged", problem=Reason.DAMAGED_ARCHIVE)
    assert list(salvage_tar(path, is_picture)) == [*whole[:2], damage]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>", "not a complete tar archive"),
        (tarred(THREE)[:300], "not a complete tar archive"),
        (tarred([]), "holds none of the files expected"),
        (tarred([("a.txt", b"")]), "holds none of the files expected"),
    ],
)
def test_salvage_is_an_error_where_there_is_nothing(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sa_000001.tar"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"sa_000001\.tar: {message}"):
        list(salvage_tar(path, is_picture))


def lines_of(members: Sequence[tuple[str, bytes]], folder: Path) -> list[bytes]:
    path = folder / "annotations.tgz"
    path.write_bytes(gzipped(tarred(members)))
    return list(read_tar_lines(path, ".jsonl"))


@pytest.mark.parametrize("text", [b"", b"\n", b"one", b"one\n", b"one\ntwo", b"one\n\ntwo\n" * 1000, b"x" * 3 * MIB])
def test_lines_come_as_they_are(text: bytes, tmp_path: Path) -> None:
    members = [("readme.txt", b"not\nthese"), ("a.jsonl", text), ("b.jsonl", b"nor\nthese")]
    assert lines_of(members, tmp_path) == text.splitlines(keepends=True)


def test_a_line_is_cut_off_where_it_gets_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_LINE_BYTES", 4)
    text = b"123\n1234\n12345\n123456789012\nx\n" + b"y" * 50
    assert lines_of([("a.jsonl", text)], tmp_path) == [b"123\n", b"1234", b"1234", b"1234", b"x\n", b"yyyy"]


def test_lines_of_a_bomb_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "annotations.tgz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header("a.jsonl", 300 * MIB))
        for _ in range(300):
            file.write(b"x" * MIB)
        file.write(END)
    with memory_below(5 * archives.MAX_LINE_BYTES):
        (line,) = read_tar_lines(path, ".jsonl")
    assert len(line) == archives.MAX_LINE_BYTES


def test_lines_of_a_damaged_archive_are_an_error_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "annotations.tgz"
    data = gzipped(tarred([("a.jsonl", b"one\n" * 50_000), ("b", NOISE)]))
    for damaged in (data[: len(data) // 2], data[:-10], data[:-1], data + b"?"):
        path.write_bytes(damaged)
        lines = read_tar_lines(path, ".jsonl")
        assert next(lines) == b"one\n"
        with pytest.raises(DamagedArchive, match=r"annotations\.tgz: not a complete tar archive"):
            list(lines)


@pytest.mark.parametrize("members", [[], [("a.json", b"")], [("folder.jsonl/", b"")]])
def test_an_archive_without_lines_is_an_error(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"annotations\.tgz: has no file ending in \.jsonl"):
        lines_of(members, tmp_path)


@pytest.mark.parametrize(
    ("name", "expected", "picture"),
    [
        ("sa_1.jpg", "sa_1", True),
        ("./sa_1.jpg", "sa_1", True),
        ("images/sa_1.JPG", "sa_1", True),
        ("a.b/c.d.jpeg", "c", True),
        ("c.webp", "c", True),
        ("c.png", "c", True),
        ("sa_1.json", "sa_1", False),
        ("sa_1", "sa_1", False),
        ("folder/", "folder", False),
        ("./._sa_1.jpg", "", False),
        (".jpg", "", False),
        ("", "", False),
    ],
)
def test_names(name: str, expected: str, picture: bool) -> None:
    assert stem(name) == expected
    assert is_picture(name) == picture


@pytest.mark.parametrize(("zeros", "is_whole"), [(1024, True), (10_240, True), (65_536, True), (100_000, False)])
def test_many_zeros_behind_the_last_member_are_what_a_transfer_left(tmp_path: Path, zeros: int, is_whole: bool) -> None:
    """Writers fill up records of 10 KiB, some larger ones."""
    data = header("a.txt", 3) + padded(b"one") + bytes(zeros // 512 * 512)
    (tmp_path / "a.tar").write_bytes(data)
    with nullcontext() if is_whole else pytest.raises(DamagedArchive, match="bytes of zeros behind the last member"):
        assert [member.name for member in read_tar(tmp_path / "a.tar", lambda _: True)] == ["a.txt"]
