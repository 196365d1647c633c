"""SA-1B: photographs licensed for Segment Anything, with captions written by LLaVA for PixArt-alpha.

Source: https://ai.meta.com/datasets/segment-anything-downloads. Accept the licence there; the page gives a text file
of links that expire after about a month. That file is the source, or a folder, hub or bucket with the archives.
Captions: https://huggingface.co/datasets/PixArt-alpha/SAM-LLaVA-Captions10M, open.
Licence: SA-1B Dataset Research License; captions openrail.
Size: 11,185,362 pictures, short side 1500 px, in 1,000 archives of about 11 GB; over 10 million captions, 2.24 GB.
Layout: sa_NNNNNN.tar, gzip in spite of the name, holds sa_<id>.jpg and sa_<id>.json (masks, not read), with or without
a leading ./ or folder. SA1B_caption.tar.gz holds sa_<id>.txt. The source also has sa_co_gold.tar (a benchmark) and
sa_images_ids.txt, which are not part of it.
Checksums: Meta publishes none; a list of MD5 sums that circulates with mirrors can go into `md5`.
Known defects: about a tenth of the pictures have no caption; captions can end in the middle of a sentence; faces and
number plates are blurred; archives 14, 16, 17 and 19 of a mirror had damaged ends and whole pictures.

A record is a member, unless it is known to be none, as masks are. Records come in the order of the archive, which is
as fixed as its checksum: sorting 11 GB would need disk or memory for them. A damaged archive gives all that can be
read, and a record for each lost picture that its masks name, or one for the rest. Of captions only those of the
selected archives' pictures are looked at. Where two pictures or two captions of one name differ, nobody knows which
belong together, and all are rejected.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from microdiff.config.roots import Root
from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import read_tar, salvage_tar
from microdiff.formats.companions import Companions
from microdiff.formats.members import is_other, stem, stem_key
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty, record
from microdiff.formats.repeats import Repeats
from microdiff.formats.text import BadTextError, decode_text, is_encoding
from microdiff.handlers import Handler
from microdiff.storage import Source

_ARCHIVE = re.compile(r"sa_(\d{6})\.tar")
_PICTURE = re.compile(r"sa_\d+")
_MD5 = re.compile("[0-9a-f]{32}")
_MAX_CAPTION_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Sa1b(Handler):
    """SA-1B with SAM-LLaVA captions.

    Attributes:
        captions_source: Root where the captions are.
        captions_file: Their archive below it.
        md5: MD5 sums of archives by name; others are identified by what the source says.
        fallback_encoding: Of captions that have no byte order mark and are not UTF-8, such as `latin-1`; null rejects
            them.
    """

    licence: ClassVar[str] = "SA-1B Dataset Research License; captions openrail"

    captions_source: Root
    captions_file: str
    md5: Mapping[str, str] = field(default_factory=dict)
    fallback_encoding: str | None = None

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if Path(self.captions_file).is_absolute() or ".." in Path(self.captions_file).parts:
            yield "captions_file", f"expected a path below captions_source, got {self.captions_file!r}"
        for name, digest in self.md5.items():
            if not _ARCHIVE.fullmatch(name):
                yield f"md5.{name}", "is no archive such as sa_000000.tar"
            elif not _MD5.fullmatch(digest):
                yield f"md5.{name}", f"expected 32 hexadecimal digits, got {digest!r}"
        if self.fallback_encoding is not None and not is_encoding(self.fallback_encoding):
            yield "fallback_encoding", f"expected null or an encoding such as latin-1, got {self.fallback_encoding!r}"

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the archives by number, in whatever order the source has them."""
        found = sorted((match[1], path) for path in source.list("") if (match := _ARCHIVE.fullmatch(path)))
        if not found:
            raise SourceError(f"{source.name}: lists no archives such as sa_000000.tar. Check datasets.sa1b.download.")
        return [Partition(name=digits, number=int(digits), files=(path,)) for digits, path in found]

    def checksum(self, path: str) -> str | None:
        """Return an archive's checksum from the settings."""
        return f"md5:{self.md5[path]}" if path in self.md5 else None

    def annotation_root(self) -> str:
        """Return where the captions are."""
        return self.captions_source

    def annotation_files(self, source: Source) -> Sequence[str]:
        """Return the archive of captions."""
        return (self.captions_file,)

    def read_annotations(self, files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
        """Yield captions by the key of their picture, `sa_1`: a text, or why it is none."""
        for path in files.values():
            found = False
            for member in read_tar(path, _is_caption, _MAX_CAPTION_BYTES):
                if member.problem is None:  # or else the picture is counted as one without caption
                    found = True
                    yield stem_key(member.name), _caption(member.content, self.fallback_encoding)
            if not found:
                raise SourceError(f"{path}: holds no captions such as sa_1.txt")

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the archive's pictures in its order; of a damaged one, then those lost that their masks name."""
        return not_empty(_read(inputs), ", ".join(partition.files))


def _read(inputs: Inputs) -> Iterator[Sample | Rejection]:
    for path, local in inputs.files.items():
        repeats = Repeats()
        masks = Companions(_is_mask)
        for member in salvage_tar(local, masks.watching(inputs.tally.unless(_is_no_picture))):
            if member.problem is Reason.DAMAGED_ARCHIVE and masks.lost:
                for lost in masks.lost:
                    yield _record(Reason.DAMAGED_ARCHIVE, stem_key(lost), f"{path}/{lost}.jpg", inputs)
                continue
            key = stem_key(member.name)
            yield _record(repeats.problem(key, member) or member.content, key, f"{path}/{member.name}", inputs)


def _record(found: bytes | Reason, key: str, source: str, inputs: Inputs) -> Sample | Rejection:
    """Make a record of a picture, or of the reason against it, and of what is said of it."""
    said = inputs.annotations.all_of(key)
    captions = tuple(dict.fromkeys(text for text in said if isinstance(text, str)))
    causes = [value["cause"] for value in said if not isinstance(value, str)]
    if isinstance(found, bytes) and causes:
        found = Reason.BAD_CAPTION
    elif isinstance(found, bytes) and len(captions) > 1:
        found = Reason.AMBIGUOUS_KEY
    cause = causes[0] if found is Reason.BAD_CAPTION else ""
    return record(found, key=key, captions=captions, source=source, meta={}, cause=cause)


def _caption(data: bytes, fallback: str | None) -> str | dict[str, str]:
    try:
        return decode_text(data, fallback)
    except BadTextError as error:
        return {"cause": str(error)}


def _is_caption(name: str) -> bool:
    """Tell whether a member is a caption: `sa_1.txt`, not `sa_1.1.txt`, nor what systems leave behind."""
    return not is_other(name) and name.rpartition("/")[2].lower() == f"{stem(name).lower()}.txt"


def _is_no_picture(name: str) -> bool:
    """Tell whether a member is a file of masks, or any of what archives have besides."""
    return name.lower().endswith(".json") or is_other(name)


def _is_mask(name: str) -> bool:
    return name.endswith(".json") and _PICTURE.fullmatch(stem(name)) is not None


HANDLER = Sa1b
