"""Pictures from a list of URLs: cut the list, read a slice of it, and fetch what it names through img2dataset.

The list is a text file with a line of URL, tab, caption for each picture, without header or quoting. img2dataset 1.47
is not given the list itself: its reader takes the first line for a header, and one quotation mark swallows lines. It
gets URLs only, in a process of its own (`microdiff.formats.url_fetcher`).
"""

import codecs
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.core.ledger import Reason
from microdiff.core.progress import NullReporter, Reporter
from microdiff.errors import SourceError
from microdiff.formats import url_fetcher
from microdiff.formats.archives import MAX_LINE_BYTES
from microdiff.formats.public_connection import ALLOW_PRIVATE
from microdiff.formats.records import Inputs, Partition, Rejection, Sample
from microdiff.formats.request_url import request_url
from microdiff.formats.text import BadTextError, decode_text
from microdiff.formats.url_failures import FailedFetch, Fetched, check_failures
from microdiff.formats.url_list_form import EXPECTED, form_problem
from microdiff.storage import Source

_CHUNK_BYTES = 4 * 2**20
_HEAD_BYTES = 2**18
_MAX_CAUSE_CHARS = 200
_LOG = "img2dataset.log"
_PICTURES = "00000"  # the folder that img2dataset puts them into
_LOOK_EVERY_S = 2.0  # at what has arrived


@dataclass(frozen=True, kw_only=True)
class Slice(Partition):
    """Consecutive lines of a list.

    Attributes:
        first_byte: Where its first line begins.
        first_line: The number of this line, from 1.
    """

    first_byte: int
    first_line: int


def partition_lines(source: Source, path: str, num_lines: int) -> list[Slice]:
    """Cut a list, in one pass and bounded memory.

    Args:
        source: Where it is.
        path: The list.
        num_lines: Lines per slice; the last one has the rest.

    Raises:
        SourceError: It is empty, or no list of URLs and captions.
    """
    starts, lines, size, tabs, chunk = [0], 0, 0, False, b""
    with source.fetch(source.stat(path)).open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SourceError(f"{source.name}/{path}: in UTF-16, expected UTF-8")
        if problem := form_problem(_whole_lines(head)):
            raise SourceError(f"{source.name}/{path}: {problem}.\n{EXPECTED}")
        file.seek(0)
        while more := file.read(_CHUNK_BYTES):
            chunk = more
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + (size + 1)
            starts += ends[(-lines - 1) % num_lines :: num_lines].tolist()
            lines, size, tabs = lines + len(ends), size + len(chunk), tabs or b"\t" in chunk
    if not tabs:
        raise SourceError(f"{source.name}/{path}: no list of URLs and captions with tabs between them ({size} bytes)")
    lines += not chunk.endswith(b"\n")
    starts = [start for start in starts if start < size]
    width = max(4, len(str(len(starts) - 1)))
    return [
        Slice(
            name=f"{number:0{width}d}",
            number=number,
            files=(path,),
            num_records=min(num_lines, lines - number * num_lines),
            first_byte=start,
            first_line=number * num_lines + 1,
        )
        for number, start in enumerate(starts)
    ]


def _whole_lines(head: bytes) -> bytes:
    """Return the beginning of a list without a line that goes on."""
    return head[: head.rfind(b"\n") + 1] if len(head) == _HEAD_BYTES else head


def read_slice(
    part: Slice,
    inputs: Inputs,
    max_failed_share: float,
    timeout_s: float,
    retries: int,
    allow_private: bool = False,
    fallback: str | None = None,
) -> Iterator[Sample | Rejection]:
    """Fetch the pictures of a slice, then yield a record for every line; keys are the numbers of lines.

    A line that is no text is not fetched: its caption could not be used.

    Args:
        part: The slice.
        inputs: The list.
        max_failed_share: Largest share of its URLs that may fail, 0 to 1.
        timeout_s: As for `fetch_urls`.
        retries: Likewise.
        allow_private: Likewise.
        fallback: Encoding of lines that are not UTF-8; None rejects them.

    Raises:
        FailedFetch: More URLs failed; nothing was yielded.
    """
    (name,) = part.files
    lines = _read_lines(inputs.files[name], part.first_byte, part.num_records, fallback)
    urls = [line.url for line in lines]
    fetched = fetch_urls(urls, inputs.scratch, timeout_s, retries, inputs.report, allow_private)
    outcomes = [each for url, each in zip(urls, fetched, strict=True) if url]
    check_failures(f"{name}, lines from {part.first_line}", outcomes, max_failed_share)
    for number, ((url, caption, problem), each) in enumerate(zip(lines, fetched, strict=True), part.first_line):
        cause = problem or each.cause
        meta = {"url": url, "cause": cause} if cause else {"url": url}
        facts: dict[str, Any] = {"key": f"{number:09d}", "captions": (caption,) if not problem else (), "meta": meta}
        if problem:
            yield Rejection(reason=Reason.BAD_CAPTION, source=f"{name}#{number}", **facts)
        elif each.path is not None:
            yield Sample(image=each.path.read_bytes(), source=url, **facts)
            each.path.unlink()
        else:
            reason = Reason.FAILED_DOWNLOAD if url else Reason.MISSING_IMAGE
            yield Rejection(reason=reason, source=url or f"{name}#{number}", **facts)


