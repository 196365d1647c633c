"""TextCaps in miniature: the parquet files of its copy on the hub, with the pictures in their rows.

    data/train-00000-of-00002.parquet, data/train-00001-of-00002.parquet
    data/val-00000-of-00001.parquet     the validation split, as the copy calls it
    data/test-00000-of-00001.parquet    without captions; not to be read

Rows are in no order, three to a row group. A source record is a row of train or val, here by the end of its image id:

    records in                     17
    kept                           10     2 of them with a short side of 512 or more
    rejected  too_small             1     05
              undecodable           1     11 (truncated)
              missing_image         2     06 (no bytes) 08 (null)
              missing_caption       1     09
              empty_caption         1     10
              duplicate_key         1     12 (has the id of 14)

Kept, but in need of care: EXIF orientation 6 (03), captions in caption_str alone (07), grey (14), a caption with a line
break (04). `records_of_zip` in tests/test_textcaps.py makes the original's JSON files and zip of these.
"""

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from samples.build.archives import write_sha256sums
from samples.build.photos import PHOTOS, View, render

_KEPT = "kept"
_SEED = 2020
_ROWS_PER_GROUP = 3
_FILES = ("train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001", "test-00000-of-00001")
_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.string()),
        ("image_classes", pa.list_(pa.string())),
        ("flickr_original_url", pa.string()),
        ("flickr_300k_url", pa.string()),
        ("image_width", pa.int64()),
        ("image_height", pa.int64()),
        ("set_name", pa.string()),
        ("image_name", pa.string()),
        ("image_path", pa.string()),
        ("caption_id", pa.list_(pa.int64())),
        ("caption_str", pa.list_(pa.string())),
        ("reference_strs", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row.

    Attributes:
        number: The end of its image id.
        file: Index in `_FILES`.
        view: The picture; none where the row has none.
        captions: In the source's order.
        classes: What Open Images says is to be seen.
        fate: `kept`, or the reason of the rejection.
        truncated: Whether the picture's end is missing.
        null_image: Whether even the column's struct is null.
        listed: Whether the captions are in `reference_strs` too.
        id_of: The number that its image id is made of, where not its own.
    """

    number: int
    file: int
    view: View | None
    captions: tuple[str, ...]
    classes: tuple[str, ...] = ()
    fate: str = _KEPT
    truncated: bool = False
    null_image: bool = False
    listed: bool = True
    id_of: int | None = None


RECORDS = (
    Record(
        number=1,
        file=0,
        view=View(photo="astronaut", size=(512, 512)),
        classes=("Person", "Clothing", "Helmet"),
        captions=(
            "An astronaut wears a patch that says Collins, Ashby, Coleman, Hawley and Tognini.",
            "A woman in an orange space suit has a name tag that reads Eileen M. Collins.",
            "The name Coleman can be read at the bottom of a round patch on an orange suit.",
            "A smiling astronaut named Collins holds a black helmet.",
            "A woman with a mission patch with five names on it sits in front of a flag.",
        ),
    ),
    Record(
        number=2,
        file=0,
        view=View(photo="clock", size=(400, 300)),
        classes=("Clock",),
        captions=(
            "A gray wall clock seen from the side with a large number 7 cut out.",
            "The number 7 on a clock is lit in yellow from behind.",
            "A modern clock whose 7 shines brighter than its other numbers.",
            "A big clock shows the numbers 6, 7 and 8.",
            "A clock with cut out digits hangs on a yellow wall.",
        ),
    ),
    Record(
        number=3,
        file=0,
        view=View(photo="wine", size=(384, 576), form="rotated"),
        classes=("Drum", "Bottle", "Table"),
        captions=(
            "A bottle of wine with a white label whose first letter is an M.",
            "A drum lies on a bean bag in front of a bottle and a glass of wine.",
            "A wine bottle whose label starts with M stands on a table made of pallets.",
            "A room with a drum and a bottle of wine with a hand written label.",
            "The label of the wine bottle is too small to read.",
        ),
    ),
    Record(
        number=4,
        file=0,
        view=View(photo="bridge_night", size=(480, 352)),
        classes=("Bridge", "Boat"),
        captions=(
            "A bridge at night\nwith a sign on the bank that nobody can read.",
            "A suspension bridge is lit by lamps at night.",
            "A boat without a visible name lies under a large bridge.",
            "There is a small sign on a pole at the left, in front of the bridge.",
            "A stone tower carries the cables of a bridge over a river.",
        ),
    ),
    Record(
        number=5,
        file=0,
        view=View(photo="brushes", size=(280, 220)),
        classes=("Brush",),
        fate="too_small",
        captions=(
            "Brushes in many colors without any brand on them.",
            "A blue brush stands next to a pink one.",
            "Paint brushes of several sizes.",
            "A handle of a brush with paint and no letters.",
            "Colorful brushes in a studio.",
        ),
    ),
    Record(
        number=6,
        file=0,
        view=None,
        fate="missing_image",
        captions=(
            "A sign says OPEN.",
            "An open sign hangs in the window of a shop.",
            "A red neon sign reads OPEN.",
            "A shop window with the word OPEN in red.",
            "The word OPEN glows behind glass.",
        ),
    ),
    Record(
        number=7,
        file=0,
        view=View(photo="coffee", size=(420, 280)),
        classes=("Coffee cup", "Spoon"),
        listed=False,
        captions=(
            "A red cup of espresso without a logo on it.",
            "A spoon lies beside a red cup on a red saucer.",
            "No text is visible on the coffee cup.",
            "An espresso in a plain red cup.",
            "A cup of coffee on a wooden table.",
        ),
    ),
    Record(
        number=8,
        file=1,
        view=None,
        null_image=True,
        fate="missing_image",
        captions=(
            "A stop sign at a corner.",
            "A red sign says STOP.",
            "The word STOP in white letters on red.",
            "A traffic sign tells drivers to stop.",
            "A stop sign next to a tree.",
        ),
    ),
    Record(number=9, file=1, view=View(photo="dandelion", size=(300, 300)), fate="missing_caption", captions=()),
    Record(
        number=10,
        file=1,
        view=View(photo="gravel", size=(256, 256)),
        fate="empty_caption",
        captions=("", " ", "\n", "", "\t"),
    ),
    Record(
        number=11,
        file=1,
        view=View(photo="galaxies", size=(400, 320)),
        fate="undecodable",
        truncated=True,
        captions=(
            "A dark picture full of galaxies, with no text.",
            "Thousands of galaxies on black.",
            "Galaxies of many colors and shapes.",
            "The sky seen by a space telescope.",
            "Bright dots on a black background.",
        ),
    ),
    Record(
        number=12,
        file=1,
        view=View(photo="brick", size=(256, 256)),
        fate="duplicate_key",
        id_of=14,
        captions=(
            "A pavement of bricks without any letters.",
            "Gray bricks in rows.",
            "A brick wall with no graffiti.",
            "Rows of bricks seen from above.",
            "A gray pattern of bricks.",
        ),
    ),
    Record(
        number=13,
        file=1,
        view=View(photo="rocket", size=(480, 320)),
        classes=("Rocket", "Tower"),
        captions=(
            "A white rocket with small letters on its side stands between towers.",
            "A rocket on its launch pad at dusk, its name too small to read.",
            "Four towers stand around a rocket.",
            "Bright lamps shine on a rocket that is about to launch.",
            "A tall rocket waits for its launch in the evening.",
        ),
    ),
    Record(
        number=14,
        file=1,
        view=View(photo="cameraman", size=(400, 400), form="gray"),
        classes=("Man", "Camera", "Tripod"),
        captions=(
            "A man films with a camera that shows no brand.",
            "A photographer in a black coat with a tripod.",
            "A black and white photo of a man with a camera, without any text.",
            "A man looks through a camera in a park.",
            "A cameraman in front of a tall building.",
        ),
    ),
    Record(
        number=15,
        file=2,
        view=View(photo="pagoda", size=(420, 280)),
        classes=("Building", "Tree"),
        captions=(
            "A tower with many roofs and a sign below the top one.",
            "A pagoda whose sign cannot be read from here.",
            "A red and green tower stands above a lake.",
            "There is a small sign in the middle of the tower.",
            "A tall old building with colorful roofs.",
        ),
    ),
    Record(
        number=16,
        file=2,
        view=View(photo="dogs", size=(512, 640), box=(440, 660, 1600, 2110)),
        classes=("Dog", "House"),
        captions=(
            "Two brown dogs look out of a house without a number.",
            "A house with no number and two dogs at the window.",
            "Two dogs watch something outside.",
            "Brown dogs lean out of a wooden house.",
            "One dog stands above another at a window.",
        ),
    ),
    Record(
        number=17,
        file=2,
        view=View(photo="cat", size=(400, 266)),
        classes=("Cat",),
        captions=(
            "A cat with marks like an M on its forehead.",
            "The letter M seems to be written on the head of a tabby cat.",
            "A close up of a cat with green eyes.",
            "A tabby cat looks to the side.",
            "A brown cat with long whiskers.",
        ),
    ),
    Record(number=18, file=3, view=View(photo="fig", size=(300, 200)), fate="not read", captions=()),
)


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for the root of the repository on the hub.
    """
    shuffled = random.Random(_SEED)  # noqa: S311 - an order, not a secret
    paths = [f"data/{name}.parquet" for name in _FILES]
    (into / "data").mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        records = [record for record in RECORDS if record.file == index]
        shuffled.shuffle(records)
        records.sort(key=lambda record: record.id_of is not None)  # whoever borrows an id comes after its owner
        table = pa.Table.from_pylist([_row(record, photos) for record in records], _SCHEMA)
        pq.write_table(table, into / path, row_group_size=_ROWS_PER_GROUP)
    write_sha256sums(into, paths)


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    return [
        (
            record.view.photo,
            record.view.describe() + (", truncated" if record.truncated else ""),
            f"{record.number:02d}",
        )
        for record in RECORDS
        if record.view is not None
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS if _FILES[record.file].partition("-")[0] != "test"]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _row(record: Record, photos: Path) -> dict[str, Any]:
    """Make a record's row."""
    split = _FILES[record.file].partition("-")[0]
    image_id = f"7e87ca95{record.number if record.id_of is None else record.id_of:08d}"
    page, content, size = "", None, (1024, 768)
    if record.view is not None:
        photo, content = PHOTOS[record.view.photo], render(record.view, photos)
        page = photo.page if "flickr.com" in photo.page or "flic.kr" in photo.page else ""
        size = Image.open(io.BytesIO(content)).size
        content = content[: len(content) // 2] if record.truncated else content
    ids = [record.number * 5 + i for i in range(len(record.captions))]
    return {
        "question_id": image_id,
        "question": "Describe the picture and the text in it in a sentence.",
        "image": None if record.null_image else {"bytes": content, "path": f"{image_id}.jpg"},
        "image_id": image_id,
        "image_classes": list(record.classes),
        "flickr_original_url": page,
        "flickr_300k_url": page,
        "image_width": size[0],
        "image_height": size[1],
        "set_name": split,
        "image_name": image_id,
        "image_path": f"{split}/{image_id}.jpg",
        "caption_id": ids,
        "caption_str": list(record.captions),
        "reference_strs": list(record.captions) if record.listed else None,
    }
