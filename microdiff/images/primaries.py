"""ICC profiles for colours that a file describes by numbers: primaries, white, and a curve."""

import struct
from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
Primaries = tuple[Point, Point, Point, Point]  # x and y of white, red, green and blue (CIE 1931)

_D65 = (0.3127, 0.3290)
SRGB: Primaries = (_D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
# By their numbers in ITU-T H.273, which PNG's cICP chunk and AVIF's nclx use. 2 is unspecified.
CODED_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    2: SRGB,
    5: (_D65, (0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.601, 625 lines
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def matrix_profile(primaries: Primaries, gamma: float | None) -> bytes:
    """Return an RGB display profile (ICC version 4).

    Args:
        primaries: Of the colours.
        gamma: Exponent from levels to light; None for the curve of sRGB.

    Raises:
        ValueError: These are no primaries.
    """
    white, red, green, blue = (_xyz(point) for point in primaries)
    try:
        light = np.column_stack([red, green, blue])
        columns = light * np.linalg.solve(light, white)
        cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
        adapted = np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ columns))
    except np.linalg.LinAlgError:
        raise ValueError(f"no primaries: {primaries}") from None
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 2:
        raise ValueError(f"no primaries: {primaries}")
    curve = _curve(3, _SRGB_CURVE) if gamma is None else _curve(0, (gamma,))
    tags = {b"wtpt": _point(_D50)}
    for name, column in zip((b"r", b"g", b"b"), adapted.T, strict=True):
        tags |= {name + b"XYZ": _point(column), name + b"TRC": curve}
    return _profile(tags)


def _xyz(point: Point) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    x, y = point
    if not y > 0:
        raise ValueError(f"no chromaticity: {point}")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _point(xyz: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(xyz)


def _curve(kind: int, parameters: Sequence[float]) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(parameters)


def _profile(tags: dict[bytes, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value  # all are multiples of four long
    header = struct.pack(">I4sI4s4s4s", start + len(content), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(_D50)
    return header.ljust(128, b"\0") + table + content
