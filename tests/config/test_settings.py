"""Settings at the ends of their ranges: the last value that is allowed, and the first that is not."""

from typing import Any

import pytest

from microdiff.config.model_reference import parse_model_reference, public_name, reference_problems
from microdiff.config.settings import (
    CleanSettings,
    DownloadSettings,
    EncodeSettings,
    ImageEncoderSettings,
    ShardSettings,
    TextEncoderSettings,
)
from microdiff.handlers.cc12m import CC12M
from microdiff.handlers.coco import Coco
from microdiff.handlers.sa1b import Sa1b
from microdiff.handlers.textcaps import TextCaps

COMMIT, DIGEST = "0123456789" * 4, "sha256:" + "0" * 64
IMAGE: dict[str, Any] = {
    "model": "samples/models/vae",
    "subfolder": None,
    "revision": None,
    "dtype": "float32",
    "latents": "sample",
    "store": "float16",
    "resolutions": (256, 512),
    "batch_size": 8,
    "seed": 1,
}
TEXT = {name: value for name, value in IMAGE.items() if name not in ("latents", "resolutions", "seed")}
DOWNLOAD = {"min_side_px": 256, "max_side_px": 512, "jpeg_quality": 95}
CLEAN: dict[str, Any] = {
    "cleaner": "none",
    "caption": "first",
    "min_chars": 1,
    "max_scores": {},
    "missing_scores": "keep",
    "drop_duplicates": False,
    "seed": 1,
}
SHARD = {"shard_bytes": 2**20, "order": "source", "seed": 1, "compression": "none"}
COCO = {"split": "val2014", "images_per_partition": 1}
SA1B = {"captions_source": "a", "captions_file": "b"}
GOOD: dict[type, dict[str, Any]] = {
    ImageEncoderSettings: IMAGE,
    TextEncoderSettings: TEXT,
    DownloadSettings: DOWNLOAD,
    CleanSettings: CLEAN,
    ShardSettings: SHARD,
    Coco: COCO,
    CC12M: {"form": "webdataset"},
    Sa1b: SA1B,
    TextCaps: {"form": "zip", "splits": ("train",)},
}


@pytest.mark.parametrize(
    ("kind", "changes", "wrong"),
    [
        (DownloadSettings, {"min_side_px": 8}, []),
        (DownloadSettings, {"min_side_px": 7}, ["min_side_px"]),
        (DownloadSettings, {"max_side_px": 256}, []),
        (DownloadSettings, {"max_side_px": 255}, ["max_side_px"]),
        (DownloadSettings, {"jpeg_quality": 1}, []),
        (DownloadSettings, {"jpeg_quality": 100}, []),
        (DownloadSettings, {"jpeg_quality": 0}, ["jpeg_quality"]),
        (DownloadSettings, {"jpeg_quality": 101}, ["jpeg_quality"]),
        (CleanSettings, {"min_chars": 0}, ["min_chars"]),
        (ImageEncoderSettings, {"resolutions": (8,)}, []),
        (ImageEncoderSettings, {"resolutions": (0,)}, ["resolutions"]),
        (ImageEncoderSettings, {"resolutions": (-8,)}, ["resolutions"]),
        (ImageEncoderSettings, {"resolutions": (256, 260)}, ["resolutions"]),
        (ImageEncoderSettings, {"resolutions": ()}, ["resolutions"]),
        (ImageEncoderSettings, {"resolutions": (256, 512, 256)}, ["resolutions"]),
        (ImageEncoderSettings, {"batch_size": 1}, []),
        (ImageEncoderSettings, {"batch_size": 0}, ["batch_size"]),
        (ImageEncoderSettings, {"cuda_graphs": True}, ["cuda_graphs"]),
        (ImageEncoderSettings, {"cuda_graphs": True, "compile": True}, []),
        (ImageEncoderSettings, {"revision": "main"}, ["revision"]),
        (TextEncoderSettings, {"max_tokens": 3}, []),
        (TextEncoderSettings, {"max_tokens": 2}, ["max_tokens"]),
        (TextEncoderSettings, {"batch_size": 1}, []),
        (TextEncoderSettings, {"batch_size": 0}, ["batch_size"]),
        (TextEncoderSettings, {"cuda_graphs": True}, ["cuda_graphs"]),
        (TextEncoderSettings, {"revision": "main"}, ["revision"]),
        (ShardSettings, {"shard_bytes": 2**16}, []),
        (ShardSettings, {"shard_bytes": 2**16 - 1}, ["shard_bytes"]),
        (ShardSettings, {"shard_bytes": 2**32 - 1}, []),
        (ShardSettings, {"shard_bytes": 2**32}, ["shard_bytes"]),
        (ShardSettings, {"shard_bytes": 2**31 - 1, "compression": "zstd"}, []),
        (ShardSettings, {"shard_bytes": 2**31, "compression": "zstd"}, ["shard_bytes"]),
        (Coco, {"images_per_partition": 0}, ["images_per_partition"]),
        (Coco, {"sha256": {"zips/val2014.zip": "0"}}, []),
        (Coco, {"sha256": {"zips/train2014.zip": "0"}}, ["sha256.zips/train2014.zip"]),
        (CC12M, {"urls_per_partition": 1, "max_failed_share": 0.0, "timeout_s": 3600.0, "retries": 0}, []),
        (CC12M, {"max_failed_share": 1.0}, []),
        (CC12M, {"urls_per_partition": 0}, ["urls_per_partition"]),
        (CC12M, {"max_failed_share": -0.01}, ["max_failed_share"]),
        (CC12M, {"max_failed_share": 1.01}, ["max_failed_share"]),
        (CC12M, {"timeout_s": 0.0}, ["timeout_s"]),
        (CC12M, {"timeout_s": 3600.1}, ["timeout_s"]),
        (CC12M, {"retries": -1}, ["retries"]),
        (Sa1b, {"md5": {"sa_000001.tar": "0" * 32}}, []),
        (Sa1b, {"md5": {"sa_1.tar": "0" * 32}}, ["md5.sa_1.tar"]),
        (Sa1b, {"md5": {"sa_000001.tar": "0" * 31}}, ["md5.sa_000001.tar"]),
        (TextCaps, {"splits": ("val", "train"), "images_per_partition": 1}, []),
        (TextCaps, {"splits": ()}, ["splits"]),
        (TextCaps, {"splits": ("val", "val")}, ["splits"]),
        (TextCaps, {"images_per_partition": 0}, ["images_per_partition"]),
    ],
)
def test_ends_of_ranges(kind: type, changes: dict[str, Any], wrong: list[str]) -> None:
    settings = kind(**{**GOOD[kind], **changes})
    assert [name for name, _ in settings.problems()] == wrong


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        (["caption_latents"], []),
        (["caption_latents", "caption_latents_t5_xxl2"], []),
        (["caption_latents", "caption_latentst5"], ["text.caption_latentst5"]),
        (["caption_latents", "caption_latents_"], ["text.caption_latents_"]),
        (["caption_latents", "caption_latents_T5"], ["text.caption_latents_T5"]),
        (["caption_latents", "my_caption_latents"], ["text.my_caption_latents"]),
        (["caption_latents_b"], ["text.caption_latents"]),
    ],
)
def test_names_of_text_columns(columns: list[str], wrong: list[str]) -> None:
    text = dict.fromkeys(columns, TextEncoderSettings(**TEXT))
    settings = EncodeSettings(image=ImageEncoderSettings(**IMAGE), text=text)
    assert [name for name, _ in settings.problems()] == wrong


