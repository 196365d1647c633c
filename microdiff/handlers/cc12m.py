"""CC12M: web pictures with their alt texts, in two forms: ready-made tars, or a list of URLs to fetch oneself.

`form: webdataset`. Source: https://huggingface.co/datasets/pixparse/cc12m-wds, which the published pipeline uses, as
`hf://datasets/pixparse/cc12m-wds@<commit>`, or any folder with output of img2dataset's webdataset format.
Size: 10,968,539 pictures in 2,176 tars, about 1 TB; open. Layout: cc12m-train-<4 digits>.tar with <9 digits>.jpg,
.json and .txt per sample, keys with holes; _info.json states the tars and how many samples they have. The pictures were
reduced to a short side of 512 pixels by img2dataset, which made them JPEG, flattened them on white, and dropped EXIF
data without turning them upright. What these said of it is in the .json and kept as `orientation` in `meta`. Pictures
stay as they are, as in the published pipeline: nothing says whether the tag was still right when the page was written.

`form: url_list`. Source: https://storage.googleapis.com/conceptual_12m with cc12m.tsv, 12,423,374 lines of URL, tab,
alt text; 2.7 GB, no header, no quoting. img2dataset fetches the pictures as they are (`microdiff.formats.url_fetcher`).
In 2023 12 of 100 URLs were dead: what comes depends on the day, so finished partitions are kept, and one where more
than `max_failed_share` fail is not finished. Keys are line numbers, from 1. `max_rejected_share` must allow for it.

Home: https://github.com/google-research-datasets/conceptual-12m. Licence: free for any purpose, acknowledgement
appreciated; pictures are their owners'. Captions: alt texts by the pages' authors, names of people replaced by
`<PERSON>`, which is no HTML. Known defects: HTML entities, hashtags, article numbers, cut sentences, any script; small
pictures; the same picture under several URLs; pictures on their side.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

from microdiff.config.settings import LATER, Problems
from microdiff.core.ledger import Reason
from microdiff.errors import SourceError
from microdiff.formats.records import Inputs, Partition, Rejection, Sample, not_empty, record
from microdiff.formats.text import BadTextError, is_encoding
from microdiff.formats.url_list import Slice, partition_lines, read_slice
from microdiff.formats.webdataset import iter_tar_samples
from microdiff.handlers import Handler
from microdiff.storage import Source

_DIGITS = 4  # of a partition's name at least, so that more tars change no name
_TAR = re.compile(r"(?:.*[^0-9])?([0-9]+)\.tar")
_INFO = "_info.json"
_LIST = "cc12m.tsv"


@dataclass(frozen=True, kw_only=True)
class CC12M(Handler):
    """CC12M in one of its forms.

    Attributes:
        form: What the source holds. All other settings but `fallback_encoding` are those of `url_list`.
        urls_per_partition: The list is cut into slices of so many lines.
        max_failed_share: Largest share of a partition's URLs that may fail, 0 to 1.
        timeout_s: Longest wait for a connection, and for more of an answer; a whole one may take six times as long.
        retries: Further attempts for a URL that failed.
        fallback_encoding: Of texts, and lines of a list, that have no byte order mark and are not UTF-8, such as
            `latin-1`; null rejects them.
        allow_private_addresses: Whether URLs may lead to this machine and to private networks, for tests and for lists
            of one's own.
    """

    licence: ClassVar[str] = "Conceptual 12M: free for any purpose; pictures remain their owners'"

    form: Literal["webdataset", "url_list"]
    urls_per_partition: int = 5000
    max_failed_share: float = 0.5
    timeout_s: float = 10.0
    retries: int = 1
    fallback_encoding: str | None = None
    allow_private_addresses: bool = field(default=False, metadata=LATER)

    def problems(self) -> Problems:
        """Yield settings out of range."""
        if self.urls_per_partition < 1:
            yield "urls_per_partition", f"expected at least 1, got {self.urls_per_partition}"
        if not 0 <= self.max_failed_share <= 1:
            yield "max_failed_share", f"expected 0 to 1, got {self.max_failed_share}"
        if not 0 < self.timeout_s <= 3600:
            yield "timeout_s", f"expected more than 0, at most 3600, got {self.timeout_s}"
        if self.retries < 0:
            yield "retries", f"expected at least 0, got {self.retries}"
        if self.fallback_encoding is not None and not is_encoding(self.fallback_encoding):
            yield "fallback_encoding", f"expected null or an encoding such as latin-1, got {self.fallback_encoding!r}"

    def partitions(self, source: Source) -> Sequence[Partition]:
        """List the source's tars by the number in their names, or cut its list of URLs into slices."""
        if self.form == "url_list":
            return partition_lines(source, _LIST, self.urls_per_partition)
        return _tars(source)

    def read(self, partition: Partition, inputs: Inputs) -> Iterator[Sample | Rejection]:
        """Yield the records of a tar sorted by key, or those of a slice by line number."""
        if isinstance(partition, Slice):
            limits = (self.max_failed_share, self.timeout_s, self.retries)
            return read_slice(partition, inputs, *limits, self.allow_private_addresses, self.fallback_encoding)
        return not_empty(_read_tar(partition, inputs, self.fallback_encoding), partition.files[0])


