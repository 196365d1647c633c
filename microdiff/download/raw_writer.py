"""Write the raw format: per partition a WebDataset tar of kept pictures, and a table with a row per source record."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from microdiff.artifacts.tables import table_writer
from microdiff.config.settings import DownloadSettings
from microdiff.core.files import digest_bytes
from microdiff.core.ledger import KEPT, Ledger, Reason, Result
from microdiff.core.progress import Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.formats.records import Rejection, Sample
from microdiff.images.colour import BROKEN, CONVERTED
from microdiff.images.normalize import RefusedImage, StoredImage, store_image

NO_WITHDRAWALS = Withdrawn()
PROFILE = "colour_profile"  # in `meta`: `converted` or `broken`
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),  # `kept`, or a ledger.Reason
        ("captions", pa.list_(pa.string())),  # as in the source
        ("width", pa.int32()),  # of the stored picture; 0 where there is none
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # of the source's picture, upright; 0 where it is unknown
        ("original_height", pa.int32()),
        ("sha256", pa.string()),  # of the stored bytes; empty where there are none
        ("source", pa.string()),
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
    ledger = Ledger()
    profiles: Counter[str] = Counter()
    keys: set[str] = set()
    with (
        tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar,
        table_writer(folder / f"{name}.parquet", SCHEMA) as add_row,
    ):
        for record in records:
            ledger.enter()
            key = _unique(record.key, keys)
            outcome = RefusedImage(Reason.WITHDRAWN) if withdrawn.contains(key) else _judge(record, key, settings)
            row = _row(record, key, outcome)
            if row["status"] == Reason.WITHDRAWN:
                row = withdrawn_row(row)
            if isinstance(outcome, StoredImage):
                add_picture(tar, f"{key}.{outcome.extension}", outcome.data)
            ledger.leave(row["status"])
            profiles[profile_of(row)] += 1
            add_row(row)
            report.tick(1)
    return Result(ledger.counts(), profile_facts(profiles))


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
    """Return a key that is not among the keys, and add it to them."""
    key = first = _text(wanted)
    number = 1
    while key in keys:
        number += 1
        key = f"{first}#{number}"
    keys.add(key)
    return key


def _judge(record: Sample | Rejection, key: str, settings: DownloadSettings) -> StoredImage | RefusedImage:
    """Return the record's picture or the reason against it."""
    if key != _text(record.key):
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
        "source": _text(record.source),
        "meta": _text(json.dumps(meta, sort_keys=True, ensure_ascii=False)),
    }
    if isinstance(outcome, RefusedImage):
        return {**row, "status": outcome.reason.value, "width": 0, "height": 0, "sha256": ""}
    sha256 = digest_bytes(outcome.data)
    return {**row, "status": KEPT, "width": outcome.width, "height": outcome.height, "sha256": sha256}


def _text(text: str) -> str:
    """Return the text with `?` for what UTF-8 cannot hold: halves of surrogate pairs, which JSON may contain."""
    return text.encode("utf-8", "replace").decode()


def add_picture(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member whose header depends on nothing but its name and size."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
