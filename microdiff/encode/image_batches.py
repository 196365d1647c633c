"""Pictures in batches of one resolution, as the device takes them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from microdiff.artifacts.column_names import image_column
from microdiff.config.settings import ImageEncoderSettings
from microdiff.images.crops import Pixels
from microdiff.models.device import new_host_tensor
from microdiff.models.image_encoder import ImageEncoder

# Shapes: B batch, R resolution in pixels.


@dataclass(frozen=True)
class ImageBatch:
    """Pictures of one resolution.

    Attributes:
        label: The column their latents are for, such as `latents_512`.
        keys: Of their samples.
        images_BRR3: uint8, on the CPU.
        encoder: Encodes them; loaded, or queued for loading, before any batch is queued.
    """

    label: str
    keys: Sequence[str]
    images_BRR3: Tensor
    encoder: Future[ImageEncoder]

    @property
    def px(self) -> int:
        """Their resolution."""
        return self.images_BRR3.shape[1]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.keys)

    def part(self, rows: slice | list[int]) -> "ImageBatch":
        """Return some of the pictures."""
        keys = self.keys[rows] if isinstance(rows, slice) else [self.keys[row] for row in rows]
        return ImageBatch(self.label, keys, self.images_BRR3[rows], self.encoder)

    def encode(self, *, precise: bool) -> Tensor:
        """Return their latents, float32 (B, C, H, W), on the device."""
        encoder = self.encoder.result()
        images_BRR3 = self.images_BRR3.to(encoder.device, non_blocking=True)
        return encoder.encode(images_BRR3, self.keys, precise=precise)


def image_batches(
    pictures: Iterable[tuple[str, Mapping[int, Pixels]]], encoder: Future[ImageEncoder], settings: ImageEncoderSettings
) -> Iterator[ImageBatch]:
    """Collect pictures in batches, each of consecutive pictures of one resolution, as they fill up.

    Args:
        pictures: Keys, and uint8 (px, px, 3) by resolution.
        encoder: For the batches.
        settings: How large batches are. Only the last of a resolution may be smaller: nothing is padded.
    """
    keys: dict[int, list[str]] = {px: [] for px in settings.resolutions}
    images: dict[int, Tensor] = {}

    def filled(px: int) -> ImageBatch:
        of_batch, keys[px] = keys[px], []
        label = image_column(settings.latents, px)
        return ImageBatch(label, of_batch, images.pop(px)[: len(of_batch)], encoder)

    for key, crops in pictures:
        for px, crop in crops.items():
            if px not in images:
                images[px] = new_host_tensor((settings.batch_size, px, px, 3), torch.uint8)
            images[px].numpy()[len(keys[px])] = crop
            keys[px].append(key)
            if len(keys[px]) == settings.batch_size:
                yield filled(px)
    for px in settings.resolutions:
        if keys[px]:
            yield filled(px)
