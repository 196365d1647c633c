"""Whatever archives look like, no member is uncounted, and no picture is kept with another one's caption.

Pictures and texts say whose they are: a picture by its colour, a caption by its words. Partitions are written as the
download step does, and what was kept is read back.
"""

import io
import json
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microdiff.artifacts.checks import check_raw
from microdiff.artifacts.raw import read_images
from microdiff.artifacts.tables import read_rows
from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import check_balance
from microdiff.core.printable import is_key
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import SCHEMA, write_raw
from microdiff.errors import SourceError
from microdiff.formats.annotations import Annotations, write_annotations
from microdiff.formats.members import (
    extension,
    is_document,
    is_litter,
    is_other,
    is_unsafe,
    normal_path,
    sample_path,
    stem,
    stem_key,
)
from microdiff.formats.records import Inputs, Partition
from microdiff.handlers import Handler
from microdiff.handlers.cc12m import CC12M
from microdiff.handlers.coco import Coco
from microdiff.handlers.diffdb import _COLUMNS, DiffusionDB
from microdiff.handlers.jdb import Jdb
from microdiff.handlers.sa1b import Sa1b

Members = Sequence[tuple[str, bytes]]
SETTINGS = DownloadSettings(min_side_px=1, max_side_px=512, jpeg_quality=95)
EXAMPLES = settings(max_examples=60, deadline=None)

PARTS = [
    "a",
    "A",
    "b",
    "b.c",
    "a.1",
    "é",
    "e\u0301",
    "caf\udce9",
    "caf\udcea",
    "x\ny",
    "x\ty",
    "\x1b[31m",
    "%0A",
    "a b",
]
PARTS += ["-x", "#1", "a#1", "\u202ex", "日本", "a\\b", "'", '"', "%", "..", ".hidden", "__MACOSX", "README"]
FOLDERS = st.lists(st.sampled_from(["", ".", "a", "b", "x.y", "..", "__MACOSX"]), max_size=2)
NAMES = st.sampled_from(PARTS)


def picture(number: int) -> bytes:
    """Return a picture whose colour is the number."""
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (number >> 16, number >> 8 & 255, number & 255)).save(out, "PNG")
    return out.getvalue()


def number_of(data: bytes) -> int:
    """Return the number that a picture was made of."""
    red, green, blue = Image.open(io.BytesIO(data)).getpixel((0, 0))  # type: ignore[misc]
    return red << 16 | green << 8 | blue


class Kept(NamedTuple):
    """A sample that was kept."""

    key: str
    picture: int
    captions: tuple[str, ...]
    source: str


class Written(NamedTuple):
    """A partition as it was written."""

    rows: list[dict[str, Any]]
    kept: list[Kept]
    other_members: int


def written(handler: Handler, partition: Partition, files: dict[str, Path], folder: Path, rows: Any = ()) -> Written:
    """Write a partition, check it as the step does, and read it back."""
    out = folder / "out"
    (folder / "scratch").mkdir()
    out.mkdir()
    write_annotations(folder / "table", rows, NullReporter())
    inputs = Inputs(files=files, scratch=folder / "scratch", annotations=Annotations(folder / "table"))
    result = write_raw(handler.read(partition, inputs), SETTINGS, partition.name, out, NullReporter())
    check_balance(result.counts, None, "it")
    check_raw(out, partition.name, result)
    found = list(read_rows(out / f"{partition.name}.parquet", SCHEMA.names))
    keys = [row["key"] for row in found]
    assert len(set(keys)) == len(keys)
    assert all(is_key(key) and "\n" not in key for key in keys)
    assert {path.name for path in out.iterdir()} == {f"{partition.name}.tar", f"{partition.name}.parquet"}
    pictures = {each.key: number_of(each.data) for each in read_images(out / f"{partition.name}.tar")}
    kept = [
        Kept(row["key"], pictures[row["key"]], tuple(row["captions"]), row["source"])
        for row in found
        if row["status"] == "kept"
    ]
    return Written(found, kept, inputs.tally.other_members)


