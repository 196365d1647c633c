"""MS-COCO 2014 (validation) in miniature: the two archives that http://images.cocodataset.org serves.

    zips/val2014.zip                          val2014/COCO_val2014_<12 digits>.jpg
    annotations/annotations_trainval2014.zip  annotations/{instances,captions}_val2014.json

A source record is an entry of images[], or an image id that only annotations name, or a picture in the zip
that no entry names. `coco_records.py` lists them with their fates:

    records in                     38
    kept                           28     8 of them with a short side of 512 or more
    rejected  too_small             2     676540 679027
              undecodable           2     681664 (truncated) 684211 (HTML)
              missing_image         2     686932 (not in the zip) 689405 (not in images[])
              missing_caption       2     691878 (no annotation) 694316 (not in images[] either)
              empty_caption         1     697550
              duplicate_key         1     699724 (names the file of 617902)

Kept, but in need of care:

    600142  short side exactly 512               640066  EXIF orientation 6: 640x480 stored, 480x640 upright
    601377  grayscale, short side exactly 512    646310  one of six captions is blank
    603009  six captions                         649975  PNG under a .jpg name
    604721  newline inside the first caption     652248  a later caption ends in a newline
    615588  seven captions, one in capitals      661132  short side exactly 256
    617902  a caption that is not ASCII          667285  CMYK
    623340  progressive                          670913  grayscale

The URLs have the form of COCO's, but nothing answers there. Width and height are those of the stored bytes,
before the EXIF orientation is applied.
"""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from samples.build.archives import write_sha256sums, write_zip
from samples.build.coco_records import RECORDS, Record
from samples.build.photos import LICENCES, PHOTOS, render

_HTML = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The picture you asked for is no longer here.</p></body></html>
"""
_NEWLINE_FIRST = 604721  # its annotations keep their order, so that its first caption is first in every sense
_DATE = "2014-01-01 00:00:00"
_SEED = 2014

_LICENCE_IDS = {name: number for number, name in enumerate(LICENCES, start=1)}
_INFO = {
    "description": "A miniature in the form of COCO 2014, made by microdiff; it holds no COCO data",
    "url": "",
    "version": "1.0",
    "year": 2014,
    "contributor": "microdiff",
    "date_created": "2014/01/01",
}
# (annotation id, image id, category, x, y, width, height): a few boxes, only so that the file is what it says
_INSTANCES = (
    (9010, 615588, 17, 0, 0, 395, 300),
    (9027, 617902, 47, 170, 15, 250, 290),
    (9033, 608893, 18, 80, 25, 200, 235),
    (9034, 608893, 18, 230, 315, 187, 288),
)
_CATEGORIES = (
    {"supercategory": "animal", "id": 17, "name": "cat"},
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "kitchen", "id": 47, "name": "cup"},
)


def build(photos: Path, into: Path) -> None:
    """Write the miniature below `into`.

    Args:
        photos: Folder where the packages with the photographs were unpacked.
        into: Folder that stands for the root of the server.
    """
    shuffled = random.Random(_SEED)  # noqa: S311 - an order, not a secret
    pictures = {record.file_name: _picture(record, photos) for record in RECORDS if _has_picture(record)}
    images = _images(pictures, shuffled)
    annotations = _annotations(shuffled)
    licenses = [{"url": LICENCES[name], "id": number, "name": name} for name, number in _LICENCE_IDS.items()]
    head = {"info": _INFO, "images": images, "licenses": licenses}
    names = sorted(pictures)
    shuffled.shuffle(names)  # nobody may rely on the order in the zip

    members = [("val2014/", b""), *((f"val2014/{name}", pictures[name]) for name in names)]
    write_zip(into / "zips/val2014.zip", members)
    documents = {"instances": head | _instances(), "captions": head | {"annotations": annotations}}
    encoded = {name: json.dumps(document).encode() for name, document in documents.items()}
    members = [(f"annotations/{name}_val2014.json", content) for name, content in encoded.items()]
    write_zip(into / "annotations/annotations_trainval2014.zip", members)
    write_sha256sums(into, ["zips/val2014.zip", "annotations/annotations_trainval2014.zip"])


def uses() -> list[tuple[str, str, str]]:
    """List what the miniature takes from the photographs: (photo, what was done, sample)."""
    return [
        (record.view.photo, record.view.describe() + (", truncated" if record.damage else ""), str(record.id))
        for record in RECORDS
        if record.view is not None
    ]


def counts() -> dict[str, int]:
    """Count the records by fate."""
    fates = [record.fate for record in RECORDS]
    return {"records": len(fates)} | {fate: fates.count(fate) for fate in dict.fromkeys(fates)}


def _has_picture(record: Record) -> bool:
    """Tell whether the zip holds a file of the record's own."""
    return record.view is not None or record.damage == "html"


