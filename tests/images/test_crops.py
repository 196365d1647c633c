"""Pictures as square crops of every resolution, against Pillow."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import REPO
from microdiff.images import crops as module
from microdiff.images.crops import center_crops
from microdiff.images.ops import centre_crop, decode


def stored(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    pictures = []
    with zipfile.ZipFile(REPO / "samples/coco/zips/val2014.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".jpg") and archive.getinfo(name).file_size > 20_000 and len(pictures) < 6:
                pictures.append(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
    return pictures


def largest_difference(data: bytes, resolutions: tuple[int, ...]) -> int:
    """Return how far the crops are from Pillow's, having checked that they are the right ones."""
    found = center_crops(data, resolutions)
    image = decode(data)
    assert found is not None
    assert list(found) == [px for px in resolutions if px <= min(image.size)]
    for px, square in found.items():
        assert square.dtype == np.uint8
        assert square.shape == (px, px, 3)
    return max(
        int(np.abs(square.astype(int) - np.asarray(centre_crop(image, px))).max()) for px, square in found.items()
    )


@pytest.mark.parametrize("size", [(683, 512), (512, 771), (640, 480), (480, 640), (512, 512), (257, 256), (256, 1000)])
def test_squares_are_pillows_from_one_decode(
    photographs: list[Image.Image], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(module, "decode_jpeg", lambda *args: decoded.append(1) or module_decode(*args))
    for photograph in photographs:
        assert largest_difference(stored(photograph.resize(size), quality=95, subsampling=0), (512, 256, 128)) <= 2
    assert len(decoded) == len(photographs)


module_decode = module.decode_jpeg


def test_a_square_of_the_stored_size_is_untouched(photographs: list[Image.Image]) -> None:
    data = stored(photographs[0].resize((700, 512)))
    found = center_crops(data, (512,))
    assert found is not None
    np.testing.assert_array_equal(found[512], np.asarray(Image.open(io.BytesIO(data)))[:, 94 : 94 + 512])


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 2}),
    ],
)
def test_every_form_that_is_stored_is_read(
    photographs: list[Image.Image], form: str, mode: str, options: dict[str, Any]
) -> None:
    assert largest_difference(stored(photographs[1].convert(mode), form, **options), (256,)) <= 2


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_pictures_are_none(photographs: list[Image.Image], form: str, keep: float) -> None:
    data = stored(photographs[0], form)
    assert center_crops(data[: int(len(data) * keep)], (256,)) is None


def test_other_files_are_none() -> None:
    assert center_crops(b"no picture at all" * 100, (256,)) is None
    assert center_crops(stored(Image.new("RGB", (300, 300)), "BMP"), (256,)) is None  # never stored


def test_a_picture_that_is_too_small_has_no_squares() -> None:
    assert center_crops(stored(Image.new("RGB", (300, 200))), (256, 512)) == {}
