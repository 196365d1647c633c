"""Text encoders that transformers reads: CLIP's text towers, with or without projection, and the encoders of T5."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from microdiff.config.model_reference import public_name
from microdiff.errors import ParamsError
from microdiff.models.clip_tokenizer import BoundedCache, ClipTokens
from microdiff.models.loading import brief, load_whole, read_config
from microdiff.models.text_model import Tokens
from microdiff.storage.model_files import TOKENIZER_FILES, LocatedTextEncoder, tokenizer_folder

_CLIP = ("clip_text_model", "clip")
_T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # by `model_type`
_NO_LIMIT = 10**6  # tokenizers without a length of their own state 10**30

# Shapes: B batch, T tokens, D width.


class TransformersText:
    """A text encoder and its tokenizer.

    Attributes:
        tokenizer: The tokenizer's class.

    Raises:
        ParamsError: The model is of another kind, or its files are missing.
    """

    def __init__(self, settings: LocatedTextEncoder) -> None:
        self._settings = settings
        config = read_config(settings.folder, settings.model)
        kind = config.get("model_type")
        if kind not in (*_CLIP, *_T5):
            known = ", ".join((*_CLIP, *_T5))
            raise ParamsError(f"{public_name(settings.model)}: expected one of {known} as model_type, got {kind!r}")
        self._class, self._has_mask = ("CLIPTextModel", False) if kind in _CLIP else (_T5[kind], True)
        self._tokenizer = self._load_tokenizer("CLIPTokenizer" if kind in _CLIP else "AutoTokenizer")
        self._num_tokens = self._length(config)
        self.tokenizer = type(self._tokenizer).__name__
        self._by_words: ClipTokens | None = None
        if kind in _CLIP and all("<" in token for token in self._tokenizer.added_tokens_encoder):
            self._tokenizer.cache = BoundedCache(self._tokenizer.cache)
            self._by_words = ClipTokens(lambda captions: self._encoded(captions).input_ids, self._word_ids)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions, cut and padded to one length."""
        if self._by_words is not None:
            return Tokens(self._by_words(captions))
        encoded = self._encoded(captions)
        return Tokens(encoded.input_ids, encoded.attention_mask.to(torch.uint8) if self._has_mask else None)

    def _encoded(self, captions: Sequence[str]) -> Any:
        return self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self._num_tokens, return_tensors="pt"
        )

    def _word_ids(self, word: str) -> Sequence[int]:
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(word))
        return ids

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Load the model."""
        import transformers

        settings = self._settings
        return _Hidden(load_whole(getattr(transformers, self._class), settings.folder, settings.model, dtype=dtype))

    def _load_tokenizer(self, kind: str) -> Any:
        import transformers

        folder, name = tokenizer_folder(self._settings.folder), public_name(self._settings.model)
        if not any((folder / each).is_file() for each in TOKENIZER_FILES):
            raise ParamsError(f"{name}: no tokenizer.json there, nor in the folder tokenizer beside text_encoder")
        try:
            return getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise ParamsError(f"{name}: its tokenizer cannot be loaded ({brief(error)})") from error

    def _length(self, config: dict[str, Any]) -> int:
        """Return how many tokens a caption gets: what is asked for, or all that the model was made for."""
        wanted = self._settings.max_tokens
        most = config.get("text_config", config).get("max_position_embeddings", 77) if not self._has_mask else None
        if wanted is None:
            wanted = most or self._tokenizer.model_max_length
            if wanted > _NO_LIMIT:
                raise ParamsError(f"{public_name(self._settings.model)}: states no length; set max_tokens for it")
        if most is not None and wanted > most:
            raise ParamsError(
                f"{public_name(self._settings.model)}: expected at most {most} max_tokens, which it has, got {wanted}"
            )
        return int(wanted)


class _Hidden(nn.Module):
    """Gives an encoder's last hidden states, after its final layer norm."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[Tensor]:
        return (self.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state,)
