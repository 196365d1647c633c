"""DiffusionDB Large in miniature: three of its zips, and the metadata of these and of a few pictures in other zips.

    diffusiondb-large-part-1/part-000001.zip    <uuid>.webp or .png, part-000001.json
    diffusiondb-large-part-1/part-010000.zip    likewise
    diffusiondb-large-part-2/part-010001.zip    part-010001/<uuid>.webp, part-010001/part-010001.json
    metadata-large.parquet                      the source's columns and types, rows in no order, three row groups

The uuid of a record is made of its number below. A source record is a picture, or a row or a name in a JSON file
without one:

    records in                     20
    kept                           14     one of them with a short side of 512 or more
    rejected  too_small             1     13
              undecodable           1     9 (truncated)
              missing_image         2     6 (in the parquet file) 16 (in the JSON file)
              missing_caption       1     11 (in neither)
              empty_caption         1     12

Kept by `download`, and then rejected by `clean` as nsfw: 4 (blurred by the service: score 2), 5 (score NaN), 10 (no
score: it is in the JSON file alone), 17 (the prompt's score). Kept for good, but in need of care:

    2   trailing comma, 320x256                      14  user_name and timestamp are null
    3   both scores exactly 0.2, as float32          15  markup, an escape and a URL in the prompt
    7   not in the JSON file                         18, 19  the same picture and prompt
    8   PNG                                          20  a prompt that is not ASCII
"""

import hashlib
import io
import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from samples.build.archives import write_sha256sums, write_zip
from samples.build.photos import View, render

