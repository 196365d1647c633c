"""CLIP's tokens, word by word: captions repeat their words, and what a library makes of a word never changes.

CLIP's byte pairs never cross the words that its pattern cuts a caption into, so a plain caption's tokens are those of
its words, one after the other. The libraries' tokenizers are written in Python and repair and lower the text, look for
special tokens and copy lists for every caption anew; here only words seen for the first time are given to them, and
whole captions that are not plain. The tokens are theirs in any case.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# ASCII that ftfy leaves alone, without entities and special tokens.
_PLAIN = re.compile(r"[ !-%'-;=-~]*(?:&(?: [ !-%'-;=-~]*|$))*")
_MOST_CHARS = 4000  # of a plain caption: its words are kept
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")  # CLIP's pattern, for lower-case ASCII
_MAX_WORDS = 2**16
_PROBES = (
    "",
    "A photograph of Two dogs, running on the beach; 1920x1080 -- it's  sunny!",
    "''s 're'Ve can't O'Reilly's #7 (50% off) @home http://a.b/c_d?e=f {x|y} ~^`\\ \"quoted\" $3.50 *** a-b/c>d",
    "word " * 400,
    "!" * 700 + "z",
)

# Shapes: B batch, T tokens.


class ClipTokens:
    """Gives the token ids that a library's CLIP tokenizer gives.

    Args:
        library: The library's: captions to int64 (B, T), begun, ended, cut and padded.
        word_ids: The library's ids for a single word of a plain caption, without beginning and end.
    """

    def __init__(self, library: Callable[[Sequence[str]], Tensor], word_ids: Callable[[str], Sequence[int]]) -> None:
        self._library = library
        self._word_ids = lru_cache(_MAX_WORDS)(word_ids)
        empty_T = library([""])[0].numpy()
        self._empty_T, self._begin, self._end = empty_T, int(empty_T[0]), int(empty_T[1])
        self.by_words = True
        self.by_words = torch.equal(self(_PROBES), library(_PROBES))

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return int64 (B, T). Safe to use from several threads, as far as the library's is."""
        if not self.by_words:
            return self._library(captions)
        ids_BT = np.tile(self._empty_T, (len(captions), 1))
        others: list[int] = []
        most = len(self._empty_T) - 2
        for row, caption in enumerate(captions):
            if len(caption) > _MOST_CHARS or _PLAIN.fullmatch(caption) is None:
                others.append(row)
                continue
            ids = [self._begin]
            for word in _WORD.findall(caption.lower()):
                ids += self._word_ids(word)
                if len(ids) > most:
                    break
            ids = [*ids[: most + 1], self._end]
            ids_BT[row, : len(ids)] = ids
        if others:
            ids_BT[others] = self._library([captions[row] for row in others]).numpy()
        return torch.from_numpy(ids_BT)


class BoundedCache(dict[str, Any]):
    """What libraries may remember of words: the first so many, which are the most frequent ones.

    They forget nothing otherwise, and a hundred million captions hold tens of millions of words.
    """

    def __setitem__(self, word: str, value: Any) -> None:
        if len(self) < _MAX_WORDS:
            super().__setitem__(word, value)
