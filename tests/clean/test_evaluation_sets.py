"""Pictures of other artifacts: what an evaluation set has is not trained on, what another dataset has is a duplicate.

The miniatures share photographs: nine of TextCaps' are COCO's as well, two of them with the same bytes, the others
scaled or cut by a hair.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from conftest import copy_of, sample_preset
from microdiff.artifacts.manifest import parse_manifest
from microdiff.clean.step import clean
from microdiff.core.files import read_json
from microdiff.core.ledger import Reason
from microdiff.download.step import download
from microdiff.errors import ParamsError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace

RAW, SHARDS = "data/coco/raw", "data/coco/shards"
SAME_BYTES = {"train_7e87ca9500000001", "val_7e87ca9500000016"}
NEAR = SAME_BYTES | {f"train_7e87ca95000000{number}" for number in ("02", "04", "07", "13", "14")}
NEAR |= {f"val_7e87ca95000000{number}" for number in ("15", "17")}
MakeParams = Callable[..., Params]


@pytest.fixture(scope="module")
def both(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All of COCO, and the raw artifact of TextCaps."""
    here = copy_of(built, tmp_path_factory.mktemp("both") / "here")
    (here.root / "params.yaml").write_text(yaml.safe_dump(sample_preset()))
    download("textcaps", load_params(here.root / "params.yaml"), here)
    return here


@pytest.fixture
def here(both: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(both, tmp_path / "here")


def rejected(here: Workspace, make_params: MakeParams, reason: Reason, **settings: Any) -> set[str]:
    """Clean TextCaps; return the keys rejected for a reason, which must be the only ones besides empty captions."""
    changes = {f"datasets.textcaps.clean.{name}": value for name, value in settings.items()}
    params = make_params({**changes, "datasets.textcaps.max_rejected_share": 0.99})
    clean("textcaps", params, here)
    found = set()
    for path in here.artifact("textcaps", "captions").glob("*.parquet"):
        for row in pq.read_table(path, columns=["key", "status"]).to_pylist():
            assert row["status"] in ("kept", reason.value, "empty_caption")
            found |= {row["key"]} if row["status"] == reason.value else set()
    assert read_json(here.metrics("clean", "textcaps"))[f"rejected_{reason.value}"] == len(found)
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, NEAR),
        ({"exclude_distance": None}, SAME_BYTES),
        ({"exclude_distance": 0}, SAME_BYTES | {"train_7e87ca9500000002", "train_7e87ca9500000014"}),
        ({"exclude_distance": 8}, NEAR - {"train_7e87ca9500000004"}),
    ],
    ids=["default", "bytes", "0 bits", "8 bits"],
)
def test_what_an_evaluation_set_has_is_rejected(
    here: Workspace, make_params: MakeParams, settings: dict[str, Any], expected: set[str]
) -> None:
    found = rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[RAW], **settings)
    assert found == expected
    facts = parse_manifest(here.artifact("textcaps", "captions")).facts
    assert facts["made_from"].keys() == {"raw", RAW}
    assert facts["settings"]["exclude_pictures"] == [RAW]


def test_a_shard_set_stands_for_the_pictures_of_its_samples(here: Workspace, make_params: MakeParams) -> None:
    keys = set()
    for path in here.artifact("coco", "latents").glob("*.parquet"):
        keys |= set(pq.read_table(path)["key"].to_pylist())
    in_shards = rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[SHARDS])
    in_raw = rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[RAW])
    assert in_shards <= in_raw == NEAR
    assert ("train_7e87ca9500000001" in in_shards) == ("COCO_val2014_000000600142" in keys)
    assert in_shards


def test_an_artifact_of_another_project_will_do(here: Workspace, make_params: MakeParams, tmp_path: Path) -> None:
    """Its place is nobody's business: the manifest has its name alone."""
    shutil.copytree(here.artifact("coco", "raw"), tmp_path / "elsewhere/evaluation")
    shutil.rmtree(here.artifact("coco", "raw"))
    place = str(tmp_path / "elsewhere/evaluation")
    assert rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[place]) == NEAR
    text = (here.artifact("textcaps", "captions") / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert parse_manifest(here.artifact("textcaps", "captions")).facts["made_from"].keys() == {"raw", "evaluation"}


def test_pictures_of_a_dataset_that_comes_first_are_duplicates(here: Workspace, make_params: MakeParams) -> None:
    assert rejected(here, make_params, Reason.DUPLICATE, duplicates_across=[RAW]) == SAME_BYTES


def test_what_no_rejection_touches_is_not_computed_again(here: Workspace, make_params: MakeParams) -> None:
    """By these settings a partition depends on what they reject of it, and pictures are hashed once."""
    rejected(here, make_params, Reason.IN_EVALUATION_SET)
    rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[RAW], exclude_distance=None)
    facts = read_json(here.run_facts("clean", "textcaps"))
    assert (facts["partitions_computed"], facts["partitions_reused"]) == (2, 1)
    rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[RAW])
    rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[RAW])
    assert read_json(here.run_facts("clean", "textcaps"))["partitions_computed"] == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("data/textcaps/raw", r"exclude_pictures: data/textcaps/raw is the dataset's own"),
        ("data/sa1b/raw", r"exclude_pictures: .*data/sa1b/raw: no manifest.json there"),
        ("data/sa1b/shards", r"exclude_pictures: data/sa1b/shards: not here. Build it"),
        ("data/coco/captions", r"exclude_pictures: data/coco/captions: neither a raw artifact nor a shard set"),
        ("data/nowhere", r"exclude_pictures: data/nowhere: no raw artifact"),
    ],
)
def test_what_is_no_set_of_pictures_is_an_error(
    here: Workspace, make_params: MakeParams, name: str, problem: str
) -> None:
    with pytest.raises(ParamsError, match=problem):
        rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[name])


def test_shards_without_their_raw_artifact_are_an_error(
    here: Workspace, make_params: MakeParams, tmp_path: Path
) -> None:
    shutil.copytree(here.artifact("coco", "shards"), tmp_path / "elsewhere/shards")
    with pytest.raises(ParamsError, match="the raw artifact beside it, from which it was made, is not here"):
        rejected(here, make_params, Reason.IN_EVALUATION_SET, exclude_pictures=[str(tmp_path / "elsewhere/shards")])


@pytest.mark.parametrize(
    ("of_textcaps", "of_coco", "of_sa1b", "way"),
    [
        (RAW, "data/textcaps/raw", None, "textcaps before coco before textcaps"),
        ("./data/coco/raw", "data/x/../textcaps/shards", None, "textcaps before coco before textcaps"),
        (RAW, "data/sa1b/raw", "{root}/data/textcaps/raw", "textcaps before sa1b before coco before textcaps"),
    ],
)
def test_no_dataset_can_come_before_itself(
    here: Workspace, make_params: MakeParams, of_textcaps: str, of_coco: str, of_sa1b: str | None, way: str
) -> None:
    names = {"textcaps": of_textcaps, "coco": of_coco, "sa1b": of_sa1b or ""}
    changes = {
        f"datasets.{name}.clean.duplicates_across": [path.format(root=here.root)] if path else []
        for name, path in names.items()
    }
    with pytest.raises(ParamsError, match=f"{way}: pictures that all of them have would be in none"):
        clean("textcaps", make_params(changes), here)