_KEPT = "kept"
_SEED = 2022
_FOLDERS = {
    1: "diffusiondb-large-part-1",
    10000: "diffusiondb-large-part-1",
    10001: "diffusiondb-large-part-2",
}
_WITH_FOLDER = 10001  # the zip whose members are below a folder
_METADATA = "metadata-large.parquet"
_ROWS_PER_GROUP = 9
_SAMPLERS = (
    "ddim",
    "plms",
    "k_euler",
    "k_euler_ancestral",
    "k_heun",
    "k_dpm_2",
    "k_dpm_2_ancestral",
    "k_lms",
    "others",
)
_SCHEMA = pa.schema(
    [
        ("image_name", pa.string()),
        ("prompt", pa.string()),
        ("part_id", pa.uint16()),
        ("seed", pa.uint32()),
        ("step", pa.uint16()),
        ("cfg", pa.float32()),
        ("sampler", pa.uint8()),
        ("width", pa.uint16()),
        ("height", pa.uint16()),
        ("user_name", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("image_nsfw", pa.float32()),
        ("prompt_nsfw", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record.

    Attributes:
        number: Makes its uuid.
        part: Number of its zip.
        view: The picture; none where the zip has none.
        prompt: As the parquet file and the JSON file have it.
        fate: What `download` makes of it: `kept`, or the reason of the rejection.
        in_parquet: Whether the parquet file has a row for it.
        in_json: Whether the JSON file names it.
        image_nsfw: The score.
        prompt_nsfw: The score.
        user: Its hash is the user's name; `deleted_account` stays as it is, and None is null.
        posted: Whether the time of the post is known.
        damage: `truncated`, or `blurred` as by the service.
    """

    number: int
    part: int
    view: View | None
    prompt: str = ""
    fate: str = _KEPT
    in_parquet: bool = True
    in_json: bool = True
    image_nsfw: float = 0.0625
    prompt_nsfw: float = 0.001
    user: str | None = "someone"
    posted: bool = True
    damage: str = ""

    @property
    def name(self) -> str:
        """The name of its picture."""
        extension = "png" if self.view is not None and self.view.form == "png" else "webp"
        return f"d1ffdb{self.number:02d}-0000-4000-8000-{self.number:012d}.{extension}"


_TWICE = "a man with a camera on a tripod, side view, long dark coat, street photography, 1 9 6 0 s"

RECORDS = (
    Record(
        number=1,
        part=1,
        view=View(photo="cameraman", size=(512, 512)),
        prompt="black and white photo of a photographer with a tripod in a park, 3 5 mm film, grain, wide angle",
    ),
    Record(
        number=2,
        part=1,
        view=View(photo="bird_lamp", size=(320, 256)),
        prompt="a small ceramic bird flying under glowing lamps, soft light, minimalism, octane render, ",
    ),
    Record(
        number=3,
        part=1,
        view=View(photo="clock", size=(256, 256)),
        prompt="a surreal wall clock lit from behind by yellow neon, brushed steel, isometric, unreal engine 5",
        image_nsfw=0.2,
        prompt_nsfw=0.2,
    ),
    Record(
        number=4,
        part=1,
        view=View(photo="dahlia", size=(256, 256)),
        prompt="orange dahlia in full bloom, macro, dark background, botanical plate",
        image_nsfw=2.0,
        damage="blurred",
    ),
    Record(
        number=5,
        part=1,
        view=View(photo="bridge_cables", size=(320, 256)),
        prompt="steel cables against a blue sky, architecture photography, symmetrical, 8 k",
        image_nsfw=math.nan,
    ),
    Record(
        number=6,
        part=1,
        view=None,
        prompt="a lighthouse made of glass, storm, matte painting, volumetric light",
        fate="missing_image",
    ),
    Record(
        number=7,
        part=1,
        view=View(photo="rocket", size=(256, 320), box=(200, 0, 541, 427)),
        prompt="retro futuristic rocket on the launch pad at dusk, floodlights, concept art, artstation",
        in_json=False,
        user="somebody else",
    ),
    Record(
        number=8,
        part=1,
        view=View(photo="brick", size=(256, 256), form="png"),
        prompt="seamless texture of a brick pavement seen from above, photorealistic, tileable",
    ),
    Record(
        number=9,
        part=1,
        view=View(photo="nuthatch", size=(256, 256), box=(1500, 0, 4891, 3391)),
        prompt="a nuthatch on the bark of an old tree, watercolor, muted colors",
        fate="undecodable",
        damage="truncated",
    ),
    Record(
        number=10,
        part=10000,
        view=View(photo="dandelion", size=(256, 256)),
        prompt="dandelions in a meadow at sunset, backlit, bokeh, anime background",
        in_parquet=False,
    ),
    Record(
        number=11,
        part=10000,
        view=View(photo="gravel", size=(128, 128)),
        fate="missing_caption",
        in_parquet=False,
        in_json=False,
    ),
    Record(number=12, part=10000, view=View(photo="sunset", size=(128, 128)), fate="empty_caption"),
    Record(
        number=13,
        part=10000,
        view=View(photo="retina", size=(192, 256)),
        prompt="the surface of a red planet with rivers of fire, seen from space, nasa",
        fate="too_small",
    ),
    Record(
        number=14,
        part=10000,
        view=View(photo="gravel", size=(256, 256)),
        prompt="macro photograph of grey gravel, high detail, physically based rendering material",
        user=None,
        posted=False,
    ),
    Record(
        number=15,
        part=10000,
        view=View(photo="cat", size=(256, 256)),
        prompt="<b>portrait of a tabby cat</b> with green eyes, like https://i.example.org/cat.png, oil on canvas "
        "&amp; gold leaf",
    ),
    Record(
        number=16,
        part=10000,
        view=None,
        prompt="an owl wearing a monocle, victorian engraving",
        fate="missing_image",
        in_parquet=False,
    ),
    Record(
        number=17,
        part=10000,
        view=View(photo="bird_lamp", size=(256, 256), box=(600, 900, 1860, 2160)),
        prompt="a swearing green parrot, rude words in speech bubbles, comic book panel",
        prompt_nsfw=0.83,
    ),
    Record(
        number=18,
        part=10001,
        view=View(photo="cameraman", size=(256, 256)),
        prompt=_TWICE,
        user="deleted_account",
    ),
    Record(
        number=19,
        part=10001,
        view=View(photo="cameraman", size=(256, 256)),
        prompt=_TWICE,
        user="deleted_account",
    ),
    Record(
        number=20,
        part=10001,
        view=View(photo="pagoda", size=(256, 320), box=(20, 0, 361, 427)),
        prompt="湖边的塔, ukiyo-e, 浮世絵, by café müller, intricate",
    ),
)
# Rows of the parquet file for pictures in zips that are not here: part, prompt.
_ELSEWHERE = (
    (2, "a fox in a library, storybook illustration"),
    (2, "portrait of an old sailor, charcoal"),
    (9999, "a city inside a bottle, tilt shift"),
    (10002, "a bowl of ramen in the style of caravaggio"),
    (14000, "low poly mountains at dawn"),
    (14000, ""),
)


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for the root of the repository on the hub.
    """
    shuffled = random.Random(_SEED)  # noqa: S311 - an order, not a secret
    settings = {record.number: _settings(record, shuffled) for record in RECORDS}
    zips = []
    for part, folder in _FOLDERS.items():
        records = [record for record in RECORDS if record.part == part]
        notes = {record.name: _note(record, settings[record.number]) for record in records if record.in_json}
        members = [(record.name, _picture(record, photos)) for record in records if record.view is not None]
        members.append((f"part-{part:06d}.json", json.dumps(notes, ensure_ascii=False).encode()))
        shuffled.shuffle(members)  # nobody may rely on the order in the zip
        place = f"part-{part:06d}/" if part == _WITH_FOLDER else ""
        zips.append(f"{folder}/part-{part:06d}.zip")
        write_zip(into / zips[-1], [(f"{place}{name}", content) for name, content in members])
    rows = [_row(record, settings[record.number]) for record in RECORDS if record.in_parquet]
    others = [Record(number=90 + i, part=part, view=None, prompt=text) for i, (part, text) in enumerate(_ELSEWHERE)]
    rows += [_row(record, _settings(record, shuffled)) for record in others]
    shuffled.shuffle(rows)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), into / _METADATA, row_group_size=_ROWS_PER_GROUP)
    write_sha256sums(into, [*zips, _METADATA])


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    return [
        (record.view.photo, _describe(record.view, record.damage), str(record.number))
        for record in RECORDS
        if record.view is not None
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _describe(view: View, damage: str) -> str:
    cropped = "" if view.box is None else "cropped, "
    encoded = "PNG" if view.form == "png" else "lossless WebP"
    return f"{cropped}{view.size[0]}x{view.size[1]}, {encoded}" + (f", {damage}" if damage else "")


def _picture(record: Record, photos: Path) -> bytes:
    """Make a record's picture: lossless WebP, or PNG."""
    if record.view is None:
        raise ValueError(f"{record.number} has no picture")
    view = View(photo=record.view.photo, size=record.view.size, box=record.view.box, form="png")
    content = render(view, photos)
    if record.view.form == "png":
        return content
    image = Image.open(io.BytesIO(content))
    if record.damage == "blurred":
        image = image.filter(ImageFilter.GaussianBlur(12))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", lossless=True, quality=100, method=6, exact=True)
    written = encoded.getvalue()
    return written[: len(written) * 2 // 5] if record.damage == "truncated" else written


def _settings(record: Record, dice: random.Random) -> dict[str, Any]:
    """Draw what a picture was made with."""
    return {
        "seed": dice.randrange(2**32),
        "step": dice.choice((25, 50, 150)),
        "cfg": dice.choice((7.0, 7.5, 12.0)),
        "sampler": dice.choice((1, 3, 8, 9)) if record.number > 1 else 8,
    }


def _note(record: Record, settings: dict[str, Any]) -> dict[str, Any]:
    """Make a record's entry of the JSON file."""
    name = _SAMPLERS[settings["sampler"] - 1]
    return {"p": record.prompt, "se": settings["seed"], "c": settings["cfg"], "st": settings["step"], "sa": name}


def _row(record: Record, settings: dict[str, Any]) -> dict[str, Any]:
    """Make a record's row of the parquet file."""
    width, height = (512, 512) if record.view is None else record.view.size
    user = record.user
    if user not in (None, "deleted_account"):
        user = hashlib.sha256(str(user).encode()).hexdigest()
    minute = datetime(2022, 8, 1 + record.number % 28, 9, record.number % 60, tzinfo=UTC)
    return {
        **settings,
        "image_name": record.name,
        "prompt": record.prompt,
        "part_id": record.part,
        "width": width,
        "height": height,
        "user_name": user,
        "timestamp": minute if record.posted else None,
        "image_nsfw": record.image_nsfw,
        "prompt_nsfw": record.prompt_nsfw,
    }
