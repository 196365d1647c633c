"""Transparent parts of pictures become white. Other modes: test_modes.py."""

import numpy as np
import pytest
from PIL import Image

from microdiff.images.ops import flatten


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