def _picture(record: Record, photos: Path) -> bytes:
    """Make the bytes stored for a record."""
    if record.view is None:
        return _HTML
    content = render(record.view, photos)
    return content[: len(content) * 2 // 5] if record.damage == "truncated" else content


def _images(pictures: dict[str, bytes], shuffled: random.Random) -> list[dict[str, object]]:
    """Make images[]: neither in the order of the ids nor in that of the zip."""
    listed = [record for record in RECORDS if record.listed]
    shuffled.shuffle(listed)
    listed.sort(key=lambda record: record.file_of is not None)  # whoever borrows a file comes after its owner
    return [_image(record, pictures) for record in listed]


def _image(record: Record, pictures: dict[str, bytes]) -> dict[str, object]:
    width, height = 640, 480  # of pictures that are not there
    content = pictures.get(record.file_name)
    if content is not None and record.damage != "html":
        width, height = Image.open(io.BytesIO(content)).size
    owner = next(other for other in RECORDS if other.file_name == record.file_name)
    photo = None if owner.view is None else PHOTOS[owner.view.photo]
    return {
        "license": _LICENCE_IDS[photo.licence if photo else "CC0 1.0"],
        "file_name": record.file_name,
        "coco_url": f"http://images.cocodataset.org/val2014/{record.file_name}",
        "height": height,
        "width": width,
        "date_captured": _DATE,
        "flickr_url": photo.page if photo and ("flickr.com" in photo.page or "flic.kr" in photo.page) else "",
        "id": record.id,
    }


def _annotations(shuffled: random.Random) -> list[dict[str, object]]:
    """Make the captions' annotations: ids with gaps, in no order, not grouped by image."""
    pairs = [(record.id, caption) for record in RECORDS for caption in record.captions]
    ids = sorted(shuffled.sample(range(1000, 9000), len(pairs)))
    annotations = [
        {"image_id": image_id, "id": number, "caption": caption}
        for number, (image_id, caption) in zip(ids, pairs, strict=True)
    ]
    shuffled.shuffle(annotations)
    return _order_by_id(annotations, _NEWLINE_FIRST)


def _order_by_id(annotations: Sequence[dict[str, object]], image_id: int) -> list[dict[str, object]]:
    """Put the annotations of one image in the order of their ids, leaving all others where they are."""
    mine = [annotation for annotation in annotations if annotation["image_id"] == image_id]
    ordered = iter(sorted(mine, key=lambda annotation: int(str(annotation["id"]))))
    return [next(ordered) if annotation in mine else annotation for annotation in annotations]


def _instances() -> dict[str, object]:
    """Make the part of the instances file that the captions file does not have."""
    annotations = [
        {
            "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
            "area": width * height,
            "iscrowd": 0,
            "image_id": image_id,
            "bbox": [x, y, width, height],
            "category_id": category,
            "id": number,
        }
        for number, image_id, category, x, y, width, height in _INSTANCES
    ]
    return {"annotations": annotations, "categories": _CATEGORIES}