def _tars(source: Source) -> Sequence[Partition]:
    listed = set(source.list(""))
    lengths = _stated_lengths(source) if _INFO in listed else {}
    stated = lengths.keys() if lengths.keys() & listed else set()  # also what should be there and is not: to be missed
    tars = sorted((int(match[1]), match[1], path) for path in listed | stated if (match := _TAR.fullmatch(path)))
    if not tars:
        raise SourceError(
            f"{source.name}: has no numbered tars such as cc12m-train-0000.tar; for a list of URLs, set form"
        )
    for (number, _, path), (other, _, twin) in pairwise(tars):
        if number == other:
            raise SourceError(f"{source.name}: {path} and {twin} have the same number. Keep one of them.")
    width = max(_DIGITS, *(len(digits) for _, digits, _ in tars))
    return [
        Partition(name=f"{number:0{width}d}", number=number, files=(path,), num_records=lengths.get(path))
        for number, _, path in tars
    ]


def _stated_lengths(source: Source) -> Mapping[str, int]:
    """Return the number of samples that `_info.json` states for each tar, as far as it does. Only progress shows it."""
    path = source.fetch(source.stat(_INFO))
    try:
        splits = json.loads(path.read_bytes())["splits"].values()
        pairs = [pair for split in splits for pair in zip(split["filenames"], split["shard_lengths"], strict=True)]
        return {str(name): length for name, length in pairs if type(length) is int and length >= 0}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _read_tar(partition: Partition, inputs: Inputs, fallback: str | None) -> Iterator[Sample | Rejection]:
    (tar,) = partition.files
    match = _TAR.fullmatch(tar)
    prefix = match[1] if match else partition.name  # as the tar has it: other tars beside it change no key
    for sample in iter_tar_samples(inputs.files[tar], inputs.scratch, inputs.tally, fallback):
        said = {name: sample.document.get(name) for name in ("url", "status", "original_width", "original_height")}
        found: bytes | Reason = Reason.MISSING_IMAGE if sample.image is None else sample.image
        captions: tuple[str, ...] = ()
        cause = ""
        try:
            captions = sample.captions
        except BadTextError as error:
            found, cause = Reason.BAD_CAPTION, str(error)
        yield record(
            sample.problem or found,
            key=f"{prefix}_{sample.key}",  # a sample's own key need not be unique in the dataset
            captions=captions,
            source=f"{tar}/{sample.name}",
            meta={**said, "key": sample.key, "orientation": sample.orientation},
            cause="" if sample.problem else cause,
        )


HANDLER = CC12M
