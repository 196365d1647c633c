"""`python -m stages.try_cleaner`: what it prints, and that the README shows it."""

import gzip
import io
import json
import re
from pathlib import Path

import pytest

from conftest import REPO
from microdiff.captions import clean_caption
from microdiff.captions.deepfloyd import explain_caption
from microdiff.commands.try_cleaner import describe, printable, texts_of
from microdiff.errors import ParamsError
from tests.captions.caption_rows import ROWS
from tests.waiting import run_python

GOLDEN = REPO.parent / "shared" / "data" / "captions_golden.jsonl.gz"


def test_it_prints_what_each_cleaner_makes_and_why(tmp_path: Path) -> None:
    done = run_python("-m", "stages.try_cleaner", "A <b>red</b> barn, 5x7", cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "A <b>red</b> barn, 5x7",
        "    deepfloyd   a red barn",
        "                by decode, markup, code, ends, ends again",
        "    light       A red barn, 5x7",
        "                by markup",
        "    none        A <b>red</b> barn, 5x7",
    ]


def test_it_reads_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes("a\u2028b\r\nа (cat:1.2)\n\n".encode())
    assert list(texts_of(str(path))) == ["a\u2028b", "а (cat:1.2)", ""]
    done = run_python("-m", "stages.try_cleaner", "--strip-parameters", "--no-rules", str(path), cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert "    stripped    а cat\n" in done.stdout
    assert "by " not in done.stdout


def test_a_file_that_is_no_text_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    done = run_python("-m", "stages.try_cleaner", str(tmp_path / "photo.jpg"), cwd=REPO)
    assert done.returncode == 1
    assert "photo.jpg: expected UTF-8 text" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_reads_standard_input_and_no_mark_of_byte_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\ufeffa cat\r\n\ufeffa dog\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    (tmp_path / "captions.txt").write_bytes(content)
    assert list(texts_of("-")) == list(texts_of(str(tmp_path / "captions.txt"))) == ["a cat", "\ufeffa dog"]


@pytest.mark.parametrize("name", ["captons.txt", "/no/such/captions", "../prompts.csv", "a/b.JSONL"])
def test_the_name_of_a_file_that_is_not_there_is_no_caption(name: str) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        list(texts_of(name))


@pytest.mark.parametrize(
    "text", ["red barn.jpg", "a cat in notes.txt", "and/or", "a / b", "", "Red.Barn", "/imagine prompt: a"]
)
def test_a_caption_that_looks_like_a_name_is_a_caption(text: str) -> None:
    assert list(texts_of(text)) == [text]


def test_a_terminal_obeys_nothing_that_is_printed() -> None:
    lines = "\n".join(describe("a\x1b[31m\r\u202eb\x85\ud800 \\n", strip=True, rules=True))
    assert all(line.isprintable() for line in lines.split("\n"))
    assert printable("a\x1b\u202e\ud800é") == "a\\x1b\\u202e\\ud800é"
    lines.encode()


def explained(text: object) -> str:
    return [str(text), *(left for _, left in explain_caption(text))][-1]


@pytest.mark.parametrize("row", ROWS)
def test_the_steps_of_the_exact_cleaner_are_those_it_takes(row: tuple[str, str, str, str]) -> None:
    _, before, after, _ = row
    assert explained(before) == clean_caption(before) == after


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared/data")
def test_the_steps_of_the_exact_cleaner_give_the_golden_captions() -> None:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            assert explained(row["caption"]) == row["clean"]


@pytest.mark.parametrize("name", ["README.md", "docs/settings.md"])
def test_examples_in_the_documentation_are_what_it_prints(name: str) -> None:
    text = (REPO / name).read_text(encoding="utf-8")
    examples = re.findall(r"^    (\S.*)\n((?:        (?:stripped|deepfloyd|light|none) .*\n)+)", text, re.MULTILINE)
    assert examples, name
    for caption, lines in examples:
        shown = [line.strip() for line in lines.splitlines()]
        strip = shown[0].startswith("stripped")
        printed = [line.strip() for line in describe(caption, strip=strip, rules=False)]
        assert set(shown) <= set(printed), caption
