"""Count tokens as CLIP's tokenizer does, without loading a model: for metrics, never for encoding.

Text is counted as it is; open_clip's tokenizer repairs encoding and HTML first, so of unclean text it may count fewer.

The byte-pair merges are those that the open_clip package carries (OpenAI CLIP, MIT licence).
"""

import gzip
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

CONTEXT = 77  # of every published CLIP text tower, start and end included
_NUM_MERGES = 49152 - 256 - 2
_END_OF_WORD = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, start and end included, before any cut."""
    return [len(encoding.ids) + 2 for encoding in _tokenizer().encode_batch(list(texts), add_special_tokens=False)]


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    spec = importlib.util.find_spec("open_clip")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip, whose vocabulary counts tokens, is not installed: run make setup")
    lines = (
        gzip.decompress(Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    )
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : 1 + _NUM_MERGES])]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + _END_OF_WORD for letter in letters), *(left + right for left, right in merges)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=_END_OF_WORD))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
