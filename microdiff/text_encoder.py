"""The text encoder: load it frozen and encode captions. Context and width are read from the model."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microdiff.device import device
from microdiff.model_files import hub_revision, model_digest, public_name
from microdiff.settings import TextEncoderSettings, is_folder, model_path

_OPENCLIP = "openclip:"

# Shapes: B batch, T tokens, D width.


class TextEncoder:
    """A text tower in evaluation mode with its tokenizer.

    Attributes:
        description: What a reader of its latents needs to know; JSON values.
    """

    def __init__(self, settings: TextEncoderSettings) -> None:
        self._device = device()
        load = _load_openclip if settings.model.startswith(_OPENCLIP) else _load_clip
        self._tokenize, self._forward, tokenizer = load(settings, self._device)
        tokens, width = self.encode([""]).shape[1:]
        self.description = {
            "model": public_name(settings.model),
            "subfolder": settings.subfolder,
            "revision": model_digest(settings) or settings.revision,
            "dtype": settings.dtype,
            "tokenizer": tokenizer,
            "tokens": int(tokens),
            "width": int(width),
            "stored_dtype": "float16",
        }

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Encode captions to hidden states after the final layer norm.

        Args:
            captions: Text; tokens beyond the tower's context are cut off.

        Returns:
            float32 (B, T, D), every token position, padded as the tokenizer pads.
        """
        hidden_BTD: Tensor = self._forward(self._tokenize(list(captions)).to(self._device))
        states: NDArray[np.float32] = hidden_BTD.float().cpu().numpy()
        return states


def _load_clip(settings: TextEncoderSettings, place: torch.device) -> tuple[Any, Any, str]:
    """Load transformers' CLIP text tower and its tokenizer from one folder or repository."""
    from transformers import CLIPTextModel, CLIPTokenizer

    which = {
        "revision": hub_revision(settings),
        **({} if settings.subfolder is None else {"subfolder": settings.subfolder}),
    }
    model = CLIPTextModel.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype), **which)
    model = model.to(place).eval().requires_grad_(requires_grad=False)
    tokenizer = CLIPTokenizer.from_pretrained(settings.model, **which)
    context = int(model.config.max_position_embeddings)

    def tokenize(captions: list[str]) -> Tensor:
        encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        ids: Tensor = encoded.input_ids
        return ids

    def forward(ids_BT: Tensor) -> Tensor:
        hidden: Tensor = model(input_ids=ids_BT).last_hidden_state
        return hidden

    return tokenize, forward, type(tokenizer).__name__


def _load_openclip(settings: TextEncoderSettings, place: torch.device) -> tuple[Any, Any, str]:
    """Load the text tower of an open_clip model from a folder, or from the hub at a pinned revision."""
    import open_clip
    from huggingface_hub import snapshot_download

    name = model_path(settings.model)
    folder = name if is_folder(name) else snapshot_download(name, revision=hub_revision(settings))
    model = open_clip.create_model(f"local-dir:{folder}", device=place).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return tokenizer, open_clip_text_tower(model, getattr(torch, settings.dtype)), type(tokenizer).__name__


def open_clip_text_tower(model: Any, dtype: torch.dtype) -> Any:
    """Return a function from token ids (B, T) to the hidden states (B, T, D) after `ln_final`.

    Args:
        model: An open_clip model; its vision tower is dropped.
        dtype: To compute in.
    """
    tower = getattr(model, "text", model)
    if hasattr(model, "visual"):
        del model.visual
    tower.to(dtype).requires_grad_(requires_grad=False)

    def forward(ids_BT: Tensor) -> Tensor:
        hidden = tower.token_embedding(ids_BT).to(dtype) + tower.positional_embedding[: ids_BT.shape[1]].to(dtype)
        mask = tower.attn_mask
        hidden = tower.transformer(hidden, attn_mask=None if mask is None else mask.to(dtype))
        normalised: Tensor = tower.ln_final(hidden)
        return normalised

    return forward


@lru_cache(maxsize=1)
def text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Return the text encoder, loaded once per process."""
    return TextEncoder(settings)
