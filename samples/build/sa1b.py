"""SA-1B in miniature: three archives as Meta's links lead to them, and the captions of SAM-LLaVA-Captions10M.

    sa_000000.tar    gzip in spite of the name; ./sa_<id>.jpg and ./sa_<id>.json, in no order
    sa_000001.tar    not compressed; sa_<id>.jpg and sa_<id>.json
    sa_000002.tar    gzip, its end cut off; images/sa_<id>.jpg and images/sa_<id>.json
    sa_co_gold.tar   a benchmark, and sa_images_ids.txt: not to be read
    captions/SA1B_caption.tar.gz    sa_<id>.txt, with and without a leading ./ or folder

A source record is a picture, or what is behind the end of a damaged archive:

    records in                     18
    kept                           12     3 of them with a short side of 512 or more
    rejected  too_small             1     90000011
              undecodable           1     90000012 (truncated)
              missing_caption       2     90000004 90000013
              empty_caption         1     90000010
              damaged_archive       1     sa_000002.tar, in the middle of 90000018

Kept, but in need of care: a caption cut off in the middle of a sentence (90000002), in two lines (90000009), that is
not UTF-8 (90000015). The ids are larger than any of SA-1B's; one caption has no picture.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from samples.build.archives import write_sha256sums, write_tar
from samples.build.photos import View, render

_KEPT = "kept"
_SEED = 2023
_FORMS = ("./", "", "images/")  # how members of the archives are named
_CUT = "sa_000002.tar"
_CAPTIONS = "captions/SA1B_caption.tar.gz"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture.

    Attributes:
        id: What its name has behind `sa_`.
        archive: Number of its archive.
        view: The picture.
        caption: None where there is no file for it.
        fate: `kept`, or the reason of the rejection; `cut` for one that the damaged archive has only half of.
    """

    id: int
    archive: int
    view: View
    caption: str | bytes | None = None
    fate: str = _KEPT


