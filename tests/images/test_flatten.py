"""Pictures of every mode become RGB: transparent parts white, shades of more than 8 bits scaled."""

import numpy as np
import pytest
from PIL import Image

from microdiff.images.ops import flatten


def shades(*values: float, mode: str) -> Image.Image:
    kind = np.float32 if mode == "F" else np.int32
    image = Image.fromarray(np.array([values], kind))
    assert image.mode == mode
    return image


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize(
    ("values", "levels", "why"),
    [
        ((0, 100, 255), (0, 100, 255), "8 bits stay"),
        ((0, 257, 65535), (0, 1, 255), "16 bits are scaled"),
        ((0, 256, 25_700), (0, 1, 100), "also where the brightest is not white"),
        ((-5, 70_000, 65_535), (0, 255, 255), "what is out of range is cut off"),
    ],
)
def test_shades_of_any_depth_become_8_bits(
    mode: str, values: tuple[float, ...], levels: tuple[int, ...], why: str
) -> None:
    flat = flatten(shades(*values, mode=mode))
    assert flat.mode == "RGB"
    assert [pixel[0] for pixel in np.asarray(flat)[0].tolist()] == list(levels), why


def test_what_is_no_number_is_black_and_leaves_the_others_their_scale() -> None:
    flat = flatten(shades(float("nan"), 25_700, 65_535, mode="F"))
    assert np.asarray(flat)[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_what_shines_through_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
    image.putpixel((1, 0), (40, 40, 40, 0))
    if mode == "PA":  # which Pillow makes of no other mode with its transparency
        converted = Image.new("PA", (2, 1))
        converted.putpalette([40, 40, 40])
        converted.putdata([(0, 255), (0, 0)])
    else:
        converted = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    assert converted.mode == mode
    flat = flatten(converted)
    assert (flat.mode, np.asarray(flat)[0].tolist()) == ("RGB", [[40] * 3, [255] * 3])
