"""Decode stored pictures, convert them to RGB, reduce them, and crop them square."""

import io

from PIL import Image

from microdiff.images.opacity import is_opaque_rgb, on_white, split_opacity


def decode(data: bytes) -> Image.Image:
    """Decode a stored picture to RGB.

    Raises:
        OSError: The bytes are damaged.
    """
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    return flatten(image)


def flatten(image: Image.Image) -> Image.Image:
    """Return a decoded picture as RGB, transparent parts white, its colours by convention: no profile is looked at.

    Raises:
        UnsupportedPicture: What its levels mean is not known.
    """
    if is_opaque_rgb(image):
        return image
    colours, opacity = split_opacity(image)
    return on_white(colours if colours.mode == "RGB" else colours.convert("RGB"), opacity)


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """Return the picture with its short side reduced to `short_side` (bicubic, antialiased); never enlarged."""
    size = reduced_size(image.size, short_side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return width and height with the shorter of them reduced to `short_side`; never enlarged."""
    if min(size) <= short_side:
        return size
    scale = short_side / min(size)
    return max(short_side, round(size[0] * scale)), max(short_side, round(size[1] * scale))


def centre_crop(image: Image.Image, side: int) -> Image.Image:
    """Reduce to a short side of `side` pixels and cut out the middle square."""
    image = reduce(image, side)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
