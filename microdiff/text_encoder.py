"""Text encoders: load one frozen, tokenise captions and encode them. Context and width are read from the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from microdiff.device import device
from microdiff.model_files import hub_revision, model_digest, public_name
from microdiff.settings import TextEncoderSettings, is_folder, model_path

_OPENCLIP = "openclip:"

# Shapes: B batch, T tokens, D width.


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


class TextEncoder:
    """A text tower in evaluation mode with its tokenizer.

    Attributes:
        description: What a reader of its latents needs to know; JSON values.
        device: Where it computes, and where hidden states are.
    """

    def __init__(self, settings: TextEncoderSettings) -> None:
        self.device = device()
        load = _load_openclip if settings.model.startswith(_OPENCLIP) else _load_clip
        self._load: Callable[[torch.dtype], tuple[Any, Any, str]] = lambda dtype: load(settings, dtype, self.device)
        self._tokenize, self._forward, tokenizer = self._load(getattr(torch, settings.dtype))
        self._precise = self._forward if settings.dtype == "float32" else None
        tokens, width = self.encode(self.tokenize([""])).shape[1:]
        self.description: dict[str, Any] = {
            "model": public_name(settings.model),
            "subfolder": settings.subfolder,
            "revision": model_digest(settings) or settings.revision,
            "dtype": settings.dtype,
            "stored_dtype": settings.store,
            "tokenizer": tokenizer,
            "tokens": int(tokens),
            "width": int(width),
            "mask": False,
        }

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions, on the CPU; may be called from several threads.

        Args:
            captions: Text; tokens beyond the tower's context are cut off, shorter ones padded as the tokenizer pads.
        """
        return Tokens(self._tokenize(list(captions)))

    @torch.inference_mode()
    def encode(self, tokens: Tokens, *, precise: bool = False) -> Tensor:
        """Encode captions to hidden states after the final layer norm.

        Args:
            tokens: From `tokenize`, here or on the device.
            precise: Compute in float32, whatever dtype the settings ask for.

        Returns:
            float32 (B, T, D) on the device, every token position.
        """
        forward = self._float32_forward() if precise else self._forward
        hidden_BTD: Tensor = forward(tokens.ids_BT.to(self.device))
        return hidden_BTD.float()

    def _float32_forward(self) -> Any:
        if self._precise is None:
            _, self._precise, _ = self._load(torch.float32)
        return self._precise


def _load_clip(settings: TextEncoderSettings, dtype: torch.dtype, place: torch.device) -> tuple[Any, Any, str]:
    """Load transformers' CLIP text tower and its tokenizer from one folder or repository."""
    from transformers import CLIPTextModel, CLIPTokenizer

    which = {
        "revision": hub_revision(settings),
        **({} if settings.subfolder is None else {"subfolder": settings.subfolder}),
    }
    model = CLIPTextModel.from_pretrained(settings.model, dtype=dtype, **which)
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


def _load_openclip(settings: TextEncoderSettings, dtype: torch.dtype, place: torch.device) -> tuple[Any, Any, str]:
    """Load the text tower of an open_clip model from a folder, or from the hub at a pinned revision."""
    import open_clip
    from huggingface_hub import snapshot_download

    name = model_path(settings.model)
    folder = name if is_folder(name) else snapshot_download(name, revision=hub_revision(settings))
    model = open_clip.create_model(f"local-dir:{folder}", device=place).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return tokenizer, open_clip_text_tower(model, dtype), type(tokenizer).__name__


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


@cache
def text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Return a text encoder, loaded once per process."""
    return TextEncoder(settings)
