"""Reducing pictures: the two implementations against each other, against Pillow, and against the definition."""

import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from conftest import REPO
from microdiff.images import bicubic
from microdiff.images.bicubic import Resizer, resize_rgb, resize_with_numpy, resize_with_torch
from microdiff.images.ops import reduced_size
from tests.waiting import run_python

Pixels = NDArray[np.uint8]


def noise(width: int, height: int) -> Pixels:
    """Return black and white noise in three colours, the hardest thing to reduce."""
    return np.random.default_rng(width * height).choice(np.array([0, 255], np.uint8), (height, width, 3))


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    pictures = []
    with zipfile.ZipFile(REPO / "samples/coco/zips/val2014.zip") as archive:
        for name in sorted(archive.namelist())[:12]:
            if name.endswith(".jpg") and archive.getinfo(name).file_size > 20_000:
                with archive.open(name) as file:
                    pictures.append(np.array(Image.open(file).convert("RGB")))
    assert len(pictures) > 2
    return pictures


def floating(rgb: Pixels, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return what Pillow's filter gives without rounding between."""
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC) for plane in planar(rgb)]
    return np.clip(np.stack([np.asarray(plane, dtype=np.float64) for plane in planes], axis=2), 0, 255)


def planar(rgb: Pixels) -> NDArray[np.float32]:
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)


def by_pillow(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


_SIZES = [
    ((203, 150), (202, 149), "hardly at all"),
    ((203, 150), (203, 149), "one side only"),
    ((203, 150), (17, 150), "or the other"),
    ((203, 150), (203, 150), "not at all"),
    ((1125, 750), (384, 256), "a large one, in several bands"),
    ((400, 1203), (128, 385), "upright"),
    ((330, 250), (80, 61), "just above four times, where sums need more digits"),
    ((900, 1300), (9, 13), "a hundred times"),
    ((4000, 20), (500, 3), "a strip"),
    ((3, 5), (1, 1), "tiny"),
]


@pytest.mark.parametrize(("before", "after", "why"), _SIZES)
def test_both_implementations_give_the_same_bits(before: tuple[int, int], after: tuple[int, int], why: str) -> None:
    rgb = noise(*before)
    result = resize_with_numpy(rgb, after)
    assert result.shape == (after[1], after[0], 3)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, resize_with_torch(torch, rgb, after), err_msg=why)


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_a_plain_surface_stays_as_it_is(level: int) -> None:
    rgb = np.full((75, 113, 3), level, np.uint8)
    assert (resize_with_numpy(rgb, (50, 31)) == level).all()


@pytest.mark.parametrize("short_side", [256, 200, 77])
def test_it_is_pillows_filter_and_no_less_exact(photographs: list[Pixels], short_side: int) -> None:
    for rgb in photographs:
        size = reduced_size((rgb.shape[1], rgb.shape[0]), short_side)
        ours, pillows, ideal = resize_rgb(rgb, size), by_pillow(rgb, size), floating(rgb, size)
        difference = np.abs(ours.astype(int) - pillows)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.01
        assert (difference > 1).mean() < 0.0001
        assert np.square(ours - ideal).mean() < np.square(pillows - ideal).mean() * 1.01


def test_neither_threads_nor_the_layout_matter(photographs: list[Pixels]) -> None:
    size = (150, 101)
    expected = [resize_with_numpy(rgb, size) for rgb in photographs]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as pool:
            for resize in (lambda rgb: resize_with_torch(torch, rgb, size), lambda rgb: resize_with_numpy(rgb, size)):
                for found, wanted in zip(pool.map(resize, photographs), expected, strict=True):
                    np.testing.assert_array_equal(found, wanted)
    finally:
        torch.set_num_threads(threads)
    read_only = photographs[0].copy()
    read_only.flags.writeable = False
    torch.set_warn_always(True)  # of tensors that must not be written, not only of the first
    try:
        resize_with_torch(torch, read_only, size)
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(resize_with_torch(torch, read_only, size), expected[0])
    mirrored = photographs[0][:, ::-1].copy()[:, ::-1]
    np.testing.assert_array_equal(resize_with_torch(torch, mirrored, size), expected[0])


@pytest.mark.parametrize(
    ("rgb", "size"),
    [
        (np.zeros((40, 50, 4), np.uint8), (20, 20)),
        (np.zeros((40, 50), np.uint8), (20, 20)),
        (np.zeros((40, 50, 3), np.float32), (20, 20)),
        (np.zeros((40, 50, 3), np.uint8), (51, 20)),
        (np.zeros((40, 50, 3), np.uint8), (40, 41)),
        (np.zeros((40, 50, 3), np.uint8), (0, 20)),
    ],
)
def test_what_it_cannot_do_it_refuses(rgb: Any, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        resize_rgb(rgb, size)


# --- when torch is used


def test_torch_is_used_where_it_is_loaded() -> None:
    resizer = Resizer()
    resizer.resize(noise(9, 9), (5, 5))
    assert resizer.torch is torch
    assert resizer.spent_s == 0


@pytest.mark.slow
def test_torch_is_loaded_only_after_a_while() -> None:
    program = """
import sys, numpy as np
from microdiff.images import bicubic
from microdiff.images.normalize import store_image
rgb = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
first = bicubic.resize_rgb(rgb, (100, 75))
assert "torch" not in sys.modules
assert bicubic.RESIZER.spent_s > 0
bicubic.RESIZER.spent_s = bicubic.NUMPY_FIRST_S
later = bicubic.resize_rgb(rgb, (100, 75))
assert bicubic.RESIZER.torch is sys.modules["torch"]
assert sys.modules["torch"].get_num_threads() == 1
assert (first == later).all()
"""
    done = run_python("-W", "error", "-c", program, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "3"})
    assert done.returncode == 0, done.stderr


def test_a_torch_that_computes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly(picture: torch.Tensor, size: tuple[int, int], **_: object) -> torch.Tensor:
        reduced = torch.nn.functional.interpolate(picture, size, mode="bicubic", antialias=True)
        reduced[0, 0, 0, 0] ^= 1
        return reduced

    other = SimpleNamespace(from_numpy=torch.from_numpy, nn=SimpleNamespace(functional=SimpleNamespace()))
    other.nn.functional.interpolate = nearly
    monkeypatch.setitem(sys.modules, "torch", other)
    resizer = Resizer()
    rgb = noise(90, 70)
    np.testing.assert_array_equal(resizer.resize(rgb, (30, 20)), resize_with_numpy(rgb, (30, 20)))
    assert resizer.torch is None
    other.nn.functional.interpolate = torch.nn.functional.interpolate
    assert bicubic._as_expected(other)
