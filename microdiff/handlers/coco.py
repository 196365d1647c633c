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

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.members import Tally, is_other, normal_path
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, partition_keys, record
from microdiff.formats.text import BadTextError, captions_problem, parse_json
from microdiff.formats.zips import (
    BadMemberError,
    LargeMemberError,
    Refusal,
    UnsupportedMemberError,
    ZipMember,
    open_zip,
    read_member,
    read_picture,
    zip_members,
)
from microdiff.handlers import Handler
from microdiff.storage import Source

_ANNOTATIONS = "annotations/annotations_trainval2014.zip"
_UNLISTED = 2


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
        captions: dict[int, list[Any]] = defaultdict(list)
        for annotation in document["annotations"]:
            captions[annotation["image_id"]].append(annotation.get("caption"))
        licences = {licence["id"]: licence.get("url", "") for licence in document.get("licenses", [])}

        with open_zip(inputs.files[self._images]) as archive:
            tally = inputs.tally if partition.first_key is None else Tally()  # all slices see all members
            wanted = tally.unless(is_other)
            members = [member for member in zip_members(archive) if wanted(member.name)]
            for each in self._records(document, captions, members):
                if not _is_in(partition, each.key):
                    continue
                texts = [] if each.image_id is None else captions.get(each.image_id, [])
                found: bytes | Refusal = Refusal(each.problem or Reason.MISSING_IMAGE)
                if each.member is not None and each.problem is None:
                    found = read_picture(archive, each.member)
                if isinstance(found, bytes) and (cause := captions_problem(texts)):
                    found = Refusal(Reason.BAD_CAPTION, cause)
                yield record(
                    found if isinstance(found, bytes) else found.reason,
                    key=each.key,
                    captions=tuple(text for text in texts if isinstance(text, str)),
                    source=f"{self._images}/{each.member.name}" if each.member else f"{_ANNOTATIONS}#{each.image_id}",
                    meta={
                        "image_id": each.image_id or 0,
                        "licence": _text(licences.get(_integer(each.image.get("license")))),
                        "flickr_url": _text(each.image.get("flickr_url")),
                    },
                    cause="" if isinstance(found, bytes) else found.cause,
                )

    def _records(
        self, document: Mapping[str, Any], captions: Mapping[int, Sequence[Any]], members: Sequence[ZipMember]
    ) -> list["_Record"]:
        """List the source's records sorted by key; of those with the same key, entries of `images` come first."""
        by_path: dict[str, list[ZipMember]] = defaultdict(list)
        for member in members:
            by_path[member.path].append(member)
        files: dict[int, set[str]] = defaultdict(set)
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)  # entries of one file
        for image in document["images"]:
            path = f"{self.split}/{normal_path(image['file_name'])}"
            files[image["id"]].add(path)
            groups[path if path in by_path else _loosely(path, self.split)].append(image)
        rest: dict[str, list[ZipMember]] = defaultdict(list)
        for member in members:
            if member.path not in groups:
                rest[_loosely(member.path, self.split)].append(member)
        records = []
        for path, images in groups.items():
            found = by_path.get(path) or rest.pop(path, [])
            own = _own(images)
            alike = len(found) < 2 or all(member.is_same(found[0]) for member in found)
            if own is None:
                alike = alike and all(captions.get(each["id"]) == captions.get(images[0]["id"]) for each in images)
            for image in images:
                problem = Reason.AMBIGUOUS_KEY if not alike or len(files[image["id"]]) > 1 else None
                first, rank = found[0] if found else None, int(image is not own)
                records.append(_Record(_key(image["file_name"]), rank, image["id"], first, image, problem))
            problem = None if alike else Reason.AMBIGUOUS_KEY
            key = _key(images[0]["file_name"])
            records += [_Record(key, _UNLISTED, None, member, {}, problem) for member in found[1:]]
        unnamed = (member for every in rest.values() for member in every)
        records += [_Record(self._key_of(member), _UNLISTED, None, member, {}) for member in unnamed]
        unlisted = captions.keys() - files.keys()
        records += [_Record(f"annotation_{image_id:012d}", _UNLISTED, image_id, None, {}) for image_id in unlisted]
        return sorted(records, key=_order)

    def _key_of(self, member: ZipMember) -> str:
        """Return the key of a picture that no entry names: that of its name, or of its path if it is elsewhere."""
        folder, _, name = member.path.rpartition("/")
        return _key(name) if folder in ("", self.split) else _key(member.path)

    def _annotations(self, path: Path) -> dict[str, Any]:
        """Read the split's captions file."""
        member = f"annotations/captions_{self.split}.json"
        with open_zip(path) as archive:
            found = [each for each in zip_members(archive) if f"/{each.path}".endswith(f"/{member}")]
            found = found or [each for each in zip_members(archive) if each.path == PurePosixPath(member).name]
            if not found or any(not each.is_same(found[0]) for each in found):
                raise SourceError(f"{path}: {member}: not COCO annotations: there are {len(found)} of this name, not 1")
            try:
                document: dict[str, Any] = parse_json(read_member(archive, found[0], 2**31))
            except (BadTextError, BadMemberError, UnsupportedMemberError, LargeMemberError) as error:
                raise SourceError(f"{path}: {member}: not COCO annotations ({error})") from error
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
        if not all(image["file_name"].strip("/.") for image in document["images"]):
            raise SourceError(f"{path}: {member}: an image has no file_name")
        if not document["images"]:
            raise SourceError(f"{path}: {member}: lists no images")
        return document


class _Record(NamedTuple):
    key: str
    rank: int  # 0 for the entry of `images` that a file is of, 1 for others, 2 for what no entry names
    image_id: int | None
    member: ZipMember | None
    image: Mapping[str, Any]
    problem: Reason | None = None


def _order(each: _Record) -> tuple[str, int, int, str, int]:
    member = each.member
    return (
        each.key,
        each.rank,
        each.image_id or 0,
        member.name if member else "",
        member.info.header_offset if member else 0,
    )


def _is_in(partition: Partition, key: str) -> bool:
    return (partition.first_key or "") <= key and (partition.end_key is None or key < partition.end_key)


def _is_list_of(entries: object, **fields: type) -> bool:
    """Tell whether JSON is a list of objects that have these fields with values of these types."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in fields.items())
        for entry in entries
    )


def _own(images: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return which entry a file is of: the only one, or the one whose id is in its name; None if that is open."""
    if len(images) == 1:
        return images[0]
    number = re.search(r"([0-9]+)\.[^.]*\Z", images[0]["file_name"])
    own = [image for image in images if number is not None and image["id"] == int(number[1])]
    return own[0] if len(own) == 1 else None


def _loosely(path: str, split: str) -> str:
    """Return a path such that those which differ in the case of the extension, or lack the split's folder, are equal.

    Paths in other folders stay what they are, behind a `/`: no name begins with it.
    """
    stem, point, kind = path.rpartition(".")
    path = f"{stem}{point}{kind.lower()}"
    if f"/{path}".rpartition("/")[0].endswith(f"/{split}"):
        path = path.rpartition("/")[2]
    return f"/{path}"


def _key(path: str) -> str:
    """Return the key of a path without its extension."""
    stem, point, _ = path.rpartition(".")
    return escape_key(stem if point and stem and not stem.endswith("/") else path)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


HANDLER = Coco
