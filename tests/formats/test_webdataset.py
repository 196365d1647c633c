"""Samples of a tar in WebDataset's form: which members belong together, and which of them say what."""

import io
import tarfile
from pathlib import Path

import pytest

from microdiff.formats.webdataset import TarSample, iter_tar_samples


def samples_of(folder: Path, *members: tuple[str, bytes]) -> list[TarSample]:
    path = folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return list(iter_tar_samples(path, folder))


@pytest.mark.parametrize("names", [("1.jpg", "1.png", "deep/1.webp"), ("deep/1.webp", "1.png", "1.jpg")])
def test_pictures_of_one_sample_come_by_name_whatever_their_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    samples = samples_of(tmp_path, *((name, name.encode()) for name in names), ("1.txt", b"one"))
    assert [(sample.name, sample.image, sample.captions) for sample in samples] == [
        (name, name.encode(), ("one",)) for name in ("1.jpg", "1.png", "deep/1.webp")
    ]


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        ("1.txt", ("text",)),
        ("1.TXT", ("text",)),
        ("deep.er/1.txt", ("text",)),
        ("1.alt.txt", ()),  # what it is begins at the first point, as WebDataset has it
        ("1.txt.gz", ()),
    ],
)
def test_a_text_is_told_by_what_follows_the_first_point(tmp_path: Path, name: str, captions: tuple[str, ...]) -> None:
    (sample,) = samples_of(tmp_path, ("1.jpg", b"picture"), (name, b"text"))
    assert (sample.key, sample.captions) == ("1", captions)


def test_a_text_that_is_no_utf_8_keeps_what_can_be_read(tmp_path: Path) -> None:
    (sample,) = samples_of(tmp_path, ("1.jpg", b"picture"), ("1.txt", b"na\xefve"))
    assert sample.captions == ("na\N{REPLACEMENT CHARACTER}ve",)
