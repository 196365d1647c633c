"""Perceptual hashes of photographs: near for what is the same picture, far for what is not."""

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from conftest import REPO
from microdiff.config.settings import CleanSettings
from microdiff.formats.zips import open_zip
from microdiff.images.perceptual import HASH_BYTES, near, perceptual_hash

DISTANCE = CleanSettings.exclude_distance
assert DISTANCE is not None


@cache
def photographs() -> list[Image.Image]:
    """Return distinct photographs of the COCO miniature."""
    with open_zip(REPO / "samples/coco/zips/val2014.zip") as archive:
        found = {}
        for name in sorted(archive.namelist()):
            try:
                image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            except OSError:
                continue
            if min(image.size) >= 300:
                found[name] = image
    return list(found.values())[:16]


def encoded(image: Image.Image, kind: str = "JPEG", quality: int = 95) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({} if kind == "PNG" else {"quality": quality}))
    return out.getvalue()


def distance(one: bytes, two: bytes) -> int:
    first, second = perceptual_hash(one), perceptual_hash(two)
    assert first is not None
    assert second is not None
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()


CHANGES = {
    "png": lambda image: encoded(image, "PNG"),
    "webp": lambda image: encoded(image, "WEBP", 80),
    "worse": lambda image: encoded(image, quality=40),
    "smaller": lambda image: encoded(image.resize((image.width // 2, image.height // 2)), quality=90),
    "larger": lambda image: encoded(image.resize((image.width * 3 // 2, image.height * 3 // 2)), quality=90),
    "grey": lambda image: encoded(image.convert("L"), quality=90),
    "flatter": lambda image: encoded(ImageEnhance.Contrast(image).enhance(0.9)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_picture_is_near(change: str) -> None:
    far = [distance(encoded(image), CHANGES[change](image)) for image in photographs()]
    assert max(far) <= DISTANCE


def test_other_pictures_are_far() -> None:
    """Of the 256 bits of two hashes that have nothing to do with each other, half differ."""
    found = [perceptual_hash(encoded(image)) for image in photographs()]
    numbers = [int.from_bytes(each or b"", "big") for each in found]
    distances = [(one ^ two).bit_count() for i, one in enumerate(numbers) for two in numbers[:i]]
    assert min(distances) > 4 * DISTANCE
    assert np.median(distances) == pytest.approx(128, abs=6)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_what_cannot_be_decoded_has_none(data: bytes) -> None:
    assert perceptual_hash(data) is None


@pytest.mark.parametrize("kind", ["white", "black", "red", "gradient", "two halves"])
def test_what_shows_too_little_has_none(kind: str) -> None:
    """Or one white picture in an evaluation set would be near to all even areas and gradients."""
    image = Image.new("RGB", (300, 300), kind if kind in ("white", "black", "red") else "white")
    if kind == "gradient":
        image = Image.linear_gradient("L").resize((300, 300)).convert("RGB")
    elif kind == "two halves":
        image.paste("black", (0, 0, 150, 300))
    assert perceptual_hash(encoded(image, "PNG")) is None


def test_near_counts_bits() -> None:
    dice = np.random.default_rng(0)
    hashes = dice.integers(0, 256, (5000, HASH_BYTES), np.uint8)
    others = hashes[[17, 4321]].copy()
    others[0, 3] ^= 0b0001_0101
    others[1, 31] ^= 0b1
    assert np.flatnonzero(near(hashes, others, 3)).tolist() == [17, 4321]
    assert np.flatnonzero(near(hashes, others, 2)).tolist() == [4321]
    assert not near(hashes, others, 0).any()
    assert near(hashes, hashes[4999:], 0).tolist() == [False] * 4999 + [True]
    assert near(hashes[:3], np.empty((0, HASH_BYTES), np.uint8), 256).tolist() == [False] * 3
    assert near(hashes[:0], hashes, 256).tolist() == []
