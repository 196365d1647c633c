"""CC12M in miniature: three tars as https://huggingface.co/datasets/pixparse/cc12m-wds has them, and its `_info.json`.

    cc12m-train-0000.tar    <9-digit key>.jpg, .json and .txt per sample, in the order of keys, which have holes
    cc12m-train-0001.tar    members in no order at all
    cc12m-train-0003.tar    no tar has the number 2; `_info.json` states one sample less than this one holds

A source record is what has a key of its own:

    records in                     18
    kept                           13     3 of them with a short side of 512
    rejected  too_small             1     000000006 (133x100)
              undecodable           1     000050003 (truncated)
              missing_image         1     000050006 (.json and .txt only)
              empty_caption         1     000050008
              bad_caption           1     000060000 (no .txt, null in the .json)

Kept, but in need of care:

    000000001  <PERSON>                          000050005  no .txt: the caption is in the .json
    000000003  <PERSON>, twice                   000050011  .txt in Latin-1
    000000004  short side 300; HTML entities     000060004  stored on its side; `exif` in the .json says so
    000000007  grayscale; hashtags               000060005  article number, size, URL
    000000009  Japanese                          000060007  no .json
    000050002  was transparent, now on white     000060012  the picture and caption of 000000004 again
"""

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from samples.build.archives import write_sha256sums, write_tar
from samples.build.photos import View, render

_KEPT = "kept"
_SHUFFLED = 1  # the tar whose members are in no order
_SEED = 2014


@dataclass(frozen=True, kw_only=True)
class Record:
    """One source record.

    Attributes:
        tar: Number of the tar.
        key: The number that becomes its key.
        view: The picture; none where it is missing.
        caption: What the .json has, and the .txt unless `text` says otherwise.
        fate: `kept`, or the reason of the rejection.
        text: Bytes of the .txt; empty for none.
        has_json: Whether there is a .json.
        original: Width and height that the .json states for the picture on the web.
        exif: What the .json says of its EXIF data.
        change: What happens to the picture: `truncated`, `flattened` (an oval cut-out, on white), or `sideways`.
    """

    tar: int
    key: int
    view: View | None
    caption: str | None
    fate: str = _KEPT
    text: bytes | None = None
    has_json: bool = True
    original: tuple[int, int] = (1024, 768)
    exif: str = "{}"
    change: str = ""

    @property
    def name(self) -> str:
        """The name of its members, without extension."""
        return f"{self.key:09d}"


_CITRUS = View(photo="citrus", size=(400, 300))
_CITRUS_CAPTION = "Oranges, lemons &amp; limes &#8211; sliced citrus fruit &quot;on white&quot;"