class _Line(NamedTuple):
    """A line's URL and caption; or neither, and why it is no text."""

    url: str
    caption: str
    problem: str = ""


def _read_lines(path: Path, first_byte: int, num_lines: int | None, fallback: str | None) -> list[_Line]:
    """Return the URLs and captions of lines; a line without a tab has no URL.

    Raises:
        SourceError: A line is longer than `MAX_LINE_BYTES`.
    """
    lines = []
    with path.open("rb") as file:
        file.seek(first_byte)
        for line in islice(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), num_lines):
            if len(line) > MAX_LINE_BYTES:
                raise SourceError(f"{path}: a line of more than {MAX_LINE_BYTES} bytes after byte {first_byte}")
            try:
                text = decode_text(line.removesuffix(b"\n").removesuffix(b"\r"), fallback)
            except BadTextError as error:
                lines.append(_Line("", "", str(error)))
                continue
            url, tab, caption = text.partition("\t")
            lines.append(_Line(url, caption) if tab else _Line("", text))
    return lines


def fetch_urls(
    urls: Sequence[str],
    folder: Path,
    timeout_s: float,
    retries: int,
    report: Reporter | None = None,
    allow_private: bool = False,
) -> list[Fetched]:
    """Fetch pictures.

    Args:
        urls: Of any kind; those that are not HTTP are not fetched. What a URL may not hold is encoded.
        folder: Empty; receives the pictures.
        timeout_s: Longest wait for a connection, and for more of an answer.
        retries: Further attempts for a URL that failed.
        report: Hears of bytes as pictures arrive.
        allow_private: Whether to fetch from this machine and from private networks, also where redirects lead there.

    Returns:
        An outcome for each URL.

    Raises:
        FailedFetch: img2dataset itself failed.
    """
    outcomes, wanted = [], {}
    for place, url in enumerate(urls):
        try:
            wanted[place] = request_url(url)
        except ValueError as error:
            outcomes.append(Fetched(None, str(error)[:_MAX_CAUSE_CHARS]))
        else:
            outcomes.append(Fetched(None, "lost by img2dataset"))  # of what fails in unforeseen ways no row is left
    if not wanted:
        return outcomes
    places = list(wanted)
    table = pa.table({"url": pa.array(wanted.values(), pa.string())})
    with pa.OSFile(str(folder / url_fetcher.REQUEST), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    _run(folder, timeout_s, retries, report or NullReporter(), allow_private)
    for row in pq.read_table(folder / "00000.parquet", columns=["key", "status", "error_message"]).to_pylist():
        path = folder / _PICTURES / f"{row['key']}.jpg"  # whatever it holds
        cause = (row["error_message"] or row["status"])[:_MAX_CAUSE_CHARS]
        outcomes[places[int(row["key"])]] = Fetched(path) if path.is_file() else Fetched(None, cause)
    return outcomes


def _run(folder: Path, timeout_s: float, retries: int, report: Reporter, allow_private: bool) -> None:
    """Run `microdiff.formats.url_fetcher`, which ends when its standard input does: with this process."""
    command = [sys.executable, "-m", url_fetcher.__name__, str(folder), str(timeout_s), str(retries)]
    command += [ALLOW_PRIVATE] if allow_private else []
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}  # or importing it asks the network for a new version
    with (
        (folder / _LOG).open("wb") as log,
        subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        ) as process,
    ):
        code, num_bytes = None, 0
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(_LOOK_EVERY_S)
            arrived = _bytes_in(folder / _PICTURES)
            report.tick(num_bytes=arrived - num_bytes)
            num_bytes = arrived
    if code:
        said = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise FailedFetch(f"img2dataset ended with code {code}: {said[-1] if said else 'without a word'}. Run again.")


def _bytes_in(folder: Path) -> int:
    """Return how many bytes the files of a folder have, 0 if there is none."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
    except FileNotFoundError:
        return 0
