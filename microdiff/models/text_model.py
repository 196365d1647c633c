"""What text encoders of every library have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

# Shapes: B batch, T tokens.


@dataclass(frozen=True)
class Tokens:
    """Tokenised captions.

    Attributes:
        ids_BT: int64.
        mask_BT: uint8, 1 for tokens and 0 for padding; None for encoders that do not tell them apart.
    """

    ids_BT: Tensor
    mask_BT: Tensor | None = None

    def to(self, place: torch.device, *, non_blocking: bool = False) -> "Tokens":
        """Return the same tokens on a device."""
        mask_BT = None if self.mask_BT is None else self.mask_BT.to(place, non_blocking=non_blocking)
        return Tokens(self.ids_BT.to(place, non_blocking=non_blocking), mask_BT)


class TextModel(Protocol):
    """A tokenizer, and how to load the model it belongs to.

    Attributes:
        tokenizer: The tokenizer's class.
    """

    tokenizer: str

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions, all to the same length; safe in several threads after its first call."""

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Load the model on the CPU: ids and mask to a tuple of hidden states (B, T, D) alone."""
