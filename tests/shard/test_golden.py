"""Places, cuts and digests as they were when shards were published: others would write all of them anew.

The values were computed once; nothing else but these functions can give them.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from microdiff.artifacts import mds
from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.mds import MAX_BYTES, ZSTD, write_encoded
from microdiff.artifacts.tables import table_writer
from microdiff.core.progress import NullReporter
from microdiff.encode.merge import SCHEMA
from microdiff.shard.packing import Indices, hash_positions, pack_in_order, pack_shuffled
from microdiff.shard.sample_index import load_samples, write_sample_index

HASHES = np.array([0, 1, 2, 2**32, 2**63, 2**64 - 1], np.uint64)


@pytest.mark.parametrize(
    ("seed", "places"),
    [
        (
            0,
            [
                12035550249420947055,
                627405149472732430,
                15549969042648332857,
                3259556482872597323,
                6018453421592093069,
                3303439293501059696,
            ],
        ),
        (
            2024,
            [
                10408667759918069152,
                324017778577197285,
                2031779356768601065,
                6152531591428218260,
                9751589338250108048,
                16413625681435119567,
            ],
        ),
        (
            -1,
            [
                6755974106381971767,
                7521888212171461645,
                5886236958684341581,
                10210516137800325749,
                17866137399852670886,
                7136257342804621622,
            ],
        ),
        (
            2**64 - 1,
            [
                6755974106381971767,
                7521888212171461645,
                5886236958684341581,
                10210516137800325749,
                17866137399852670886,
                7136257342804621622,
            ],
        ),
    ],
)
def test_places(seed: int, places: list[int]) -> None:
    assert hash_positions(HASHES, seed).tolist() == places


def many() -> tuple["np.ndarray[int, np.dtype[np.uint64]]", "np.ndarray[int, np.dtype[np.uint32]]"]:
    numbers = np.arange(6000, dtype=np.uint64)
    return hash_positions(numbers, 7), (900 + numbers % np.uint64(211)).astype(np.uint32)


@pytest.mark.parametrize(
    ("pack", "limit", "num_shards", "digest"),
    [
        (pack_shuffled, 400_000, 18, "395b00ae007b65f4c3227f0157fc91ad"),
        (pack_shuffled, 20_000, 458, "1c16156c8e6bd2e7d36d7e720d633283"),
        (pack_in_order, 400_000, 20, "25ba89f89ba63a3b08ee65ae3472ded0"),
        (pack_in_order, 20_000, 409, "62471bed05741e86983f3d35e54f8fb8"),
    ],
)
def test_cuts(pack: Callable[..., Iterator[Indices]], limit: int, num_shards: int, digest: str) -> None:
    places, sizes = many()
    shards = [chosen.tolist() for chosen in pack(places, sizes, limit)]
    assert sorted(number for chosen in shards for number in chosen) == list(range(6000))
    assert (len(shards), hashlib.sha256(repr(shards).encode()).hexdigest()[:32]) == (num_shards, digest)


def test_a_shard_may_be_filled_to_the_last_byte() -> None:
    places = np.arange(4, dtype=np.uint64) * np.uint64(2**62)
    sizes = np.full(4, 10, np.uint32)
    assert [chosen.tolist() for chosen in pack_shuffled(places, sizes, 40)] == [[0, 1, 2, 3]]
    assert [chosen.tolist() for chosen in pack_shuffled(places, sizes, 39)] == [[0, 1], [2, 3]]
    assert [chosen.tolist() for chosen in pack_in_order(places, sizes, 40)] == [[0, 1, 2, 3]]
    assert [len(chosen) for chosen in pack_in_order(np.array([9, 9, 9, 0], np.uint64), sizes, 30)] == [3, 1]


@pytest.mark.parametrize(
    ("places", "first"),
    [([9, 9, 9, 1, 2, 3, 4, 5], 3), ([9, 9, 9, 9, 1, 2, 3, 4], 4), ([9, 1, 9, 9, 9, 9, 9, 9], 2), ([0] * 8, 2)],
)
def test_in_order_cuts_are_before_the_lowest_place_where_a_shard_is_half_full(places: list[int], first: int) -> None:
    """Of equal samples, 40 bytes of which fill a shard: after the second (half) to the fourth."""
    chosen = next(pack_in_order(np.array(places, np.uint64), np.full(8, 10, np.uint32), 40))
    assert chosen.tolist() == list(range(first))


def test_hashes_and_digests_of_samples(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.float16).reshape(2, 4, 3, 2)
    keys = ["COCO_val2014_000000000042", "ключ#2"]
    with Spool(tmp_path / "rows") as spool:
        for row in values:
            spool.append(row)
        write_latents(tmp_path / "0000.image.safetensors", {"latents_256": TensorToWrite(keys, spool)}, {}, {})
    with table_writer(tmp_path / "0000.parquet", SCHEMA) as add_row:
        for number, key in enumerate(keys):
            sizes = {"width": 300 + number, "height": 256}
            add_row({"key": key, "status": "kept", "caption": f"кот {number}", "image_key": key, **sizes})
    (tmp_path / "listing").mkdir()
    files = {"0000.image.safetensors": tmp_path / "0000.image.safetensors"}
    write_sample_index(tmp_path / "0000.parquet", "0000", files, tmp_path / "listing", NullReporter())
    samples = load_samples([tmp_path / "listing"])
    assert samples.key_hashes.tolist() == [10277580333775093943, 4572387067383459701]
    assert [digest.tobytes().hex() for digest in samples.digests] == [
        "682619d9089254ec497ee04c129fc972",
        "7acb26f052aeb52ded1a227d1a9f3623",
    ]
    assert samples.sizes.tolist() == [101, 86]
    assert samples.groups.tolist() == [256, 256]


def test_offsets_of_the_largest_shard_fit_their_type() -> None:
    assert MAX_BYTES[None] == np.iinfo(np.uint32).max
    assert MAX_BYTES[ZSTD] == np.iinfo(np.int32).max  # what the package takes at once


def test_the_number_of_cores_decides_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads would cut the data into frames of their own."""
    asked: list[tuple[int, ...]] = []
    compress = mds.zstd.compress

    def spy(data: bytes, *how: int) -> bytes:
        asked.append(how)
        found: bytes = compress(data, *how)
        return found

    monkeypatch.setattr(mds.zstd, "compress", spy)
    write_encoded(tmp_path / "a.mds", {"width": "int32"}, [4], [b"abcd"], ZSTD)
    assert asked == [(3, 1)]  # level and threads
