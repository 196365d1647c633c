"""What is drawn at random per sample, so that (seed, epoch, key) alone decide it, whatever the workers and ranks."""

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil

import numpy as np
from numpy.typing import NDArray


def drop_caption_mask(seed: int, epoch: int, names: Sequence[str | int], cap_drop_prob: float) -> NDArray[np.float64]:
    """Return float64 (B,): 0. where a sample's caption is to be dropped in this epoch, else 1.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        names: The samples' keys or, for shards without keys, their positions.
        cap_drop_prob: Probability of 0., in [0, 1].
    """
    if not 0 < cap_drop_prob < 1:
        return np.full(len(names), 1.0 - cap_drop_prob)
    begun, digests = blake2b(f"{seed} {epoch} ".encode(), digest_size=8), []
    for name in names:
        hashed = begun.copy()  # half the time of beginning anew
        hashed.update(f"{name}".encode())
        digests.append(hashed.digest())
    kept = np.frombuffer(b"".join(digests), "<u8") >= np.uint64(ceil(cap_drop_prob * 2**64))
    return kept.astype(np.float64)


def sampling_noise(seed: int, epoch: int, name: str | int, out: NDArray[np.float32]) -> None:
    """Draw the noise by which a sample's latents are taken from their distribution in this epoch.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        name: As in `drop_caption_mask`.
        out: Receives standard normal values.
    """
    digest = blake2b(f"noise {seed} {epoch} {name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    generator.standard_normal(dtype=np.float32, out=out)
