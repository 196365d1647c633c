"""Measure the picture work of the download step: pictures per CPU-second and core, and what is left of their quality.

    python bench/images.py [--photos DIR] [--pictures N] [--rounds N]

JPEGs of quality 90 and 4:2:0 are made, 2250x1500 as in SA-1B and 640x480 as in COCO, from the photographs in DIR or
from nothing, and are stored with a short side of at most 512 in four ways, turn and turn about, in one thread:

- reference: what the published pipeline does (https://github.com/SonyResearch/micro_diffusion,
  `prepare/sa1b/download.py`): open, reduce with Pillow's bicubic filter if too large, save with Pillow's defaults.
- plain Pillow: the same, but always decoded, and saved as we do, at quality 95 and 4:4:4.
- ours: `store_image` of a process that has done some thousand pictures, so that torch is loaded.
- first ones: `store_image` of a new process, before torch.

The ratio to the reference is the claim; absolute speed is the machine's. PSNR is against the source reduced in floating
point by the same filter. The largest difference is between our reduced pixels and Pillow's, before they are encoded.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from microdiff.config.settings import DownloadSettings
from microdiff.images import bicubic
from microdiff.images.bicubic import Resizer, resize_rgb
from microdiff.images.normalize import StoredImage, store_image
from microdiff.images.ops import reduced_size

SIZES = ((2250, 1500), (640, 480))
SETTINGS = DownloadSettings(min_side_px=256, max_side_px=512, jpeg_quality=95)
Store = Callable[[bytes], bytes]


class FirstOnes(Resizer):
    """The state of a process that has not yet loaded torch."""

    def use_torch(self) -> None:
        """Do without."""


def reference(data: bytes) -> bytes:
    """Store a picture as the published pipeline does."""
    image: Image.Image = Image.open(io.BytesIO(data))
    image = _reduced(image)
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


def plain_pillow(data: bytes) -> bytes:
    """Store a picture in our form by Pillow alone."""
    image = _reduced(Image.open(io.BytesIO(data)).convert("RGB"))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=SETTINGS.jpeg_quality, subsampling="4:4:4")
    return out.getvalue()


def _reduced(image: Image.Image) -> Image.Image:
    size = reduced_size(image.size, SETTINGS.max_side_px)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def ours_with(resizer: Resizer) -> Store:
    """Return our way, with torch or without."""

    def store(data: bytes) -> bytes:
        bicubic.RESIZER = resizer
        outcome = store_image(data, SETTINGS)
        if not isinstance(outcome, StoredImage):
            sys.exit(f"a picture was refused: {outcome.reason}")
        return outcome.data

    return store


def pictures(size: tuple[int, int], number: int, photos: Path | None) -> Iterator[bytes]:
    """Yield JPEGs, the same ones each time."""
    paths = sorted(path for path in photos.rglob("*.jpg") if path.is_file()) if photos else []
    large = [path for path in paths if _covers(path, size)]
    if photos and not large:
        sys.exit(f"{photos}: no photograph of {size[0]}x{size[1]} or more")
    for place in range(number):
        image = _cut(large[place % len(large)], size) if large else _landscape(size, place)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90, subsampling="4:2:0")
        yield out.getvalue()


def _covers(path: Path, size: tuple[int, int]) -> bool:
    with Image.open(path) as image:
        return image.mode == "RGB" and image.width >= size[0] and image.height >= size[1]


def _cut(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return a photograph's middle, at the size asked for."""
    image = Image.open(path).convert("RGB")
    scale = max(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))))
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def _landscape(size: tuple[int, int], seed: int) -> Image.Image:
    """Return soft noise of all scales with hard edges through it, the statistics of a photograph."""
    dice = np.random.default_rng(seed)
    levels = np.zeros((size[1], size[0], 3))
    for cells in (2, 4, 8, 16, 32, 64, 128, 256):
        noise = dice.normal(0, 110 / cells**0.7, (cells, cells, 3)) * (1, 0.8, 0.6)
        for channel in range(3):
            small = Image.fromarray(noise[..., channel].astype(np.float32))
            levels[..., channel] += np.asarray(small.resize(size, Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[: size[1], : size[0]]
    for _ in range(12):
        x, y, angle = dice.uniform(0, size[0]), dice.uniform(0, size[1]), dice.uniform(0, 2 * np.pi)
        side = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) > 0
        levels[side] += dice.normal(0, 18, 3)
    return Image.fromarray(np.clip(levels + 118, 0, 255).astype(np.uint8))


def ideal(data: bytes) -> NDArray[np.float64]:
    """Return a picture reduced in floating point, 0 to 255."""
    image = Image.open(io.BytesIO(data))
    size = reduced_size(image.size, SETTINGS.max_side_px)
    planes = [Image.fromarray(plane) for plane in np.asarray(image, dtype=np.float32).transpose(2, 0, 1)]
    if size != image.size:
        planes = [plane.resize(size, Image.Resampling.BICUBIC) for plane in planes]
    return np.clip(np.stack([np.asarray(plane, dtype=np.float64) for plane in planes], axis=2), 0, 255)


def squared_error(data: bytes, expected: NDArray[np.float64]) -> float:
    """Return the mean squared error of an encoded picture."""
    return float(np.square(np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64) - expected).mean())


