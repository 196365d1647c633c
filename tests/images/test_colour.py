"""Colours are brought to sRGB by whatever a file says of them that viewers follow; sRGB in effect changes nothing."""

import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from microdiff.config.settings import DownloadSettings
from microdiff.core.ledger import Reason
from microdiff.images import colour
from microdiff.images.crops import center_crops
from microdiff.images.normalize import RefusedImage, StoredImage, store_image
from microdiff.images.ops import decode
from microdiff.images.primaries import CODED_PRIMARIES, SRGB, matrix_profile
from picture_files import box, cmyk_profile, encoded, grey_profile, plain_rows, png, rgb_table_profile, tiff, with_chunk

SETTINGS = DownloadSettings(min_side_px=32, max_side_px=64, jpeg_quality=100)
SIZE = (40, 40)
COLOUR = (60, 200, 60)
D65 = (0.3127, 0.3290)
ADOBE_POINTS = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE = matrix_profile(ADOBE_POINTS, 2.19921875)
AS_ADOBE = (0, 201, 37)  # what colour-managed viewers show for COLOUR
DISPLAY_P3 = matrix_profile(CODED_PRIMARIES[12], None)
AS_P3 = (0, 203, 0)
PROPHOTO = matrix_profile(((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8)


def table_srgb() -> bytes:
    """Return sRGB as version 2 profiles have it: the curve as 1024 numbers."""
    profile = bytearray(matrix_profile(SRGB, 2.2))
    x = np.linspace(0, 1, 1024)
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + (light * 65535).round().astype(">u2").tobytes()
    start = len(profile)
    profile += curve
    struct.pack_into(">I", profile, 0, len(profile))
    struct.pack_into(">I", profile, 8, 0x02400000)
    for place in range(132, 132 + 12 * 7, 12):
        if profile[place + 1 : place + 4] == b"TRC":
            struct.pack_into(">II", profile, place + 4, start, len(curve))
    return bytes(profile)


SRGB_PROFILES = {
    "LittleCMS's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "with a parametric curve": matrix_profile(SRGB, None),
    "with a table": table_srgb(),
}
BROKEN = {
    "no profile": b"x" * 200,
    "nothing": b"\0",
    "half of one": ADOBE[:300],
    "of a printer": cmyk_profile(),
    "of grey": grey_profile(2.2),
    "of a version that does not exist, without tags": ADOBE[:128] + bytes(4),
}
FORMS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
KEPT = ("JPEG", "MPO", "PNG", "WEBP")


def plain(colour: Any = COLOUR, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, SIZE, colour)


def stored(data: bytes, settings: DownloadSettings = SETTINGS) -> StoredImage:
    outcome = store_image(data, settings)
    assert isinstance(outcome, StoredImage), outcome
    return outcome


def assert_colour(data: bytes, expected: Sequence[int], profile: str, tolerance: int = 2) -> StoredImage:
    """Check what is stored of a picture of one colour."""
    outcome = stored(data)
    found = np.asarray(decode(outcome.data)).astype(int)
    assert np.abs(found - np.array(expected)).max() <= tolerance, found[20, 20].tolist()
    assert outcome.profile == profile
    if profile == colour.CONVERTED:
        assert outcome.data != data
        assert outcome.extension == "jpg"
        assert "icc_profile" not in Image.open(io.BytesIO(outcome.data)).info
    return outcome


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("profile", "expected"),
    [(ADOBE, AS_ADOBE), (DISPLAY_P3, AS_P3), (PROPHOTO, (0, 228, 0))],
    ids=["Adobe", "P3", "ProPhoto"],
)
def test_profiles_are_followed_and_left_out(form: str, profile: bytes, expected: tuple[int, ...]) -> None:
    data = encoded(plain(), form, icc_profile=profile, **FORMS[form])
    assert_colour(data, expected, "converted", 10)
    larger = encoded(plain().resize((300, 200)), form, icc_profile=profile, **FORMS[form])
    outcome = stored(larger)
    assert (outcome.width, outcome.height) == (96, 64)
    assert np.abs(np.asarray(decode(outcome.data)).astype(int) - expected).max() <= 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("profile", SRGB_PROFILES.values(), ids=SRGB_PROFILES.keys())
def test_srgb_by_any_profile_changes_nothing(form: str, profile: bytes) -> None:
    data = encoded(plain(), form, icc_profile=profile, **FORMS[form])
    outcome = assert_colour(data, COLOUR, "", 3)
    assert (outcome.data == data) == (form in KEPT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("profile", BROKEN.values(), ids=BROKEN.keys())
def test_broken_profiles_are_ignored_and_told_of(form: str, profile: bytes) -> None:
    data = encoded(plain(), form, icc_profile=profile, **FORMS[form])
    outcome = assert_colour(data, COLOUR, "broken", 3)
    assert (outcome.data == data) == (form in KEPT)


def test_a_profile_of_which_parts_are_missing_is_broken() -> None:
    data = encoded(plain(), "JPEG", icc_profile=bytes(100_000))  # in two segments
    start = data.index(b"ICC_PROFILE\0\x02") - 4
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    assert_colour(data[:start] + data[start + 2 + length :], COLOUR, "broken")


@pytest.mark.parametrize(
    "content",
    [b"name\0\1garbage", b"no end of the name", b"name\0\0garbage", b"", b"name\0\0" + zlib.compress(bytes(2_000_000))],
)
def test_a_profile_that_cannot_be_unpacked_is_broken(content: bytes) -> None:
    outcome = assert_colour(with_chunk(RAW, b"iCCP", content), COLOUR, "broken")
    assert outcome.extension == "png"


def test_a_gamma_of_2_2_is_not_quite_srgb() -> None:
    ramp = Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2))
    outcome = stored(encoded(ramp, "PNG", icc_profile=matrix_profile(SRGB, 2.2)))
    assert outcome.profile == "converted"
    levels = np.arange(40) / 255
    light = levels**2.2
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(decode(outcome.data))[20, :, 1] - expected).max() < 2


