"""The caption policy: which caption, which samples, and what the metrics say of them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from microdiff.clean.policy import caption_rows, is_caption
from microdiff.clean.stats import CaptionStats, count_tokens, summarise
from microdiff.clean.step import clean
from microdiff.core.files import read_json
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from tests.clean.raw_tables import policy, raw_row

CAPTIONS = ("  ", "A Cat\n sat", "a longer Caption here", "another long one here")


@pytest.mark.parametrize(
    ("changes", "caption", "why"),
    [
        ({}, "A Cat sat", "the first that says something; white space collapsed"),
        ({"cleaner": "deepfloyd"}, "a cat sat", "cleaned before choosing"),
        ({"caption": "longest"}, "a longer Caption here", "the first of equally long ones"),
        ({"min_chars": 10}, "a longer Caption here", "short ones are passed over"),
    ],
)
def test_which_caption(changes: dict[str, Any], caption: str, why: str) -> None:
    (row,) = caption_rows(raw_row("a", *CAPTIONS), policy(**changes))
    assert (row["status"], row["caption"]) == ("kept", caption), why
    assert row["original"] in CAPTIONS
    assert len(row["captions"]) == len(CAPTIONS)


def test_a_random_caption_follows_from_seed_and_key() -> None:
    def drawn(seed: int) -> list[str]:
        settings = policy(caption="random", seed=seed)
        rows = [next(caption_rows(raw_row(f"k{n}", *CAPTIONS), settings)) for n in range(200)]
        return [row["caption"] for row in rows]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    counts = [drawn(1).count(text) for text in sorted(set(drawn(1)))]
    assert len(counts) == 3
    assert min(counts) > 40


def test_all_captions_are_samples_of_their_own() -> None:
    rows = list(caption_rows(raw_row("a", *CAPTIONS), policy(caption="all")))
    assert [row["key"] for row in rows] == ["a#1", "a#2", "a#3", "a#4"]
    assert {row["image_key"] for row in rows} == {"a"}
    assert [row["status"] for row in rows] == ["empty_caption", "kept", "kept", "kept"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a", True), ("猫", True), ("7", True), ("", False), (".", False), ("--- !?", False), ("…", False), ("_", False)],
)
def test_punctuation_is_no_caption(text: str, kept: bool) -> None:
    assert is_caption(text, 1) is kept


@pytest.mark.parametrize(
    ("changes", "caption", "status", "why"),
    [
        ({"cleaner": "light"}, "a red barn", "kept", "words"),
        ({"cleaner": "light"}, "red_barn.jpg", "no_words", "a file's name"),
        ({"cleaner": "light"}, "https://a.com/b", "no_words", "a URL"),
        ({"cleaner": "light"}, "cats.com | joe@cats.com", "no_words", "a domain and an address"),
        ({"cleaner": "light"}, "<br/>", "no_words", "markup"),
        ({"cleaner": "light"}, " ... ", "empty_caption", "it had no words before either"),
        ({"cleaner": "light", "min_chars": 5}, "cat", "empty_caption", "a word, but too short"),
        ({"cleaner": "none", "strip_parameters": True}, "--ar 3:2", "no_words", "parameters"),
        ({"cleaner": "none"}, "red_barn.jpg", "kept", "as asked for"),
        ({"cleaner": "deepfloyd"}, "一只猫", "empty_caption", "it takes words away"),
    ],
)
def test_captions_without_words_have_a_reason(changes: dict[str, Any], caption: str, status: str, why: str) -> None:
    (row,) = caption_rows(raw_row("a", caption), policy(**changes))
    assert row["status"] == status, why
    assert row["original"] == caption


def test_another_caption_with_words_is_taken() -> None:
    (row,) = caption_rows(raw_row("a", "red_barn.jpg", "A red barn"), policy(cleaner="light"))
    assert (row["status"], row["caption"]) == ("kept", "A red barn")


@pytest.mark.parametrize("cleaner", ["none", "light", "deepfloyd"])
@pytest.mark.parametrize("strip", [False, True])
def test_parameters_are_stripped_where_asked_for(cleaner: str, strip: bool) -> None:
    settings = policy(cleaner=cleaner, strip_parameters=strip)
    (row,) = caption_rows(raw_row("a", "a (red:1.2) barn --ar 3:2"), settings)
    assert (row["caption"] == "a red barn") is strip
    assert row["original"] == "a (red:1.2) barn --ar 3:2"


@pytest.mark.parametrize(
    ("score", "missing", "status", "why"),
    [
        (0.19, "keep", "kept", "below"),
        (0.2, "keep", "kept", "exactly the limit"),
        (0.2000001, "keep", "nsfw", "above"),
        (2.0, "keep", "nsfw", "already blurred by the service"),
        (None, "keep", "kept", "not scored, kept on request"),
        (None, "reject", "nsfw", "not scored, rejected on request"),
        (math.nan, "keep", "kept", "NaN is no score"),
        (math.nan, "reject", "nsfw", "NaN is no score"),
        ("0.9", "reject", "nsfw", "text is no score"),
    ],
)
def test_scores_have_an_explicit_rule(score: Any, missing: str, status: str, why: str) -> None:
    settings = policy(max_scores={"image_nsfw": 0.2, "prompt_nsfw": 0.2}, missing_scores=missing)
    (row,) = caption_rows(raw_row("a", "a cat", image_nsfw=score, prompt_nsfw=0.0), settings)
    assert row["status"] == status, why
    if score is None:
        (row,) = caption_rows(raw_row("a", "a cat", prompt_nsfw=0.0), settings)
        assert row["status"] == status, "absent like null"


def test_metrics_of_captions_add_up_over_partitions() -> None:
    parts = []
    for texts in (["a cat", "a dog sat"], ["x " * 100]):
        stats = CaptionStats()
        for text in texts:
            stats.add(text.upper() if text == "a cat" else text, text)
        parts.append(json.loads(json.dumps(stats.as_values())))
    found = summarise(parts)
    assert (found["chars_mean"], found["chars_p5"], found["chars_p50"], found["chars_p99"]) == (71.33, 5, 9, 200)
    assert (found["tokens_p5"], found["tokens_p50"], found["tokens_p99"]) == (4, 5, 102)
    assert found["share_changed"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["share_over_77_tokens"] == pytest.approx(1 / 3, abs=1e-6)
    assert set(summarise([]).values()) == {0}


def test_metrics_tell_what_cleaning_took_away() -> None:
    stats = CaptionStats(strip_parameters=True)
    stats.add("abcdefghij", "abcdefghij")
    stats.add("12345abcde", "12345")  # all letters, half the characters
    stats.add("abcdefghij --ar 3:2 (a:1.2)", "abcdefghij a")
    stats.add("abcd", "abcdef")  # a repair may add some
    found = summarise([json.loads(json.dumps(stats.as_values()))])
    assert found["lost_half_of_letters"] == 1
    assert (found["removed_percent_p5"], found["removed_percent_p50"], found["removed_percent_p99"]) == (0, 0, 55.56)
    assert found["removed_percent_mean"] == pytest.approx((0 + 50 + 100 * 15 / 27 + 0) / 4, abs=0.01)
    assert (found["stripped_flags"], found["stripped_emphasis"], found["stripped_weights"]) == (1, 1, 0)
    assert stats.as_values()["lost"] == [1000]


@pytest.mark.parametrize(("num_words", "share"), [(75, 0.0), (76, 1.0)])
def test_a_caption_that_just_fits_is_not_cut(num_words: int, share: float) -> None:
    stats = CaptionStats()
    stats.add("", "x " * num_words)  # a token a word, and one each for start and end
    assert summarise([stats.as_values()])["share_over_77_tokens"] == share


def test_tokens_are_counted_all_over_the_partition() -> None:
    stats = CaptionStats()
    for words in (1, 2, 3, 4):
        for _ in range(512):
            stats.add("", "x " * words)
    assert stats.as_values()["tokens"] == [(words + 2, 128) for words in (1, 2, 3, 4)]


def test_tokens_are_counted_as_clip_counts() -> None:
    import open_clip

    texts = [
        "a photo of a cat",
        "It's 1999, isn't it?",
        "",
        "Épée naïve façade",
        "一只猫 two cats",
        "wow!!! ... #1 @x",
        "日本語の文",
    ]
    tokenizer = open_clip.SimpleTokenizer()
    assert count_tokens(texts) == [len(tokenizer.encode(text)) + 2 for text in texts]


def test_all_captions_run_through_the_steps(workspace: Workspace, make_params: Callable[..., Params]) -> None:
    where = "datasets.coco.download.partitions"
    params = make_params({where: "2", "datasets.coco.clean.caption": "all", "datasets.coco.max_rejected_share": 0.5})
    download("coco", params, workspace)
    counts = clean("coco", params, workspace)
    raw = read_json(workspace.metrics("download", "coco"))
    assert counts["in"] == raw["kept"] + counts["expanded"]
    assert counts["kept"] > raw["kept"]
    assert encode("coco", params, workspace)["kept"] == counts["kept"]
