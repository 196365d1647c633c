"""Dropout mask and latent noise: (seed, epoch, key) alone decide them, whatever the workers and ranks."""

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil

import numpy as np
from numpy.typing import NDArray


def drop_caption_mask(seed: int, epoch: int, keys: Sequence[str | int], cap_drop_prob: float) -> NDArray[np.float64]:
    """Return float64 (B,): 0. where a sample's caption is to be dropped in this epoch, else 1.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        keys: The samples' keys or, for shards without keys, their positions.
        cap_drop_prob: Probability of 0., in [0, 1].
    """
    if not 0 < cap_drop_prob < 1:
        return np.full(len(keys), 1.0 - cap_drop_prob)
    begun, digests = blake2b(f"{seed} {epoch} ".encode(), digest_size=8), []
    for key in keys:
        hashed = begun.copy()  # half the time of beginning anew
        hashed.update(f"{key}".encode())
        digests.append(hashed.digest())
    kept = np.frombuffer(b"".join(digests), "<u8") >= np.uint64(ceil(cap_drop_prob * 2**64))
    return kept.astype(np.float64)


def sampling_noise(seed: int, epoch: int, key: str | int, out: NDArray[np.float32]) -> None:
    """Draw the noise by which a sample's latents are taken from their distribution in this epoch.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        key: As in `drop_caption_mask`.
        out: Receives standard normal values.
    """
    digest = blake2b(f"noise {seed} {epoch} {key}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    generator.standard_normal(dtype=np.float32, out=out)
