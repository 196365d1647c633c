"""MS-COCO 2014: photographs of everyday scenes, each with five or more captions written by people.

Source: http://images.cocodataset.org (plain HTTP; the host's certificate does not fit its name). Home: cocodataset.org.
Licence: annotations CC BY 4.0; every photograph keeps its Flickr licence, listed in the annotations and kept in `meta`.
Size: validation 40,504 pictures, val2014.zip 6,645,013,297 bytes; no registration.
Layout: zips/<split>.zip holds <split>/COCO_<split>_<12-digit id>.jpg; annotations/annotations_trainval2014.zip holds
annotations/captions_<split>.json with images (id, file_name, license, URLs), licenses, annotations (image_id, caption).
Checksums: https://github.com/tensorflow/datasets, url_infos of coco.
Known defects: annotations are in no order; captions have trailing blanks, line breaks and irregular capitals; some
pictures are grey, some smaller than 256 pixels; one of train2014 is a damaged JPEG.

A record is an image of `images`, an image id that only annotations name, or a picture in the zip that no entry names.
The published pipeline uses the first caption in file order, so captions keep that order.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import BadMember, LargeMember, open_zip, read_member, read_picture
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, partition_keys
from microdiff.handlers import Handler
from microdiff.storage import Source

_ANNOTATIONS = "annotations/annotations_trainval2014.zip"


@dataclass(frozen=True, kw_only=True)
class Coco(Handler):
    """One split of COCO 2014.

    Attributes:
        split: Which split.
        images_per_partition: The zip is cut into slices of so many pictures.
        sha256: Checksums of source files by path; others are identified by what the server says.
    """

    licence: ClassVar[str] = "annotations CC BY 4.0; each picture its own, in meta"

    split: Literal["val2014", "train2014"]
    images_per_partition: int
    sha256: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if self.images_per_partition < 1:
            yield "images_per_partition", f"expected at least 1, got {self.images_per_partition}"
        for path in self.sha256.keys() - {self._images, _ANNOTATIONS}:
            yield f"sha256.{path}", f"is not read; expected {self._images} or {_ANNOTATIONS}"

    @property
    def _images(self) -> str:
        return f"zips/{self.split}.zip"

    def partitions(self, source: Source) -> Sequence[Partition]:
        """Cut the pictures that the annotations list, sorted by key, into slices."""
        document = self._annotations(source.fetch(source.stat(_ANNOTATIONS, self.checksum(_ANNOTATIONS))))
        keys = sorted({_key(image["file_name"]) for image in document["images"]})
        return partition_keys(keys, self.images_per_partition, (self._images, _ANNOTATIONS))

    def checksum(self, path: str) -> str | None:
        """Return a file's checksum from the settings."""
        return f"sha256:{self.sha256[path]}" if path in self.sha256 else None

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the slice's records sorted by key, entries of one picture by image id."""
        document = self._annotations(inputs.files[_ANNOTATIONS])
        captions: dict[int, list[str]] = defaultdict(list)
        for annotation in document["annotations"]:
            captions[annotation["image_id"]].append(str(annotation.get("caption") or ""))
        licences = {licence["id"]: licence.get("url", "") for licence in document.get("licenses", [])}

        with open_zip(inputs.files[self._images]) as archive:
            for record in self._records(document, captions.keys(), archive.namelist()):
                if not _is_in(partition, record.key):
                    continue
                member = record.member
                facts: dict[str, Any] = {
                    "key": record.key,
                    "captions": tuple(captions.get(record.image_id, ())),
                    "source": f"{self._images}/{member}" if member else f"{_ANNOTATIONS}#{record.image_id}",
                    "meta": {
                        "image_id": record.image_id,
                        "licence": licences.get(record.image.get("license"), ""),
                        "flickr_url": record.image.get("flickr_url", ""),
                    },
                }
                found = Reason.MISSING_IMAGE if member is None else read_picture(archive, member)
                if isinstance(found, Reason):
                    yield Rejection(reason=found, **facts)
                else:
                    yield Sample(image=found, **facts)

    def _records(
        self, document: Mapping[str, Any], captioned: KeysView[int], members: Sequence[str]
    ) -> list["_Record"]:
        """List the source's records sorted by key; of those with the same key, entries of `images` come first."""
        present = set(members)
        listed = [(f"{self.split}/{image['file_name']}", image) for image in document["images"]]
        records = [
            _Record(_key(path), 0, image["id"], path if path in present else None, image) for path, image in listed
        ]
        unnamed = present - {path for path, _ in listed}
        records += [_Record(_key(path), 1, 0, path, {}) for path in unnamed if not path.endswith("/")]
        unlisted = captioned - {image["id"] for image in document["images"]}
        records += [_Record(f"annotation_{image_id:012d}", 1, image_id, None, {}) for image_id in unlisted]
        return sorted(records, key=lambda record: (record.key, record.rank, record.image_id, record.member or ""))

    def _annotations(self, path: Path) -> dict[str, Any]:
        """Read the split's captions file."""
        member = f"annotations/captions_{self.split}.json"
        with open_zip(path) as archive:
            try:
                document: dict[str, Any] = json.loads(read_member(archive, member, 2**31))
            except (KeyError, ValueError, BadMember, LargeMember) as error:
                raise SourceError(f"{path}: {member}: not COCO annotations ({error!r})") from error
        if not (
            isinstance(document, dict)
            and _is_list_of(document.get("images"), id=int, file_name=str)
            and _is_list_of(document.get("annotations"), image_id=int)
            and _is_list_of(document.get("licenses", []), id=int)
        ):
            raise SourceError(
                f"{path}: {member}: not COCO annotations; expected lists images (of id, file_name), "
                "annotations (of image_id, caption) and licenses (of id, url)"
            )
        if not document["images"]:
            raise SourceError(f"{path}: {member}: lists no images")
        return document


class _Record(NamedTuple):
    key: str
    rank: int  # 0 for an entry of `images`
    image_id: int
    member: str | None
    image: Mapping[str, Any]


def _is_in(partition: Partition, key: str) -> bool:
    return (partition.first_key or "") <= key and (partition.end_key is None or key < partition.end_key)


def _is_list_of(entries: object, **fields: type) -> bool:
    """Tell whether JSON is a list of objects that have these fields with values of these types."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in fields.items())
        for entry in entries
    )


def _key(path: str) -> str:
    return PurePosixPath(path).stem.replace(".", "_")


HANDLER = Coco
