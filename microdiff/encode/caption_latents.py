"""Encode one partition's captions: a latents file with one text column, and its mask if its encoder has one."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from microdiff.artifacts.column_names import mask_column, text_file
from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.tables import read_kept
from microdiff.config.settings import TextEncoderSettings
from microdiff.core.ledger import KEPT, Ledger, Reason, Result
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input


def write_caption_latents(
    captions: Input, name: str, column: str, settings: TextEncoderSettings, folder: Path, report: Reporter
) -> Result:
    """Encode every kept caption of a partition, each distinct one once.

    Args:
        captions: The partition's captions.
        name: The partition.
        column: The text column to fill, such as `caption_latents`.
        settings: The text encoder.
        folder: Receives `<name>.text.safetensors`, or what the column's file is called.
        report: Receives progress.

    Returns:
        The partition's counts of captions.

    Raises:
        DamagedError: The captions are not the recorded ones.
        StepError: The device's memory does not suffice for a single caption.
    """
    from microdiff.encode.caption_batches import caption_batches
    from microdiff.encode.device_queue import (
        QUEUE,
        encode_batches,  # imports torch, as these do: only in the process that encodes
    )
    from microdiff.models.text_encoder import text_encoder

    encoder = QUEUE.load(text_encoder, settings).result()
    ledger = Ledger()
    samples = [(row["key"], row["caption"]) for row in read_kept(captions, ["key", "caption"])]
    index: dict[str, int] = {}
    rejected: dict[str, str] = {}
    with ExitStack() as stack:
        states = stack.enter_context(Spool(folder / "states.rows", settings.store))
        masks = stack.enter_context(Spool(folder / "masks.rows", "uint8"))
        distinct = list(dict.fromkeys(caption for _, caption in samples))
        batches = caption_batches(distinct, encoder, column, settings.batch_size)
        for rows in encode_batches(batches, settings.store, name, report):
            mask_BT = rows.batch.tokens.mask_BT
            for number in np.flatnonzero(rows.finite).tolist():
                index[rows.batch.captions[number]] = states.append(rows.values[number])
                if mask_BT is not None:
                    masks.append(mask_BT[number].numpy())
            report.tick(len(rows.batch), unit="captions")
        report.tick(len(samples) - len(distinct), unit="captions")
        report.batches(column, QUEUE.batch_size(column, settings.batch_size))
        kept = []
        for key, caption in samples:
            ledger.enter()
            status = KEPT if caption in index else Reason.NON_FINITE.value
            ledger.leave(status)
            if caption in index:
                kept.append((key, index[caption]))
            else:
                rejected[key] = status
        keys, order = [key for key, _ in kept], [row for _, row in kept]
        tensors = {column: TensorToWrite(keys, states, order)}
        if masks.num_rows:
            tensors[mask_column(column)] = TensorToWrite(keys, masks, order)
        write_latents(folder / text_file(name, column), tensors, encoder.description, rejected)
    return Result(ledger.counts())
