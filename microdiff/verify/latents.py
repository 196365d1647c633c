"""Check one partition of the latents artifact: table, tensors, and that no value is NaN or infinite."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from microdiff.artifacts.checks import RowType, image_row, text_row
from microdiff.artifacts.column_names import text_file
from microdiff.artifacts.finiteness import non_finite_rows
from microdiff.artifacts.latents import LatentsFile
from microdiff.core.ledger import KEPT, Reason
from microdiff.core.progress import Reporter
from microdiff.core.withdrawn import Withdrawn
from microdiff.verify.digests import digest_key, digest_rows, digest_values, hashes, is_drawn
from microdiff.verify.files import Expected, check_files
from microdiff.verify.findings import Findings
from microdiff.verify.tables import UNREADABLE, Row, caption_cells, note_unreadable, read_table

_SHOWN = 3
_CELLS = ("caption", "image_key", "width", "height")


def check_latents(
    folder: Path,
    name: str,
    expected: Mapping[str, Expected],
    withdrawn: Withdrawn,
    dataset: str,
    encoders: Mapping[str, Any],
    share: float,
    each: bool,
    report: Reporter,
) -> Findings:
    """Check a latents partition: every byte, every row, every value.

    Args:
        folder: The artifact.
        name: The partition.
        expected: What is recorded of its files.
        withdrawn: Samples that must not be there.
        dataset: Whose it is.
        encoders: What the artifact says made it: dtypes and shapes are checked against that.
        share: Of the samples, whose values are to be compared with the shards'.
        each: Whether to give their digests one by one.
        report: Receives progress.
    """
    findings = Findings(dataset, "latents", name)
    check_files(folder, expected, findings)
    rows = read_table(folder, f"{name}.parquet", ["key", "status", *_CELLS], withdrawn, findings)
    image = _open(folder, f"{name}.image.safetensors", findings)
    texts = {column: _open(folder, text_file(name, column), findings) for column in encoders["text"]}
    if image is not None:
        image_type = partial(image_row, encoders["image"])
        _check_file(f"{name}.image.safetensors", image, encoders["image"], image_type, findings)
    for column, text in texts.items():
        if text is not None:
            description = encoders["text"][column]
            text_type = partial(text_row, column, description)
            _check_file(text_file(name, column), text, description, text_type, findings)
    if rows is None:
        return findings
    findings.counts = {"in": len(rows), KEPT: 0}
    for row in rows:
        findings.counts[row["status"]] = findings.counts.get(row["status"], 0) + 1
    findings.came_in = digest_rows(caption_cells(rows))
    kept = [row for row in rows if row["status"] == KEPT]
    for row in kept:
        findings.samples.add(digest_key(row["key"]))
    whole = {column: text for column, text in texts.items() if text is not None}
    if findings.damaged:
        findings.counts = None  # that resolutions add up to other numbers would blame the table
    if image is not None and len(whole) == len(texts):
        if not findings.damaged:
            _check_rows(name, rows, image, whole, findings)
        _add_values(kept, image, whole, share, each, findings)
        findings.is_complete = True
    report.tick(len(rows))
    return findings


def _open(folder: Path, file: str, findings: Findings) -> LatentsFile | None:
    try:
        return LatentsFile(folder / file)
    except UNREADABLE as error:
        note_unreadable(file, error, findings)
        return None


def _check_file(
    file: str,
    latents: LatentsFile,
    encoder: Mapping[str, Any],
    row_type: Callable[[str], RowType | None],
    findings: Findings,
) -> None:
    """Check what a latents file says of itself, and all its values."""
    damaged = file in findings.damaged
    if latents.encoder != encoder:
        findings.add(file, "its encoder is not the one in encoders.json", is_damage=damaged)
    for tensor in latents.names:
        keys, rows, dtype = latents.keys(tensor), latents.rows(tensor), latents.dtype(tensor)
        wanted, found = row_type(tensor), (dtype, rows.shape[1:])
        if found != wanted:
            what = f"{tensor} is {found} per sample, expected {wanted or 'no such tensor'}"
            findings.add(file, what, is_damage=damaged)
        if len(keys) != len(rows) or len(set(keys)) != len(keys):
            what = f"{tensor} has {len(rows)} rows, {len(keys)} keys, {len(set(keys))} of them distinct"
            findings.add(file, what, is_damage=damaged)
            continue
        for number in islice(non_finite_rows(rows, dtype), _SHOWN):
            findings.add(file, f"{tensor} holds NaN or infinity", keys[number], is_damage=damaged)


def _check_rows(
    name: str, rows: Sequence[Row], image: LatentsFile, texts: Mapping[str, LatentsFile], findings: Findings
) -> None:
    """Check that the table and the tensors speak of the same samples."""
    pictures = {tensor: set(image.keys(tensor)) for tensor in image.names}
    captions = {column: set(text.keys(column)) for column, text in texts.items()}
    with_px = {tensor: 0 for tensor in pictures}
    refused = {key: reason for text in texts.values() for key, reason in text.rejected.items()}
    for row in rows:
        key, status = row["key"], row["status"]
        found = [tensor for tensor, keys in pictures.items() if row["image_key"] in keys]
        for tensor in found:
            with_px[tensor] += status == KEPT
        why = image.rejected.get(row["image_key"]) or refused.get(key)
        without = [column for column, keys in captions.items() if key not in keys]
        if status == KEPT and (why or without or not found):
            what = f"kept, but without {', '.join(without) or 'image latents'}" if not why else f"kept, but {why}"
            findings.add(f"{name}.parquet", what, key)
        elif status not in (KEPT, Reason.TOO_SMALL, why):
            findings.add(f"{name}.parquet", f"{status}, but its latents do not say so", key)
    keys_of_rows = {row["key"] for row in rows}
    for column, keys in captions.items():
        for key in sorted(keys - keys_of_rows)[:_SHOWN]:
            findings.add(text_file(name, column), f"{column} holds a sample that the table does not have", key)
    if findings.counts is not None:
        findings.counts |= {f"with_{tensor.partition('_')[2]}": number for tensor, number in with_px.items()}


def _add_values(
    kept: Iterable[Row],
    image: LatentsFile,
    texts: Mapping[str, LatentsFile],
    share: float,
    each: bool,
    findings: Findings,
) -> None:
    """Digest the values of drawn samples as shards are to hold them."""
    tensors = {(file, tensor): file.rows(tensor) for file in (image, *texts.values()) for tensor in file.names}
    row_of = {(file, tensor): {key: row for row, key in enumerate(file.keys(tensor))} for file, tensor in tensors}
    listed: list[bytes] = []
    for row in kept:
        digest = digest_key(row["key"])
        if not is_drawn(digest, share):
            continue
        values: dict[str, bytes | memoryview] = {
            "key": row["key"].encode(),
            "caption": row["caption"].encode(),
            "width": int(row["width"]).to_bytes(4, "little"),
            "height": int(row["height"]).to_bytes(4, "little"),
        }
        for (file, tensor), rows in row_of.items():
            number = rows.get(row["image_key"] if file is image else row["key"])
            if number is not None:
                values[tensor] = tensors[file, tensor][number].tobytes()
        value = digest_values(values)
        findings.values.add(value)
        if each:
            listed += [digest, value]
    if each:
        findings.locations = hashes(listed).reshape(-1, 2)
