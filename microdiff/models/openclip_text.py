"""Text towers that open_clip reads."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from microdiff.config.model_reference import public_name
from microdiff.errors import ParamsError
from microdiff.models.clip_tokenizer import BoundedCache, ClipTokens
from microdiff.models.loading import brief, read_config
from microdiff.models.text_model import Tokens
from microdiff.storage.model_files import LocatedTextEncoder

# Shapes: B batch, T tokens, D width.


class OpenclipText:
    """A text tower and its tokenizer.

    Attributes:
        tokenizer: The tokenizer's class.

    Raises:
        ParamsError: The model is of another kind, or its files are missing.
    """

    def __init__(self, settings: LocatedTextEncoder) -> None:
        import open_clip

        self._settings = settings
        config = read_config(settings.folder, settings.model, "open_clip_config.json")
        context = config.get("model_cfg", {}).get("text_cfg", {}).get("context_length", 77)
        wanted = settings.max_tokens
        if wanted is not None and wanted > context:
            raise ParamsError(f"{public_name(settings.model)}: expected at most {context} max_tokens, got {wanted}")
        try:
            self._tokenizer = open_clip.get_tokenizer(f"local-dir:{settings.folder}", context_length=wanted)
        except (OSError, ValueError, ImportError) as error:
            raise ParamsError(
                f"{public_name(settings.model)}: its tokenizer cannot be loaded ({brief(error)})"
            ) from error
        self.tokenizer = type(self._tokenizer).__name__
        self._ids: Callable[[Sequence[str]], Tensor] = self._by_library
        if isinstance(self._tokenizer, open_clip.tokenizer.SimpleTokenizer) and self._tokenizer.reduction_fn is None:
            self._tokenizer.cache = BoundedCache(self._tokenizer.cache)
            self._ids = ClipTokens(self._by_library, self._tokenizer.encode)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions, cut to the tower's context and padded as open_clip pads."""
        return Tokens(self._ids(captions))

    def _by_library(self, captions: Sequence[str]) -> Tensor:
        ids_BT: Tensor = self._tokenizer(list(captions))
        return ids_BT

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Load the tower; the picture tower is read with it, but dropped before anything goes to a GPU."""
        import open_clip

        name = public_name(self._settings.model)
        try:
            model = open_clip.create_model(f"local-dir:{self._settings.folder}", device="cpu", require_pretrained=True)
        except (OSError, ValueError) as error:
            raise ParamsError(f"{name}: open_clip cannot load it ({brief(error)})") from error
        tower = text_tower(model)
        if tower is None:
            raise ParamsError(f"{name}: its text tower is not one of open_clip's plain ones")
        return tower.to(dtype)


def text_tower(model: Any) -> "TextTower | None":
    """Return the text tower of an open_clip model, None if it is of a kind that cannot be read here."""
    tower = getattr(model, "text", model)
    is_own = hasattr(tower, "ln_final") and hasattr(tower, "positional_embedding")
    if not is_own or getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return None
    return TextTower(tower)


class TextTower(nn.Module):
    """The parts of an open_clip text tower up to `ln_final`."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.attn_mask: Tensor | None
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)

    def forward(self, ids_BT: Tensor, _: Tensor | None = None) -> tuple[Tensor]:
        """Return hidden states (B, T, D), every position."""
        length = ids_BT.shape[1]
        hidden_BTD = self.token_embedding(ids_BT) + self.positional_embedding[:length]
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        return (self.ln_final(self.transformer(hidden_BTD, attn_mask=mask)),)
