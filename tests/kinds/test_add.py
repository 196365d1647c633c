"""Adding a dataset: what a source is taken for, what is shown, what is written, and what cannot be decided."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from conftest import REPO
from microdiff.commands.add import add, remove
from microdiff.errors import ParamsError, SourceError
from microdiff.pipeline.params import load_params
from tests.kinds.contract import picture, put, write_csv, write_jsonl, write_parquet, write_tar

SAMPLE = (REPO / "presets/sample.yaml").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(SAMPLE, encoding="utf-8")
    return root


def pictures(folder: Path, count: int = 4, text: str | None = "txt") -> None:
    for i in range(count):
        put(folder / f"{i}.jpg", picture(i))
        if text:
            put(folder / f"{i}.{text}", f"caption {i}" if text != "json" else '{"caption": "x"}')


def imagefolder(folder: Path) -> None:
    pictures(folder / "train", text=None)
    write_csv(folder / "train/metadata.csv", ["file_name", "text"], [[f"{i}.jpg", f"of {i}"] for i in range(4)])


def hub(folder: Path) -> None:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"image": {"bytes": picture(i), "path": "a"}, "text": "x"} for i in range(3)]
    write_parquet(folder / "data/train-00000-of-00001.parquet", rows, pa.schema({"image": image, "text": pa.string()}))


def tars(folder: Path) -> None:
    write_tar(folder / "00000.tar", [("a.jpg", picture(1)), ("a.txt", b"x"), ("a.json", b"{}")])
    write_parquet(folder / "00000.parquet", [{"url": "x", "caption": "x"}])
    put(folder / "00000_stats.json", "{}")


def tars_with_json(folder: Path) -> None:
    write_tar(folder / "0.tar", [("a.jpg", picture(1)), ("a.json", b'{"url": "u", "caption": "x"}')])


def tars_without_captions(folder: Path) -> None:
    write_tar(folder / "0.tar", [("a.jpg", picture(1)), ("a.json", b'{"id": "u", "words": "x"}')])


def splits(folder: Path) -> None:
    for name in ("train", "test"):
        write_parquet(folder / f"data/{name}-0.parquet", [{"image": picture(len(name)), "text": name}])


def lines(folder: Path) -> None:
    pictures(folder / "images", text=None)
    write_jsonl(folder / "all.jsonl", [{"image": f"images/{i}.jpg", "caption": "x"} for i in range(4)])


def flickr(folder: Path) -> None:
    pictures(folder, text=None)
    write_csv(folder / "captions.csv", ["image", "caption"], [[f"{i % 4}.jpg", f"text {i}"] for i in range(8)])


@pytest.mark.parametrize(
    ("make", "kind", "settings"),
    [
        (pictures, "folder", {"caption": "txt"}),
        (lambda folder: pictures(folder, text="caption"), "folder", {"caption": "caption"}),
        (lambda folder: pictures(folder, text="json"), "folder", {"caption": "json"}),
        (lambda folder: (pictures(folder), pictures(folder, text="json")), "folder", {"caption": "txt"}),
        (imagefolder, "folder", {"metadata": "metadata.csv", "caption": "text"}),
        (hub, "parquet", {"image": "image", "caption": "text"}),
        (tars, "webdataset", {"caption": "txt"}),
        (tars_with_json, "webdataset", {"caption": "json:caption"}),
        (lines, "jsonl", {"image": "image", "caption": "caption"}),
        (flickr, "csv", {"image": "image", "caption": "caption"}),
    ],
)
def test_what_a_source_is_taken_for(
    tmp_path: Path, project: Path, make: Callable[[Path], None], kind: str, settings: dict[str, Any]
) -> None:
    make(tmp_path / "source")
    said: list[str] = []
    add("mine", str(tmp_path / "source"), project, said.append, None, {}, dry_run=False)
    entry = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))["datasets"]["mine"]
    assert entry == {
        "kind": kind,
        "max_rejected_share": 0.1,
        "download": {"source": str(tmp_path / "source"), **settings},
        "clean": {},
    }
    assert load_params(project / "params.yaml", "mine", recorded=True).dataset("mine")
    assert (project / "data/mine/withdrawn.tsv").is_file()
    assert (project / "data/mine/partitions.tsv").is_file()
    assert said[0].startswith(f"mine: kind {kind}")
    assert said[-1].endswith("Next: make mine")


def test_three_records_and_what_does_not_match_are_shown(tmp_path: Path, project: Path) -> None:
    source = tmp_path / "source"
    pictures(source, 5)
    for i in range(12):
        put(source / f"lone{i:02}.jpg", picture(100 + i))
    put(source / "words.txt", "x")
    put(source / "notes.docx", "x")
    said: list[str] = []
    add("mine", str(source), project, said.append, None, {}, dry_run=True)
    text = "\n".join(said)
    assert "  0  (" in text
    assert "caption 2" in text
    assert "caption 3" not in text
    assert "18 records; 1 partitions" in text
    names = ", ".join(f"lone{i:02}.jpg" for i in range(10))
    assert f"  12 pictures without a caption: {names}, ...\n" in text
    assert "  1 captions without a picture: words.txt\n" in text
    assert "  1 other files, which are no records: notes.docx\n" in text
    assert "That is 72.2% of the records, more than max_rejected_share 10%" in text
    assert "encodes 5 pictures" in text


def test_repeats_of_folders_are_said(tmp_path: Path, project: Path) -> None:
    pictures(tmp_path / "source/10_cat", 3)
    pictures(tmp_path / "source/2_dog", 2)
    said: list[str] = []
    add("mine", str(tmp_path / "source"), project, said.append, None, {}, dry_run=True)
    assert "(2 for 2 records, 10 for 3 records)" in "\n".join(said)


def test_a_dry_run_writes_nothing(tmp_path: Path, project: Path) -> None:
    pictures(tmp_path / "source")
    said: list[str] = []
    add("mine", str(tmp_path / "source"), project, said.append, None, {}, dry_run=True)
    assert (project / "params.yaml").read_text(encoding="utf-8") == SAMPLE
    assert not (project / "data").exists()
    assert "kind: folder" in said[-1]


def both_texts(folder: Path) -> None:
    pictures(folder)
    pictures(folder, text="caption")


def table_and_texts(folder: Path) -> None:
    pictures(folder)
    write_csv(folder / "metadata.csv", ["file_name", "text"], [["0.jpg", "x"]])


def two_columns(folder: Path) -> None:
    pictures(folder, text=None)
    write_jsonl(folder / "all.jsonl", [{"image": "0.jpg", "caption": "x", "prompt": "y"}])


def unknown_columns(folder: Path) -> None:
    write_csv(folder / "all.csv", ["bild", "legende"], [["0.jpg", "x"]])


def tars_and_pictures(folder: Path) -> None:
    pictures(folder)
    tars(folder)


@pytest.mark.parametrize(
    ("make", "answers"),
    [
        (both_texts, ["--caption caption", "--caption txt"]),
        (table_and_texts, ["--metadata metadata.csv", "--caption txt"]),
        (two_columns, ["--caption caption", "--caption prompt"]),
        (splits, ["--files '**/*train*.parquet'", "--files '**/*.parquet'"]),
        (tars_without_captions, ["--caption json:id", "--caption json:words"]),
        (unknown_columns, ["--image bild", "--caption bild"]),
        (tars_and_pictures, ["--kind folder", "--kind webdataset"]),
    ],
)
def test_what_cannot_be_decided_is_asked_with_the_likely_answers(
    tmp_path: Path, project: Path, make: Callable[[Path], None], answers: list[str]
) -> None:
    make(tmp_path / "source")
    with pytest.raises(ParamsError) as refused:
        add("mine", str(tmp_path / "source"), project, print, None, {}, dry_run=False)
    for answer in answers:
        assert f"python -m stages.add mine {tmp_path / 'source'} {answer}" in str(refused.value)
    assert (project / "params.yaml").read_text(encoding="utf-8") == SAMPLE


def test_answers_decide(tmp_path: Path, project: Path) -> None:
    both_texts(tmp_path / "a")
    add("a", str(tmp_path / "a"), project, [].append, None, {"caption": "caption"}, dry_run=False)
    table_and_texts(tmp_path / "b")
    add("b", str(tmp_path / "b"), project, [].append, None, {"metadata": "metadata.csv"}, dry_run=False)
    splits(tmp_path / "d")
    add("d", str(tmp_path / "d"), project, [].append, None, {"files": "**/*train*.parquet"}, dry_run=False)
    assert (project / "data/d/partitions.tsv").read_text().splitlines()[1:] == ["000000\tdata/train-0.parquet#0"]
    unknown_columns(tmp_path / "c")
    add("c", str(tmp_path / "c"), project, [].append, None, {"image": "bild", "caption": "legende"}, dry_run=False)
    entries = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))["datasets"]
    assert entries["a"]["download"]["caption"] == "caption"
    assert entries["b"]["download"] == {
        "source": str(tmp_path / "b"),
        "metadata": "metadata.csv",
        "caption": "text",
    }
    assert entries["c"]["download"]["caption"] == "legende"


def test_pictures_without_any_caption_are_refused(tmp_path: Path, project: Path) -> None:
    pictures(tmp_path / "source", text=None)
    with pytest.raises(ParamsError, match="no captions"):
        add("mine", str(tmp_path / "source"), project, print, None, {}, dry_run=False)


def test_what_is_nothing_is_refused(tmp_path: Path, project: Path) -> None:
    put(tmp_path / "source/a.docx", "x")
    with pytest.raises(ParamsError, match="no pictures, tars or tables"):
        add("mine", str(tmp_path / "source"), project, print, None, {}, dry_run=False)
    put(tmp_path / "phone/a.heic", "x")
    with pytest.raises(ParamsError, match="heic are not decoded: convert"):
        add("mine", str(tmp_path / "phone"), project, print, None, {}, dry_run=False)
    with pytest.raises(SourceError, match="no such folder"):
        add("mine", str(tmp_path / "nowhere"), project, print, None, {}, dry_run=False)


@pytest.mark.parametrize("name", ["coco", "all", "class", "a-b", "taken"])
def test_names_are_checked_first(tmp_path: Path, project: Path, name: str) -> None:
    pictures(tmp_path / "source")
    text = f"{SAMPLE}  taken:\n    kind: folder\n    download: {{source: /x}}\n"
    (project / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=name):
        add(name, str(tmp_path / "source"), project, print, None, {}, dry_run=False)
    assert (project / "params.yaml").read_text(encoding="utf-8") == text


def test_a_removed_dataset_leaves_all_else_and_says_what_stays(tmp_path: Path, project: Path) -> None:
    pictures(tmp_path / "source")
    add("mine", str(tmp_path / "source"), project, [].append, None, {}, dry_run=False)
    said: list[str] = []
    remove("mine", project, said.append)
    assert (project / "params.yaml").read_text(encoding="utf-8") == SAMPLE
    assert "data/mine" in "\n".join(said)
    assert (project / "data/mine/withdrawn.tsv").is_file()
    with pytest.raises(ParamsError, match="no entry mine"):
        remove("mine", project, print)
