"""Encode one partition's captions: a latents file with one text column, and its mask if its encoder has one."""

from contextlib import ExitStack
from pathlib import Path

from microdiff.columns import mask_column, text_file
from microdiff.latents import Spool, Tensor, write_latents
from microdiff.ledger import KEPT, Ledger, Reason, Result
from microdiff.progress import Reporter
from microdiff.rows import read_kept
from microdiff.settings import TextEncoderSettings


def write_caption_latents(
    captions: Path, name: str, column: str, settings: TextEncoderSettings, folder: Path, report: Reporter
) -> Result:
    """Encode every kept caption of a partition, each distinct one once.

    Args:
        captions: The captions artifact's folder.
        name: The partition.
        column: The text column to fill, such as `caption_latents`.
        settings: The text encoder.
        folder: Receives `<name>.text.safetensors`, or what the column's file is called.
        report: Receives progress.

    Returns:
        The partition's counts of captions.
    """
    import torch  # only in the process that encodes

    from microdiff.text_encoder import text_encoder

    encoder = text_encoder(settings)
    ledger = Ledger()
    samples = [(row["key"], row["caption"]) for row in read_kept(captions / f"{name}.parquet", ["key", "caption"])]
    index: dict[str, int] = {}
    rejected: dict[str, str] = {}
    with ExitStack() as stack:
        states = stack.enter_context(Spool(folder / "states.rows", settings.store))
        masks = stack.enter_context(Spool(folder / "masks.rows", "uint8"))
        distinct = list(dict.fromkeys(caption for _, caption in samples))
        for start in range(0, len(distinct), settings.batch_size):
            batch = distinct[start : start + settings.batch_size]
            tokens = encoder.tokenize(batch)
            hidden = encoder.encode(tokens).to(getattr(torch, settings.store)).cpu()
            for number, (caption, row) in enumerate(zip(batch, hidden, strict=True)):
                if row.isfinite().all():
                    stored = row.view(torch.uint16) if settings.store == "bfloat16" else row
                    index[caption] = states.append(stored.numpy())
                    if tokens.mask_BT is not None:
                        masks.append(tokens.mask_BT[number].numpy())
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
        keys, order = [key for key, _ in kept], [row for _, row in kept]
        tensors = {column: Tensor(keys, states, order)}
        if masks.num_rows:
            tensors[mask_column(column)] = Tensor(keys, masks, order)
        write_latents(folder / text_file(name, column), tensors, encoder.description, rejected)
    return Result(ledger.counts())
