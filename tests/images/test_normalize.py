import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images import bicubic, normalize
from microdiff.images.jpeg import decode_jpeg, is_whole, tidied
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import centre_crop, decode, flatten, reduce

SETTINGS = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=95)
SIZE = (56, 40)


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test load torch because others reduced many pictures."""
    monkeypatch.setattr(bicubic, "RESIZER", bicubic.Resizer())


def corners(size: tuple[int, int] = SIZE, form: str = "RGB") -> Image.Image:
    """Return a picture with another colour in each quarter, so that turning it shows."""
    width, height = size
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 200, 30), (width // 2, 0, width, height // 2))
    image.paste((30, 30, 200), (0, height // 2, width // 2, height))
    image.paste((200, 200, 200), (width // 2, height // 2, width, height))
    return image.convert(form)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def stored(data: bytes, settings: DownloadSettings = SETTINGS) -> StoredImage:
    """Store a picture that must be accepted, and check what holds for every stored one."""
    outcome = store_image(data, settings)
    assert isinstance(outcome, StoredImage)
    image = Image.open(io.BytesIO(outcome.data))
    assert image.size == (outcome.width, outcome.height)
    assert outcome.extension == {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}[image.format or ""]
    assert decode(outcome.data).mode == "RGB"
    assert settings.min_side_px <= min(image.size) <= settings.max_side_px
    return outcome


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(image, dtype=np.float64)


def assert_same_picture(outcome: StoredImage, expected: Image.Image, why: str = "") -> None:
    """Check a stored picture against an RGB one, but for what JPEG costs."""
    got = decode(outcome.data)
    assert got.size == expected.size, why
    assert np.abs(pixels(got) - pixels(expected)).mean() < 4, why


def exif(orientation: object) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "a description"
    return tags


# --- what is kept as it is


@pytest.mark.parametrize(
    ("data", "extension", "why"),
    [
        (encoded(corners(), "JPEG", quality=20, subsampling="4:2:0"), "jpg", "whatever its quality"),
        (encoded(corners(), "JPEG", progressive=True, comment=b"hello", icc_profile=b"x" * 200), "jpg", "progressive"),
        (encoded(corners(), "JPEG", exif=exif(1)), "jpg", "upright by its EXIF data"),
        (encoded(corners(), "JPEG", exif=exif(0)), "jpg", "an orientation of 0 says nothing"),
        (encoded(corners(), "JPEG", exif=exif(9)), "jpg", "nor does one that is not defined"),
        (encoded(corners(), "JPEG", exif=b"Exif\0\0garbage", dpi=(72, 72)), "jpg", "nor do unreadable EXIF data"),
        (encoded(corners(), "PNG", exif=b"Exif\0\0garbage"), "png", "likewise"),
        (encoded(corners(), "PNG"), "png", ""),
        (encoded(corners(), "WEBP", lossless=True), "webp", "lossless"),
        (encoded(corners(), "WEBP", quality=50), "webp", "lossy"),
        (encoded(corners(), "MPO", save_all=True, append_images=[corners()]), "jpg", "a JPEG with another behind it"),
        (encoded(corners(), "JPEG") + b"trailing bytes", "jpg", "what follows the picture does not matter"),
    ],
)
def test_pictures_that_need_no_change_keep_their_bytes(data: bytes, extension: str, why: str) -> None:
    assert stored(data) == StoredImage(data, extension, *SIZE, *SIZE), why


# --- what is changed


def _half_transparent() -> Image.Image:
    image = corners(form="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """Blend with white by the definition, apart from the code under test."""
    levels = pixels(image.convert("RGBA"))
    alpha = levels[..., 3:] / 255
    return Image.fromarray((levels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))


_GREY = corners(form="L")
_BLACK_AND_WHITE = corners().convert("1", dither=Image.Dither.NONE)
_PALETTE = corners().quantize(8, dither=Image.Dither.NONE)
_RED = _PALETTE.getpixel((0, 0))
_WITHOUT_RED = corners()
_WITHOUT_RED.paste("white", (0, 0, SIZE[0] // 2, SIZE[1] // 2))
_ANIMATED = {"save_all": True, "append_images": [corners().rotate(180)], "duration": 50}
CHANGES: Mapping[str, tuple[bytes, Image.Image]] = {
    "grey JPEG": (encoded(_GREY, "JPEG"), _GREY.convert("RGB")),
    "grey PNG": (encoded(_GREY, "PNG"), _GREY.convert("RGB")),
    "CMYK JPEG": (encoded(corners(form="CMYK"), "JPEG", quality=95), corners()),
    "palette PNG": (encoded(corners().quantize(8), "PNG"), corners()),
    "1-bit PNG": (encoded(_BLACK_AND_WHITE, "PNG"), _BLACK_AND_WHITE.convert("RGB")),
    "16-bit grey PNG": (
        encoded(Image.fromarray(np.asarray(_GREY).astype(np.uint16) * 257), "PNG"),
        _GREY.convert("RGB"),
    ),
    "RGBA PNG": (encoded(_half_transparent(), "PNG"), _on_white(_half_transparent())),
    "RGBA WebP": (encoded(_half_transparent(), "WEBP", lossless=True), _on_white(_half_transparent())),
    "grey PNG with alpha": (
        encoded(_half_transparent().convert("LA"), "PNG"),
        _on_white(_half_transparent().convert("LA")),
    ),
    "palette PNG with a transparent colour": (encoded(_PALETTE, "PNG", transparency=_RED), _WITHOUT_RED),
    "RGB PNG with a transparent colour": (encoded(corners(), "PNG", transparency=(200, 30, 30)), _WITHOUT_RED),
    "GIF": (encoded(corners().quantize(8), "GIF"), corners()),
    "GIF with a comment that no JPEG can hold": (
        encoded(corners().quantize(8), "GIF", comment=b"x" * 70_000),
        corners(),
    ),
    "BMP": (encoded(corners(), "BMP"), corners()),
    "TIFF": (encoded(corners(), "TIFF"), corners()),
    "AVIF": (encoded(corners(), "AVIF", quality=95), corners()),
    "animated WebP": (encoded(corners(), "WEBP", lossless=True, **_ANIMATED), corners()),
    "animated GIF": (encoded(corners(), "GIF", **_ANIMATED), corners()),
}


@pytest.mark.parametrize(("data", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_other_pictures_become_rgb_jpeg(data: bytes, expected: Image.Image) -> None:
    outcome = stored(data)
    assert outcome.extension == "jpg"
    assert (outcome.original_width, outcome.original_height) == SIZE
    assert_same_picture(outcome, expected)


_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # the stored picture is turned the other way than a viewer turns it
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "turn"), _TURNS.items())
def test_pictures_are_turned_upright_before_they_are_measured(
    orientation: int, turn: Image.Transpose | None, form: str
) -> None:
    upright = corners((80, 40))
    turned = upright if turn is None else upright.transpose(turn)
    outcome = stored(encoded(turned, form, exif=exif(orientation)))
    assert (outcome.original_width, outcome.original_height) == (80, 40)
    assert_same_picture(outcome, upright)
    if orientation > 1:
        again = Image.open(io.BytesIO(outcome.data))
        assert not again.getexif()
        assert "exif" not in again.info


@pytest.mark.parametrize(
    ("size", "expected", "why"),
    [
        ((32, 50), (32, 50), "short side exactly the least"),
        ((31, 50), None, "one less"),
        ((50, 31), None, "whichever side it is"),
        ((4000, 31), None, "however long the other"),
        ((64, 100), (64, 100), "exactly the most"),
        ((100, 64), (100, 64), ""),
        ((65, 100), (64, 98), "one more is reduced to the most, with its aspect"),
        ((65, 65), (64, 64), ""),
        ((200, 128), (100, 64), ""),
        ((33, 900), (33, 900), "the long side has no limit"),
        ((65, 6500), (64, 6400), ""),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_short_side_decides(size: tuple[int, int], expected: tuple[int, int] | None, why: str, form: str) -> None:
    data = encoded(corners(size), form)
    if expected is None:
        assert store_image(data, SETTINGS) == RefusedImage(Reason.TOO_SMALL, *size), why
        return
    outcome = stored(data)
    assert (outcome.width, outcome.height) == expected, why
    assert (outcome.original_width, outcome.original_height) == size
    assert (outcome.data == data) == (size == expected)


def test_small_pictures_are_measured_upright_too() -> None:
    data = encoded(corners((80, 20)), "JPEG", exif=exif(6))
    assert store_image(data, SETTINGS) == RefusedImage(Reason.TOO_SMALL, 20, 80)


@pytest.fixture(scope="module")
def photo() -> bytes:
    with zipfile.ZipFile(Path(__file__).resolve().parents[2] / "samples/coco/zips/val2014.zip") as archive:
        return archive.read("val2014/COCO_val2014_000000607116.jpg")


@pytest.mark.parametrize("side", [512, 256])
def test_a_reduced_photograph_is_one_bicubic_step_from_the_source(photo: bytes, side: int) -> None:
    source = Image.open(io.BytesIO(photo)).convert("RGB")
    size = (round(source.width * side / source.height), side)
    once = source.resize(size, Image.Resampling.BICUBIC)
    outcome = stored(photo, DownloadSettings(min_side_px=256, max_side_px=side, jpeg_quality=95))
    error = np.square(pixels(decode(outcome.data)) - pixels(once)).mean()
    assert 10 * np.log10(255**2 / error) > 40


def test_jpeg_is_written_at_the_quality_asked_for_without_subsampling(photo: bytes) -> None:
    sizes = []
    for quality in (50, 90, 95, 100):
        outcome = stored(photo, DownloadSettings(min_side_px=256, max_side_px=300, jpeg_quality=quality))
        with Image.open(io.BytesIO(outcome.data)) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
            same = Image.open(io.BytesIO(encoded(corners(), "JPEG", quality=quality)))
            assert isinstance(same, JpegImagePlugin.JpegImageFile)
            assert image.quantization == same.quantization
        sizes.append(len(outcome.data))
    assert sizes == sorted(set(sizes))


def test_the_comment_and_the_profile_of_the_source_are_not_copied() -> None:
    data = encoded(corners((100, 100)), "JPEG", comment=b"hello", icc_profile=b"x" * 200, exif=exif(3))
    assert not Image.open(io.BytesIO(stored(data).data)).info.keys() & {"comment", "icc_profile", "exif"}


# --- what is refused


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG file that announces a size and holds other bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def half(form: str, **options: Any) -> bytes:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    data = encoded(noise, form, **options)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "expected", "why"),
    [
        (b"", RefusedImage(Reason.UNDECODABLE), "empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", RefusedImage(Reason.UNDECODABLE), "a web page"),
        (np.random.default_rng(1).bytes(5000), RefusedImage(Reason.UNDECODABLE), "random bytes"),
        (bytes(5000), RefusedImage(Reason.UNDECODABLE), "zeros"),
        (encoded(corners(), "JPEG")[:20], RefusedImage(Reason.UNDECODABLE), "a beginning"),
        (half("JPEG"), RefusedImage(Reason.UNDECODABLE), "half a JPEG"),
        (half("JPEG", progressive=True), RefusedImage(Reason.UNDECODABLE), "half a progressive JPEG"),
        (half("PNG"), RefusedImage(Reason.UNDECODABLE), "half a PNG"),
        (half("WEBP"), RefusedImage(Reason.UNDECODABLE), "half a WebP"),
        (half("GIF"), RefusedImage(Reason.UNDECODABLE), "half a GIF"),
        (half("TIFF", compression="tiff_lzw"), RefusedImage(Reason.UNDECODABLE), "half a TIFF"),
        (half("AVIF"), RefusedImage(Reason.UNDECODABLE), "half an AVIF"),
        (png(100, 100, b"few"), RefusedImage(Reason.UNDECODABLE), "less than announced"),
        (png(20_000, 20_000, b"few"), RefusedImage(Reason.TOO_LARGE), "a bomb"),
        (png(10_000, 10_000, b"few"), RefusedImage(Reason.TOO_LARGE, 10_000, 10_000), "100 megapixels"),
        (
            encoded(Image.new("L", (66_000, 40)), "PNG"),
            RefusedImage(Reason.TOO_LARGE, 66_000, 40),
            "must change, but is longer than a JPEG can be",
        ),
        (encoded(corners(), "EPS"), RefusedImage(Reason.UNDECODABLE), "would start another program"),
        (encoded(corners(), "TGA"), RefusedImage(Reason.UNDECODABLE), "a format that takes almost any bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_reason(data: bytes, expected: RefusedImage, why: str) -> None:
    assert store_image(data, SETTINGS) == expected, why


_NOISE = Image.effect_noise(SIZE, 60).convert("RGB")
VICTIMS = {
    "JPEG": encoded(_NOISE, "JPEG", exif=exif(6), comment=b"hello"),
    "PNG": encoded(_NOISE.quantize(16), "PNG", transparency=b"\0\x80", exif=exif(5)),
    "WEBP": encoded(_NOISE.convert("RGBA"), "WEBP", exif=exif(8)),
    "GIF": encoded(_NOISE.quantize(16), "GIF", transparency=1, comment=b"hello"),
    "TIFF": encoded(_NOISE, "TIFF", compression="tiff_lzw", exif=exif(6)),
    "AVIF": encoded(_NOISE, "AVIF", speed=10),
}


@pytest.mark.filterwarnings("ignore")  # reading damaged EXIF data again warns
@pytest.mark.parametrize("form", VICTIMS)
def test_no_damage_makes_an_error(form: str) -> None:
    dice = random.Random(2014)
    refused = 0
    for number in range(300):
        data = bytearray(VICTIMS[form])
        if number % 3 == 0:
            del data[dice.randrange(len(data)) :]
        else:
            for _ in range(dice.choice((1, 2, 8))):
                data[dice.randrange(len(data) if number % 3 == 1 else 120)] ^= 1 << dice.randrange(8)
        outcome = store_image(bytes(data), SETTINGS)
        if isinstance(outcome, StoredImage):
            assert stored(bytes(data)) == outcome  # what is stored can be read again
        else:
            refused += outcome.reason == Reason.UNDECODABLE
    assert refused > 50


def test_warnings_of_the_decoder_stay_inside() -> None:
    data = png(9500, 9500)  # Pillow warns above its limit
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store_image(data, SETTINGS) == RefusedImage(Reason.TOO_LARGE, 9500, 9500)


def test_warnings_are_ignored_while_any_thread_is_inside() -> None:
    quiet = normalize._Quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        quiet.__enter__()
        quiet.__enter__()
        quiet.__exit__()
        warnings.warn("ignored", stacklevel=1)
        quiet.__exit__()
        assert warnings.filters == before
        with pytest.raises(UserWarning):
            warnings.warn("an error", stacklevel=1)


def test_threads_do_what_one_does() -> None:
    # Warns of a size, of damaged EXIF data, and not at all; kept, changed, reduced, refused.
    work = [png(9500, 9500), encoded(corners(), "PNG", exif=b"Exif\0\0garbage"), encoded(corners((300, 200)), "JPEG")]
    work += [data for data, _ in CHANGES.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = [store_image(data, SETTINGS) for data in work]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda data: store_image(data, SETTINGS), work * 3)) == expected * 3


# --- the quick decoder of JPEGs


_FRAME = Image.effect_noise((83, 61), 90).convert("RGB")
_FRAME.paste(corners((40, 61)), (0, 0))
JPEGS = {
    "4:4:4": encoded(_FRAME, "JPEG", subsampling="4:4:4"),
    "4:2:2": encoded(_FRAME, "JPEG", subsampling="4:2:2"),
    "4:2:0": encoded(_FRAME, "JPEG", subsampling="4:2:0"),
    "4:1:1": encoded(_FRAME, "JPEG", subsampling="4:1:1"),
    "poor": encoded(_FRAME, "JPEG", quality=5),
    "good": encoded(_FRAME, "JPEG", quality=100),
    "progressive": encoded(_FRAME, "JPEG", progressive=True, subsampling="4:2:0"),
    "with restart markers": encoded(_FRAME, "JPEG", restart_marker_rows=1),
    "without a change of colours": encoded(_FRAME, "JPEG", keep_rgb=True),
    "with another behind it": encoded(_FRAME, "MPO", save_all=True, append_images=[corners()]),
    "with trailing bytes": encoded(_FRAME, "JPEG") + bytes(100),
    "a pixel": encoded(_FRAME.resize((1, 1)), "JPEG"),
    "a line": encoded(_FRAME.resize((200, 1)), "JPEG", subsampling="4:2:0"),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_are_decoded_to_pillows_pixels(kind: str) -> None:
    image = Image.open(io.BytesIO(JPEGS[kind]))
    assert is_whole(JPEGS[kind], image.size)
    np.testing.assert_array_equal(decode_jpeg(JPEGS[kind], image.size), np.asarray(image))


def damaged(data: bytes, number: int, dice: random.Random) -> bytes:
    changed = bytearray(data)
    place = dice.randrange(len(data))
    if number % 4 == 0:
        del changed[place:]
    elif number % 4 == 1:
        del changed[place : place + dice.randrange(1, 20)]
    elif number % 4 == 2:
        changed[place:place] = dice.randbytes(dice.randrange(1, 5))
    else:
        for _ in range(dice.choice((1, 2, 8))):
            changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # reading damaged EXIF data again warns
@pytest.mark.parametrize("max_side_px", [32, 64], ids=["reduced", "kept"])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "progressive", "with restart markers"])
def test_libjpeg_has_the_last_word_on_damage(kind: str, max_side_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DownloadSettings(min_side_px=32, max_side_px=max_side_px, jpeg_quality=95)
    monkeypatch.setattr(normalize, "MAX_PIXELS", 100_000)  # some damage announces millions, which takes long
    dice = random.Random(kind)
    kept = 0
    for number in range(200):
        data = damaged(JPEGS[kind], number, dice)
        outcome = store_image(data, settings)
        if isinstance(outcome, StoredImage):
            kept += 1
            size = Image.open(io.BytesIO(data)).size
            assert (decode_jpeg(data, size) is not None) == is_whole(data, size)  # as strict as a full decode
            assert is_whole(data, size) or tidied(data, size) is not None
            assert decode(outcome.data).size == (outcome.width, outcome.height)
    assert 10 < kept < 150


@pytest.mark.parametrize("size", [(83, 60), (82, 61), (61, 83), (83, 69), (91, 61), (8, 8), (200, 200)])
def test_other_sizes_than_announced_are_no_picture(size: tuple[int, int]) -> None:
    assert decode_jpeg(JPEGS["4:2:0"], size) is None
    if tuple(-(-side // 8) for side in size) != (11, 8):  # what an eighth of it cannot show
        assert not is_whole(JPEGS["4:2:0"], size)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_quick_decoder_is_used(photo: bytes, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing here would be tested."""

    def never(self: object) -> None:
        raise AssertionError("Pillow decodes")

    image = Image.open(io.BytesIO(photo)).convert("RGB")
    data = encoded(image, "JPEG", exif=exif(orientation))
    for max_side_px in (256, 4096):
        settings = DownloadSettings(min_side_px=32, max_side_px=max_side_px, jpeg_quality=95)
        expected = store_image(data, settings)
        with monkeypatch.context() as patch:
            patch.setattr(JpegImagePlugin.JpegImageFile, "load", never)
            assert store_image(data, settings) == expected


# --- pixels


def test_reducing_never_enlarges() -> None:
    image = corners((100, 70))
    assert reduce(image, 70) is image
    assert reduce(image, 500) is image
    assert reduce(image, 35).size == (50, 35)
    assert reduce(corners((1000, 3)), 2).size == (667, 2)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (64, 65), (201, 64), (128, 300)])
def test_the_middle_is_cut_out(size: tuple[int, int]) -> None:
    image = centre_crop(corners(size), 64)
    assert image.size == (64, 64)
    levels = pixels(image)
    for row, column, colour in ((2, 2, (200, 30, 30)), (2, 61, (30, 200, 30)), (61, 2, (30, 30, 200))):
        assert np.abs(levels[row, column] - colour).max() < 12


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    assert (pixels(flatten(Image.fromarray(levels)))[..., 0] == np.arange(256).reshape(16, 16)).all()
