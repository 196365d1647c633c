"""Show what each caption cleaner makes of a text, and which rules changed it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from microdiff.captions import clean_caption, clean_caption_light, strip_parameters
from microdiff.captions.deepfloyd import explain_caption
from microdiff.errors import ParamsError

Steps = list[tuple[str, str]]


def texts_of(argument: str) -> Iterator[str]:
    """Yield the lines of the file of that name, or the text itself where there is none.

    Raises:
        ParamsError: A file that is not UTF-8.
    """
    path = Path(argument)
    if len(argument) > 1000 or "\0" in argument or not path.is_file():
        yield argument
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        try:
            for line in lines:
                yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ParamsError(f"{path}: expected UTF-8 text, one caption on each line: {error}") from None


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