# --- modes


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 168), (1.8, 121)])
def test_grey_goes_through_its_profile(form: str, gamma: float, expected: int) -> None:
    data = encoded(plain(100, "L"), form, icc_profile=grey_profile(gamma))
    assert_colour(data, [expected] * 3, "converted")


def test_grey_of_other_modes_goes_through_its_profile() -> None:
    linear = grey_profile(1.0)
    assert_colour(encoded(plain(25_700, "I;16"), "PNG", icc_profile=linear), [168] * 3, "converted")
    assert_colour(encoded(plain((100, 128), "LA"), "PNG", icc_profile=linear), [211] * 3, "converted")
    assert_colour(encoded(plain(1, "1"), "PNG", icc_profile=linear), [255] * 3, "converted")


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_a_profile_of_colours_is_none_of_grey(mode: str) -> None:
    data = encoded(plain(0, mode) if mode != "LA" else plain((0, 255), "LA"), "PNG", icc_profile=ADOBE)
    assert_colour(data, (0, 0, 0), "broken")


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "through_profile", "by_convention"),
    [
        ((255, 0, 0, 0), 198, (0, 255, 255)),  # L* of 80
        ((0, 0, 0, 255), 145, (0, 0, 0)),  # L* of 60
        ((0, 0, 0, 0), 255, (255, 255, 255)),
        ((255, 255, 255, 255), 0, (0, 0, 0)),
    ],
)
def test_cmyk_goes_through_its_profile_where_it_has_one(
    form: str, ink: tuple[int, ...], through_profile: int, by_convention: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"quality": 100} if form == "JPEG" else {}
    image = plain(ink, "CMYK")
    assert_colour(encoded(image, form, icc_profile=cmyk_profile(), **options), [through_profile] * 3, "converted")
    assert_colour(encoded(image, form, **options), by_convention, "")
    assert_colour(encoded(image, form, icc_profile=ADOBE, **options), by_convention, "broken")


def test_the_darkest_colour_is_black_as_on_a_screen() -> None:
    profile = rgb_table_profile(darkest=15)
    assert_colour(encoded(plain((0, 0, 0)), "PNG", icc_profile=profile), (0, 0, 0), "converted")  # and not 38
    assert_colour(encoded(plain((255, 255, 255)), "PNG", icc_profile=profile), (255, 255, 255), "converted")


def test_a_level_more_or_less_is_srgb() -> None:
    def off_by(error: float) -> bytes:
        return matrix_profile((D65, (0.64, 0.33), (0.30, 0.60 + error), (0.15, 0.06)), None)

    colour._transform.cache_clear()
    for error, fate in ((0.0001, ""), (0.0005, "converted")):
        source = ImageCms.ImageCmsProfile(io.BytesIO(off_by(error)))
        probe = colour._probe("RGB")
        shown = colour._built(source, "RGB").apply(probe)
        difference = np.abs(np.asarray(shown).astype(int) - np.asarray(probe)).max()
        assert (difference == 1) if not fate else (difference > 1)
        assert stored(encoded(plain(), "PNG", icc_profile=off_by(error))).profile == fate


