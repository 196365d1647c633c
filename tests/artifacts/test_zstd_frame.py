"""zstd files of strangers: no more memory is taken than was expected."""

import resource
import struct

import pytest
import zstd
from hypothesis import given
from hypothesis import strategies as st

from microdiff.artifacts.zstd_frame import decompress

MAGIC = b"\x28\xb5\x2f\xfd"


def rle(num_bytes: int, *, is_last: bool) -> bytes:
    """Return a block that stands for so many equal bytes, of at most 128 KiB."""
    return struct.pack("<I", num_bytes << 3 | 2 | is_last)[:3] + b"a"


@given(st.binary(max_size=3000), st.integers(1, 19))
def test_what_zstd_has_compressed_comes_back(data: bytes, level: int) -> None:
    assert decompress(zstd.compress(data, level), len(data)) == data


@pytest.mark.parametrize("size", [255, 256, 65_791, 65_792, 3_000_000])
def test_every_way_to_state_a_size_is_read(size: int) -> None:
    data = bytes(size)
    assert decompress(zstd.compress(data, 3, 1), size) == data
    with pytest.raises(ValueError, match=f"expected {size + 1} bytes when decompressed, got {size}"):
        decompress(zstd.compress(data, 3, 1), size + 1)


GOOD = zstd.compress(b"good" * 100, 3, 1)
HUGE = MAGIC + bytes([0b11100000]) + struct.pack("<Q", 2**50) + rle(5, is_last=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not zstd data"),
        (b"bzip", "not zstd data"),
        (MAGIC, "not zstd data"),
        (GOOD[:-1], "expected a zstd frame of"),
        (GOOD[:8], "cut off"),
        (GOOD + GOOD, "expected a zstd frame of"),
        (GOOD + HUGE, "expected a zstd frame of"),
        (GOOD + b"!", "expected a zstd frame of"),
        (b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + GOOD, "not zstd data"),
        (HUGE, "expected 400 bytes when decompressed, got 1125899906842624"),
        (MAGIC + b"\x00\x58" + rle(400, is_last=True), "expected 400 bytes when decompressed, got None"),
        (MAGIC + b"\x60\x90\x00" + struct.pack("<I", 3 << 1 | 1)[:3], "not zstd data, or damaged"),
        (MAGIC + b"\x60\x90\x00" + rle(399, is_last=True), "not zstd data"),
    ],
)
def test_what_is_no_frame_of_that_size_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompress(data, 400)


def test_a_bomb_takes_no_memory() -> None:
    block = rle(2**17, is_last=False)
    bomb = MAGIC + b"\x60\x90\x00" + block * 32_768 + rle(1, is_last=True)  # 4 GiB in 128 KiB, said to be 400 bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="zstd"):
        decompress(bomb, 400)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
