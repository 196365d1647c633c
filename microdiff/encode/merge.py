"""Join one partition's image and caption latents: `<partition>.parquet` says what became of every sample.

It has a row per sample whose caption was kept, in that order, and all that shards hold besides latents.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.tables import read_kept, table_writer
from microdiff.core.ledger import KEPT, Ledger, Reason, Result
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),  # `kept`, or a ledger.Reason
        ("caption", pa.string()),
        ("image_key", pa.string()),  # under which its image latents are
        ("width", pa.int32()),  # of the stored picture
        ("height", pa.int32()),
    ]
)


def write_merged(
    captions: Input,
    name: str,
    image_file: Path,
    text_files: Mapping[str, Path],
    image_columns: Mapping[int, str],
    folder: Path,
    _: Reporter,
) -> Result:
    """Keep a sample if every text encoder has its caption and the VAE has its picture at the smallest resolution.

    Writes `<name>.parquet`.

    Args:
        captions: The partition's captions.
        name: The partition.
        image_file: Its image latents.
        text_files: Its caption latents by column.
        image_columns: Columns of image latents by their resolution in pixels.
        folder: Receives the table.
        _: Not used: merging a partition takes no time worth reporting.

    Returns:
        The partition's counts, `with_<px>` counts for every resolution, and all encoders' descriptions.
    """
    image, texts = LatentsFile(image_file), {column: LatentsFile(file) for column, file in text_files.items()}
    have = {px: set(image.keys(column)) for px, column in image_columns.items()}
    smallest = have[min(image_columns)]
    refused = {key: reason for text in reversed(texts.values()) for key, reason in text.rejected.items()}
    ledger = Ledger()
    with_px = dict.fromkeys(image_columns, 0)
    columns = ["key", "caption", "image_key", "width", "height"]
    with table_writer(folder / f"{name}.parquet", SCHEMA) as add_row:
        for row in read_kept(captions, columns):
            ledger.enter()
            key, image_key = row["key"], row["image_key"]
            reason = image.rejected.get(image_key) or refused.get(key)
            status = reason or (KEPT if image_key in smallest else Reason.TOO_SMALL)
            ledger.leave(status)
            for px in image_columns:
                with_px[px] += status == KEPT and image_key in have[px]
            add_row({**row, "status": str(status)})
    counts = {**ledger.counts(), **{f"with_{px}": n for px, n in with_px.items()}}
    text_encoders = {column: text.encoder for column, text in texts.items()}
    return Result(counts, {"encoders": {"image": image.encoder, "text": text_encoders}})
