import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO, changed, sample_preset
from microdiff.config.roots import is_root
from microdiff.errors import ParamsError
from microdiff.handlers import handler_class
from microdiff.pipeline import params as params_module
from microdiff.pipeline.params import Params, dataset_names, load_params
from microdiff.pipeline.parsing import as_values, deciding_values
from tests.small_disk import as_nobody
from tests.waiting import run

PRESETS = ("sample", "small", "full", "published")
TEXT = sample_preset()["encode"]["text"]["caption_latents"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load(preset: str) -> None:
    assert load_params(REPO / "presets" / f"{preset}.yaml").datasets


def test_presets_differ_only_in_values() -> None:
    import yaml

    def names(value: Any, prefix: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {prefix}
        return {name for key, item in value.items() for name in names(item, f"{prefix}/{key}")}

    documents = [yaml.safe_load((REPO / "presets" / f"{preset}.yaml").read_text()) for preset in PRESETS]
    assert all(names(document) == names(documents[0]) for document in documents)


def test_presets_clean_captions_as_they_say() -> None:
    def cleaning(preset: str) -> dict[str, tuple[str, bool]]:
        params = load_params(REPO / "presets" / f"{preset}.yaml")
        return {name: (entry.clean.cleaner, entry.clean.strip_parameters) for name, entry in params.datasets.items()}

    today = {
        **{"cc12m": ("light", False), "diffdb": ("light", True), "jdb": ("light", True), "sa1b": ("light", False)},
        **{"coco": ("none", False), "textcaps": ("none", False)},
    }
    assert cleaning("small") == cleaning("full") == today
    assert cleaning("published") == {**dict.fromkeys(today, ("none", False)), "cc12m": ("deepfloyd", False)}
    published = load_params(REPO / "presets" / "published.yaml").datasets
    assert {entry.clean.caption for entry in published.values()} == {"first"}
    assert dict(published["diffdb"].clean.max_scores) == {"image_nsfw": 0.2, "prompt_nsfw": 0.2}


def test_committed_params_are_the_sample_preset() -> None:
    names = ("params.yaml", "presets/sample.yaml")
    committed, sample = (run(["git", "show", f"HEAD:{name}"], cwd=REPO) for name in names)
    assert (committed.returncode, sample.returncode) == (0, 0), committed.stderr
    assert committed.stdout == sample.stdout != ""  # the working copy may hold another preset


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shard.shard_bites", 1, "shard.shard_bites: unknown; did you mean 'shard_bytes'?"),
        ("shard.shard_bytes", "big", "shard.shard_bytes: expected a whole number, got 'big'"),
        ("shard.shard_bytes", True, "shard.shard_bytes: expected a whole number, got True"),
        ("shard.shard_bytes", 10, "shard.shard_bytes: expected 65536"),
        ("shard.order", "sideways", "shard.order: expected one of shuffled, source, got 'sideways'"),
        ("shard", ..., "shard: missing"),
        ("shard", None, "shard: expected a mapping, got None"),
        ("shards", {}, "shards: unknown; did you mean 'shard'?"),
        ("download.jpeg_quality", 0, "download.jpeg_quality: expected 1 to 100, got 0"),
        ("download.min_side_px", 600, "download.max_side_px: expected at least min_side_px (600), got 512"),
        ("encode.image.resolutions", [256, 100], "encode.image.resolutions: expected"),
        ("encode.image.resolutions", 256, "encode.image.resolutions: expected a list, got 256"),
        ("encode.image.resolutions", [256, "512"], "encode.image.resolutions[1]: expected a whole number, got '512'"),
        ("encode.image.batch_size", 0, "encode.image.batch_size: expected at least 1, got 0"),
        ("encode.image.model", "org/name", "encode.image.revision: expected the full 40-digit commit of org/name"),
        ("encode.image.revision", "main", "encode.image.revision: expected null or sha256:"),
        (
            "encode.text.caption_latents.dtype",
            "float8",
            "text.caption_latents.dtype: expected one of float32, float16, bfloat16",
        ),
        ("encode.text.caption_latents.max_tokens", 2, "max_tokens: expected null or at least 3 (a beginning"),
        ("encode.image.cuda_graphs", True, "encode.image.cuda_graphs: true needs compile: true"),
        ("encode.text.caption_latents", ..., "encode.text.caption_latents: missing: one text encoder has this name"),
        ("encode.text.clip", TEXT, "encode.text.clip: expected caption_latents or caption_latents_<name>"),
        ("encode.text.caption_latents_T5", TEXT, "encode.text.caption_latents_T5: expected caption_latents or"),
        ("encode.text", {}, "encode.text.caption_latents: missing"),
        ("encode.text", None, "encode.text: expected a mapping, got None"),
        ("encode.image.latents", "means", "encode.image.latents: expected one of sample, mode, moments, got 'means'"),
        ("encode.image.compile", 1, "encode.image.compile: expected true or false, got 1"),
        ("shard.compression", "gzip", "shard.compression: expected one of none, zstd, got 'gzip'"),
        ("datasets", {}, "datasets: expected at least one dataset"),
        ("datasets.imagenet", {}, "datasets.imagenet: no such dataset"),
        ("datasets.coco.max_rejected_share", 2, "datasets.coco.max_rejected_share: expected 0 to 1, got 2.0"),
        ("datasets.coco.max_rejected_share", "few", "datasets.coco.max_rejected_share: expected a number, got 'few'"),
        ("datasets.coco.download.source", ..., "datasets.coco.download.source: missing"),
        ("datasets.coco.download.split", "val2017", "datasets.coco.download.split: expected one of val2014, train2014"),
        ("datasets.coco.download.spilt", "x", "datasets.coco.download.spilt: unknown; did you mean 'split'?"),
        ("datasets.coco.download.images_per_partition", 0, "images_per_partition: expected at least 1, got 0"),
        ("datasets.coco.download.partitions", "0..3", "datasets.coco.download.partitions: expected 'all'"),
        ("datasets.coco.download.partitions", "3-1", "runs backwards"),
        ("datasets.coco.download.sha256", {"zips/val2041.zip": "00"}, "sha256.zips/val2041.zip: is not read"),
        ("datasets.coco.clean.min_chars", 0, "datasets.coco.clean.min_chars: expected at least 1, got 0"),
        ("datasets.coco.clean.cleaner", "soap", "datasets.coco.clean.cleaner: expected one of none, deepfloyd"),
    ],
)
def test_a_mistake_is_reported_by_name(make_params: Callable[..., Params], name: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        make_params({name: value})
    assert message in str(error.value)


def test_all_mistakes_are_reported_at_once(make_params: Callable[..., Params]) -> None:
    changes = {
        "download.jpeg_quality": 0,
        "shard.sead": 1,
        "datasets.coco.clean.cleaner": "x",
        "encode.text.caption_latents.dtype": 1,
    }
    with pytest.raises(ParamsError) as error:
        make_params(changes)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert "4 problem(s)" in lines[0]
    assert [name for name in changes if any(name.split(".")[-1] in line for line in lines[1:])] == list(changes)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\xff"])
def test_what_is_no_mapping_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load_params(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="make preset"):
        load_params(tmp_path / "none.yaml")


def test_one_dataset_is_read_whatever_is_wrong_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their settings nor their handlers, which may not even parse, are looked at."""
    import yaml

    path = tmp_path / "params.yaml"
    document = changed(sample_preset(), {"datasets.cc12m.clean": "nonsense", "datasets.no_such": {}})
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    asked = []
    handler_class = params_module.handler_class
    monkeypatch.setattr(params_module, "handler_class", lambda name: [asked.append(name), handler_class(name)][1])
    assert list(load_params(path, "coco").datasets) == asked == ["coco"]
    assert dataset_names(path) == list(document["datasets"])
    with pytest.raises(ParamsError, match=r"2 problem[\s\S]*cc12m\.clean: [\s\S]*no_such"):
        load_params(path)
    with pytest.raises(ParamsError, match=r"cc12m\.clean"):
        load_params(path, "cc12m")
    with pytest.raises(ParamsError, match="unknown dataset 'cocoo'; did you mean 'coco'"):
        load_params(path, "cocoo")


@pytest.mark.parametrize("text", ["{}", "datasets: {}", "datasets: []", "- 1"])
def test_names_need_datasets(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=r"params\.yaml: "):
        dataset_names(path)


def test_an_unknown_dataset_names_the_nearest(make_params: Callable[..., Params]) -> None:
    with pytest.raises(ParamsError, match="unknown dataset 'cocoo'; did you mean 'coco'"):
        make_params().dataset("cocoo")


def test_partitions_may_be_a_number(make_params: Callable[..., Params]) -> None:
    assert make_params({"datasets.coco.download.partitions": 0}).dataset("coco").partitions == "0"


def test_changed_leaves_the_original_alone() -> None:
    document = sample_preset()
    assert changed(document, {"shard.seed": 1}) != document
    assert document == sample_preset()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.mkdir(), r"cannot be read: Is a directory\. Check --params"),
        (lambda path: path.write_bytes(b"a: \xff\xfe"), "not UTF-8: invalid start byte at byte 3"),
        (lambda path: path.write_text("a: [1, 2\nb: 3\n"), r"not YAML: expected ',' or '\]', but got ':' in line 2"),
        (lambda path: path.write_text("? [a]\n: b\n"), "not YAML: found unhashable key in line 1"),
        (lambda path: path.touch(), "params: expected a mapping, got None"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_file_that_is_none_is_told_of(tmp_path: Path, make: Callable[[Path], Any], problem: str) -> None:
    path = tmp_path / "params.yaml"
    make(path)
    for read in (load_params, dataset_names):
        with pytest.raises(ParamsError, match=problem) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_file_that_may_not_be_read_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: b\n")
    (tmp_path / "params.yaml").chmod(0)

    def attempt() -> None:
        with pytest.raises(ParamsError, match=r"params\.yaml: cannot be read: Permission denied"):
            load_params(tmp_path / "params.yaml")

    as_nobody(attempt, tmp_path)


def test_variables_are_looked_up_in_roots_alone(make_params: Callable[..., Params], monkeypatch: Any) -> None:
    monkeypatch.setenv("COCO", "samples/coco")
    params = make_params({"datasets.coco.download.source": "$COCO", "encode.image.model": "$COCO/vae"})
    assert params.datasets["coco"].source == "samples/coco"
    assert params.encode.image.model == "samples/coco/vae"
    with pytest.raises(ParamsError, match=r"clean\.cleaner: expected one of .*, got '\$COCO'"):
        make_params({"datasets.coco.clean.cleaner": "$COCO"})
    with pytest.raises(ParamsError, match=r"download\.source: names the environment variable NONE, which is not set"):
        make_params({"datasets.coco.download.source": "$NONE/coco"})


def test_roots_decide_no_bytes(make_params: Callable[..., Params]) -> None:
    handler = make_params({"datasets.sa1b.download.captions_source": "/mine/texts"}).datasets["sa1b"].handler
    assert as_values(handler)["captions_source"] == "texts"
    assert "captions_source" not in deciding_values(handler)
    assert deciding_values(handler)["captions_file"] == "SA1B_caption.tar.gz"


def test_fields_that_say_where_something_is_are_roots() -> None:
    """Or else its secrets and paths would be in manifests, and equal content elsewhere would be computed again."""
    for name in sample_preset()["datasets"]:
        cls = handler_class(name)
        assert cls is not None
        for field, hint in typing.get_type_hints(cls, include_extras=True).items():
            assert not re.search("source|root|url$|path|folder", field) or is_root(hint), f"{name}: {field}"
