"""Captions in batches of tokens, as the device takes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.models.device import on_host
from microdiff.models.text_encoder import TextEncoder, Tokens

# Shapes: B batch, T tokens, D width.


@dataclass(frozen=True)
class CaptionBatch:
    """Tokenised captions.

    Attributes:
        label: The column they are for, such as `caption_latents`.
        captions: As text.
        tokens: On the CPU.
        encoder: Encodes them.
    """

    label: str
    captions: Sequence[str]
    tokens: Tokens
    encoder: TextEncoder

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.captions)

    def part(self, rows: slice | list[int]) -> "CaptionBatch":
        """Return some of the captions."""
        captions = self.captions[rows] if isinstance(rows, slice) else [self.captions[row] for row in rows]
        mask_BT = self.tokens.mask_BT
        tokens = Tokens(self.tokens.ids_BT[rows], None if mask_BT is None else mask_BT[rows])
        return CaptionBatch(self.label, captions, tokens, self.encoder)

    def encode(self, *, precise: bool) -> Tensor:
        """Return their hidden states, float32 (B, T, D), on the device."""
        return self.encoder.encode(self.tokens.to(self.encoder.device, non_blocking=True), precise=precise)


def caption_batches(
    captions: Sequence[str], encoder: TextEncoder, label: str, batch_size: int
) -> Iterator[CaptionBatch]:
    """Tokenise captions on threads and yield them in batches, in order; only the last may be smaller."""

    def tokenised(start: int) -> CaptionBatch:
        batch = captions[start : start + batch_size]
        tokens = encoder.tokenize(batch)
        mask_BT = tokens.mask_BT
        on_its_way = Tokens(on_host(tokens.ids_BT), None if mask_BT is None else on_host(mask_BT))
        return CaptionBatch(label, batch, on_its_way, encoder)

    return prefetch_map(tokenised, range(0, len(captions), batch_size), 2 * num_threads())
