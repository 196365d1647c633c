"""Encode one partition's pictures: `<partition>.image.safetensors` with `latents_<px>` for each resolution.

With the setting `latents: moments` its tensors are `moments_<px>`.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from microdiff.columns import image_column
from microdiff.latents import Spool, Tensor, write_latents
from microdiff.ledger import KEPT, Ledger, Reason, Result
from microdiff.pixels import centre_crop, decode
from microdiff.progress import Reporter
from microdiff.raw_reader import read_images
from microdiff.settings import ImageEncoderSettings


def write_image_latents(raw: Path, name: str, settings: ImageEncoderSettings, folder: Path, report: Reporter) -> Result:
    """Encode every kept picture of a raw partition.

    All of them, whatever became of their captions: so captions and their filters can change without a VAE pass.
    A resolution is encoded only where the picture has it; each batch holds consecutive pictures of one resolution.

    Args:
        raw: The raw artifact's folder.
        name: The partition.
        settings: The VAE and what to take from it.
        folder: Receives `<name>.image.safetensors`.
        report: Receives progress.

    Returns:
        The partition's counts of pictures.
    """
    import torch  # only in the process that encodes

    from microdiff.image_encoder import image_encoder

    encoder = image_encoder(settings)
    ledger = Ledger()
    rejected: dict[str, str] = {}
    keys: list[str] = []
    with ExitStack() as stack:
        spools = {px: stack.enter_context(Spool(folder / f"{px}.rows", settings.store)) for px in settings.resolutions}
        done: dict[int, list[str]] = {px: [] for px in settings.resolutions}
        waiting: dict[int, list[tuple[str, Image.Image]]] = {px: [] for px in settings.resolutions}

        def flush(px: int) -> None:
            batch = waiting[px]
            if batch:
                batch_keys = [key for key, _ in batch]
                pixels = np.stack([np.asarray(image) for _, image in batch])
                latents = encoder.encode(torch.from_numpy(pixels), batch_keys).to(getattr(torch, settings.store)).cpu()
                for key, row in zip(batch_keys, latents, strict=True):
                    if not row.isfinite().all():
                        rejected[key] = Reason.NON_FINITE.value
                        continue
                    spools[px].append((row.view(torch.uint16) if settings.store == "bfloat16" else row).numpy())
                    done[px].append(key)
                batch.clear()

        for picture in read_images(raw, name):
            keys.append(picture.key)
            try:
                image = decode(picture.data)
            except OSError:
                rejected[picture.key] = Reason.UNDECODABLE.value
                continue
            for px in settings.resolutions:
                if min(image.size) >= px:
                    waiting[px].append((picture.key, centre_crop(image, px)))
                    if len(waiting[px]) == settings.batch_size:
                        flush(px)
            report.tick(1)
        for px in settings.resolutions:
            flush(px)
        columns = {px: image_column(settings.latents, px) for px in settings.resolutions}
        tensors = {column: Tensor(done[px], spools[px]) for px, column in columns.items()}
        write_latents(folder / f"{name}.image.safetensors", tensors, encoder.description, rejected)
    for key in keys:
        ledger.enter()
        ledger.leave(rejected.get(key, KEPT))
    return Result(ledger.counts())
