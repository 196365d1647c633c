"""Several text columns: their names, and which samples remain when encoders disagree."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from microdiff.artifacts.column_names import image_column, mask_column, text_file
from microdiff.artifacts.latents import LatentsFile, Spool, TensorToWrite, write_latents
from microdiff.artifacts.manifest import read_manifest
from microdiff.artifacts.tables import table_writer
from microdiff.clean.policy import SCHEMA
from microdiff.clean.step import clean
from microdiff.core.files import read_json
from microdiff.core.progress import NullReporter
from microdiff.download.step import download
from microdiff.encode.merge import write_merged
from microdiff.encode.step import encode
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from tests import tiny_models


def test_columns_name_their_masks_and_files() -> None:
    assert (text_file("0000", "caption_latents"), mask_column("caption_latents")) == (
        "0000.text.safetensors",
        "caption_mask",
    )
    assert text_file("0000", "caption_latents_t5") == "0000.text_t5.safetensors"
    assert mask_column("caption_latents_t5") == "caption_mask_t5"
    assert [image_column(latents, 256) for latents in ("sample", "mode", "moments")] == [
        "latents_256",
        "latents_256",
        "moments_256",
    ]


def write_file(path: Path, column: str, keys: str, rejected: dict[str, str]) -> Path:
    with Spool(path.with_suffix(".rows")) as spool:
        for _ in keys:
            spool.append(np.zeros(2, np.float16))
        write_latents(path, {column: TensorToWrite(list(keys), spool)}, {"model": column}, rejected)
    return path


def test_a_sample_that_any_encoder_refused_is_rejected(tmp_path: Path) -> None:
    blank = {"captions": [], "original": "", "caption": "x", "status": "kept", "width": 1, "height": 1}
    with table_writer(tmp_path / "0000.parquet", SCHEMA) as add_row:
        for key in "abcd":
            add_row({**blank, "key": key, "image_key": key})
    image = write_file(tmp_path / "image", "moments_256", "abc", {"d": "undecodable"})
    texts = {
        "caption_latents": write_file(tmp_path / "text", "caption_latents", "acd", {"b": "non_finite"}),
        "caption_latents_t5": write_file(tmp_path / "t5", "caption_latents_t5", "bda", {"c": "non_finite"}),
    }
    (tmp_path / "out").mkdir()
    result = write_merged(
        tmp_path / "0000.parquet", "0000", image, texts, {256: "moments_256"}, tmp_path / "out", NullReporter()
    )
    statuses = pq.read_table(tmp_path / "out/0000.parquet")["status"].to_pylist()
    assert statuses == ["kept", "non_finite", "non_finite", "undecodable"]
    assert result.counts == {"in": 4, "kept": 1, "non_finite": 2, "undecodable": 1, "with_256": 1}
    assert result.facts["encoders"] == {
        "image": {"model": "moments_256"},
        "text": {column: {"model": column} for column in texts},
    }


def test_a_second_text_encoder_is_a_second_column_and_computes_nothing_else(
    tmp_path: Path, workspace: Workspace, make_params: Callable[..., Params]
) -> None:
    tiny_models.save_vae(tmp_path / "vae", latent_channels=4)
    tiny_models.save_t5(tmp_path / "t5")
    small = {
        "datasets.coco.download.partitions": "0",
        "datasets.coco.download.images_per_partition": 4,
        "datasets.coco.max_rejected_share": 0.9,
        "encode.image.model": str(tmp_path / "vae"),
        "encode.image.revision": None,
        "encode.image.resolutions": [256],
        "encode.image.latents": "moments",
        "encode.image.store": "bfloat16",
    }
    first = make_params(small)
    download("coco", first, workspace)
    clean("coco", first, workspace)
    encode("coco", first, workspace)
    clip = first.encode.text["caption_latents"]
    t5 = dataclasses.replace(clip, model=str(tmp_path / "t5"), revision=None, store="bfloat16")
    texts = {"caption_latents": clip, "caption_latents_t5": t5}
    encode("coco", dataclasses.replace(first, encode=dataclasses.replace(first.encode, text=texts)), workspace)
    assert read_json(workspace.run_facts("encode", "coco"))["partitions_computed"] == 2  # of T5, and the join

    folder = workspace.artifact("coco", "latents")
    (name,) = read_manifest(folder).partitions
    image, text, other = (LatentsFile(folder / f"{name}.{kind}.safetensors") for kind in ("image", "text", "text_t5"))
    assert (image.names, text.names) == (["moments_256"], ["caption_latents"])
    assert (image.dtype("moments_256"), image.rows("moments_256").shape[1:]) == ("bfloat16", (8, 32, 32))
    assert other.names == ["caption_latents_t5", "caption_mask_t5"]
    assert other.keys("caption_latents_t5") == other.keys("caption_mask_t5") == text.keys("caption_latents")
    assert other.dtype("caption_latents_t5") == "bfloat16"
    masks = other.rows("caption_mask_t5")
    assert (masks.dtype, masks.shape[1:], set(masks[:, 0].tolist())) == (np.uint8, (24,), {1})
    encoders = read_json(folder / "encoders.json")
    assert list(encoders["text"]) == ["caption_latents", "caption_latents_t5"]
    assert (encoders["image"]["stored_dtype"], encoders["image"]["latents"]) == ("bfloat16", "moments")
    manifest = (folder / "manifest.json").read_text()
    assert str(tmp_path) not in manifest  # models are known by name and digest
    assert encoders["text"]["caption_latents_t5"]["model"] == "t5"
    assert encoders["text"]["caption_latents_t5"]["revision"].startswith("sha256:")
