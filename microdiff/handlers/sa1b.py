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

A record is a picture. Records come in the order of the archive, which is as fixed as its checksum: sorting 11 GB would
need disk or memory for them. A damaged archive gives all that can be read, and a record for each lost picture
that its masks name, or one for the rest. Of captions only those of the selected archives' pictures are looked at.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microdiff.config.roots import Root
from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import is_picture, read_tar, salvage_tar, stem
from microdiff.formats.companions import Companions
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
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
    """

    captions_source: Root
    captions_file: str
    md5: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if Path(self.captions_file).is_absolute() or ".." in Path(self.captions_file).parts:
            yield "captions_file", f"expected a path below captions_source, got {self.captions_file!r}"
        for name, digest in self.md5.items():
            if not _ARCHIVE.fullmatch(name):
                yield f"md5.{name}", "is no archive such as sa_000000.tar"
            elif not _MD5.fullmatch(digest):
                yield f"md5.{name}", f"expected 32 hexadecimal digits, got {digest!r}"

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
        """Yield captions by the name of their picture, `sa_1`."""
        for path in files.values():
            found = False
            for member in read_tar(path, lambda name: name.endswith(".txt") and stem(name) != "", _MAX_CAPTION_BYTES):
                if member.problem is None:  # or else the picture is counted as one without caption
                    found = True
                    yield stem(member.name), member.content.decode("utf-8", "replace")
            if not found:
                raise SourceError(f"{path}: holds no captions such as sa_1.txt")

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the archive's pictures in its order; of a damaged one, then those lost that their masks name."""
        for path, local in inputs.files.items():
            masks = Companions(_is_mask)
            for member in salvage_tar(local, masks.watching(is_picture)):
                if member.problem is Reason.DAMAGED_ARCHIVE and masks.lost:
                    yield from self._lost(masks.lost, path, inputs)
                    continue
                key = stem(member.name)
                caption = inputs.annotations.get(key)
                facts: dict[str, Any] = {
                    "key": key,
                    "captions": () if caption is None else (caption,),
                    "source": f"{path}/{member.name}",
                }
                if member.problem is None:
                    yield Sample(image=member.content, **facts)
                else:
                    yield Rejection(reason=member.problem, **facts)

    def _lost(self, keys: Sequence[str], path: str, inputs: Inputs) -> Iterator[Rejection]:
        for key in keys:
            caption = inputs.annotations.get(key)
            captions = () if caption is None else (caption,)
            yield Rejection(key=key, reason=Reason.DAMAGED_ARCHIVE, captions=captions, source=f"{path}/{key}.jpg")


def _is_mask(name: str) -> bool:
    return name.endswith(".json") and _PICTURE.fullmatch(stem(name)) is not None


HANDLER = Sa1b
