"""Tars in WebDataset's form, such as img2dataset writes: `kind: webdataset`. A tar is a partition."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microdiff.config.settings import Problems
from microdiff.core.ledger import Reason
from microdiff.core.printable import escape_key
from microdiff.formats.members import PICTURE_EXTENSIONS
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty
from microdiff.formats.text import BadTextError, is_encoding, parse_json
from microdiff.formats.webdataset import TarSample, iter_tar_samples
from microdiff.kinds import KindHandler, Listing
from microdiff.kinds.archives import numbered
from microdiff.kinds.captions import Columns, as_columns, decided, from_file, plain_values
from microdiff.kinds.partition_list import partition_name
from microdiff.kinds.tables import matching
from microdiff.storage import Source

TARS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, kw_only=True)
class WebDataset(KindHandler):
    """Tars whose members of one name are a sample.

    Attributes:
        files: Which files are tars: a path below the source or a pattern; null: all `.tar`, `.tar.gz` and `.tgz`.
        caption: Extensions of the members with captions: `txt`; `json:FIELD` for a field of the JSON. Several give
            several captions, in this order.
        fallback_encoding: Of texts without byte order mark that are not UTF-8, such as `latin-1`; null rejects them.
    """

    files: str | None = None
    caption: Columns = "txt"
    fallback_encoding: str | None = None

    def problems(self) -> Problems:
        """Yield settings out of range."""
        for name in as_columns(self.caption):
            extension = name.partition(":")[0].lower()
            if extension in PICTURE_EXTENSIONS or name.startswith(".") or not name:
                yield "caption", f"expected an extension of texts, such as txt or json:caption, got {name!r}"
        if not as_columns(self.caption):
            yield "caption", "expected at least one extension"
        if self.fallback_encoding is not None and not is_encoding(self.fallback_encoding):
            yield "fallback_encoding", f"expected null or an encoding such as latin-1, got {self.fallback_encoding!r}"

    def survey(self, source: Source, place: Path, recorded: Path) -> Listing:
        """List the tars."""
        found = numbered(matching(source, self.files, TARS), recorded)
        return Listing([Partition(name=partition_name(i), number=i, files=(path,)) for i, path in found])

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the records of a tar, sorted by key."""
        (tar,) = partition.files
        texts = tuple(dict.fromkeys(name.partition(":")[0].lower() for name in as_columns(self.caption)))
        stem = next(tar[: -len(suffix)] for suffix in (*TARS[::-1], "") if tar.lower().endswith(suffix))
        samples = iter_tar_samples(
            inputs.files[tar], inputs.scratch, inputs.tally, self.fallback_encoding, tuple({*texts, "json"})
        )
        return not_empty((self._record(tar, escape_key(stem), sample) for sample in samples), tar)

    def _record(self, tar: str, prefix: str, sample: TarSample) -> Sample | Rejection:
        captions: tuple[str, ...] = ()
        problem = ""
        for name in as_columns(self.caption):
            extension, _, field = name.partition(":")
            if extension.lower() in sample.texts:
                as_json = (field or "caption") if extension.lower() == "json" else None
                more, wrong, _ = from_file(sample.texts[extension.lower()], as_json, self.fallback_encoding)
                captions, problem = captions + more, problem or wrong
        image: bytes | Reason = Reason.MISSING_IMAGE if sample.image is None else sample.image
        meta = {**self._meta(sample), "key": sample.key}
        key = f"{prefix}_{sample.key}"  # a sample's own key need not be unique in the dataset
        return decided(sample.problem or image, key, captions, problem, f"{tar}/{sample.name}", meta)

    def _meta(self, sample: TarSample) -> dict[str, Any]:
        """Return the plain values of the JSON, and the orientation that its EXIF data state."""
        said = {"orientation": sample.orientation} if sample.orientation else {}
        fields = [
            name.partition(":")[2] or "caption" for name in as_columns(self.caption) if name[:4].lower() == "json"
        ]
        return {**plain_values(_object(sample, self.fallback_encoding), ("exif", *fields)), **said}


def _object(sample: TarSample, fallback: str | None) -> dict[str, Any]:
    try:
        document = parse_json(sample.texts.get("json", b"{}"), fallback)
    except BadTextError:
        return {}
    return document if isinstance(document, dict) else {}


HANDLER = WebDataset
