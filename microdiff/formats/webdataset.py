"""Read a tar in WebDataset's form: members whose names are equal up to the first point make one sample.

Neither the order of samples nor that of a sample's members is given: img2dataset writes what arrives first. Samples
come sorted nevertheless, from one pass over the archive: texts wait in memory, pictures in a scratch file.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any

from microdiff.core.ledger import Reason
from microdiff.formats.archives import TarMember, is_picture, read_tar, stem

_TEXTS = ("txt", "json")
_MAX_TEXT_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of one sample.

    Attributes:
        key: What their names have in common.
        name: The picture's, or the first one's where there is none.
        image: The picture's bytes, if there is one.
        texts: Bytes of `txt` and `json`, as far as they are there.
        problem: Why a member was not read.
    """

    key: str
    name: str
    image: bytes | None
    texts: Mapping[str, bytes]
    problem: Reason | None

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The plain values of the JSON; none where it is absent or damaged."""
        values = _parsed(self.texts.get("json", b"{}"))
        return {name: value for name, value in values.items() if isinstance(value, str | int)}

    @property
    def captions(self) -> tuple[str, ...]:
        """The text beside the picture, or else the JSON's `caption`."""
        if "txt" in self.texts:
            return (self.texts["txt"].decode("utf-8", "replace"),)
        caption = self.document.get("caption")
        return (caption,) if isinstance(caption, str) else ()

    @property
    def orientation(self) -> str | None:
        """What the EXIF data, which img2dataset keeps in the JSON, say of it, such as `Rotated 90 CW`."""
        exif = self.document.get("exif")
        orientation = _parsed(exif).get("Image Orientation") if isinstance(exif, str) else None
        return orientation if isinstance(orientation, str) else None


def iter_tar_samples(path: Path, scratch: Path) -> Iterator[TarSample]:
    """Yield the samples of a tar, sorted by key; one with several pictures comes once for each, sorted by their names.

    Args:
        path: The archive.
        scratch: A folder with room for its pictures.

    Raises:
        SourceError: The archive is damaged; nothing was yielded.
    """
    samples: dict[str, _Parts] = defaultdict(_Parts)
    with (scratch / "pictures").open("w+b") as pictures:
        for member in read_tar(path, _is_visible):
            samples[stem(member.name)].add(member, pictures)
        for key in sorted(samples):
            parts = samples[key]
            for name, start, size in sorted(parts.pictures) or [(min(parts.names), 0, None)]:
                pictures.seek(start)
                image = None if size is None else pictures.read(size)
                yield TarSample(key=key, name=name, image=image, texts=parts.texts, problem=parts.problem)


def _is_visible(name: str) -> bool:
    return stem(name) != ""


@dataclass
class _Parts:
    names: list[str] = field(default_factory=list)
    pictures: list[tuple[str, int, int | None]] = field(default_factory=list)  # name, and where the scratch file has it
    texts: dict[str, bytes] = field(default_factory=dict)
    problem: Reason | None = None

    def add(self, member: TarMember, pictures: IO[bytes]) -> None:
        """Keep what matters of a member."""
        self.names.append(member.name)
        extension = PurePosixPath(member.name).name.partition(".")[2].lower()
        if member.problem is not None:
            self.problem = member.problem
        elif is_picture(member.name):
            self.pictures.append((member.name, pictures.tell(), pictures.write(member.content)))
        elif extension in _TEXTS and len(member.content) > _MAX_TEXT_BYTES:
            self.problem = Reason.TOO_LARGE
        elif extension in _TEXTS:
            self.texts[extension] = member.content


def _parsed(text: str | bytes) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
