"""What an entry of params.yaml may say of a dataset that has a kind, and how its text is edited."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPO, changed, sample_preset
from microdiff.commands.own import complete_entries, place_withdrawn
from microdiff.commands.preset import switch
from microdiff.errors import ParamsError
from microdiff.kinds import DEFAULT_CLEAN, DEFAULT_REJECTED_SHARE, KINDS
from microdiff.kinds.names import MAKE_TARGETS, name_problem
from microdiff.kinds.source import split_source
from microdiff.pipeline.params import Dataset, load_params
from microdiff.pipeline.params_text import blocks, completed, with_entry, without_entry

SAMPLE = (REPO / "presets/sample.yaml").read_text(encoding="utf-8")


def entry(tmp_path: Path, name: str, value: dict[str, Any]) -> Dataset:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(sample_preset(), {f"datasets/{name}": value})), encoding="utf-8")
    return load_params(path, name).dataset(name)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_source_has_a_default(tmp_path: Path, kind: str) -> None:
    found = entry(tmp_path, "mine", {"kind": kind, "download": {"source": "/data/photos"}})
    assert found.max_rejected_share == DEFAULT_REJECTED_SHARE
    assert found.partitions == "all"
    assert found.clean.cleaner == DEFAULT_CLEAN["cleaner"]
    assert found.handler_module == f"microdiff.kinds.{kind}"
    bare = {"kind": kind, "download": {"source": "/x"}, "clean": None, "max_rejected_share": None}
    assert entry(tmp_path, "mine", bare).clean == found.clean


def test_what_is_said_goes_before_defaults(tmp_path: Path) -> None:
    value = {"kind": "folder", "max_rejected_share": 0.5, "clean": {"min_chars": 7}, "download": {"source": "/x"}}
    found = entry(tmp_path, "mine", value)
    assert (found.max_rejected_share, found.clean.min_chars, found.clean.caption) == (0.5, 7, "first")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"kind": "zip", "download": {"source": "/x"}}, "kind: expected one of folder, webdataset"),
        ({"kind": None, "download": {"source": "/x"}}, "kind: expected one of"),
        ({"kind": ["folder"], "download": {"source": "/x"}}, "kind: expected one of"),
        ({"download": {"source": "/x"}}, "entry has no kind"),
        ({"kind": "folder"}, "download: missing"),
        ({"kind": "folder", "download": {}}, "download.source: missing"),
        (
            {"kind": "folder", "download": {"source": "/x", "captions": "txt"}},
            "captions: unknown; did you mean 'caption'",
        ),
        ({"kind": "folder", "download": {"source": "/x", "caption": []}}, "caption: expected at least one"),
        ({"kind": "folder", "download": {"source": "/x", "caption": 5}}, "caption: expected text"),
        ({"kind": "folder", "download": {"source": "/x", "caption": "jpg"}}, "caption: expected an extension"),
        ({"kind": "folder", "download": {"source": "/x", "caption": ".txt"}}, "caption: expected an extension"),
        ({"kind": "csv", "download": {"source": "/x", "delimiter": ";;"}}, "delimiter: expected null or one"),
        ({"kind": "jsonl", "download": {"source": "/x", "records_per_partition": 0}}, "expected at least 1"),
        ({"kind": "folder", "clean": {"cleanr": "none"}, "download": {"source": "/x"}}, "cleanr: unknown"),
        ({"kind": "folder", "clean": [], "download": {"source": ["/x"]}}, "source"),
        ("folder", "entry has no kind"),
    ],
)
def test_wrong_entries_are_told_by_name(tmp_path: Path, value: Any, problem: str) -> None:
    with pytest.raises(ParamsError, match=problem):
        entry(tmp_path, "mine", value)


@pytest.mark.parametrize("caption", ["txt", ["caption", "txt"], "json:blip"])
def test_captions_are_one_or_several(tmp_path: Path, caption: Any) -> None:
    handler = entry(tmp_path, "mine", {"kind": "folder", "download": {"source": "/x", "caption": caption}}).handler
    assert handler.caption == (tuple(caption) if isinstance(caption, list) else caption)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["my_photos", "A1", "_x", "photos2024"])
def test_names_that_can_be_datasets(name: str) -> None:
    assert name_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("", "1a", "my-photos", "a b", "a/b", "../a", "é", "class", "match", "key", "item", "yes", "Null", "a" * 65),
        *("coco", "all", "Test", "demo", "add", "setup"),
    ],
)
def test_names_that_cannot(tmp_path: Path, name: str) -> None:
    assert name_problem(name)
    if name and "/" not in name:
        with pytest.raises(ParamsError):
            entry(tmp_path, name, {"kind": "folder", "download": {"source": "/x"}})


def test_targets_of_make_are_those_of_the_makefile() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    line = makefile[makefile.index("TARGETS := ") :].partition("\n#")[0].replace("\\\n", " ")
    assert {*line.removeprefix("TARGETS := ").split(), "checked"} == MAKE_TARGETS


@pytest.mark.parametrize(
    ("source", "kind", "expected"),
    [
        ("/data/photos", "folder", ("/data/photos", None)),
        ("/data/[2024] *", "folder", ("/data/[2024] *", None)),
        ("/data/list.jsonl", "jsonl", ("/data", "list.jsonl")),
        ("list.csv", "csv", (".", "list.csv")),
        ("/list.csv", "csv", ("/", "list.csv")),
        ("/data/x", "parquet", ("/data/x", None)),
        ("/data/*/x-*.tar", "webdataset", ("/data", "*/x-*.tar")),
        ("hf://datasets/ORG/NAME@REV/data/*.parquet", "parquet", ("hf://datasets/ORG/NAME@REV", "data/*.parquet")),
        ("hf://datasets/ORG/NAME@REV", "parquet", ("hf://datasets/ORG/NAME@REV", None)),
        ("s3://bucket/prefix/*.tar", "webdataset", ("s3://bucket/prefix", "*.tar")),
        ("s3://bucket/a.parquet", "parquet", ("s3://bucket", "a.parquet")),
        ("https://host/a/b.csv", "csv", ("https://host/a", "b.csv")),
    ],
)
def test_sources_name_files_or_folders(source: str, kind: str, expected: tuple[str, str | None]) -> None:
    assert split_source(source, kind) == expected


# --- the text of params.yaml


ENTRY = {"kind": "folder", "max_rejected_share": 0.1, "download": {"source": "/data/a: b #c", "caption": "txt"}}


@pytest.mark.parametrize("preset", ["sample", "small", "full"])
def test_an_entry_is_added_and_removed_and_all_else_stays(preset: str) -> None:
    text = (REPO / f"presets/{preset}.yaml").read_text(encoding="utf-8")
    more = with_entry(with_entry(text, "mine", ENTRY), "other", ENTRY)
    assert yaml.safe_load(more)["datasets"] == {**yaml.safe_load(text)["datasets"], "mine": ENTRY, "other": ENTRY}
    assert without_entry(without_entry(more, "mine"), "other") == text
    assert without_entry(without_entry(more, "other"), "mine") == text


def test_comments_and_odd_layouts_stay() -> None:
    x = "    x:\n        kind: folder\n        # in x\n"
    text = f"a: 1\ndatasets:  # mine\n    # first\n{x}\n    # of y\n    y: {{kind: csv}}\nb: 2\n"
    assert [(block.name, block.start, block.end) for block in blocks(text)] == [("x", 3, 6), ("y", 8, 9)]
    assert without_entry(text, "x") == text.replace(x, "")
    assert yaml.safe_load(with_entry(text, "z", ENTRY))["datasets"]["z"] == ENTRY
    assert with_entry(text, "z", ENTRY).endswith("b: 2\n")


@pytest.mark.parametrize("text", ["", "a: [", "datasets: {x: {kind: csv}}\n", "datasets: 5\n"])
def test_a_text_that_cannot_be_edited_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        with_entry(text, "z", ENTRY)


def test_what_dvc_must_find_is_written_into_entries(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SAMPLE + "  mine:\n    kind: folder  # mine\n    download: {source: /x}\n", encoding="utf-8")
    complete_entries(tmp_path, ["mine"])
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"]["mine"]
    assert found == {"kind": "folder", "download": {"source": "/x"}, "max_rejected_share": 0.1, "clean": {}}
    assert path.read_text(encoding="utf-8").startswith(SAMPLE + "  mine:\n    kind: folder  # mine\n")
    before = path.read_bytes()
    complete_entries(tmp_path)
    place_withdrawn(tmp_path)
    assert path.read_bytes() == before
    assert (tmp_path / "data/mine/withdrawn.tsv").read_text(encoding="utf-8") == "key\treason\tpartition\n"
    assert (tmp_path / "data/coco/withdrawn.tsv").is_file()
    text = completed("datasets:\n  a:\n    kind: csv\n", "a", {"clean": {}})
    assert text == "datasets:\n  a:\n    kind: csv\n    clean: {}\n"


@pytest.mark.parametrize("text", ["a: [", "5\n", "datasets:\n  - a\n"])
def test_settings_that_cannot_be_read_are_left_to_those_who_check_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    for root in (tmp_path, tmp_path / "nowhere"):
        complete_entries(root, ["coco"])
        place_withdrawn(root, ["coco"])
    assert not (tmp_path / "data").exists()


# --- presets


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "presets").mkdir()
    for name in ("sample", "small", "full"):
        text = (REPO / f"presets/{name}.yaml").read_text(encoding="utf-8")
        (tmp_path / f"presets/{name}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "params.yaml").write_text(SAMPLE, encoding="utf-8")
    return tmp_path


def test_a_preset_replaces_another_and_back(project: Path) -> None:
    said: list[str] = []
    switch("small", project, said.append)
    assert (project / "params.yaml").read_bytes() == (project / "presets/small.yaml").read_bytes()
    switch("sample", project, said.append)
    assert (project / "params.yaml").read_text(encoding="utf-8") == SAMPLE
    assert said == ["params.yaml: as presets/small.yaml", "params.yaml: as presets/sample.yaml"]
    assert not list(project.glob("params.yaml.*"))


def test_own_entries_stay(project: Path) -> None:
    said: list[str] = []
    text = with_entry(with_entry(SAMPLE, "mine", ENTRY), "other", ENTRY)
    (project / "params.yaml").write_text(text, encoding="utf-8")
    switch("full", project, said.append)
    document = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    full = yaml.safe_load((project / "presets/full.yaml").read_text(encoding="utf-8"))
    assert document == {**full, "datasets": {**full["datasets"], "mine": ENTRY, "other": ENTRY}}
    assert said == ["params.yaml: as presets/full.yaml, with mine, other as before"]
    switch("sample", project, said.append)
    assert (project / "params.yaml").read_text(encoding="utf-8") == text


def test_what_was_edited_is_said_and_kept(project: Path) -> None:
    said: list[str] = []
    text = SAMPLE.replace("min_side_px: 256", "min_side_px: 300").replace("order: shuffled", "order: source")
    for number in (1, 2):
        (project / "params.yaml").write_text(text, encoding="utf-8")
        switch("sample", project, said.append)
        assert (project / f"params.yaml.before-{number}").read_text(encoding="utf-8") == text
    assert said[0] == "params.yaml was edited (download.min_side_px, shard.order): it is kept as params.yaml.before-1"
    assert (project / "params.yaml").read_text(encoding="utf-8") == SAMPLE


def test_a_preset_that_is_none_and_a_text_that_is_broken_are_refused(project: Path) -> None:
    with pytest.raises(ParamsError, match=r"full\|sample\|small"):
        switch("large", project, print)
    (project / "params.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ParamsError, match="not YAML"):
        switch("small", project, print)
    assert (project / "params.yaml").read_text(encoding="utf-8") == "a: ["
