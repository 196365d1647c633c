"""Tokens by words against the libraries' own tokens of whole captions."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import REPO
from microdiff.models.clip_tokenizer import BoundedCache, ClipTokens

SHARED = REPO.parent / "shared" / "data" / "captions_golden.jsonl.gz"
CAPTIONS = [
    "",
    " ",
    "A dog",
    "it's the 'S and O'Neill's 're",
    "black & white",
    "AT&T",
    "salt &amp; pepper",
    "a &",
    "&",
    "a & b &c",
    "&#39;tis",
    "<|endoftext|> <start_of_text>",
    "a < b > c",
    "tab\tand\nline",
    "Müller’s “café” ﬁne",
    "ΣΑΣ",
    "漢字 and words",
    "x" * 9000,
    "!?" * 500,
    "very " * 300,
]


def transformers_tokenizer(length: int) -> tuple[Callable[[Sequence[str]], Tensor], Callable[[str], Sequence[int]]]:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(REPO / "samples/models/clip")

    def whole(captions: Sequence[str]) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        return tokenizer(list(captions), **options).input_ids

    return whole, lambda word: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))


def open_clip_tokenizer(length: int, **options: Any) -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=length, **options)
    return lambda captions: tokenizer(list(captions)), tokenizer.encode


LIBRARIES = {"transformers": transformers_tokenizer, "open_clip": open_clip_tokenizer}


def random_captions(number: int) -> list[str]:
    dice = random.Random(3)
    signs = "''''stredmvl  aAzZ09.,-_!?#\"()[]{}|/\\&;<>é’"
    return ["".join(dice.choices(signs, k=dice.randrange(120))) for _ in range(number)]


def shared_captions(number: int) -> list[str]:
    if not SHARED.exists():
        return []
    with gzip.open(SHARED, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    dice = random.Random(4)
    chosen = [row[name] for row in dice.sample(rows, number) for name in ("caption", "clean")]
    return [caption for caption in chosen if isinstance(caption, str)]


@pytest.mark.parametrize("length", [3, 77])
@pytest.mark.parametrize("library", LIBRARIES)
def test_tokens_are_the_librarys(library: str, length: int) -> None:
    whole, word_ids = LIBRARIES[library](length)
    tokens = ClipTokens(whole, word_ids)
    assert tokens.by_words
    captions = CAPTIONS + random_captions(500) + shared_captions(500)
    found = tokens(captions)
    assert found.dtype == torch.int64
    assert torch.equal(found, whole(captions))


@pytest.mark.parametrize("library", LIBRARIES)
def test_words_seen_before_are_not_given_to_the_library(library: str) -> None:
    whole, word_ids = LIBRARIES[library](77)
    asked: list[str] = []
    tokens = ClipTokens(whole, lambda word: asked.append(word) or word_ids(word))  # type: ignore[func-returns-value]
    asked.clear()
    tokens(["Zebras and zebras & zebras", "ZEBRAS, zebras"])
    assert asked.count("zebras") == 1


def test_a_tokenizer_of_other_habits_is_left_to_itself() -> None:
    whole, word_ids = open_clip_tokenizer(77, clean="canonicalize")
    tokens = ClipTokens(whole, word_ids)
    assert not tokens.by_words
    assert torch.equal(tokens(CAPTIONS), whole(CAPTIONS))


def test_what_a_library_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microdiff.models.clip_tokenizer._MAX_WORDS", 2)
    cache = BoundedCache({"<end>": "<end>"})
    for word in ("a", "b", "c"):
        cache[word] = word
    assert dict(cache) == {"<end>": "<end>", "a": "a"}


def test_words_of_very_long_captions_are_not_remembered() -> None:
    whole, word_ids = open_clip_tokenizer(77)
    asked: list[str] = []
    tokens = ClipTokens(whole, lambda word: asked.append(word) or word_ids(word))  # type: ignore[func-returns-value]
    asked.clear()
    tokens(["x" * 4001])
    assert asked == []
    tokens(["x" * 4000])
    assert asked == ["x" * 4000]
