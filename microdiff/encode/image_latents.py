"""Encode one partition's pictures: `<partition>.image.safetensors` with `latents_<px>` for each resolution.

With the setting `latents: moments` its tensors are `moments_<px>`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from microdiff.artifacts.column_names import image_column
from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.raw import RawImage, read_images
from microdiff.config.settings import ImageEncoderSettings
from microdiff.core.ledger import KEPT, Ledger, Reason, Result
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.core.progress import Reporter
from microdiff.core.verified_files import Input
from microdiff.images.crops import Pixels, center_crops

_DECODED_AHEAD = 4  # pictures per thread


def write_image_latents(
    tar: Input, name: str, settings: ImageEncoderSettings, folder: Path, report: Reporter
) -> Result:
    """Encode every kept picture of a raw partition.

    All of them, whatever became of their captions: so captions and their filters can change without a VAE pass.
    A resolution is encoded only where the picture has it; each batch holds consecutive pictures of one resolution.

    Args:
        tar: The partition's pictures.
        name: The partition.
        settings: The VAE and what to take from it.
        folder: Receives `<name>.image.safetensors`.
        report: Receives progress.

    Returns:
        The partition's counts of pictures.

    Raises:
        DamagedError: The tar is not the recorded one.
        StepError: The device's memory does not suffice for a single picture.
    """
    from microdiff.encode.device_queue import (
        QUEUE,
        encode_batches,  # imports torch, as these do: only in the process that encodes
    )
    from microdiff.encode.image_batches import image_batches
    from microdiff.models.image_encoder import image_encoder

    encoder = QUEUE.load(image_encoder, settings)  # meanwhile the first pictures are decoded
    keys: list[str] = []
    rejected: dict[str, str] = {}
    done: dict[int, list[str]] = {px: [] for px in settings.resolutions}
    columns = {px: image_column(settings.latents, px) for px in settings.resolutions}

    def decode(picture: RawImage) -> tuple[str, Mapping[int, Pixels] | None]:
        return picture.key, center_crops(picture.data, settings.resolutions)

    def decoded() -> Iterator[tuple[str, Mapping[int, Pixels]]]:
        for key, found in prefetch_map(decode, read_images(tar), _DECODED_AHEAD * num_threads()):
            keys.append(key)
            if found is None:
                rejected[key] = Reason.UNDECODABLE.value
            else:
                yield key, found
            report.tick(1, unit="images")

    with ExitStack() as stack:
        spools = {px: stack.enter_context(Spool(folder / f"{px}.rows", settings.store)) for px in settings.resolutions}
        for rows in encode_batches(image_batches(decoded(), encoder, settings), settings.store, name, report):
            px = rows.batch.px
            for key, row, finite in zip(rows.batch.keys, rows.values, rows.finite, strict=True):
                if finite:
                    spools[px].append(row)
                    done[px].append(key)
                else:
                    rejected[key] = Reason.NON_FINITE.value
        for column in columns.values():
            report.batches(column, QUEUE.batch_size(column, settings.batch_size))
        tensors = {column: TensorToWrite(done[px], spools[px]) for px, column in columns.items()}
        write_latents(folder / f"{name}.image.safetensors", tensors, encoder.result().description, rejected)
    ledger = Ledger()
    for key in keys:
        ledger.enter()
        ledger.leave(rejected.get(key, KEPT))
    return Result(ledger.counts())
