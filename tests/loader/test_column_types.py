"""What an index may say of latents, and what it may not, without reading any."""

import pytest

from microdiff.errors import SchemaError
from microdiff.loader.column_types import StoredArray, image_array


def image(encoding: str, column: str = "latents_256", stored: str | None = None, first: int = 0) -> StoredArray:
    return image_array("set", column, encoding, stored, image_size=256, downsampling=8, first=first)


def test_latents_are_as_stored() -> None:
    assert image("ndarray:float16:4,32,32") == StoredArray("latents_256", "float16", (4, 32, 32))
    assert image("ndarray:uint16:4,32,32", stored="bfloat16").dtype == "bfloat16"
    assert image("ndarray:float32:8,32,32", "moments_256").shape == (8, 32, 32)
    assert image("bytes", first=16 * 32 * 32 * 2).shape == (16, 32, 32)


@pytest.mark.parametrize(
    ("encoding", "column", "first", "message"),
    [
        ("ndarray:float16:7,32,32", "moments_256", 0, "7 channels, expected as many deviations as means"),
        ("ndarray:float16:4,32,31", "latents_256", 0, r"has shape \(4, 32, 31\), expected \(C, 32, 32\)"),
        ("ndarray:float16:4,31,32", "latents_256", 0, r"has shape \(4, 31, 32\), expected \(C, 32, 32\)"),
        ("ndarray:float16:32,32", "latents_256", 0, r"has shape \(32, 32\), expected \(C, 32, 32\)"),
        ("ndarray:uint16:4,32,32", "latents_256", 0, "no manifest says that it is bfloat16"),
        ("ndarray:float64:4,32,32", "latents_256", 0, "expected latents of float16, bfloat16, float32"),
        ("bytes", "latents_256", 4 * 32 * 32 * 2 + 2, "takes 8194 bytes, expected C x 32 x 32 float16"),
        ("bytes", "latents_256", 0, "takes 0 bytes, expected C x 32 x 32 float16"),
    ],
)
def test_other_latents_are_refused(encoding: str, column: str, first: int, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        image(encoding, column, first=first)


def test_a_size_that_the_encoder_cannot_reduce_is_refused() -> None:
    with pytest.raises(SchemaError, match="latents_260 cannot come from a VAE that reduces by 8"):
        image_array("set", "latents_260", "ndarray:float16:4,32,32", None, 260, 8, 0)
