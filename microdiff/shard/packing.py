"""Which samples share a shard: decided so that a sample that comes or goes changes the shards it touches, not the rest.

Filling shards one after another would move every later sample when one is withdrawn: all shards written, pushed
and pulled again. Here a sample's *position*, a hash of (seed, key), decides instead:

- `shuffled`: samples are ordered by position, and a shard holds those of a range of positions. The range of all
  positions is halved until a block holds few shards, a block is cut into equal ranges, and a range that overflows is
  cut again. Each cut depends on nothing outside the range it cuts.
- `source`: a shard ends before the sample with the lowest position among those where it could end without being less
  than half full. After a change, the cuts find back to the same samples within a few shards.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUM_POSITIONS = 2**64
# Most shards a block is cut into at once. More are filled better, but all of them change when their number does, which
# is rare where a shard holds many samples; where it holds few, ranges are halved only.
_BLOCK_SHARDS = 16
_MANY_SAMPLES = 64
# Room for the difference between equal ranges: four standard deviations at 1,300 samples to a shard.
_FILL = 0.9

Indices = NDArray[np.intp]
_FIRST, _SECOND, _THIRD = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hash_positions(key_hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return samples' positions: uniform in 64 bits, anew for each seed (SplitMix64's mixing of key hash and seed).

    Args:
        key_hashes: uint64 (N,), of the keys.
        seed: Any integer.
    """
    start = _mixed(np.array([seed % _NUM_POSITIONS], np.uint64))
    return _mixed(key_hashes ^ start)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + _FIRST  # wraps, as all of this does
    values = (values ^ (values >> np.uint64(30))) * _SECOND
    values = (values ^ (values >> np.uint64(27))) * _THIRD
    return values ^ (values >> np.uint64(31))


def pack_shuffled(positions: NDArray[np.uint64], sizes: NDArray[Any], limit: int) -> Iterator[Indices]:
    """Yield each shard's samples in the order of their positions.

    Args:
        positions: uint64 (N,).
        sizes: Bytes each sample takes, (N,).
        limit: Most bytes of one shard's samples; a sample that is larger gets a shard of its own.
    """
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    ends = np.cumsum(sizes[order], dtype=np.int64)
    for first, last in _cut(ordered, ends, limit, 0, _NUM_POSITIONS, 0, len(order)):
        yield order[first:last]


def _cut(
    positions: NDArray[np.uint64], ends: NDArray[np.int64], limit: int, low: int, high: int, first: int, last: int
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the shards in the range of positions [low, high), whose samples are first to last."""
    if first == last:
        return
    size = int(ends[last - 1]) - (int(ends[first - 1]) if first else 0)
    if size <= limit or positions[first] == positions[last - 1]:
        yield first, last
        return
    shards = -(-size // int(_FILL * limit))
    pieces = shards if shards <= _BLOCK_SHARDS and last - first >= shards * _MANY_SAMPLES else 2
    bounds = [low + (high - low) * piece // pieces for piece in range(pieces + 1)]
    inner = np.searchsorted(positions[first:last], np.array(bounds[1:-1], np.uint64))
    cuts = [first, *(first + int(cut) for cut in inner), last]
    for piece in range(pieces):
        yield from _cut(positions, ends, limit, bounds[piece], bounds[piece + 1], cuts[piece], cuts[piece + 1])


def pack_in_order(positions: NDArray[np.uint64], sizes: NDArray[Any], limit: int) -> Iterator[Indices]:
    """Yield each shard's samples in the order given; arguments as in `pack_shuffled`."""
    ends = np.cumsum(sizes, dtype=np.int64)
    first, before = 0, 0
    while first < len(ends):
        # A shard of samples [first, cut) must have cut in (first, longest], where it holds at most `limit` bytes.
        longest = max(int(np.searchsorted(ends, before + limit, "right")), first + 1)
        cut = longest
        if longest < len(ends):
            shortest = min(max(int(np.searchsorted(ends, before + limit // 2, "left")) + 1, first + 1), longest)
            cut = shortest + int(np.argmin(positions[shortest : longest + 1]))
        yield np.arange(first, cut)
        first, before = cut, int(ends[cut - 1])
