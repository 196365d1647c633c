"""Bring colours to sRGB, which is what viewers take a picture without a profile for.

By LittleCMS, relative colorimetric with black point compensation: docs/decisions/colour.md says why. A transform is
made once a process for each profile, and shared by threads: what changes while it works is on each thread's stack.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from microdiff.images.stated_colours import stated_profile

CONVERTED, BROKEN = "converted", "broken"  # what became of a profile

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
_LARGEST = 2**22  # bytes of a profile
_MOST = 32  # transforms that are kept
_TOLERANCE = 1  # levels by which a profile may differ from sRGB


@dataclass(frozen=True)
class Colours:
    """How a picture's colours become sRGB.

    Attributes:
        transform: What does it, where they are not by convention.
        profile: `converted`, `broken` (and ignored), or empty where there is none, or one that is sRGB in effect.
    """

    transform: ImageCms.ImageCmsTransform | None = None
    profile: str = ""

    def apply(self, image: Image.Image) -> Image.Image:
        """Return a picture of mode RGB, from one of 8 bits without opacity."""
        if self.transform is None:
            return image if image.mode == "RGB" else image.convert("RGB")
        if self.transform.input_mode != image.mode:  # numbers that describe colours of a grey picture
            image = image.convert(self.transform.input_mode)
        converted = self.transform.apply(image)
        converted.info.clear()
        return converted


def colours_of(image: Image.Image, data: bytes) -> Colours:
    """Find out what a picture's levels mean.

    Args:
        image: As opened from the data.
        data: The file.

    Raises:
        UnsupportedPicture: They are light that sRGB cannot show, or in a space that is not known.
    """
    stated = stated_profile(image, data)
    mode = _colour_mode(image)
    plain = Colours(_from_lab() if mode == "LAB" else None)
    if stated is None:
        return plain
    profile, by_numbers = stated
    try:
        transform = _transform(profile, "RGB" if by_numbers else mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return Colours(plain.transform, BROKEN)
    return plain if transform is None else Colours(transform, CONVERTED)


def _colour_mode(image: Image.Image) -> str:
    """Return the mode that a picture's colours will have, whatever its opacity, palette and depth."""
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I"):
        return "L"
    return image.mode if image.mode in ("CMYK", "LAB") else "RGB"


@lru_cache(maxsize=_MOST)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings a picture of a mode to sRGB; None if that changes nothing.

    Raises:
        ImageCms.PyCMSError: The profile cannot be used.
        OSError: It cannot even be read.
        ValueError: It is for pictures of another mode.
    """
    if len(profile) > _LARGEST:
        raise ValueError("too large a profile")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise ValueError(f"a profile for {source.profile.xcolor_space}, but a picture of {mode}")
    transform = _built(source, mode)
    if mode in ("L", "RGB"):
        probe = _probe(mode)
        before, after = (np.asarray(each, np.int16) for each in (probe.convert("RGB"), transform.apply(probe)))
        if np.abs(before - after).max() <= _TOLERANCE:
            return None
    return transform


@lru_cache(maxsize=1)
def _from_lab() -> ImageCms.ImageCmsTransform:
    return _built(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _built(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    # What LittleCMS makes of a matrix to be quicker is exact to a level; of a table, only to several.
    flags = _FLAGS if source.profile.is_matrix_shaper else _FLAGS | ImageCms.Flags.NOOPTIMIZE
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.buildTransform(source, srgb, mode, "RGB", renderingIntent=_INTENT, flags=flags)


def _probe(mode: str) -> Image.Image:
    """Return a picture of all greys and, where there are colours, of some from all over the cube."""
    greys = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(greys[None])
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([cube, np.repeat(greys[:, None], 3, axis=1)])[None])
