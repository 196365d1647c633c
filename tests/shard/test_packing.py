"""Which samples share a shard: within the limit, all of them once, and stable when single samples come or go."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from microdiff.shard.packing import Indices, hash_positions, pack_in_order, pack_shuffled

Pack = Callable[..., Iterator[Indices]]
BOTH = pytest.mark.parametrize("pack", [pack_shuffled, pack_in_order])


def make(
    num: int, seed: int = 0
) -> "tuple[np.ndarray[int, np.dtype[np.uint64]], np.ndarray[int, np.dtype[np.uint32]]]":
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**64, num, dtype=np.uint64), rng.integers(900, 1100, num, dtype=np.uint32)


def shards(pack: Pack, hashes: NDArray[np.uint64], sizes: object, limit: int) -> set[bytes]:
    return {hashes[chosen].tobytes() for chosen in pack(hash_positions(hashes, 1), sizes, limit)}


@BOTH
@pytest.mark.parametrize("per_shard", [1, 2, 5, 100, 1000])
def test_every_sample_is_in_one_shard_within_the_limit(pack: Pack, per_shard: int) -> None:
    hashes, sizes = make(5000)
    limit = 1100 * per_shard
    packed = list(pack(hash_positions(hashes, 1), sizes, limit))
    assert sorted(np.concatenate(packed).tolist()) == list(range(5000))
    assert max(int(sizes[chosen].sum()) for chosen in packed) <= limit
    assert len(packed) <= 2.5 * 5000 / per_shard


@BOTH
def test_shards_of_many_samples_are_well_filled(pack: Pack) -> None:
    hashes, sizes = make(50_000)
    limit = 1_000_000
    filled = [int(sizes[chosen].sum()) / limit for chosen in pack(hash_positions(hashes, 1), sizes, limit)]
    assert np.mean(filled) > (0.8 if pack is pack_shuffled else 0.7)
    assert min(filled[:-1]) > (0.7 if pack is pack_shuffled else 0.49)


@BOTH
@pytest.mark.parametrize(("per_shard", "most_on_average"), [(4, 4), (50, 1.6), (1000, 1.2)])
def test_one_sample_less_rewrites_the_shards_concerned(pack: Pack, per_shard: int, most_on_average: float) -> None:
    hashes, sizes = make(8000)
    limit = 1000 * per_shard
    before = shards(pack, hashes, sizes, limit)
    rewritten = []
    for gone in range(0, 8000, 200):
        keep = np.arange(8000) != gone
        rewritten.append(len(shards(pack, hashes[keep], sizes[keep], limit) - before))
    assert np.mean(rewritten) <= most_on_average
    assert max(rewritten) <= 20


@BOTH
def test_a_partition_less_does_not_move_the_rest(pack: Pack) -> None:
    hashes, sizes = make(20_000)
    keep = np.arange(20_000) // 100 != 77
    before, after = (shards(pack, hashes[which], sizes[which], 50_000) for which in (keep | True, keep))
    if pack is pack_in_order:
        assert len(after - before) <= 6
    else:
        assert len(after - before) <= 110  # a hundred samples, spread


def test_shuffled_order_follows_from_keys_and_seed_alone() -> None:
    hashes, sizes = make(3000)
    other = np.random.default_rng(1).permutation(3000)
    assert shards(pack_shuffled, hashes, sizes, 50_000) == shards(pack_shuffled, hashes[other], sizes[other], 50_000)
    first, second = (np.argsort(hash_positions(hashes, seed)) for seed in (1, 2))
    assert (first == second).mean() < 0.01


def test_shuffled_mixes_across_the_source() -> None:
    hashes, sizes = make(10_000)
    for chosen in pack_shuffled(hash_positions(hashes, 1), sizes, 200_000):
        assert abs(chosen.mean() - 5000) < 1500


def test_in_order_keeps_the_order() -> None:
    hashes, sizes = make(3000)
    packed = np.concatenate(list(pack_in_order(hash_positions(hashes, 1), sizes, 50_000)))
    assert packed.tolist() == list(range(3000))


@BOTH
def test_a_sample_larger_than_the_limit_is_alone(pack: Pack) -> None:
    hashes, sizes = make(100)
    sizes[[0, 50, 99]] = 10_000
    packed = [chosen.tolist() for chosen in pack(hash_positions(hashes, 1), sizes, 5000)]
    assert all([number] in packed for number in (0, 50, 99))
    assert sorted(number for chosen in packed for number in chosen) == list(range(100))


@BOTH
def test_no_samples_make_no_shards(pack: Pack) -> None:
    hashes, sizes = make(0)
    assert list(pack(hash_positions(hashes, 1), sizes, 5000)) == []


def test_equal_places_end() -> None:
    """Two keys of one hash cannot be told apart: they share a shard, however large."""
    places = np.array([7, 7, 9], np.uint64)
    assert [chosen.tolist() for chosen in pack_shuffled(places, np.array([10, 10, 10]), 10)] == [[0, 1], [2]]