@pytest.mark.parametrize(
    ("model", "revision", "wrong"),
    [
        ("./vae", None, []),
        ("./vae", DIGEST, []),
        ("./vae", COMMIT, ["revision"]),
        ("./vae", DIGEST[:-1], ["revision"]),
        ("org/name", COMMIT, []),
        ("org/name", None, ["revision"]),
        ("org/name", COMMIT[:-1], ["revision"]),
        ("org/name", DIGEST, ["revision"]),
        (f"hf://org/name@{COMMIT}/vae", None, []),
        (f"hf://org/name@{COMMIT}/vae", COMMIT, []),
        (f"hf://org/name@{COMMIT}", "f" * 40, ["revision"]),
        ("hf://org/name@main", None, ["model"]),
        ("s3://bucket/vae", DIGEST, []),
        ("s3://bucket/vae", None, ["revision"]),
        ("s3://bucket/vae", COMMIT, ["revision"]),
    ],
)
def test_what_pins_a_model(model: str, revision: str | None, wrong: list[str]) -> None:
    assert [name for name, _ in reference_problems(model, None, revision)] == wrong


@pytest.mark.parametrize(
    ("model", "kind", "root", "folder", "public"),
    [
        ("org/name", "hub", "org/name", "sub", "org/name"),
        ("hf-hub:org/name", "hub", "org/name", "sub", "org/name"),
        ("openclip:hf-hub:org/name", "hub", "org/name", "sub", "openclip:hf-hub:org/name"),
        ("openclip:org/name", "hub", "org/name", "sub", "openclip:hf-hub:org/name"),
        (f"hf://org/name@{COMMIT}/a/", "hub", "org/name", "a/sub", "org/name"),
        ("/models/mine/vae", "folder", "/models/mine/vae", "sub", "vae"),
        ("./mine/vae", "folder", "./mine/vae", "sub", "./mine/vae"),
        ("a/b/c", "folder", "a/b/c", "sub", "a/b/c"),
        ("samples/models", "folder", "samples/models", "sub", "samples/models"),  # which is there
        ("openclip:/models/clip", "folder", "/models/clip", "sub", "openclip:clip"),
        ("s3://key:secret@host/bucket/vae/", "url", "s3://key:secret@host/bucket/vae", "sub", "s3://host/bucket/vae"),
        ("file:///home/me/vae", "url", "file:///home/me/vae", "sub", "vae"),
        ("local:///home/me/vae", "url", "local:///home/me/vae", "sub", "vae"),
    ],
)
def test_where_a_model_is_and_what_it_is_called(model: str, kind: str, root: str, folder: str, public: str) -> None:
    """Artifacts show no password and no absolute path."""
    found = parse_model_reference(model, "/sub/", None)
    assert (found.kind, found.root, found.folder) == (kind, root, folder)
    assert public_name(model) == public
