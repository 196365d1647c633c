"""Samples of a tar in WebDataset's form: which members belong together, and which of them say what."""

import io
import tarfile
from pathlib import Path

import pytest

from microdiff.core.ledger import Reason
from microdiff.formats.members import Tally
from microdiff.formats.text import BadTextError
from microdiff.formats.webdataset import TarSample, iter_tar_samples

Found = list[tuple[str, bytes | None, bytes | None, Reason | None]]


def samples_of(folder: Path, *members: tuple[str, bytes], fallback: str | None = None) -> list[TarSample]:
    path = folder / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return list(iter_tar_samples(path, folder, Tally(), fallback))


def outcome(folder: Path, *names: str) -> list[tuple[str, str, str, str]]:
    """Return key, picture, text and problem of each sample; the data of each member are its number and its name."""
    samples = samples_of(folder, *((name, f"{i} {name}".encode()) for i, name in enumerate(names)))
    return [
        (each.key, (each.image or b"").decode(), each.texts.get("txt", b"").decode(), each.problem or "")
        for each in samples
    ]


def test_the_folder_is_part_of_the_key(tmp_path: Path) -> None:
    assert outcome(tmp_path, "cats/0001.jpg", "cats/0001.txt", "dogs/0001.jpg", "dogs/0001.txt") == [
        ("cats%2F0001", "0 cats/0001.jpg", "1 cats/0001.txt", ""),
        ("dogs%2F0001", "2 dogs/0001.jpg", "3 dogs/0001.txt", ""),
    ]


def test_a_repeated_member_starts_another_sample(tmp_path: Path) -> None:
    names = ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    once = [("a", "0 a.jpg", "1 a.txt", ""), ("b", "2 b.jpg", "3 b.txt", "")]
    assert outcome(tmp_path, *names) == once
    assert outcome(tmp_path, *names, *names) == [  # as `tar --concatenate` gives it; the second become duplicate_key
        once[0],
        ("a", "4 a.jpg", "5 a.txt", ""),
        once[1],
        ("b", "6 b.jpg", "7 b.txt", ""),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.txt", "b.jpg", "b.txt", "a.txt"],  # a new caption appended
        ["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg"],  # a new picture appended
        ["a.jpg", "a.txt", "a.txt", "b.jpg", "b.txt"],
        ["a.jpg", "a.jpg", "a.txt", "a.txt", "b.jpg", "b.txt"],
        ["a.jpg", "b.jpg", "a.txt", "b.txt", "a.jpg", "c.jpg", "a.txt", "c.txt"],  # twice, not side by side
        ["a.jpg", "a.JPG", "a.txt", "b.jpg", "b.txt"],
        ["a.jpg", "./a.jpg", "a.txt", "b.jpg", "b.txt"],
        ["a.jpg", "a.png", "a.txt", "b.jpg", "b.txt"],
        ["a.1.jpg", "a.2.jpg", "a.txt", "b.jpg", "b.txt"],
    ],
)
def test_nothing_is_kept_where_nobody_knows_which_is_whose(tmp_path: Path, names: list[str]) -> None:
    problems = [(key, problem) for key, _, _, problem in outcome(tmp_path, *names)]
    assert {problem for key, problem in problems if key == "a"} == {"ambiguous_key"}
    assert problems.count(("a", "ambiguous_key")) == sum(name.lower().endswith(("jpg", "png")) for name in names) - (
        len({name for name in names if name[0] != "a"}) // 2
    )


def test_members_that_are_there_once_need_not_be_neighbours(tmp_path: Path) -> None:
    assert outcome(tmp_path, "b.txt", "a.jpg", "b.jpg", "a.txt") == [
        ("a", "1 a.jpg", "3 a.txt", ""),
        ("b", "2 b.jpg", "0 b.txt", ""),
    ]