def test_transparent_pictures_are_converted_before_they_are_flattened() -> None:
    half = [round(level * 128 / 255 + 127) for level in AS_ADOBE]
    assert_colour(encoded(plain((*COLOUR, 128), "RGBA"), "PNG", icc_profile=ADOBE), half, "converted")
    marked = encoded(plain(), "PNG", icc_profile=ADOBE, transparency=COLOUR)
    assert_colour(marked, (255, 255, 255), "converted")
    assert_colour(encoded(plain().quantize(4), "PNG", icc_profile=ADOBE), AS_ADOBE, "converted")


def test_lab_needs_no_profile_and_takes_none_of_another_space() -> None:
    tags: dict[int, tuple[str, Sequence[int]]] = {258: ("H", [8] * 3), 262: ("H", [8]), 277: ("H", [3])}
    data = bytes([138, 81, 70]) * 1600
    assert_colour(tiff([data], SIZE, tags), (255, 0, 0), "", 3)
    assert_colour(tiff([data], SIZE, tags | {34675: ("B", ADOBE)}), (255, 0, 0), "broken", 3)


# --- other ways to say it


RAW = png(plain_rows(np.full((40, 40, 3), COLOUR, np.uint8)), SIZE, 8, 2)
ADOBE_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
SRGB_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def number(value: int) -> bytes:
    return struct.pack(">I", value)


PNG_CHUNKS: dict[str, tuple[dict[bytes, bytes], tuple[int, ...], str]] = {
    "the gamma of sRGB": ({b"gAMA": number(45_455)}, COLOUR, ""),
    "nearly the gamma of sRGB": ({b"gAMA": number(46_000)}, COLOUR, ""),
    "linear": ({b"gAMA": number(100_000)}, (133, 229, 133), "converted"),
    "the gamma of old Macintoshes": ({b"gAMA": number(55_556)}, (77, 209, 77), "converted"),
    "Adobe's primaries": ({b"gAMA": number(45_471), b"cHRM": ADOBE_CHROMATICITIES}, (0, 200, 40), "converted"),
    "sRGB's primaries": ({b"gAMA": number(45_455), b"cHRM": SRGB_CHROMATICITIES}, COLOUR, ""),
    "primaries without a gamma": ({b"cHRM": ADOBE_CHROMATICITIES}, COLOUR, ""),
    "sRGB, which goes before gamma": ({b"sRGB": b"\0", b"gAMA": number(100_000)}, COLOUR, ""),
    "no gamma": ({b"gAMA": number(0)}, COLOUR, "broken"),
    "no primaries": ({b"gAMA": number(45_455), b"cHRM": bytes(32)}, COLOUR, "broken"),
    "sRGB by numbers": ({b"cICP": bytes([1, 13, 0, 1])}, COLOUR, ""),
    "Display P3 by numbers": ({b"cICP": bytes([12, 13, 0, 1])}, AS_P3, "converted"),
    "numbers, which go before gamma": ({b"cICP": bytes([1, 13, 0, 1]), b"gAMA": number(100_000)}, COLOUR, ""),
}


@pytest.mark.parametrize(("chunks", "expected", "profile"), PNG_CHUNKS.values(), ids=PNG_CHUNKS.keys())
def test_what_chunks_of_a_png_say(chunks: dict[bytes, bytes], expected: tuple[int, ...], profile: str) -> None:
    data = RAW
    for name, content in chunks.items():
        data = with_chunk(data, name, content)
    outcome = assert_colour(data, expected, profile, 12 if expected == AS_P3 else 2)
    assert (outcome.data == data) == (profile != "converted")


@pytest.mark.parametrize(
    "code",
    [
        (9, 16, 0, 1),
        (9, 18, 0, 1),
        (1, 16, 0, 1),
        (9, 14, 0, 1),
        (1, 13, 0, 0),
        (1, 13, 1, 1),
        (4, 13, 0, 1),
        (1, 17, 0, 1),
    ],
)
def test_light_that_srgb_cannot_show_is_refused(code: tuple[int, ...]) -> None:
    assert store_image(with_chunk(RAW, b"cICP", bytes(code)), SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)


def test_gamma_of_a_grey_png() -> None:
    data = with_chunk(encoded(plain(100, "L"), "PNG"), b"gAMA", number(100_000))
    assert_colour(data, [168] * 3, "converted")


