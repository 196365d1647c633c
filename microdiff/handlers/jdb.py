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
the description, where there is one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.archives import is_picture, read_tar_lines, salvage_tar, stem
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
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
        found: set[str] = set()
        for path, local in inputs.files.items():
            for member in salvage_tar(local, is_picture):
                key = f"{partition.name}_{stem(member.name)}"
                annotation = inputs.annotations.get(key)
                facts: dict[str, Any] = {
                    "key": key,
                    "captions": tuple(annotation["captions"]) if annotation else (),
                    "source": f"{path}/{member.name}",
                }
                found.add(key)
                if member.problem is None:
                    yield Sample(image=member.content, **facts)
                else:
                    yield Rejection(reason=member.problem, **facts)
        for key, annotation in inputs.annotations.between(partition.first_key, partition.end_key):
            if key in found:
                found.remove(key)  # another annotation of the same picture is a record of its own
                continue
            yield Rejection(
                key=key,
                reason=Reason.MISSING_IMAGE,
                captions=tuple(annotation["captions"]),
                source=f"{_ANNOTATIONS[self.split]}#{annotation['of']}",
            )


def _annotation(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    """Return the key and what is kept of a line: its captions, and which picture or line it is `of`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    path = record.get("img_path") if isinstance(record, dict) else None
    key = _key(path) if isinstance(path, str) else ""
    if not key:
        return f"line_{number:09d}", {"of": f"line {number}", "captions": []}
    prompt, task = record.get("prompt"), record.get("Task2")
    caption = task.get("Caption") if isinstance(task, dict) else None
    captions = [prompt if isinstance(prompt, str) else ""]
    captions += [caption] if isinstance(caption, str) and caption.strip() else []
    return key, {"of": path, "captions": captions}


def _key(path: str) -> str:
    """Return `000_<uuid>` for `./000/<uuid>.jpg`."""
    folder, _, name = path.removeprefix("./").rpartition("/")
    return re.sub(r"[/.\0]", "_", f"{folder}/{stem(name)}" if folder else stem(name))


HANDLER = Jdb
