"""What is just allowed, and what is just not: pixels, sides, rare formats, and an orientation of another type."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images import normalize
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import decode

SETTINGS = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=95)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(("width", "is_kept"), [(50, True), (51, False)])
def test_the_most_pixels_are_allowed(monkeypatch: pytest.MonkeyPatch, width: int, is_kept: bool) -> None:
    monkeypatch.setattr(normalize, "MAX_PIXELS", 50 * 40)
    outcome = store_image(encoded(Image.new("RGB", (width, 40)), "PNG"), SETTINGS)
    assert isinstance(outcome, StoredImage) if is_kept else outcome == RefusedImage(Reason.TOO_LARGE, width, 40)


@pytest.mark.parametrize(("width", "is_kept"), [(65_500, True), (65_501, False)])
def test_a_jpeg_has_the_longest_side_it_can(width: int, is_kept: bool) -> None:
    outcome = store_image(encoded(Image.new("L", (width, 40)), "PNG"), SETTINGS)
    if is_kept:
        assert isinstance(outcome, StoredImage)
        assert decode(outcome.data).size == (width, 40)
    else:
        assert outcome == RefusedImage(Reason.TOO_LARGE, width, 40)


def test_jpeg_2000_is_read() -> None:
    picture = Image.linear_gradient("L").resize((56, 40)).convert("RGB")
    outcome = store_image(encoded(picture, "JPEG2000", irreversible=False), SETTINGS)
    assert isinstance(outcome, StoredImage)
    assert outcome.extension == "jpg"
    difference = np.asarray(decode(outcome.data), float) - np.asarray(picture, float)
    assert np.abs(difference).mean() < 4


def test_grey_that_is_multiplied_by_its_alpha_is_read() -> None:
    grey = Image.new("LA", (56, 40), (100, 255))
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)  # ExtraSamples: alpha apart; 1 is alpha multiplied in
    data = encoded(grey, "TIFF")
    assert data.count(tag) == 1
    outcome = store_image(data.replace(tag, struct.pack("<HHIHH", 338, 3, 1, 1, 0)), SETTINGS)
    assert isinstance(outcome, StoredImage)
    assert np.asarray(decode(outcome.data)).tolist() == np.full((40, 56, 3), 100).tolist()


def test_an_orientation_that_is_no_integer_is_none() -> None:
    sixth = struct.pack("<HHII", 0x0112, 5, 1, 26) + bytes(4) + struct.pack("<II", 6, 1)  # a fraction, 6/1
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + sixth
    data = encoded(Image.new("RGB", (56, 40)), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6
    assert store_image(data, SETTINGS) == StoredImage(data, "jpg", 56, 40, 56, 40)
