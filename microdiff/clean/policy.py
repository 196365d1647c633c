"""The captions format, and the policy that chooses and cleans captions and rejects samples.

`<partition>.parquet` has a row per sample that the raw artifact kept, in its order; with `caption: all` a row per
caption, whose key is the picture's with `#` and a number behind.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from microdiff.artifacts.tables import read_kept, table_writer
from microdiff.captions import clean_caption, clean_caption_light, strip_parameters
from microdiff.clean.stats import CaptionStats
from microdiff.config.settings import CleanSettings
from microdiff.core.ledger import EXPANDED, KEPT, Ledger, Reason, Result
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),  # `kept`, or a ledger.Reason
        ("caption", pa.string()),  # the chosen one, cleaned
        ("captions", pa.list_(pa.string())),  # all, cleaned, in the source's order
        ("original", pa.string()),  # the chosen one as in the source
        ("image_key", pa.string()),  # the picture's key
        ("sha256", pa.string()),  # of the stored picture
        ("width", pa.int32()),  # of the stored picture
        ("height", pa.int32()),
    ]
)


def collapse_white_space(text: str) -> str:
    """Return the text with every run of white space as one blank, none at the ends."""
    return " ".join(text.split())


CLEANERS: Mapping[str, Callable[[str], str]] = {
    "none": collapse_white_space,
    "deepfloyd": clean_caption,
    "light": clean_caption_light,
}


def choose(captions: Sequence[str], settings: CleanSettings, key: str) -> list[int]:
    """Return the indices of the captions to keep: one, or with `all` every one.

    Args:
        captions: Cleaned; those too short to keep are passed over if another one is long enough.
        settings: Which one is asked for.
        key: The sample's key, which `random` draws by.
    """
    usable = [i for i, caption in enumerate(captions) if is_caption(caption, settings.min_chars)] or [0]
    if settings.caption == "all":
        return list(range(len(captions)))
    if settings.caption == "longest":
        return [max(usable, key=lambda i: len(captions[i]))]  # the first of equally long ones
    if settings.caption == "random":
        draw = hashlib.sha256(f"{settings.seed}:{key}".encode()).digest()
        return [usable[int.from_bytes(draw[:8], "big") % len(usable)]]
    return usable[:1]


def is_caption(text: str, min_chars: int) -> bool:
    """Tell whether a cleaned caption says something: long enough, and not punctuation alone."""
    return len(text) >= min_chars and any(char.isalnum() for char in text)


def clean_by(settings: CleanSettings, caption: str) -> str:
    """Clean a caption as the policy says."""
    return CLEANERS[settings.cleaner](strip_parameters(caption) if settings.strip_parameters else caption)


def caption_status(original: str, caption: str, settings: CleanSettings) -> str:
    """Tell whether a caption is kept, and why not.

    The exact cleaner takes away whole scripts: what it leaves empty is not said to have had no words.
    """
    if is_caption(caption, settings.min_chars):
        return KEPT
    judged = settings.cleaner == "light" or settings.strip_parameters
    if judged and is_caption(original, 1) and not is_caption(caption, 1):
        return Reason.NO_WORDS.value
    return Reason.EMPTY_CAPTION.value


def is_above(meta: Mapping[str, Any], settings: CleanSettings) -> bool:
    """Tell whether any of a sample's scores is above its limit, or missing where that counts."""
    for name, limit in settings.max_scores.items():
        score = meta.get(name)
        if not isinstance(score, int | float) or math.isnan(score):
            if settings.missing_scores == "reject":
                return True
        elif score > limit:
            return True
    return False


def write_captions(
    raw: Input, name: str, settings: CleanSettings, unwanted: Mapping[str, Reason], folder: Path, report: Reporter
) -> Result:
    """Choose and clean the captions of one partition.

    Args:
        raw: The partition's raw table.
        name: The partition.
        settings: The policy.
        unwanted: Keys of samples, or of pictures with all their captions, to reject, and why.
        folder: Receives `<name>.parquet`.
        report: Receives progress.

    Returns:
        The partition's counts, and what `CaptionStats` gathered.
    """
    ledger = Ledger()
    stats = CaptionStats(strip_parameters=settings.strip_parameters)
    expanded = 0
    columns = ["key", "captions", "meta", "sha256", "width", "height"]
    with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
        for raw_row in read_kept(raw, columns):
            rows = list(caption_rows(raw_row, settings))
            expanded += len(rows) - 1
            for row in rows:
                reason = unwanted.get(row["key"]) or unwanted.get(row["image_key"])
                if reason is not None and row["status"] == KEPT:
                    row["status"] = reason.value
                ledger.enter()
                ledger.leave(row["status"])
                if row["status"] == KEPT:
                    stats.add(row["original"], row["caption"])
                add_row(row)
            report.tick(1)
    counts = ledger.counts()
    return Result({**counts, EXPANDED: expanded} if expanded else counts, {"stats": stats.as_values()})


def caption_rows(raw_row: Mapping[str, Any], settings: CleanSettings) -> Iterator[dict[str, Any]]:
    """Yield the captions rows of one raw row, duplicates not considered."""
    captions = [clean_by(settings, caption) for caption in raw_row["captions"]]
    above = bool(settings.max_scores) and is_above(json.loads(raw_row["meta"]), settings)
    for index in choose(captions, settings, raw_row["key"]):
        status = caption_status(raw_row["captions"][index], captions[index], settings)
        yield {
            "key": f"{raw_row['key']}#{index + 1}" if settings.caption == "all" else raw_row["key"],
            "status": Reason.NSFW.value if above else status,
            "caption": captions[index],
            "captions": captions,
            "original": raw_row["captions"][index],
            "image_key": raw_row["key"],
            "sha256": raw_row["sha256"],
            "width": raw_row["width"],
            "height": raw_row["height"],
        }