@pytest.mark.parametrize(
    ("primaries", "curve", "expected"),
    [
        (1, 13, COLOUR),
        (2, 2, COLOUR),
        (1, 1, COLOUR),
        (12, 13, AS_P3),
        (6, 6, (75, 198, 56)),
        (9, 13, (0, 211, 0)),
        (9, 16, None),
        (9, 18, None),
        (9, 14, None),
        (4, 4, None),
    ],
)
def test_what_an_avif_says_by_numbers(primaries: int, curve: int, expected: tuple[int, ...] | None) -> None:
    data = encoded(plain(), "AVIF", **FORMS["AVIF"])
    place = data.index(b"colrnclx") + 8
    data = data[:place] + struct.pack(">HH", primaries, curve) + data[place + 4 :]
    if expected is None:
        assert store_image(data, SETTINGS) == RefusedImage(Reason.UNSUPPORTED_PICTURE)
    else:
        assert_colour(data, expected, "" if expected == COLOUR else "converted", 4)


@pytest.mark.parametrize(
    ("profile", "expected", "fate"),
    [(ADOBE, AS_ADOBE, "converted"), (SRGB_PROFILES["with a table"], COLOUR, ""), (b"none", COLOUR, "broken")],
    ids=["Adobe", "sRGB", "broken"],
)
def test_profiles_in_jpeg_2000_and_bmp(profile: bytes, expected: tuple[int, ...], fate: str) -> None:
    data = encoded(plain(), "JPEG2000")
    start = data.index(b"jp2h") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    colr = data.index(b"colr") - 4
    rest = data[colr + int.from_bytes(data[colr : colr + 4], "big") : end]
    header = box(b"jp2h", data[start + 8 : colr] + box(b"colr", b"\2\0\0" + profile) + rest)
    assert_colour(data[:start] + header + data[end:], expected, fate)

    pixels = bytes(COLOUR[::-1]) * 1600
    info = struct.pack("<IiiHHIIiiII", 124, *SIZE, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    info = (info + bytes(16) + b"DEBM" + bytes(48) + struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0))[:124]
    bmp = b"BM" + struct.pack("<IHHI", 138 + len(pixels) + len(profile), 0, 0, 138) + info + pixels + profile
    assert_colour(bmp, expected, fate)


def test_exif_data_of_a_jpeg_do_not_change_its_colours() -> None:
    """As no browser follows them: they often survive the conversion of what they describe."""
    tags = Image.Exif()
    tags[0xA001] = 0xFFFF
    tags.get_ifd(0xA005)[1] = "R03"
    data = encoded(plain(), "JPEG", exif=tags, **FORMS["JPEG"])
    assert assert_colour(data, COLOUR, "").data == data


# --- cost, threads, and what is encoded


def test_a_transform_is_made_once_for_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = colour._built
    monkeypatch.setattr(colour, "_built", lambda *args: made.append(1) or original(*args))
    colour._transform.cache_clear()
    for _ in range(5):
        stored(encoded(plain(), "JPEG", icc_profile=ADOBE))
    assert len(made) == 1
    for gamma in range(100):
        stored(encoded(plain(), "JPEG", icc_profile=matrix_profile(SRGB, 1 + gamma / 100)))
    assert colour._transform.cache_info().currsize <= 32


def test_threads_share_transforms() -> None:
    dice = np.random.default_rng(0)
    pictures = [Image.fromarray(dice.integers(0, 256, (300, 400, 3), dtype=np.uint8)) for _ in range(4)]
    files = [
        encoded(picture, "PNG", icc_profile=profile)
        for picture in pictures
        for profile in (ADOBE, DISPLAY_P3, PROPHOTO)
    ]
    settings = DownloadSettings(min_side_px=32, max_side_px=4096, jpeg_quality=95)
    alone = [stored(data, settings).data for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = [outcome.data for outcome in pool.map(lambda data: stored(data, settings), files * 2)]
            assert together == alone * 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("profile", [None, ADOBE, *SRGB_PROFILES.values()])
def test_what_is_encoded_is_what_is_shown(form: str, profile: bytes | None) -> None:
    """A viewer that follows profiles sees in the stored file what the encoder is given."""
    ramp = np.stack(np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 4)), axis=-1).astype(np.uint8)
    picture = Image.fromarray(np.concatenate([ramp, np.full((64, 64, 1), 90, np.uint8)], axis=2))
    options = {} if profile is None else {"icc_profile": profile}
    outcome = stored(encoded(picture, form, **options, **FORMS[form]))
    shown = Image.open(io.BytesIO(outcome.data)).convert("RGB")
    if (embedded := shown.info.get("icc_profile")) is not None:
        source = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        shown = ImageCms.profileToProfile(shown, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    crops = center_crops(outcome.data, (64,))
    assert crops is not None
    assert np.abs(crops[64].astype(int) - np.asarray(shown)).max() <= 1