def decibels(error: float) -> str:
    """Return a mean squared error as PSNR."""
    return f"{10 * np.log10(255**2 / error):.1f} dB" if error else "exact"


def largest_difference(sources: list[bytes]) -> int:
    """Return how far our reduced pixels are from Pillow's at most."""
    worst = 0
    for data in sources:
        image = Image.open(io.BytesIO(data))
        theirs = np.asarray(_reduced(image), dtype=np.int16)
        ours = resize_rgb(np.asarray(image), (theirs.shape[1], theirs.shape[0]))
        worst = max(worst, int(np.abs(theirs - ours).max()))
    return worst


def cpu_seconds(store: Store, sources: list[bytes]) -> float:
    """Return CPU seconds a picture."""
    start = time.process_time()
    for data in sources:
        store(data)
    return (time.process_time() - start) / len(sources)


def measure(sources: list[bytes], ways: dict[str, Store], rounds: int) -> None:
    """Print a line for each way."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, store in ways.items():
            seconds = cpu_seconds(store, sources)
            if turn:  # the first warms up
                spent[name].append(seconds)
    expected = [ideal(data) for data in sources]
    for name, store in ways.items():
        stored = [store(data) for data in sources]
        pairs = list(zip(stored, expected, strict=True))
        error = sum(squared_error(data, levels) for data, levels in pairs) / len(pairs)
        ratio = median(theirs / own for theirs, own in zip(spent["reference"], spent[name], strict=True))
        size = sum(map(len, stored)) / len(stored) / 1024
        print(f"  {name:12} {1 / median(spent[name]):8.1f} {ratio:8.2f}x {decibels(error):>10} {size:8.0f} KiB")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, searched for *.jpg")
    parser.add_argument("--pictures", type=int, default=6, help="of each size (6)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (7)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with_torch, without = Resizer(), FirstOnes()
    with_torch.use_torch()
    ways: dict[str, Any] = {
        "reference": reference,
        "plain Pillow": plain_pillow,
        "ours": ours_with(with_torch),
        "first ones": ours_with(without),
    }
    for size in SIZES:
        sources = list(pictures(size, options.pictures, options.photos))
        kind = "photographs" if options.photos else "synthetic"
        print(f"{size[0]}x{size[1]}, {kind}, {sum(map(len, sources)) / len(sources) / 1024:.0f} KiB each")
        print(f"  {'':12} {'per s':>8} {'ratio':>9} {'PSNR':>10} {'size':>12}")
        measure(sources, ways, options.rounds)
        print(f"  largest difference of reduced pixels from Pillow's: {largest_difference(sources)} of 255")


if __name__ == "__main__":
    main()
