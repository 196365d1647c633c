"""What is drawn at random per sample, so that (seed, epoch, key) alone decide it, whatever the workers and ranks."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def drop_caption_mask(seed: int, epoch: int, name: str | int, cap_drop_prob: float) -> float:
    """Return 0. if a sample's caption is to be dropped in this epoch, else 1.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        name: The sample's key or, for shards without keys, its position.
        cap_drop_prob: Probability of 0., in [0, 1].
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {name}".encode(), digest_size=8).digest()
    return 0.0 if int.from_bytes(digest, "little") < cap_drop_prob * 2**64 else 1.0


def sampling_noise(seed: int, epoch: int, name: str | int, out: NDArray[np.float32]) -> None:
    """Draw the noise by which a sample's latents are taken from their distribution in this epoch.

    Args:
        seed: The loader's seed.
        epoch: Which epoch, from 0.
        name: As in `drop_caption_mask`.
        out: Receives standard normal values.
    """
    digest = hashlib.blake2b(f"noise {seed} {epoch} {name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    generator.standard_normal(dtype=np.float32, out=out)
