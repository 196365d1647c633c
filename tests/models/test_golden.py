"""Noise as it was when latents were published: another would encode every picture anew, and nobody would see why."""

import hashlib

import numpy as np
import pytest

from microdiff.models.image_encoder import noise_for


@pytest.mark.parametrize(
    ("seed", "key", "shape", "first", "digest"),
    [
        (
            2024,
            "COCO_val2014_000000000042",
            (4, 32, 32),
            [-0.6669149, -1.1280555, 1.2054535],
            "3a00bf3c56e9326831739470047a22be",
        ),
        (
            2024,
            "COCO_val2014_000000000042",
            (4, 64, 64),
            [-0.8244358, 1.1396048, -0.4142299],
            "b280a54c18fa286a681506e8c50a6d46",
        ),
        (
            2025,
            "COCO_val2014_000000000042",
            (4, 32, 32),
            [2.0617898, -1.0181025, -0.3336237],
            "03101444f5a2df3be21bc86a5816b506",
        ),
        (0, "ключ#2", (16, 1, 2), [0.3113834, -1.0423677, 1.1199771], "9e381beba05b47848653b1bc10de2b93"),
    ],
)
def test_noise(seed: int, key: str, shape: tuple[int, ...], first: list[float], digest: str) -> None:
    noise = noise_for(seed, key, shape)
    assert (noise.shape, noise.dtype) == (shape, np.dtype("float32"))
    assert noise.ravel()[:3].tolist() == pytest.approx(first, abs=1e-6)
    assert hashlib.sha256(noise.tobytes()).hexdigest()[:32] == digest
