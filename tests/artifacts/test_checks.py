"""What is refused before it is published or taken in, though its bytes are those that somebody wrote."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microdiff.artifacts.checks import check_latents, check_raw, check_shard, check_table
from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason, Result
from microdiff.core.progress import NullReporter
from microdiff.download.raw_writer import write_raw
from microdiff.errors import SchemaError
from microdiff.formats.records import Rejection, Sample
from tests.mds_factory import write_shard

NAME = "0000"
Counts = dict[str, int]


def changed(result: Result, **counts: int) -> Result:
    return replace(result, counts={**result.counts, **counts})


def assert_refused(check: Callable[[Path, str, Result], None], folder: Path, result: Result, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        check(folder, NAME, result)


# Raw partitions: two pictures and a rejection.


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def raw(tmp_path: Path) -> Result:
    records = [
        Sample(key="a", image=picture(1), captions=("a",), source="a", meta={}),
        Rejection(key="b", reason=Reason.FAILED_DOWNLOAD, source="b"),
        Sample(key="c", image=picture(3), captions=("c",), source="c", meta={}),
    ]
    settings = DownloadSettings(min_side_px=8, max_side_px=32, jpeg_quality=90)
    return write_raw(records, settings, NAME, tmp_path, NullReporter())


def write_tar(folder: Path, pictures: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(folder / f"{NAME}.tar", "w") as tar:
        for key, data in pictures:
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_a_raw_partition_is_what_its_step_made(tmp_path: Path, raw: Result) -> None:
    assert raw.counts == {"in": 3, "kept": 2, "failed_download": 1}
    check_raw(tmp_path, NAME, raw)
    check_table(tmp_path, NAME, raw)
    check_raw(tmp_path, NAME, changed(raw, expanded=1, with_256=2))  # counts that are none of rows


@pytest.mark.parametrize("check", [check_raw, check_table])
@pytest.mark.parametrize("counts", [{"kept": 1}, {"in": 4}, {"nsfw": 1}, {"failed_download": 0}])
def test_a_table_with_other_rows_than_its_counts_say(
    tmp_path: Path, raw: Result, check: Callable[[Path, str, Result], None], counts: Counts
) -> None:
    assert_refused(check, tmp_path, changed(raw, **counts), r"0000\.parquet: its rows are .* its counts say")


@pytest.mark.parametrize("data", [b"", b"no table", None])
def test_a_table_that_cannot_be_read(tmp_path: Path, raw: Result, data: bytes | None) -> None:
    table = tmp_path / f"{NAME}.parquet"
    table.write_bytes(table.read_bytes()[:-9] if data is None else data)
    assert_refused(check_table, tmp_path, raw, r"0000\.parquet: it cannot be read")
    table.unlink()
    assert_refused(check_table, tmp_path, raw, r"0000\.parquet: it cannot be read")


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([("a", picture(1))], "expected the picture c, found the end"),
        ([("a", picture(1)), ("c", picture(3)), ("d", picture(4))], "expected the picture no more, found d"),
        ([("c", picture(3)), ("a", picture(1))], "expected the picture a, found c"),
        ([("a", picture(1)), ("b", picture(3))], "expected the picture c, found b"),
        ([("a", picture(1)), ("c", picture(4))], "sample c: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
    ],
)
def test_pictures_that_are_not_those_of_the_table(
    tmp_path: Path, raw: Result, pictures: Sequence[tuple[str, bytes]], message: str
) -> None:
    write_tar(tmp_path, pictures)
    assert_refused(check_raw, tmp_path, raw, message)


def test_a_raw_partition_without_pictures(tmp_path: Path, raw: Result) -> None:
    (tmp_path / f"{NAME}.tar").unlink()
    assert_refused(check_raw, tmp_path, raw, r"0000\.tar: missing")


# Latents: of pictures at two resolutions, and of captions with a mask. Key c was rejected.

IMAGE = {"latents": "sample", "stored_dtype": "float16", "channels": 4, "downsampling": 8}
TEXT = {"stored_dtype": "bfloat16", "tokens": 3, "width": 2, "mask": True}
COUNTS = Result({"in": 3, "kept": 2, "non_finite": 1})
Tensors = Mapping[str, tuple[Sequence[str], Any, str]]  # keys, values, dtype


def filled(shape: tuple[int, ...], dtype: str = "float16") -> Any:
    return (np.arange(1, np.prod(shape) + 1) % 50).reshape(shape).astype("uint16" if dtype == "bfloat16" else dtype)


def write(folder: Path, file: str, tensors: Tensors, encoder: Mapping[str, Any], rejected: Sequence[str]) -> None:
    written, spools = {}, []
    for tensor, (keys, values, dtype) in tensors.items():
        spools.append(Spool(folder / f"rows {tensor}", dtype))
        for row in values:
            spools[-1].append(row)
        written[tensor] = TensorToWrite(list(keys), spools[-1])
    write_latents(folder / f"{NAME}.{file}.safetensors", written, encoder, dict.fromkeys(rejected, "non_finite"))
    for spool in spools:
        spool.__exit__(None, None, None)


def write_image(
    folder: Path, changes: Tensors | None = None, encoder: Mapping[str, Any] = IMAGE, rejected: Sequence[str] = "c"
) -> None:
    tensors: dict[str, tuple[Sequence[str], Any, str]] = {
        "latents_16": ("ab", filled((2, 4, 2, 2)), "float16"),
        "latents_32": ("b", filled((1, 4, 4, 4)), "float16"),
    }
    write(folder, "image", {**tensors, **(changes or {})}, encoder, rejected)


def write_text(folder: Path, changes: Tensors | None = None, encoder: Mapping[str, Any] = TEXT) -> None:
    tensors: dict[str, tuple[Sequence[str], Any, str]] = {
        "caption_latents_t5": ("ab", filled((2, 3, 2), "bfloat16"), "bfloat16"),
        "caption_mask_t5": ("ab", filled((2, 3), "uint8"), "uint8"),
    }
    write(folder, "text_t5", {**tensors, **(changes or {})}, encoder, "c")


def test_latents_are_what_their_step_made(tmp_path: Path) -> None:
    write_image(tmp_path)
    write_text(tmp_path)
    check_latents(tmp_path, NAME, COUNTS)


def test_moments_have_twice_the_channels(tmp_path: Path) -> None:
    moments = {"moments_16": ("ab", filled((2, 8, 2, 2)), "float16")}
    write(tmp_path, "image", moments, {**IMAGE, "latents": "moments"}, "c")
    check_latents(tmp_path, NAME, COUNTS)
    write(tmp_path, "image", moments, IMAGE, "c")
    assert_refused(check_latents, tmp_path, COUNTS, "moments_16 is .* expected no such tensor")


IMAGE_FAULTS: dict[str, tuple[Tensors, str]] = {
    "a key twice": (
        {"latents_16": ("aa", filled((2, 4, 2, 2)), "float16")},
        "latents_16 has 2 rows, 2 keys, 1 of them distinct",
    ),
    "another shape": (
        {"latents_16": ("ab", filled((2, 4, 2, 3)), "float16")},
        r"latents_16 is \('float16', \(4, 2, 3\)\) per sample, expected \('float16', \(4, 2, 2\)\)",
    ),
    "another dtype": (
        {"latents_16": ("ab", filled((2, 4, 2, 2), "float32"), "float32")},
        r"latents_16 is \('float32', .* expected \('float16'",
    ),
    "another tensor": ({"latents_big": ("ab", filled((2, 4, 2, 2)), "float16")}, "expected no such tensor"),
    "samples too many": (
        {"latents_16": ("abz", filled((3, 4, 2, 2)), "float16")},
        "3 samples and 1 rejected ones, but its counts say 2 and 1",
    ),
}


@pytest.mark.parametrize(("changes", "message"), IMAGE_FAULTS.values(), ids=IMAGE_FAULTS)
def test_image_latents_that_are_refused(tmp_path: Path, changes: Tensors, message: str) -> None:
    write_image(tmp_path, changes)
    assert_refused(check_latents, tmp_path, COUNTS, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("place", "key"), [((0, 0, 0, 0), "a"), ((1, 3, 1, 1), "b")])
def test_image_latents_that_are_not_finite(tmp_path: Path, value: float, place: tuple[int, ...], key: str) -> None:
    values = filled((2, 4, 2, 2))
    values[place] = value
    write_image(tmp_path, {"latents_16": ("ab", values, "float16")})
    assert_refused(check_latents, tmp_path, COUNTS, f"sample {key}: latents_16 holds NaN or infinity")


@pytest.mark.parametrize("counts", [{"kept": 1, "in": 2}, {"in": 2, "non_finite": 0}])
def test_image_latents_that_break_their_counts(tmp_path: Path, counts: Counts) -> None:
    write_image(tmp_path)
    assert_refused(check_latents, tmp_path, changed(COUNTS, **counts), "2 samples and 1 rejected ones")


def test_a_sample_too_small_for_every_resolution_is_no_fault(tmp_path: Path) -> None:
    write_image(tmp_path)
    check_latents(tmp_path, NAME, changed(COUNTS, **{"in": 4, "kept": 3}))


def test_every_caption_needs_latents(tmp_path: Path) -> None:
    write_text(tmp_path)
    assert_refused(check_latents, tmp_path, changed(COUNTS, **{"in": 4, "kept": 3}), "2 samples and 1 rejected")


TEXT_FAULTS: dict[str, tuple[Tensors, Mapping[str, Any], str]] = {
    "bits of a bfloat16 that are infinite": (
        {"caption_latents_t5": ("ab", np.full((2, 3, 2), 0x7F80, "uint16"), "bfloat16")},
        TEXT,
        "sample a: caption_latents_t5 holds NaN or infinity",
    ),
    "fewer tokens": (
        {"caption_latents_t5": ("ab", filled((2, 2, 2), "bfloat16"), "bfloat16")},
        TEXT,
        r"caption_latents_t5 is .*\(2, 2\)\) per sample, expected .*\(3, 2\)\)",
    ),
    "a mask of another length": (
        {"caption_mask_t5": ("ab", filled((2, 2), "uint8"), "uint8")},
        TEXT,
        r"caption_mask_t5 is \('uint8', \(2,\)\) per sample, expected \('uint8', \(3,\)\)",
    ),
    "a mask that the encoder has none of": ({}, {**TEXT, "mask": False}, "caption_mask_t5 is .* no such tensor"),
    "an encoder that says nothing": ({}, {}, "its encoder says nothing of 'stored_dtype'"),
}


@pytest.mark.parametrize(("changes", "encoder", "message"), TEXT_FAULTS.values(), ids=TEXT_FAULTS)
def test_caption_latents_that_are_refused(
    tmp_path: Path, changes: Tensors, encoder: Mapping[str, Any], message: str
) -> None:
    write_text(tmp_path, changes, encoder)
    assert_refused(check_latents, tmp_path, COUNTS, message)


def test_latents_that_are_none(tmp_path: Path) -> None:
    assert_refused(check_latents, tmp_path, COUNTS, "no latents there")
    (tmp_path / f"{NAME}.image.safetensors").write_bytes(b"none")
    assert_refused(check_latents, tmp_path, COUNTS, "not a latents file")


# Shards.

COLUMNS = {"key": "str", "width": "int32", "latents_16": "ndarray:float16:2,2", "caption_latents": "ndarray:uint16:3"}
SHARD = "256/shard.00000.mds"


def shard_samples(**changes: Any) -> list[dict[str, Any]]:
    samples = [
        {"key": key, "width": 5, "latents_16": filled((2, 2)), "caption_latents": np.full(3, 0x7F80, np.uint16)}
        for key in ("a", "b")
    ]
    return [samples[0], {**samples[1], **changes}]


def write_one(folder: Path, compression: str | None = None, **changes: Any) -> Result:
    (folder / "256").mkdir(exist_ok=True)
    entry = write_shard(folder / SHARD, COLUMNS, shard_samples(**changes), compression)
    return Result({"in": 2, "kept": 2}, {"entry": entry.to_json()})


@pytest.mark.parametrize("compression", [None, "zstd:3"])
def test_a_shard_is_what_its_step_made(tmp_path: Path, compression: str | None) -> None:
    """Numbers that are whole are what they are: shards state bfloat16 as uint16."""
    check_shard(tmp_path, SHARD, write_one(tmp_path, compression))


def assert_shard_refused(folder: Path, result: Result, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        check_shard(folder, SHARD, result)


def test_a_shard_with_a_value_that_is_not_finite(tmp_path: Path) -> None:
    result = write_one(tmp_path, latents_16=np.array([[1, 2], [3, np.inf]], np.float16))
    assert_shard_refused(tmp_path, result, r"shard\.00000\.mds, sample b: latents_16 holds NaN or infinity")


def test_a_shard_whose_counts_or_entry_say_another_number(tmp_path: Path) -> None:
    result = write_one(tmp_path)
    assert_shard_refused(tmp_path, changed(result, kept=1, **{"in": 1}), "holds 2 samples, .* 2, its counts 1")
    entry = {**result.facts["entry"], "samples": 3}
    assert_shard_refused(tmp_path, replace(result, facts={"entry": entry}), "holds 2 samples, its index entry says 3")


def test_a_shard_with_another_header_than_its_entry(tmp_path: Path) -> None:
    result = write_one(tmp_path)
    entry = json.loads(json.dumps(result.facts["entry"]).replace("ndarray:float16:2,2", "ndarray:float16:4,1"))
    assert_shard_refused(tmp_path, replace(result, facts={"entry": entry}), "its header is not what")


def test_a_shard_whose_value_has_another_size(tmp_path: Path) -> None:
    """The header states sizes beside encodings, and values are cut by the sizes."""
    result = write_one(tmp_path)
    path = tmp_path / SHARD
    text = path.read_bytes()
    same_length = text.replace(b"ndarray:float16:2,2", b"ndarray:float16:2,1")
    path.write_bytes(same_length)
    entry = json.loads(json.dumps(result.facts["entry"]).replace("ndarray:float16:2,2", "ndarray:float16:2,1"))
    problem = "column 'latents_16' with encoding 'ndarray:float16:2,1' and size 8"
    assert_shard_refused(tmp_path, replace(result, facts={"entry": entry}), f"holds no index entry: {problem}")
    assert_shard_refused(tmp_path, result, rf"not a shard, or damaged \({problem}")


@pytest.mark.parametrize("change", ["cut", "gone", "not compressed"])
def test_a_shard_that_is_none(tmp_path: Path, change: str) -> None:
    result = write_one(tmp_path, "zstd:3" if change == "not compressed" else None)
    path = tmp_path / f"{SHARD}.zstd" if change == "not compressed" else tmp_path / SHARD
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4])
    assert_shard_refused(tmp_path, result, r"shard\.00000\.mds.*: (damaged|missing|not a shard)")