@pytest.mark.parametrize(
    ("names", "picture"),
    [
        (["a.jpg", "a.mask.png", "a.txt"], "0 a.jpg"),
        (["a.mask.png", "a.txt"], ""),
        (["a", "a.txt"], "0 a"),
        (["a.npy", "a.txt"], ""),
        (["a.npy", "a.JFIF", "a.txt"], "1 a.JFIF"),
    ],
)
def test_the_picture_is_the_plainest_one(tmp_path: Path, names: list[str], picture: str) -> None:
    assert outcome(tmp_path, *names) == [("a", picture, f"{len(names) - 1} a.txt", "")]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("./a.jpg", "a"),
        ("x//./a.jpg", "x%2Fa"),
        ("x.y/a.b.jpg", "x%2Ey%2Fa"),
        ("a\nb.jpg", "a%0Ab"),
        ("a\tb.jpg", "a%09b"),
        ("caf\udce9.jpg", "caf%E9"),
        ("café.jpg", "café"),
        ("cafe\u0301.jpg", "cafe\u0301"),
        ("\x1b[31m.jpg", "%1B[31m"),
        ("a%0Ab.jpg", "a%250Ab"),
        ("a\\b.jpg", "a\\b"),
        ("-a b.jpg", "-a b"),
        ("#1.jpg", "%231"),
        ("#tag.jpg", "#tag"),
        ("/a.jpg", "%2Fa"),
        ("../a.jpg", "%2E%2E%2Fa"),
    ],
)
def test_keys_are_printable_and_tell_names_apart(tmp_path: Path, name: str, key: str) -> None:
    (sample,) = samples_of(tmp_path, (name, b"picture"))
    assert sample.key == key


def test_what_is_no_record_is_counted(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        ".DS_Store",
        "._a.jpg",
        "__MACOSX/a.jpg",
        "Thumbs.db",
        "SHA256SUMS",
        "a.md5",
        "README.md",
        "LICENSE",
    ]
    samples_of(tmp_path, *((name, b"x") for name in [*names, "notice.jpg", "notice.txt"]))
    tally = Tally()
    found = [(each.key, dict(each.texts)) for each in iter_tar_samples(tmp_path / "a.tar", tmp_path, tally)]
    assert found == [("a", {}), ("notice", {"txt": b"x"})]
    assert tally.other_members == 8


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        ("1.txt", ("text",)),
        ("1.TXT", ("text",)),
        ("./1.txt", ("text",)),
        ("1.alt.txt", ()),  # what it is begins at the first point, as WebDataset has it
        ("1.txt.gz", ()),
    ],
)
def test_a_text_is_told_by_what_follows_the_first_point(tmp_path: Path, name: str, captions: tuple[str, ...]) -> None:
    (sample,) = samples_of(tmp_path, ("1.jpg", b"picture"), (name, b"text"))
    assert (sample.key, sample.captions) == ("1", captions)


@pytest.mark.parametrize(
    ("data", "fallback", "caption"),
    [
        ("naïve".encode(), None, "naïve"),
        ("naïve".encode("utf-8-sig"), None, "naïve"),
        ("naïve".encode("utf-16"), None, "naïve"),
        (b"\xfe\xff" + "naïve".encode("utf-16-be"), None, "naïve"),
        ("naïve".encode("utf-32"), None, "naïve"),
        ("naïve".encode("latin-1"), None, None),
        ("naïve".encode("latin-1"), "latin-1", "naïve"),
        ("naïve".encode(), "latin-1", "naïve"),
        ("naïve".encode("utf-16-le"), None, None),
        ("naïve".encode("utf-16-le"), "latin-1", None),
        (b"a\0b", None, None),
        (b"\xff\xfea", None, None),  # half a character
        (b"", None, ""),
        (b"\xef\xbb\xbf", None, ""),
    ],
)
def test_a_text_is_decoded_or_refused(tmp_path: Path, data: bytes, fallback: str | None, caption: str | None) -> None:
    (sample,) = samples_of(tmp_path, ("1.jpg", b"picture"), ("1.txt", data), fallback=fallback)
    if caption is None:
        with pytest.raises(BadTextError):
            _ = sample.captions
    else:
        assert sample.captions == (caption,)
