"""JourneyDB: pictures made with Midjourney, with the prompts that made them and descriptions by a language model.

Source: https://huggingface.co/datasets/JourneyDB/JourneyDB. Gated, every file of it: accept the terms there with an
account and set HF_TOKEN. Home: https://journeydb.github.io.
Licence: non-commercial research; nothing that competes with Midjourney or Discord; no redistribution.
Size: train 4,453,193 pictures in about 200 archives, 3.2 TB, 4,189,737 of them labelled; valid 234,156 pictures.
Layout: data/<split>/imgs/NNN.tgz holds NNN/<uuid>.jpg. data/train/train_anno_realease_repath.jsonl.tgz and
data/valid/valid_anno_repath.jsonl.tgz hold one JSON object a line: img_path (./NNN/<uuid>.jpg), prompt, Task1,
Task2 {Caption}, Task3. The paths in train_anno.jsonl.tgz are of another layout and fit no archive.
Known defects: about 6 % of the train pictures have no record, and some records no picture; Task2 may be missing or
null; prompts hold Midjourney flags (--ar 3:2) and URLs of pictures; one prompt has several pictures.

A record is a picture, or an annotation without one. Both sides are joined by path. Pictures come in the order of the
archive, which is as fixed as its checksum and needs neither disk nor memory; then the annotations left over, by key.
The first caption is the prompt, which is what the published pipeline uses, empty where there is none; the second is
the description, where there is one. Two pictures of one name, or two lines of one picture, that differ: nobody knows
which is right, and all are rejected.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.errors import SourceError
from microdiff.formats.archives import read_tar_lines, salvage_tar
from microdiff.formats.members import is_other, normal_path, stem, stem_key
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty, record
from microdiff.formats.repeats import Repeats
from microdiff.formats.text import BadTextError, captions_problem, parse_json
from microdiff.handlers import Handler
from microdiff.storage import Source

_ARCHIVE = re.compile(r"(\d{3})\.tgz")
_ANNOTATIONS = {
    "train": "data/train/train_anno_realease_repath.jsonl.tgz",
    "valid": "data/valid/valid_anno_repath.jsonl.tgz",
}


@dataclass(frozen=True, kw_only=True)
class Jdb(Handler):
    """One split of JourneyDB.

    Attributes:
        split: Which split.
    """

    licence: ClassVar[str] = "JourneyDB: non-commercial research, no redistribution"

    split: Literal["train", "valid"]

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the archives, each with a range of annotations, so that every annotation is in one partition.

        A number that is missing is a partition without files: its annotations are counted all the same. So is the
        number behind the last one, for annotations that fit no archive.
        """
        folder = f"data/{self.split}/imgs"
        names = {path: _ARCHIVE.fullmatch(PurePosixPath(path).name) for path in source.list(folder)}
        archives = {int(match[1]): path for path, match in names.items() if match}
        if not archives:
            raise SourceError(f"{source.name}/{folder}: holds no archives such as 000.tgz. Check the source and split.")
        end = max(archives) + 1
        return [
            Partition(
                name=f"{number:03d}",
                number=number,
                files=(archives[number],) if number in archives else (),
                first_key=f"{number:03d}_" if number else None,
                end_key=f"{number + 1:03d}_" if number < end else None,
            )
            for number in range(end + 1)
        ]

    def annotation_files(self, source: Source) -> Sequence[str]:
        """Return the file whose paths fit the archives."""
        return (_ANNOTATIONS[self.split],)

    def read_annotations(self, files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
        """Yield an annotation for each line; one that cannot be read gets a key of its own, and so is counted."""
        for path in files.values():
            for number, line in enumerate(read_tar_lines(path, ".jsonl"), 1):
                if line.strip():
                    yield _annotation(line, number)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the archive's pictures in its order, then the partition's annotations without picture, by key."""
        records = self._records(partition, inputs)
        return not_empty(records, ", ".join(partition.files)) if partition.files else records

    def _records(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        pictures: set[str] = set()
        for path, local in inputs.files.items():
            repeats = Repeats()
            for member in salvage_tar(local, inputs.tally.unless(is_other)):
                key = f"{partition.name}_{stem_key(member.name)}"
                pictures.add(key)
                said = inputs.annotations.all_of(key)
                found: bytes | Reason = repeats.problem(key, member) or member.content
                folder = PurePosixPath(member.name).parent.name
                if isinstance(found, bytes) and folder.isdecimal() and folder != partition.name:
                    found = Reason.AMBIGUOUS_KEY  # the annotations' paths have the folder: which one is meant?
                if isinstance(found, bytes):
                    found = _problem(said) or found
                captions = tuple(said[0]["captions"]) if said else ()
                cause = said[0]["cause"] if found is Reason.BAD_CAPTION else ""
                yield record(found, key=key, captions=captions, source=f"{path}/{member.name}", meta={}, cause=cause)
        rows = inputs.annotations.between(partition.first_key, partition.end_key)
        for key, group in groupby(rows, key=itemgetter(0)):
            said = [annotation for _, annotation in group]
            problem = _problem(said)
            for annotation in said[key in pictures :]:  # another one of the same picture is a record of its own
                yield Rejection(
                    key=key,
                    reason=problem if key in pictures and problem is not None else Reason.MISSING_IMAGE,
                    captions=tuple(annotation["captions"]),
                    source=f"{_ANNOTATIONS[self.split]}#{annotation['of']}",
                )


def _problem(said: Sequence[Mapping[str, Any]]) -> Reason | None:
    """Return why annotations of one picture give it no captions: they differ, or are none."""
    if any(annotation["captions"] != said[0]["captions"] for annotation in said):
        return Reason.AMBIGUOUS_KEY
    return Reason.BAD_CAPTION if said and said[0]["cause"] else None


def _annotation(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    """Return the key and what is kept of a line.

    That are its captions, the cause for which they are none, if there is one, and which picture or line it is `of`.
    """
    try:
        said = parse_json(line)
    except BadTextError:
        said = None
    path = said.get("img_path") if isinstance(said, dict) else None
    key = _key(path) if isinstance(path, str) else ""
    if not key:
        return f"line_{number:09d}", {"of": f"line {number}", "captions": [], "cause": ""}
    prompt, task = said.get("prompt", ""), said.get("Task2")
    caption = task.get("Caption") if isinstance(task, dict) else None
    if prompt is None and caption is not None:
        prompt = ""  # there is no prompt, but a description
    cause = captions_problem([prompt] if caption is None else [prompt, caption])
    if not isinstance(task, dict | None):
        cause = f"Task2: expected an object, got {type(task).__name__}"
    captions = [] if cause else [prompt, *([caption] if caption and caption.strip() else [])]
    return key, {"of": path, "captions": captions, "cause": cause}


def _key(path: str) -> str:
    """Return `000_<uuid>` for `./000/<uuid>.jpg`; other folders, or none, give keys that no archive's pictures have."""
    folder, _, name = normal_path(path).rpartition("/")
    if not stem(name):
        return ""
    if re.fullmatch(r"[0-9]{3}", folder):
        return f"{folder}_{stem_key(name)}"
    return escape_key(f"{folder}/{stem(name)}")


HANDLER = Jdb