RECORDS = (
    Record(
        tar=0,
        key=1,
        view=View(photo="bridge_night", size=(700, 512), quality=80),
        caption="suspension bridge at night over the river / <PERSON>",
        original=(1302, 952),
    ),
    Record(
        tar=0,
        key=3,
        view=View(photo="astronaut", size=(512, 512)),
        caption="Astronaut <PERSON> poses in an orange space suit (Photo by <PERSON>/NASA)",
        original=(3000, 3000),
    ),
    Record(tar=0, key=4, view=_CITRUS, caption=_CITRUS_CAPTION, original=(400, 300)),
    Record(
        tar=0,
        key=6,
        view=View(photo="bee", size=(133, 100)),
        caption="honey bee on a purple flower",
        fate="too_small",
        original=(133, 100),
    ),
    Record(
        tar=0,
        key=7,
        view=View(photo="cameraman", size=(417, 417), form="gray"),
        caption="Man with a film camera on a tripod #blackandwhite #photographer #camera",
        original=(417, 417),
    ),
    Record(
        tar=0,
        key=9,
        view=View(photo="raccoon", size=(555, 416)),
        caption="葉の上で休むアライグマ",
        original=(555, 416),
    ),
    Record(
        tar=1,
        key=50002,
        view=View(photo="fig", size=(384, 288), box=(300, 0, 2572, 1704)),
        caption="Half a fig in a red bowl, isolated, transparent PNG - free download",
        original=(1200, 900),
        change="flattened",
    ),
    Record(
        tar=1,
        key=50003,
        view=View(photo="dahlia", size=(500, 333)),
        caption="An orange dahlia in bloom",
        fate="undecodable",
        original=(500, 333),
        change="truncated",
    ),
    Record(
        tar=1,
        key=50005,
        view=View(photo="cat", size=(360, 300), box=(60, 0, 420, 300)),
        caption="Portrait of a tabby cat with green eyes, looking aside",
        text=b"",
        original=(360, 300),
    ),
    Record(
        tar=1,
        key=50006,
        view=None,
        caption="old brick wall texture",
        fate="missing_image",
    ),
    Record(
        tar=1,
        key=50008,
        view=View(photo="gravel", size=(300, 300), form="gray"),
        caption="",
        fate="empty_caption",
        original=(300, 300),
    ),
    Record(
        tar=1,
        key=50011,
        view=View(photo="coffee", size=(480, 320)),
        caption="Espresso in a red cup at the café",
        text="Espresso in a red cup at the café".encode("latin-1"),
        original=(600, 400),
    ),
    Record(
        tar=3,
        key=60000,
        view=View(photo="brick", size=(300, 300), form="gray"),
        caption=None,
        fate="bad_caption",
        original=(300, 300),
    ),
    Record(
        tar=3,
        key=60004,
        view=View(photo="dogs", size=(320, 400), box=(440, 660, 1600, 2110)),
        caption="Two brown spaniels look out of the window of a wooden house",
        original=(3088, 2056),
        exif='{"Image Make": "Example", "Image Orientation": "Rotated 90 CW"}',
        change="sideways",
    ),
    Record(
        tar=3,
        key=60005,
        view=View(photo="wine", size=(400, 320), box=(0, 1830, 2400, 3750)),
        caption="Hand drum, wood, 12x24 inch, DRUM-88214306 | free shipping | www.drums.example.com",
        original=(800, 640),
    ),
    Record(
        tar=3,
        key=60007,
        view=View(photo="sunset", size=(455, 303)),
        caption="the sun sets behind the hills ...",
        has_json=False,
    ),
    Record(
        tar=3,
        key=60010,
        view=View(photo="mountains", size=(682, 512), quality=75),
        caption="A path leads <PERSON> up to the rocky mountains",
        original=(3264, 2448),
    ),
    Record(tar=3, key=60012, view=_CITRUS, caption=_CITRUS_CAPTION, original=(400, 300)),
)


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for the root of the repository.
    """
    into.mkdir(parents=True, exist_ok=True)
    numbers = sorted({record.tar for record in RECORDS})
    names = {number: f"cc12m-train-{number:04d}.tar" for number in numbers}
    for number, name in names.items():
        members = [member for record in RECORDS if record.tar == number for member in _members(record, photos)]
        if number == _SHUFFLED:
            random.Random(_SEED).shuffle(members)  # noqa: S311 - an order, not a secret
        write_tar(into / name, members)
    lengths = [sum(record.tar == number for record in RECORDS) for number in numbers]
    lengths[-1] -= 1
    train = {
        "name": "train",
        "filenames": list(names.values()),
        "shard_lengths": lengths,
        "num_samples": sum(lengths),
    }
    (into / "_info.json").write_text(json.dumps({"splits": {"train": train}}, indent=4) + "\n")
    write_sha256sums(into, list(names.values()))


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    changes = {"flattened": ", an oval of it on white", "truncated": ", truncated", "sideways": ", stored on its side"}
    return [
        (record.view.photo, record.view.describe() + changes.get(record.change, ""), record.name)
        for record in RECORDS
        if record.view is not None
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _members(record: Record, photos: Path) -> list[tuple[str, bytes]]:
    """Make a record's members."""
    members = []
    width = height = None
    if record.view is not None:
        picture = _picture(record, record.view, photos)
        width, height = Image.open(io.BytesIO(picture)).size
        members.append((f"{record.name}.jpg", picture))
    if record.has_json:
        document = {
            "caption": record.caption,
            "url": f"https://pictures.example.com/{record.tar}/{record.key}.jpg",
            "key": record.name,
            "status": "failed_to_download" if record.view is None else "success",
            "error_message": "HTTP Error 404: Not Found" if record.view is None else None,
            "width": width,
            "height": height,
            "exif": record.exif,
            "original_width": None if record.view is None else record.original[0],
            "original_height": None if record.view is None else record.original[1],
        }
        members.append((f"{record.name}.json", json.dumps(document, indent=4).encode()))
    text = record.text
    if text is None and record.caption is not None:
        text = record.caption.encode()
    if text or record.caption == "":
        members.append((f"{record.name}.txt", text or b""))
    return members


def _picture(record: Record, view: View, photos: Path) -> bytes:
    """Make the bytes stored for a record."""
    content = render(view, photos)
    if record.change == "truncated":
        return content[: len(content) * 2 // 5]
    if not record.change:
        return content
    image = Image.open(io.BytesIO(render(View(photo=view.photo, size=view.size, box=view.box, form="png"), photos)))
    if record.change == "sideways":
        image = image.transpose(Image.Transpose.ROTATE_90)  # counterclockwise, without saying so
    else:
        oval = Image.new("L", image.size)
        ImageDraw.Draw(oval).ellipse((0, 0, image.width - 1, image.height - 1), fill=255)
        image = Image.composite(image, Image.new("RGB", image.size, "white"), oval)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=view.quality, optimize=True)
    return encoded.getvalue()
