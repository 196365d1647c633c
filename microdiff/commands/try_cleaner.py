"""Show what each caption cleaner makes of a text, and which rules changed it."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from microdiff.captions import clean_caption, clean_caption_light, strip_parameters
from microdiff.captions.deepfloyd import explain_caption
from microdiff.errors import ParamsError

Steps = list[tuple[str, str]]


def texts_of(argument: str) -> Iterator[str]:
    """Yield the lines of the file of that name, of standard input for `-`, or else the text itself.

    Raises:
        ParamsError: A file that is not UTF-8, or a name that looks like a text file's and is none.
    """
    if argument == "-":
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    path = Path(argument)
    if len(argument) > 1000 or "\0" in argument or not path.is_file():
        if _names_texts(argument):
            raise ParamsError(f"{argument}: no such file; expected one with a caption on each line, `-`, or a caption")
        yield argument
        return
    with path.open("rb") as lines:
        yield from _lines(lines, str(path))


# A caption may be a picture's name, but hardly that of a file of captions.
_names_texts = re.compile(
    r"\S+\.(?:txt|text|csv|tsv|jsonl?|md|log|lst)|~?\.{0,2}/(?:[^\s/]+/)*[^\s/]+", re.IGNORECASE
).fullmatch


def _lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ParamsError(
                f"{name}: expected UTF-8 text, one caption on each line: line {number}: {error}"
            ) from None
        text = text.removesuffix("\n").removesuffix("\r")
        yield text.removeprefix("\ufeff") if number == 1 else text


def describe(text: str, *, strip: bool, rules: bool) -> Iterator[str]:
    """Yield the lines about one text: the text, and what each cleaner makes of it.

    Args:
        text: The caption.
        strip: Whether to strip the parameters of prompts first.
        rules: Whether to name the rules that changed it.
    """
    yield printable(text)
    prepared, stripped = _noted(lambda note: strip_parameters(text, note)) if strip else (text, [])
    if strip:
        yield from _result("stripped", prepared, stripped, rules=rules)
    yield from _result("deepfloyd", clean_caption(prepared), list(explain_caption(prepared)), rules=rules)
    yield from _result("light", *_noted(lambda note: clean_caption_light(prepared, note)), rules=rules)
    yield from _result("none", " ".join(prepared.split()), [], rules=rules)


def printable(text: str) -> str:
    """Return the text with what a terminal would obey, or could not show, written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def _noted(clean: Callable[[Callable[[str, str], None]], str]) -> tuple[str, Steps]:
    steps: Steps = []
    return clean(lambda name, left: steps.append((name, left))), steps


def _result(cleaner: str, cleaned: str, steps: Steps, *, rules: bool) -> Iterator[str]:
    yield f"    {cleaner:11} {printable(cleaned)}".rstrip()
    if rules and steps:
        yield f"    {'':11} by {', '.join(dict.fromkeys(name for name, _ in steps))}"
