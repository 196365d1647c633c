"""A few hundred mutations of what a stranger may have made; `python tests/fuzz.py` reads as many as one likes."""

from pathlib import Path

import pytest

from tests.fuzz import KINDS, fuzz

pytestmark = pytest.mark.usefixtures("own_names")

EACH = 50


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_in_words_or_the_values_are_right(tmp_path: Path, kind: str) -> None:
    outcomes = {number: outcome for _, number, outcome in fuzz(tmp_path / "root", [kind], range(EACH), seed=1)}
    assert {number: what for number, what in outcomes.items() if what not in ("read", "refused")} == {}
    assert sum(what == "refused" for what in outcomes.values()) > EACH // 3  # else nothing was damaged
