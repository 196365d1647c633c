"""Take the parameters of image generators out of prompts; the words of the prompt stay.

- image prompts: `/imagine prompt:` and URLs at the beginning.
- networks: `<lora:fur:0.8>`, `embedding:name`.
- flags: Midjourney's `--ar 3:2`, `--v 5`, `--tile`; `--no text, people` with all it rules out. A flag with a wrong
  value stays, and so does what is no flag of Midjourney's. A dash that an editor has made of two hyphens counts where
  the flag has a value: `—ar 3:2`.
- weights: `cat::2`, `1.2::cat::`; without a number `::` parts prompts and becomes a comma.
- emphasis: `(word:1.3)`, `((word))`, `[word]`, `{word}`; of `[cat:dog:0.5]` and `[cat|dog]` both words stay. `(word)`
  stays.
- breaks: `BREAK` as a word, but not among others in capitals.
- split digits: `3 5 mm` becomes `35mm`, `1 9 3 0 s` becomes `1930s`, where the whole prompt is in lower case and all
  its digits stand alone: a part of DiffusionDB's prompts is written so. See docs/decisions/light-cleaner.md.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from microdiff.captions.digits import SPLIT_DIGIT, join_digits
from microdiff.captions.emphasis import remove_emphasis

_RATIO = r"\d+(?:\.\d+)?\s?[:x/]\s?\d+(?:\.\d+)?"
_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+)"
# What a value may look like, by flag. Midjourney's documentation, versions 1 to 7.
_FLAGS: Mapping[str, str] = {
    "ar|aspect": _RATIO,
    "v|version": r"\d(?:\.\d)?[a-z]?",
    "niji": r"\d?",
    "q|quality|s|stylize|c|chaos|w|weird|width|h|height|seed|sameseed|stop|iw|cw|sw|ow|sv|r|repeat|exp|mp|bs"
    "|motion": _NUMBER,
    "style|profile|personalize|p": r"(?!--)[A-Za-z0-9]+",
    "sref|cref|oref": r"(?:https?://\S+|random|\d+)(?:\s+(?:https?://\S+|\d+))*",
}
_ALONE = (
    "niji|hd|test|testp|testpfast|creative|tile|upbeta|uplight|upanime|upscale|video|turbo|fast|relax|stealth|public|raw|draft"
    "|beta|wallpaper|vibe|loop|light|p"
)
_VALUED = "|".join(rf"(?:{names})(?:[\s=]\s*|(?=\d))(?:{value})(?![\w:])" for names, value in _FLAGS.items())
_EMPTY = "|".join(_FLAGS)  # cut off by the end of the prompt, with or without a part of the value
_HYPHENS = "(?:--|–-|-–|––|—-)"  # editors make dashes of them
_remove_flags = re.compile(
    r"(?>(?:(?<![\s,;])[\s,;]++)?)(?:"
    rf"(?<![\w-]){_HYPHENS}no\s(?>(?:(?!\s[–—-]{{1,2}}\w)[^\n])*)"
    rf"|(?<!-){_HYPHENS}\s?(?:{_VALUED})"
    rf"|(?<![\w-])[—–](?:{_VALUED})"
    rf"|(?<![\w-]){_HYPHENS}(?:{_ALONE})(?![\w-])"
    rf"|(?<![\w-]){_HYPHENS}(?:(?:{_EMPTY}|no)(?:\s++[\d:.]*+|(?!\w))|\w?)\s*+\Z"
    r")",
    re.IGNORECASE,
).sub
_remove_image_prompts = re.compile(
    r"\A\s*(?:/imagine\b\s*(?:prompt\s*:?)?\s*)?(?>(?:<?https?://[^\s<>]++>?[\s,]*+)*)", re.IGNORECASE
).sub
_remove_networks = re.compile(
    r"(?>(?:(?<![\s,])[\s,]++)?)(?:<(?:lora|lyco|lycoris|loha|locon|hypernet|ti|embedding)\s?:[^<>\n]*+>"
    r"|(?<!\w)\(\s*+embedding:[\w.-]++(?::[\d.]++)?\s*+\)|(?<!\w)embedding:[\w.-]++(?::[\d.]++)?)",
    re.IGNORECASE,
).sub
_remove_leading_weights = re.compile(r"(?<![\w.:])-?\d+(?:\.\d+)?::(?=[^\s:][^:\n]*+::)").sub
_remove_weights = re.compile(r"(?<=[^\s:])\s?::-?(?:\d+(?:\.\d+)?|\.\d+)(?![\w.:])").sub
_part_prompts = re.compile(r"(?>(?:(?<![\s,])[\s,]++)?)::++[\s,]*+").sub
_BREAK = re.compile(r"(?<!\w)BREAK(?!\w)")
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[\W\d_]*\Z")
_WORD_BEHIND = re.compile(r"[\W\d_]*([^\W\d_]+)")
_NEAR = 40
_repeated_commas = re.compile(r",(?:\s*,)+").sub


def _part_words(match: re.Match[str]) -> str:
    """Return a blank where two words would run into one."""
    text, start, stop = match.string, match.start(), match.end()
    return " " if text[max(0, start - 1) : start].isalnum() and text[stop : stop + 1].isalnum() else ""


def _strip_weights(text: str) -> str:
    text = _remove_weights("", _remove_leading_weights("", text))
    return _part_prompts(", ", text).strip(" ,") if "::" in text else text


def _strip_breaks(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        before = _WORD_BEFORE.search(text[max(0, match.start() - _NEAR) : match.start()])
        behind = _WORD_BEHIND.match(text[match.end() : match.end() + _NEAR])
        shouted = [word[1] for word in (before, behind) if word and len(word[1]) > 1]
        return match[0] if any(word.isupper() and word != "BREAK" for word in shouted) else ""

    return _BREAK.sub(replace, text)


class PromptRule(NamedTuple):
    """One kind of parameter; a text that does not hold `mark`, a pattern, has none."""

    mark: str
    apply: Callable[[str], str]


# By the name under which metrics count them.
RULES: Mapping[str, PromptRule] = {
    "image_prompts": PromptRule("://|/imagine", lambda text: _remove_image_prompts("", text)),
    "networks": PromptRule("<[a-zA-Z]|embedding:", lambda text: _remove_networks(_part_words, text)),
    "flags": PromptRule("--|[—–]", lambda text: _remove_flags(_part_words, text)),
    "weights": PromptRule("::", _strip_weights),
    "emphasis": PromptRule(r"[(\[{]", remove_emphasis),
    "breaks": PromptRule("BREAK", _strip_breaks),
    "split_digits": PromptRule(SPLIT_DIGIT, join_digits),
}
_FINDERS = tuple((name, re.compile(rule.mark).search, rule.apply) for name, rule in RULES.items())
_find_any = re.compile("|".join(rule.mark for rule in RULES.values())).search
Note = Callable[[str, str], None]


def strip_parameters(text: str, note: Note | None = None) -> str:
    """Take the parameters of image generators out of a prompt, see above.

    Args:
        text: The prompt as it is in the source.
        note: Is told each rule that changes the prompt, and what becomes of it.

    Returns:
        The text as it was if no rule applies.
    """
    if not _find_any(text):
        return text
    for name, find, apply in _FINDERS:
        if find(text):
            changed = apply(text)
            if changed != text:
                text = _repeated_commas(",", " ".join(changed.split())).strip(" ,")
                if note:
                    note(name, text)
    return text


def touched_rules(text: str) -> list[str]:
    """Return the names of the rules that change a prompt."""
    names: list[str] = []
    strip_parameters(text, lambda name, _: names.append(name))
    return names
