"""The captions that seed and key draw, as they were when captions were published."""

from microdiff.clean.policy import choose
from microdiff.config.settings import CleanSettings

CAPTIONS = ("one", "two", "three", "", "five")


def settings(seed: int) -> CleanSettings:
    return CleanSettings(
        cleaner="none",
        caption="random",
        min_chars=1,
        max_scores={},
        missing_scores="keep",
        drop_duplicates=False,
        seed=seed,
    )


def test_drawn_captions() -> None:
    drawn = {seed: [choose(CAPTIONS, settings(seed), f"key{n}") for n in range(12)] for seed in (0, 2024, -5)}
    assert {seed: [index for (index,) in found] for seed, found in drawn.items()} == {
        0: [0, 1, 4, 2, 2, 2, 4, 0, 0, 4, 2, 4],
        2024: [0, 2, 2, 1, 2, 1, 2, 4, 4, 0, 1, 2],
        -5: [1, 0, 2, 2, 1, 2, 4, 0, 0, 0, 4, 2],
    }
