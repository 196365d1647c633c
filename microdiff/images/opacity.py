"""Take pictures of any mode apart, into colours of 8 bits and opacity, and put them together again on white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microdiff.images.refusals import UnsupportedPicture

_MULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def split_opacity(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Take a decoded picture apart.

    Args:
        image: Of any mode. `info["transparency"]` may mark one of its own levels, also of 16 bits.

    Returns:
        Its colours, as `L`, `RGB`, `CMYK` or `LAB`, and its opacity, as `L`; None where nothing shines through.

    Raises:
        UnsupportedPicture: What its levels mean is not known.
    """
    mark = image.info.get("transparency")
    if image.mode in _MULTIPLIED:  # from which Pillow converts to nothing else
        image = image.convert(_MULTIPLIED[image.mode])
    elif image.mode in ("P", "PA"):
        image, mark = _without_palette(image), None
    if image.mode in ("RGBA", "LA"):
        bands = image.split()
        return bands[0] if image.mode == "LA" else Image.merge("RGB", bands[:3]), bands[-1]
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
        return grey, None if mark is None else _unlike(levels, mark)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("L", "RGB"):
        return image, None if mark is None else _unlike(np.asarray(image), mark)
    if image.mode in ("RGBX", "YCbCr", "HSV"):
        return image.convert("RGB"), None
    if image.mode in ("CMYK", "LAB"):
        return image, None
    raise UnsupportedPicture(f"levels of mode {image.mode}")


def on_white(rgb: Image.Image, opacity: Image.Image | None) -> Image.Image:
    """Return an RGB picture with white where it is not opaque."""
    if opacity is None:
        return rgb
    rgba = rgb.copy()
    rgba.putalpha(opacity)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgba).convert("RGB")


def is_opaque_rgb(image: Image.Image) -> bool:
    """Tell whether a picture has three colours of 8 bits, and nothing shines through."""
    return image.mode == "RGB" and "transparency" not in image.info


def _without_palette(image: Image.Image) -> Image.Image:
    palette = getattr(image.palette, "mode", "RGB")
    if palette not in ("RGB", "RGBA"):
        raise UnsupportedPicture(f"a palette of mode {palette}")
    is_opaque = image.mode == "P" and palette == "RGB" and "transparency" not in image.info
    return image.convert("RGB" if is_opaque else "RGBA")


def _unlike(levels: NDArray[np.generic], mark: object) -> Image.Image:
    """Return an opacity of 0 where levels are those marked."""
    alike = np.equal(levels, np.asarray(mark))
    return Image.fromarray(np.where(alike.all(axis=2) if levels.ndim == 3 else alike, 0, 255).astype(np.uint8))
