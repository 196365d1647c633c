"""Read a tar in WebDataset's form: members whose paths are equal up to the first point of their last part are a sample.

Neither the order of samples nor that of a sample's members is given: img2dataset writes what arrives first. Samples
come sorted nevertheless, from one pass over the archive: texts wait in memory, pictures in a scratch file.

Where a key has the same extension twice, as after `tar --append`, what stands together belongs together, and a member
that repeats an extension begins another sample. Unless all of these have the same extensions, a picture's and a text's
among them, nobody knows what belongs to what, and the key is ambiguous.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.formats.archives import TarMember, read_tar
from microdiff.formats.members import PICTURE_EXTENSIONS, Tally, extension, is_document, is_litter, sample_path
from microdiff.formats.text import BadTextError, caption_problem, decode_text, parse_json

_TEXTS = ("txt", "json")
_MAX_TEXT_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of one sample.

    Attributes:
        key: What their paths have in common, escaped.
        name: The picture's, or the first one's where there is none.
        image: The picture's bytes, if there is one.
        texts: Bytes of texts by extension, as far as they are there: of `txt` and `json`, unless others were wanted.
        problem: Why a member was not read, or cannot be told from others.
        fallback: Encoding of texts that are not UTF-8; None if there is none.
    """

    key: str
    name: str
    image: bytes | None
    texts: Mapping[str, bytes]
    problem: Reason | None
    fallback: str | None = None

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The plain values of the JSON; none where it is absent or damaged."""
        return {name: value for name, value in self._json.items() if isinstance(value, str | int)}

    @property
    def captions(self) -> tuple[str, ...]:
        """The text beside the picture, or else the JSON's `caption`.

        Raises:
            BadTextError: It is no text.
        """
        if "txt" in self.texts:
            return (decode_text(self.texts["txt"], self.fallback),)
        if "json" not in self.texts:
            return ()
        document = parse_json(self.texts["json"], self.fallback)
        if not isinstance(document, dict) or "caption" not in document:
            return ()
        if problem := caption_problem(document["caption"]):
            raise BadTextError(f"caption: {problem}")
        return (document["caption"],)

    @property
    def orientation(self) -> str | None:
        """What the EXIF data, which img2dataset keeps in the JSON, say of it, such as `Rotated 90 CW`."""
        exif = self.document.get("exif")
        orientation = _parsed(exif.encode("utf-8", "replace")).get("Image Orientation") if isinstance(exif, str) else 0
        return orientation if isinstance(orientation, str) else None

    @cached_property
    def _json(self) -> Mapping[str, Any]:
        return _parsed(self.texts.get("json", b"{}"), self.fallback)


def iter_tar_samples(
    path: Path, scratch: Path, tally: Tally, fallback: str | None = None, texts: Collection[str] = _TEXTS
) -> Iterator[TarSample]:
    """Yield the samples of a tar, sorted by key.

    A key that is ambiguous comes once for each of its pictures, with a problem.

    Args:
        path: The archive.
        scratch: A folder with room for its pictures.
        tally: Counts the members that are known to be no part of a sample.
        fallback: Encoding of texts that are not UTF-8; None if there is none.
        texts: Extensions of the members that are texts.

    Raises:
        SourceError: The archive is damaged; nothing was yielded.
    """
    groups: dict[str, list[_Member]] = defaultdict(list)
    with (scratch / "pictures").open("w+b") as pictures:
        run, before = 0, None
        for member in read_tar(path, tally.unless(is_litter)):
            key = escape_key(sample_path(member.name))
            run, before = run + (key != before), key
            groups[key].append(_kept(member, run, pictures, texts))
        for key in sorted(groups):
            members = groups[key]
            if all(is_document(member.name) for member in members):
                tally.other_members += len(members)
                continue
            for sample, problem in _split(members):
                found: list[_Member | None] = [*(_pictures(sample) if problem is None else _all_pictures(sample))]
                for picture in found or [None]:
                    yield TarSample(
                        key=key,
                        name=picture.name if picture else min(member.name for member in sample),
                        image=picture.read(pictures) if picture else None,
                        texts={each.extension: each.text for each in sample if each.text is not None},
                        problem=problem,
                        fallback=fallback,
                    )


@dataclass(frozen=True)
class _Member:
    """What is kept of a member: of a text its bytes, of a picture where the scratch file has it."""

    name: str
    extension: str
    run: int  # the same for those of one key that stand together
    text: bytes | None = None
    start: int = 0
    size: int | None = None
    problem: Reason | None = None

    def read(self, pictures: IO[bytes]) -> bytes | None:
        if self.size is None:
            return None
        pictures.seek(self.start)
        return pictures.read(self.size)


def _kept(member: TarMember, run: int, pictures: IO[bytes], texts: Collection[str]) -> _Member:
    kind = extension(member.name)
    if member.problem is not None:
        return _Member(member.name, kind, run, problem=member.problem)
    if kind in texts:
        if len(member.content) > _MAX_TEXT_BYTES:
            return _Member(member.name, kind, run, problem=Reason.TOO_LARGE)
        return _Member(member.name, kind, run, text=member.content)
    if not kind or kind.rpartition(".")[2] in PICTURE_EXTENSIONS:
        return _Member(member.name, kind, run, start=pictures.tell(), size=pictures.write(member.content))
    return _Member(member.name, kind, run)


def _split(members: Sequence[_Member]) -> list[tuple[list[_Member], Reason | None]]:
    """Return the samples that members of one key are, each with its problem."""
    samples = [list(members)]
    if max(Counter(member.extension for member in members).values()) > 1:
        samples = _runs(members)
        kinds = {frozenset(member.extension for member in sample) for sample in samples}
        if len(kinds) > 1 or any(len(_pictures(sample)) != 1 or not _has_text(sample) for sample in samples):
            return [(list(members), Reason.AMBIGUOUS_KEY)]
    elif len(_pictures(members) or _all_pictures(members)) > 1:
        return [(list(members), Reason.AMBIGUOUS_KEY)]
    return [(sample, next((member.problem for member in sample if member.problem), None)) for sample in samples]


def _runs(members: Sequence[_Member]) -> list[list[_Member]]:
    runs: list[list[_Member]] = []
    for member in members:
        current = runs[-1] if runs else []
        if not current or current[-1].run != member.run or member.extension in {each.extension for each in current}:
            runs.append([])
        runs[-1].append(member)
    return runs


def _pictures(members: Sequence[_Member]) -> list[_Member]:
    """Return the pictures by name: `1.jpg`, never `1.mask.png`, unless there is a text `1.mask.txt`."""
    texts = {before for before, _, last in _extensions(members) if last in _TEXTS}
    pictures = _all_pictures(members)
    return [member for member in pictures if member.extension.rpartition(".")[0] in ("", *texts)]


def _all_pictures(members: Sequence[_Member]) -> list[_Member]:
    """Return what should be pictures, by name: what has no extension only if there is no other."""
    named = [member for member in members if member.extension.rpartition(".")[2] in PICTURE_EXTENSIONS]
    return sorted(
        named or [member for member in members if not member.extension], key=lambda member: (member.name, member.start)
    )


def _extensions(members: Sequence[_Member]) -> list[tuple[str, str, str]]:
    """Return extensions in two parts, such as `mask` and `png`."""
    return [member.extension.rpartition(".") for member in members]


def _has_text(members: Sequence[_Member]) -> bool:
    return any(member.extension in _TEXTS or member.text is not None for member in members)


def _parsed(text: bytes, fallback: str | None = None) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    try:
        document = parse_json(text, fallback)
    except BadTextError:
        return {}
    return document if isinstance(document, dict) else {}