def write_tar(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_zip(path: Path, members: Members) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of repeated names
        for name, data in members:
            archive.writestr(name, data)


@contextmanager
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# --- WebDataset


@st.composite
def tar_samples(draw: st.DrawFn) -> list[list[str]]:
    """Return samples as lists of their members' names, each sample with a picture and a text."""
    samples = []
    for _ in range(draw(st.integers(1, 6))):
        path = "/".join([*draw(FOLDERS), draw(NAMES)])
        kinds = draw(st.sampled_from([["jpg", "txt"], ["png", "txt"], ["JPG", "txt", "npy"], ["webp", "txt", "cls"]]))
        samples.append([f"{path}.{kind}" for kind in draw(st.permutations(kinds))])
    return samples


@EXAMPLES
@given(samples=tar_samples(), times=st.integers(1, 2), together=st.booleans(), data=st.data())
def test_webdataset(samples: list[list[str]], times: int, together: bool, data: st.DataObject) -> None:
    """Samples, perhaps all of them twice; where no name is there twice, in any order."""
    members = [
        (
            name,
            picture(number) if extension(name).rpartition(".")[2] in ("jpg", "png", "webp") else f"{number}".encode(),
        )
        for number, names in enumerate(samples * times)
        for name in names
    ]
    kinds = [(sample_path(name), extension(name)) for name, _ in members]
    if not together and len(set(kinds)) == len(kinds):
        members = data.draw(st.permutations(members))
    records = [name for name, _ in members if not is_litter(name)]
    by_key = defaultdict(list)
    for name in records:
        by_key[sample_path(name)].append(name)
    documents = {key for key, names in by_key.items() if all(map(is_document, names))}
    with work() as folder:
        write_tar(folder / "0.tar", members)
        part = Partition(name="0", number=0, files=("0.tar",))
        try:
            found = written(CC12M(form="webdataset"), part, {"0.tar": folder / "0.tar"}, folder)
        except SourceError:
            assert by_key.keys() <= documents
            return
    for kept in found.kept:
        assert kept.captions == (str(kept.picture),)
    assert found.other_members == len(members) - sum(
        len(names) for key, names in by_key.items() if key not in documents
    )
    said = {json.loads(row["meta"])["key"] for row in found.rows}
    assert len(said) == len(by_key.keys() - documents)
    pictures = sum(name.lower().endswith(("jpg", "png", "webp")) for name in records)
    assert len(found.rows) >= pictures
    clear = {key for key in by_key.keys() - documents if sum(key == other for other, _ in kinds) <= 3}
    assert len(found.kept) >= sum(not is_unsafe(key) and kinds.count((key, "txt")) == 1 for key in clear)


# --- archives of pictures, and captions by their names


@st.composite
def named(draw: st.DrawFn, kinds: Sequence[str]) -> list[tuple[str, int]]:
    """Return names, which may occur twice, and for each which of two contents it has."""
    paths = st.builds(
        lambda folders, name, kind: "/".join([*folders, name]) + kind, FOLDERS, NAMES, st.sampled_from(list(kinds))
    )
    return draw(st.lists(st.tuples(paths, st.integers(0, 1)), min_size=1, max_size=6))


KINDS = [".jpg", ".JPG", ".gif", ".tiff", "", ".small.jpg", ".json"]


@EXAMPLES
@given(pictures=named(KINDS), texts=named([".txt"]))
def test_sa1b(pictures: list[tuple[str, int]], texts: list[tuple[str, int]]) -> None:
    stems = sorted({stem_key(name) for name, _ in pictures + texts})
    number = {name: 2 * i for i, name in enumerate(stems)}
    members = [(name, picture(number[stem_key(name)] + other)) for name, other in pictures]
    others = [name for name, _ in members if is_other(name) or name.lower().endswith(".json")]
    handler = Sa1b(captions_source="", captions_file="captions.tar")
    with work() as folder:
        write_tar(folder / "sa_000000.tar", members)
        write_tar(
            folder / "captions.tar", [(name, f"{number[stem_key(name)]} {other}".encode()) for name, other in texts]
        )
        part = Partition(name="000000", number=0, files=("sa_000000.tar",))
        try:
            captions = list(handler.read_annotations({"captions.tar": folder / "captions.tar"}))
            found = written(handler, part, {"sa_000000.tar": folder / "sa_000000.tar"}, folder, captions)
        except SourceError:
            assert len(others) == len(members) or not [name for name, _ in texts if is_caption(name)]
            return
    assert len(found.rows) + found.other_members == len(members)
    for kept in found.kept:
        key = stems[kept.picture // 2]
        same = {data for name, data in members if name not in others and stem_key(name) == key}
        said = {other for name, other in texts if stem_key(name) == key and is_caption(name)}
        assert same == {picture(kept.picture)}
        assert kept.captions == (f"{kept.picture // 2 * 2} {said.pop()}",)
        assert not said


def is_caption(name: str) -> bool:
    """Tell whether a member of SA-1B's captions is one: `sa_1.txt`, in any folder that is not hidden."""
    plain = name.rpartition("/")[2].lower() == f"{stem(name).lower()}.txt"
    return plain and not is_other(name) and not is_unsafe(name)


@EXAMPLES
@given(pictures=named([*KINDS[:-1], ".jpeg"]), lines=named([".jpg", ".png"]))
def test_jdb(pictures: list[tuple[str, int]], lines: list[tuple[str, int]]) -> None:
    stems = sorted({stem_key(name) for name, _ in pictures + lines})
    number = {name: 2 * i for i, name in enumerate(stems)}
    members = [(f"000/{name}", picture(number[stem_key(name)] + other)) for name, other in pictures]
    said = [
        {"img_path": f"./000/{name.rpartition('/')[2]}", "prompt": f"{number[stem_key(name)]} {other}"}
        for name, other in lines
    ]
    others = [name for name, _ in members if is_other(name)]
    handler = Jdb(split="train")
    with work() as folder:
        write_tar(folder / "000.tgz", members)
        write_tar(folder / "lines.tar", [("a.jsonl", "\n".join(map(json.dumps, said)).encode())])
        part = Partition(name="000", number=0, files=("000.tgz",))
        rows = list(handler.read_annotations({"": folder / "lines.tar"}))
        try:
            found = written(handler, part, {"000.tgz": folder / "000.tgz"}, folder, rows)
        except SourceError:
            assert len(others) == len(members)
            return
    of_pictures = [row for row in found.rows if row["source"].startswith("000.tgz")]
    assert len(of_pictures) + found.other_members == len(members)
    for kept in found.kept:
        name = stems[kept.picture // 2]
        assert {content for path, content in members if path not in others and stem_key(path) == name} == {
            picture(kept.picture)
        }
        (prompt,) = {line["prompt"] for line in said if stem_key(line["img_path"]) == name}
        assert kept.captions == (prompt,)


# --- zips


@EXAMPLES
@given(
    pictures=st.lists(
        st.tuples(
            st.sampled_from(["", "val2014/", "./val2014/", "val2014\\", "other/", "x/val2014/", "../", "__MACOSX/"]),
            st.sampled_from(["a.jpg", "a.JPG", "b.jpg", "b.c.jpg", "é.jpg", "x\ny.jpg", "a", "7.jpg", "README"]),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=8,
    ),
    images=st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["a.jpg", "a.JPG", "b.jpg", "x\ny.jpg", "7.jpg"])),
        min_size=1,
        max_size=5,
    ),
)
def test_coco(pictures: list[tuple[str, str, int]], images: list[tuple[int, str]]) -> None:
    names = [f"{folder}{name}" for folder, name, _ in pictures]
    members = [
        (name, picture(1 + 2 * number + other))
        for name, (number, other) in zip(
            names, ((names.index(n), o) for n, (_, _, o) in zip(names, pictures, strict=True)), strict=True
        )
    ]
    document = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [{"image_id": number, "caption": f"{number}"} for number, _ in sorted(set(images))],
    }
    handler = Coco(split="val2014", images_per_partition=100)
    with work() as folder:
        write_zip(folder / "p.zip", members)
        write_zip(folder / "a.zip", [("annotations/captions_val2014.json", json.dumps(document).encode())])
        files = dict(
            zip(handler.partitions(_Folder(folder))[0].files, (folder / "p.zip", folder / "a.zip"), strict=True)
        )
        part = Partition(name="0000", number=0, files=tuple(files))
        found = written(handler, part, files, folder)
    others = [name for name in names if is_other(name.replace("\\", "/"))]
    assert found.other_members == len(others)
    sources = Counter(row["source"].removeprefix("zips/val2014.zip/") for row in found.rows)
    assert Counter(name.replace("\\", "/").replace("\n", "\\x0a") for name in names if name not in others) <= sources
    content = defaultdict(set)
    for name, data in members:
        if name not in others:
            content[normal_path(name.replace("\\", "/"))].add(data)
    for kept in found.kept:
        (number,) = {int(caption) for caption in kept.captions}
        files_of = {name for other, name in images if other == number}
        assert len(files_of) == 1  # or else the id means two files
        name = files_of.pop()
        exact = content.get(f"val2014/{name}")
        loose = set().union(
            *(
                data
                for path, data in content.items()
                if path.lower().endswith(f"val2014/{name}".lower()) or path.lower() == name.lower()
            )
        )
        assert {picture(kept.picture)} == (exact or loose & {picture(kept.picture)})
        rivals = {other for other, file in images if file == name}
        assert rivals == {number} or (name == "7.jpg" and number == 7)


