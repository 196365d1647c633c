"""What a dataset's kept captions look like: lengths, tokens, and how much cleaning changed. Sums of partitions.

Tokens are counted as CLIP's tokenizer counts them, without loading a model: for metrics, never for encoding. Text is
counted as it is; open_clip's tokenizer repairs encoding and HTML first, so of unclean text it may count fewer. The
byte-pair merges are those that the open_clip package carries (OpenAI CLIP, MIT licence).
"""

import gzip
import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from microdiff.captions import prompts
from microdiff.clean.losses import NUM_WORST, lost_letters

CONTEXT = 77  # of every published CLIP text tower, start and end included
_NUM_MERGES = 49152 - 256 - 2
_END_OF_WORD = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_TOKENISED_PER_PARTITION = 512
_PERCENTILES = (5, 50, 95, 99)


class CaptionStats:
    """Gathers one partition's statistics.

    Tokens are counted of at most 512 captions evenly spread over the partition: counting takes longer than cleaning.

    Args:
        strip_parameters: Whether parameters of image generators were taken out of captions; which ones is then counted.
    """

    def __init__(self, *, strip_parameters: bool = False) -> None:
        self._strip_parameters = strip_parameters
        self._chars: Counter[int] = Counter()
        self._removed: Counter[int] = Counter()  # by hundredths of a percent of the characters
        self._stripped: Counter[str] = Counter()
        self._lost: list[int] = []  # thousandths of the letters, where it is more than half
        self._changed = 0
        self._captions: list[str] = []

    def add(self, original: str, caption: str) -> None:
        """Count one kept caption."""
        self._chars[len(caption)] += 1
        self._captions.append(caption)
        changed = original != caption
        self._changed += changed
        kept = len(caption) / len(original) if changed and original else 1
        self._removed[max(0, round(10_000 * (1 - kept)))] += 1
        if changed and (lost := lost_letters(original, caption)) > 500:
            self._lost.append(lost)
        if changed and self._strip_parameters:
            self._stripped.update(prompts.touched_rules(original))

    def as_values(self) -> dict[str, Any]:
        """Return the statistics as JSON values that `summarise` adds up."""
        step = max(1, len(self._captions) // _TOKENISED_PER_PARTITION)
        tokens = Counter(count_tokens(self._captions[::step]))
        return {
            "changed": self._changed,
            "chars": sorted(self._chars.items()),
            "tokens": sorted(tokens.items()),
            "removed": sorted(self._removed.items()),
            "stripped": dict(sorted(self._stripped.items())),
            "lost_half": len(self._lost),
            "lost": sorted(self._lost, reverse=True)[:NUM_WORST],
        }


def summarise(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return a step's caption metrics.

    Args:
        parts: What `CaptionStats.as_values` gave for each partition.

    Returns:
        Mean and percentiles of length in characters and in CLIP tokens (start and end included), the share of captions
        that cleaning changed, and the share that a 77-token context cuts. How many percent of their characters cleaning
        removed, how many captions lost more than half of their letters, and from how many each kind of parameter was
        stripped. Zeros where there are no captions.
    """
    chars: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    removed: Counter[int] = Counter()
    stripped: Counter[str] = Counter()
    changed = lost_half = 0
    for part in parts:
        chars.update(dict(part["chars"]))
        tokens.update(dict(part["tokens"]))
        removed.update(dict(part["removed"]))
        stripped.update(part["stripped"])
        changed += part["changed"]
        lost_half += part["lost_half"]
    long = sum(count for length, count in tokens.items() if length > CONTEXT)
    return {
        **_lengths("chars", chars),
        **_lengths("tokens", tokens),
        "share_changed": _share(changed, chars.total()),
        **{name: round(value / 100, 2) for name, value in _lengths("removed_percent", removed).items()},
        "lost_half_of_letters": lost_half,
        **{f"stripped_{rule}": stripped[rule] for rule in prompts.RULES},
        f"share_over_{CONTEXT}_tokens": _share(long, tokens.total()),
    }


def _lengths(name: str, lengths: Counter[int]) -> dict[str, float]:
    total = lengths.total()
    mean = sum(length * count for length, count in lengths.items()) / total if total else 0.0
    return {f"{name}_mean": round(mean, 2), **{f"{name}_p{p}": _percentile(lengths, p) for p in _PERCENTILES}}


def _percentile(lengths: Counter[int], percent: int) -> int:
    """Return the smallest length that at least `percent` of the captions do not exceed."""
    seen = 0
    for length, count in sorted(lengths.items()):
        seen += count
        if seen * 100 >= percent * lengths.total():
            return length
    return 0


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


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
