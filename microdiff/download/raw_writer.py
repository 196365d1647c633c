"""Write the raw format: per partition a WebDataset tar of kept pictures, and a table with a row per source record."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from microdiff.artifacts.raw import read_members
from microdiff.artifacts.tables import read_rows, table_writer
from microdiff.config.settings import DownloadSettings
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import KEPT, Ledger, Reason, Result
from microdiff.core.printable import is_key, one_line
from microdiff.core.progress import NullReporter, Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.formats.records import Rejection, Sample
from microdiff.images.colour import BROKEN, CONVERTED
from microdiff.images.normalize import RefusedImage, StoredImage, store_image

NO_WITHDRAWALS = Withdrawn()
_AMBIGUOUS = RefusedImage(Reason.AMBIGUOUS_KEY)
PROFILE = "colour_profile"  # in `meta`: `converted` or `broken`
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # printable; see core.printable.escape_key
        ("status", pa.string()),  # `kept`, or a ledger.Reason
        ("captions", pa.list_(pa.string())),  # as in the source
        ("width", pa.int32()),  # of the stored picture; 0 where there is none
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # of the source's picture, upright; 0 where it is unknown
        ("original_height", pa.int32()),
        ("sha256", pa.string()),  # of the stored bytes; empty where there are none
        ("source", pa.string()),  # printable
        ("meta", pa.string()),  # JSON
    ]
)


def write_raw(
    records: Iterable[Sample | Rejection],
    settings: DownloadSettings,
    name: str,
    folder: Path,
    report: Reporter,
    withdrawn: Withdrawn = NO_WITHDRAWALS,
) -> Result:
    """Write one partition.

    Args:
        records: In the source's order.
        settings: Limits and quality of pictures.
        name: The partition's name.
        folder: Receives `<name>.tar` and `<name>.parquet`.
        report: Receives progress.
        withdrawn: Samples to leave out: their rows say no more than that.

    Returns:
        The partition's counts, and `profile_facts`.
    """
    tally = _Tally()
    keys: set[str] = set()
    ambiguous: set[str] = set()
    kept: set[str] = set()
    with (
        tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar,
        table_writer(folder / f"{name}.parquet", SCHEMA) as add_row,
    ):
        for record in records:
            key = _unique(record.key, keys)
            outcome = RefusedImage(Reason.WITHDRAWN) if withdrawn.contains(key) else _judge(record, key, settings)
            row = _row(record, key, outcome)
            if row["status"] == Reason.WITHDRAWN:
                row = withdrawn_row(row)
            if isinstance(outcome, StoredImage):
                add_picture(tar, f"{key}.{outcome.extension}", outcome.data)
                kept.add(key)
            if outcome == _AMBIGUOUS:
                ambiguous.add(record.key)
            tally.add(row)
            add_row(row)
            report.tick(1)
    if taken_back := ambiguous & kept:
        return _take_back(taken_back, name, folder)
    return tally.result()


class _Tally:
    """Counts rows by outcome, and by what became of their picture's colour profile."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._profiles: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self._ledger.enter()
        self._ledger.leave(row["status"])
        self._profiles[profile_of(row)] += 1

    def result(self) -> Result:
        """Return the counts, and `profile_facts`."""
        return Result(self._ledger.counts(), profile_facts(self._profiles))


def _take_back(keys: set[str], name: str, folder: Path) -> Result:
    """Write a partition again without pictures that were kept before another one of their key came."""
    tar, table = (folder / f"{name}.{kind}" for kind in ("tar", "parquet"))
    tar, table = (path.rename(path.with_name(f"{path.name}.whole")) for path in (tar, table))

    def change(row: Mapping[str, Any]) -> Mapping[str, Any]:
        if row["key"] not in keys:
            return row
        meta = {name: value for name, value in json.loads(row["meta"]).items() if name != PROFILE}
        gone = {"status": Reason.AMBIGUOUS_KEY.value, "sha256": "", "width": 0, "height": 0}
        return {**row, **gone, "meta": _json(meta)}

    result = copy_raw(tar, table, name, folder, change, NullReporter())
    tar.unlink()
    table.unlink()
    return result