class _Folder:
    """A source whose annotations are `a.zip`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stat(self, path: str, _: str | None = None) -> str:
        return path

    def fetch(self, _: object) -> Path:
        return self.folder / "a.zip"


@EXAMPLES
@given(
    pictures=st.lists(
        st.tuples(
            st.sampled_from(["", "x/", "__MACOSX/"]),
            st.sampled_from(["a.webp", "a.png", "b.webp", "b", "x\ny.webp", "é.webp"]),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=6,
    ),
    rows=st.lists(
        st.tuples(st.sampled_from(["a.webp", "a.png", "b.webp", "x\ny.webp", "é.webp"]), st.integers(0, 1)), max_size=5
    ),
    notes=st.lists(st.tuples(st.sampled_from(["a.webp", "a.png", "b.webp", "é.webp"]), st.integers(0, 1)), max_size=3),
)
def test_diffdb(
    pictures: list[tuple[str, str, int]], rows: list[tuple[str, int]], notes: list[tuple[str, int]]
) -> None:
    number = {name: 2 * i for i, name in enumerate(sorted({name for _, name, _ in pictures}))}
    members = [(f"{folder}{name}", picture(number[name] + other)) for folder, name, other in pictures]
    note = "{" + ", ".join(f'{json.dumps(name)}: {{"p": "{name} {other}"}}' for name, other in notes) + "}"
    table = pa.Table.from_pylist(
        [{"image_name": name, "prompt": f"{name} {other}", "part_id": 7} for name, other in rows],
        pa.schema(
            [(f.name, pa.float32() if f.name in ("cfg", "image_nsfw", "prompt_nsfw") else f.type) for f in _COLUMNS]
        ),
    )
    with work() as folder:
        write_zip(folder / "p.zip", [*members, ("part-000007.json", note.encode())])
        pq.write_table(table, folder / "m.parquet")
        part = Partition(name="000007", number=7, files=("p.zip", "m.parquet"))
        files = {"p.zip": folder / "p.zip", "metadata-large.parquet": folder / "m.parquet"}
        try:
            found = written(DiffusionDB(), part, files, folder)
        except SourceError:
            assert all(is_other(name) for name, _ in members)
            return
    others = sum(is_other(name) for name, _ in members) + 1
    assert found.other_members == others
    of_pictures = [row for row in found.rows if "." in row["source"].rpartition("/")[2] or row["source"].endswith("/b")]
    assert len(members) + 1 - others <= len(of_pictures)
    names = {value: name for name, value in number.items()}
    for kept in found.kept:
        name = names[kept.picture // 2 * 2]
        rivals = [data for path, data in members if not is_other(path) and path.rpartition("/")[2] == name]
        assert set(rivals) == {picture(kept.picture)}
        exact = [f"{file} {other}" for said in (rows, notes) for file, other in said if file == name]
        near = [f"{file} {other}" for file, other in (*rows, *notes) if stem_key(file) == stem_key(name)]
        prompts = set(exact or near)
        assert set(kept.captions) <= prompts
        assert len({other for file, other in rows if file == name}) <= 1
