"""Which captions lost the most letters."""

from pathlib import Path

import pytest

from microdiff.artifacts.tables import table_writer
from microdiff.clean.losses import lost_letters, num_letters, worst_captions
from microdiff.clean.policy import SCHEMA


@pytest.mark.parametrize(
    ("text", "number"), [("", 0), ("a1 b-c!", 3), ("été", 3), ("一只猫 2", 3), ("кот_x", 4), ("\t\x7f~", 0)]
)
def test_letters_of_every_script_are_counted(text: str, number: int) -> None:
    assert num_letters(text) == number


@pytest.mark.parametrize(
    ("original", "caption", "lost"),
    [("abcd", "ab", 500), ("abcd 1", "", 1000), ("abc", "abcd", 0), ("123", "", 0), ("abc", "ab", 333), ("a.", "a", 0)],
)
def test_lost_letters_are_thousandths(original: str, caption: str, lost: int) -> None:
    assert lost_letters(original, caption) == lost


def test_the_worst_twenty_are_found_and_no_table_is_read_in_vain(tmp_path: Path) -> None:
    lost: dict[str, list[int]] = {}
    for number in range(30):
        name = f"{number:04}"
        lost[name] = []
        with table_writer(tmp_path / f"{name}.parquet", SCHEMA) as add_row:
            for row in range(3):
                original = "x" * 1000
                caption = "x" * (10 * number + row)  # the first partitions lose the most
                lost[name].append(lost_letters(original, caption))
                values = {"key": f"{name}_{row}", "status": "kept", "original": original, "caption": caption}
                add_row(dict.fromkeys(SCHEMA.names) | values)
            add_row(dict.fromkeys(SCHEMA.names) | {"status": "no_words", "original": "xx", "caption": ""})
    for number in range(7, 30):
        (tmp_path / f"{number:04}.parquet").unlink()
    worst = worst_captions(tmp_path, lost)
    assert [row["key"] for row in worst] == [f"{number:04}_{row}" for number in range(7) for row in range(3)][:20]
    assert worst[0] == {"key": "0000_0", "lost_share": 1.0, "original": "x" * 500, "caption": ""}
    assert worst_captions(tmp_path, {"0000": [], "0001": []}) == []
