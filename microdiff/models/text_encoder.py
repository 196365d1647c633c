"""Text encoders: load one frozen, tokenise captions and encode them. Context and width are read from the model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from microdiff.config.model_reference import OPENCLIP, parse_model_reference, public_name
from microdiff.config.settings import TextEncoderSettings
from microdiff.models.frozen import FrozenModel
from microdiff.models.openclip_text import OpenclipText
from microdiff.models.text_model import TextModel, Tokens
from microdiff.models.transformers_text import TransformersText
from microdiff.storage.model_files import located

__all__ = ["TextEncoder", "Tokens", "text_encoder"]

# Shapes: B batch, T tokens, D width.


class TextEncoder:
    """A text encoder in evaluation mode with its tokenizer.

    Attributes:
        description: What a reader of its latents needs to know; JSON values.
        device: Where it computes, and where hidden states are.

    Raises:
        ParamsError: Its files are not there, or are of a kind that cannot be read.
    """

    def __init__(self, settings: TextEncoderSettings) -> None:
        found = located(settings)
        is_openclip = settings.model.startswith(OPENCLIP)
        self._text: TextModel = OpenclipText(found) if is_openclip else TransformersText(found)
        self._model = FrozenModel(self._text.load, settings)
        self.device = self._model.device
        tokens = self.tokenize([""])
        _, num_tokens, width = self.encode(tokens).shape
        self.description: dict[str, Any] = {
            "model": public_name(settings.model),
            "subfolder": parse_model_reference(settings.model, settings.subfolder, None).folder or None,
            "revision": found.revision,
            "dtype": settings.dtype,
            "stored_dtype": settings.store,
            "tokenizer": self._text.tokenizer,
            "tokens": num_tokens,
            "width": width,
            "mask": tokens.mask_BT is not None,
        }

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions, on the CPU; may be called from several threads.

        Args:
            captions: Text; tokens beyond the encoder's context are cut off, shorter ones padded as its tokenizer pads.
        """
        return self._text.tokenize(captions)

    @torch.inference_mode()
    def encode(self, tokens: Tokens, *, precise: bool = False) -> Tensor:
        """Encode captions to hidden states after the final layer norm.

        Args:
            tokens: From `tokenize`, here or on the device.
            precise: Compute in float32, whatever dtype the settings ask for.

        Returns:
            float32 (B, T, D) on the device, every position, those of padding too.
        """
        here = tokens.to(self.device)
        hidden_BTD: Tensor
        if precise:
            with self._model.in_float32() as model:
                (hidden_BTD,) = model(here.ids_BT, here.mask_BT)
        else:
            (hidden_BTD,) = self._model(len(here.ids_BT), here.ids_BT, here.mask_BT)
        return hidden_BTD.float()


@cache
def text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Return a text encoder, loaded once per process."""
    return TextEncoder(settings)