def copy_raw(
    tar: Path,
    table: Path,
    name: str,
    folder: Path,
    change: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    report: Reporter,
) -> Result:
    """Write a partition from another one: some rows changed, and without the pictures of those no longer kept.

    Args:
        tar: Has the pictures.
        table: Has the rows.
        name: The partition's name.
        folder: Receives `<name>.tar` and `<name>.parquet`.
        change: Gives a row for a row.
        report: Receives progress.

    Returns:
        The counts of the rows written, and `profile_facts`.
    """
    tally = _Tally()
    kept: set[str] = set()
    with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
        for row in read_rows(table, SCHEMA.names):
            changed = change(row)
            tally.add(changed)
            add_row(dict(changed))
            if changed["status"] == KEPT:
                kept.add(changed["key"])
            report.tick(1)
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as written:
        for member, data in read_members(tar):
            if member.partition(".")[0] in kept:
                add_picture(written, member, data)
    return tally.result()


def profile_of(row: Mapping[str, Any]) -> str:
    """Return what became of the colour profile of a row's picture; empty where there is nothing to say."""
    return str(json.loads(row["meta"]).get(PROFILE, ""))


def profile_facts(profiles: Mapping[str, int]) -> dict[str, int]:
    """Return how many kept pictures were converted from another colour space, and how many had a broken profile.

    Args:
        profiles: Number of rows by what `profile_of` says.
    """
    return {f"profiles_{fate}": profiles.get(fate, 0) for fate in (CONVERTED, BROKEN)}


def add_profile_facts(facts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return `profile_facts` of several partitions in one."""
    total = Counter(profile_facts({}))
    for each in facts:
        total.update({name: each.get(name, 0) for name in total})
    return dict(total)


def withdrawn_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a sample that is withdrawn: its key and where it was, nothing of what it was."""
    blank = {"captions": [], "sha256": "", "meta": "{}"}
    sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 0)
    return {**row, **blank, **sizes, "status": Reason.WITHDRAWN.value}


def _unique(wanted: str, keys: set[str]) -> str:
    """Return a key that is not among the keys, and add it to them.

    Raises:
        ValueError: It is no key; see `microdiff.core.printable.escape_key`.
    """
    if not is_key(wanted):
        raise ValueError(f"the handler gives a key that is none: {wanted!r}")
    key, number = wanted, 1
    while key in keys:
        number += 1
        key = f"{wanted}#{number}"
    keys.add(key)
    return key


def _judge(record: Sample | Rejection, key: str, settings: DownloadSettings) -> StoredImage | RefusedImage:
    """Return the record's picture or the reason against it."""
    if isinstance(record, Rejection) and record.reason is Reason.AMBIGUOUS_KEY:
        return _AMBIGUOUS
    if key != record.key:
        return RefusedImage(Reason.DUPLICATE_KEY)
    if isinstance(record, Rejection):
        return RefusedImage(record.reason)
    if not record.captions:
        return RefusedImage(Reason.MISSING_CAPTION)
    if not any(caption.strip() for caption in record.captions):
        return RefusedImage(Reason.EMPTY_CAPTION)
    return store_image(record.image, settings)


def _row(record: Sample | Rejection, key: str, outcome: StoredImage | RefusedImage) -> dict[str, Any]:
    profile = outcome.profile if isinstance(outcome, StoredImage) else ""
    meta = {**record.meta, **({PROFILE: profile} if profile else {})}
    row = {
        "key": key,
        "captions": [_text(caption) for caption in record.captions],
        "original_width": outcome.original_width,
        "original_height": outcome.original_height,
        "source": one_line(record.source),
        "meta": _json(meta),
    }
    if isinstance(outcome, RefusedImage):
        return {**row, "status": outcome.reason.value, "width": 0, "height": 0, "sha256": ""}
    sha256 = digest_bytes(outcome.data)
    return {**row, "status": KEPT, "width": outcome.width, "height": outcome.height, "sha256": sha256}


def _json(values: Mapping[str, Any]) -> str:
    return _text(json.dumps(dict(values), sort_keys=True, ensure_ascii=False))


def _text(text: str) -> str:
    """Return the text with `?` for what UTF-8 cannot hold: halves of surrogate pairs, which JSON may contain."""
    return text.encode("utf-8", "replace").decode()


def add_picture(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member whose header depends on nothing but its name and size."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
