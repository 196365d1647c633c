"""SHA-256 of stored pictures as numbers: the first eight bytes, of which 37 million take 300 MB.

Among so many pictures, two share their first eight bytes by chance with a probability of 4 in 100,000. Where that would
cost a sample, whole digests are compared.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from microdiff.artifacts.tables import open_table
from microdiff.core.ledger import KEPT
from microdiff.core.verified_files import Input

Digests = NDArray[np.uint64]

NO_DIGESTS: Digests = np.empty(0, np.uint64)
_HEX_DIGITS = 64


def digests_of(sha256: Iterable[str]) -> Digests:
    """Return the numbers of digests given as 64 hexadecimal digits, in their order."""
    data = bytes.fromhex("".join(sha256))
    return np.frombuffer(data, ">u8").reshape(-1, _HEX_DIGITS // 16)[:, 0].astype(np.uint64)


def is_in(digests: Digests, wanted: Digests) -> NDArray[np.bool_]:
    """Tell which digests are among those wanted, which are sorted."""
    if not wanted.size:
        return np.zeros(digests.shape, bool)
    places = np.minimum(np.searchsorted(wanted, digests), wanted.size - 1)
    found: NDArray[np.bool_] = wanted[places] == digests
    return found


def kept_digests(table: Input) -> Iterator[Digests]:
    """Yield the digests of a raw table's kept pictures, batch by batch."""
    with open_table(table) as parquet:
        for batch in parquet.iter_batches(columns=["status", "sha256"]):
            yield digests_of(batch.filter(pc.equal(batch["status"], KEPT))["sha256"].to_pylist())


def kept_rows(
    table: Input, columns: list[str], wanted: Digests, more_captions: int | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yield those kept rows of a raw table whose picture is among some, or that have many captions.

    Args:
        table: The table.
        columns: Names of columns; `captions` among them if `more_captions` is given.
        wanted: Digests, sorted.
        more_captions: Rows with more captions than this are wanted, too.
    """
    with open_table(table) as parquet:
        for batch in parquet.iter_batches(columns=["status", "sha256", *columns]):
            kept = batch.filter(pc.equal(batch["status"], KEPT))
            chosen = is_in(digests_of(kept["sha256"].to_pylist()), wanted)
            if more_captions is not None:
                lengths = pc.list_value_length(kept["captions"]).to_numpy(zero_copy_only=False)
                chosen |= lengths > more_captions
            yield from kept.filter(pa.array(chosen)).to_pylist()
