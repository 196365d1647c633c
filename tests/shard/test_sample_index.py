"""The sample index of a partition refuses latents that no shard could hold."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from microdiff.core.progress import NullReporter
from microdiff.errors import SchemaError
from microdiff.shard.sample_index import write_sample_index
from tests.latents_factory import make_sample, write_artifact

FILES = ("0000.image.safetensors", "0000.text.safetensors", "0000.text_t5.safetensors")


def index(latents: Path, *files: str) -> dict[str, Any]:
    """Index partition 0000; return the columns of its groups."""
    folder = latents / "index"
    folder.mkdir()
    paths = {file: latents / file for file in files}
    result = write_sample_index(latents / "0000.parquet", "0000", paths, folder, NullReporter())
    columns: dict[str, Any] = result.facts["columns"]
    return columns


def test_a_column_in_two_files_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path, {"0000": [1, 2]})
    latents = tmp_path / "data" / "coco" / "latents"
    shutil.copyfile(latents / FILES[1], latents / "0000.text_b.safetensors")
    with pytest.raises(SchemaError, match=rf"{FILES[1]} and 0000\.text_b\.safetensors both hold caption_latents"):
        index(latents, *FILES, "0000.text_b.safetensors")


def test_samples_of_a_group_have_the_same_columns(tmp_path: Path) -> None:
    def without_mask(number: int, columns: Mapping[str, Any]) -> dict[str, Any]:
        sample = make_sample(number, columns)
        return {name: value for name, value in sample.items() if number != 2 or name != "caption_mask_t5"}

    write_artifact(tmp_path, {"0000": [1, 2]}, make=without_mask)
    with pytest.raises(SchemaError, match=r"sample k0002 of partition 0000 has .*caption_latents_t5', 'latents_256"):
        index(tmp_path / "data" / "coco" / "latents", *FILES)


def test_groups_are_those_of_the_finest_resolution(tmp_path: Path) -> None:
    write_artifact(tmp_path, {"0000": [1, 2, 3]})
    columns = index(tmp_path / "data" / "coco" / "latents", *FILES)
    assert {group: "latents_512" in found for group, found in columns.items()} == {"256": False, "512": True}
