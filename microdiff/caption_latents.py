"""Encode one partition's captions: `<partition>.text.safetensors` with `caption_latents`."""

from pathlib import Path

import numpy as np

from microdiff.latents import Spool, Tensor, write_latents
from microdiff.ledger import KEPT, Ledger, Reason, Result
from microdiff.progress import Reporter
from microdiff.rows import read_kept
from microdiff.settings import TextEncoderSettings


def write_caption_latents(
    captions: Path, name: str, settings: TextEncoderSettings, folder: Path, report: Reporter
) -> Result:
    """Encode every kept caption of a partition, each distinct one once.

    Args:
        captions: The captions artifact's folder.
        name: The partition.
        settings: The text encoder.
        folder: Receives `<name>.text.safetensors`.
        report: Receives progress.

    Returns:
        The partition's counts of captions.
    """
    from microdiff.text_encoder import text_encoder  # imports torch: only in the process that encodes

    encoder = text_encoder(settings)
    ledger = Ledger()
    samples = [(row["key"], row["caption"]) for row in read_kept(captions / f"{name}.parquet", ["key", "caption"])]
    index: dict[str, int] = {}
    rejected: dict[str, str] = {}
    with Spool(folder / "captions.rows") as spool:
        distinct = list(dict.fromkeys(caption for _, caption in samples))
        for start in range(0, len(distinct), settings.batch_size):
            batch = distinct[start : start + settings.batch_size]
            with np.errstate(over="ignore"):
                states = encoder.encode(batch).astype(np.float16)
            for caption, row in zip(batch, states, strict=True):
                if np.isfinite(row).all():
                    index[caption] = spool.append(row)
            report.tick(len(batch))
        kept = []
        for key, caption in samples:
            ledger.enter()
            status = KEPT if caption in index else Reason.NON_FINITE.value
            ledger.leave(status)
            if caption in index:
                kept.append((key, index[caption]))
            else:
                rejected[key] = status
        tensor = Tensor([key for key, _ in kept], spool, [row for _, row in kept])
        write_latents(folder / f"{name}.text.safetensors", {"caption_latents": tensor}, encoder.description, rejected)
    return Result(ledger.counts())