RECORDS = (
    Record(
        id=90000001,
        archive=0,
        view=View(photo="bridge_night", size=(768, 576)),
        caption="The image features a large suspension bridge at night, spanning a wide river. The bridge is lit by "
        "many lamps, and their light is reflected in the water below.",
    ),
    Record(
        id=90000002,
        archive=0,
        view=View(photo="citrus", size=(420, 280)),
        caption="The image shows many slices of citrus fruit, such as oranges, lemons, and limes, arranged on a white "
        "surface. The slices are lit from below, which",
    ),
    Record(
        id=90000003,
        archive=0,
        view=View(photo="stream", size=(300, 400)),
        caption="The image depicts a small stream in a forest. The water flows down over many flat stones, with "
        "plants on both sides.",
    ),
    Record(id=90000004, archive=0, view=View(photo="retina", size=(360, 360)), fate="missing_caption"),
    Record(
        id=90000005,
        archive=0,
        view=View(photo="clock", size=(400, 300)),
        caption="The image features a large wall clock seen from below. Its numbers are cut out of a gray disk, and "
        "a yellow light glows behind them.",
    ),
    Record(
        id=90000006,
        archive=0,
        view=View(photo="dogs", size=(512, 640), box=(440, 660, 1600, 2110)),
        caption="The image features two brown dogs leaning out of the window of a wooden house. They both look in the "
        "same direction, as if something had caught their attention.",
    ),
    Record(
        id=90000007,
        archive=1,
        view=View(photo="brushes", size=(400, 300)),
        caption="The image shows a bunch of paint brushes standing close together. Their bristles are covered in "
        "blue, pink, and green paint.",
    ),
    Record(
        id=90000008,
        archive=1,
        view=View(photo="nuthatch", size=(420, 280), box=(1500, 700, 4500, 2700)),
        caption="The image features a small bird, a nuthatch, climbing head first down the trunk of a tree.",
    ),
    Record(
        id=90000009,
        archive=1,
        view=View(photo="coffee", size=(420, 280)),
        caption="The image features a red cup of coffee on a red saucer.\nThere is a spoon on the saucer, and the cup "
        "stands on a wooden table.\n",
    ),
    Record(id=90000010, archive=1, view=View(photo="bridge_cables", size=(480, 270)), caption="", fate="empty_caption"),
    Record(
        id=90000011,
        archive=1,
        view=View(photo="meadow", size=(480, 150), box=(0, 180, 3088, 1145)),
        caption="The image features a long mountain ridge behind a forest in autumn.",
        fate="too_small",
    ),
    Record(
        id=90000012,
        archive=1,
        view=View(photo="dahlia", size=(420, 280)),
        caption="The image features an orange flower in full bloom.",
        fate="undecodable",
    ),
    Record(id=90000013, archive=1, view=View(photo="gravel", size=(384, 303), form="gray"), fate="missing_caption"),
    Record(
        id=90000014,
        archive=2,
        view=View(photo="rocket", size=(420, 280)),
        caption="The image features a tall white rocket standing on a launch pad at dusk. It is brightly lit, and "
        "several towers stand around it.",
    ),
    Record(
        id=90000015,
        archive=2,
        view=View(photo="pagoda", size=(420, 280)),
        caption="The image features a tall pagoda above a lake. It has green and orange roofs and a richly "
        "decorated façade.".encode("latin-1"),
    ),
    Record(
        id=90000016,
        archive=2,
        view=View(photo="wine", size=(640, 560), box=(680, 380, 2480, 1955)),
        caption="The image features a wooden table with a bottle of wine, a glass of red wine, and a coffee grinder.",
    ),
    Record(
        id=90000017,
        archive=2,
        view=View(photo="cat", size=(400, 300)),
        caption="The image features a close-up of a tabby cat with green eyes. The cat looks off to the side.",
    ),
    Record(
        id=90000018,
        archive=2,
        view=View(photo="dandelion", size=(400, 400), box=(300, 0, 3288, 2988)),
        caption="The image features a dandelion seed head in the light of the evening sun.",
        fate="damaged_archive",
    ),
)


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for what the links lead to; captions are in a folder of their own.
    """
    shuffled = random.Random(_SEED)  # noqa: S311 - an order, not a secret
    for number, form in enumerate(_FORMS):
        records = [record for record in RECORDS if record.archive == number]
        if number == 0:
            shuffled.shuffle(records)
        members: list[tuple[str, bytes]] = []
        for record in records:
            picture = render(record.view, photos)
            data = picture[: len(picture) // 2] if record.fate == "undecodable" else picture
            members.append((f"{form}sa_{record.id}.jpg", data))
            members.append((f"{form}sa_{record.id}.json", _masks(record, shuffled)))
        write_tar(into / f"sa_{number:06d}.tar", members, gzipped=number != 1)
    cut = (into / _CUT).read_bytes()
    (into / _CUT).write_bytes(cut[: len(cut) - 15_000])
    write_tar(into / "sa_co_gold.tar", [("gold_attributes.json", b"{}")], gzipped=True)
    (into / "sa_images_ids.txt").write_text("".join(f"{record.id}\n" for record in RECORDS))

    texts = [(f"sa_{record.id}.txt", _encoded(record.caption)) for record in RECORDS if record.caption is not None]
    texts.append(("sa_90000019.txt", b"The image features something that no picture shows."))
    shuffled.shuffle(texts)
    forms = ("", "./", "captions/")
    write_tar(into / _CAPTIONS, [(forms[i % 3] + name, text) for i, (name, text) in enumerate(texts)], gzipped=True)
    write_sha256sums(into, [*(f"sa_{number:06d}.tar" for number in range(3)), "sa_co_gold.tar", _CAPTIONS])


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    changes = {"undecodable": ", truncated", "damaged_archive": ", cut off"}
    return [
        (record.view.photo, record.view.describe() + changes.get(record.fate, ""), str(record.id)) for record in RECORDS
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _encoded(caption: str | bytes) -> bytes:
    return caption if isinstance(caption, bytes) else caption.encode()


def _masks(record: Record, shuffled: random.Random) -> bytes:
    """Make the JSON beside a picture: its form is right, its masks are of nothing."""
    width, height = record.view.size
    annotations = [
        {
            "id": record.id * 100 + number,
            "segmentation": {"size": [height, width], "counts": shuffled.randbytes(40).hex()},
            "bbox": [0.0, 0.0, float(width), float(height)],
            "area": width * height,
            "predicted_iou": 0.9,
            "stability_score": 0.95,
            "crop_box": [0.0, 0.0, float(width), float(height)],
            "point_coords": [[width / 2, height / 2]],
        }
        for number in range(3)
    ]
    image = {"image_id": record.id, "width": width, "height": height, "file_name": f"sa_{record.id}.jpg"}
    return json.dumps({"image": image, "annotations": annotations}).encode()
