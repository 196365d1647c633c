"""Clean a caption gently, for text encoders that know case, digits, brackets and every script.

Repairs what was broken on the way (mojibake, escapes, surrogates, controls), removes what is not part of the sentence
(markup, URLs) and leaves the rest alone. Takes linear time.

Idempotent but for what hides behind more than two escapes: `&amp;amp;amp;lt;` loses two of them each time.
"""

import re

from ftfy import fixes

from microdiff.captions.unicode import mend

# Elements that part words; others (b, sub, a, ...) may stand inside one.
_PARTING = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote br caption center dd div dl dt fieldset figcaption figure footer form h1 h2 "
        "h3 h4 h5 h6 head header hr iframe img li main nav ol option p pre section select table tbody td tfoot th "
        "thead title tr ul video",
    )
)
_TAG = re.compile(r"<(?:/?([a-zA-Z][a-zA-Z0-9]*+)|[!?])[^<>]*+>")
_PERSON = re.compile("<person>", re.IGNORECASE | re.ASCII)
_HIDDEN = tuple(
    (re.compile(opening, re.IGNORECASE | re.ASCII), re.compile(closing, re.IGNORECASE | re.ASCII))
    for opening, closing in (
        ("<!--", "-->"),
        (r"<script\b[^<>]*+>", r"</script\s*+>"),
        (r"<style\b[^<>]*+>", r"</style\s*+>"),
    )
)
_DOMAIN = "(?:com|org|net|edu|gov|info|biz|io|co|eu|us|uk|ca|au|de|fr|it|es|nl|ru|jp|cn)"
# With a scheme, or www., or a path after a well-known domain; the full stop after it belongs to the sentence.
_URL = (
    rf"(?:\b(?:https?|ftp)://|\bwww\.(?=\w)|(?<![\w.@/-])[a-zA-Z0-9-]++\.(?>(?:[a-zA-Z0-9-]++\.)*){_DOMAIN}/)"
    r"(?>(?:[^\s<>\"]*[^\s<>\".,;:!?)\]}'’”])?)"
)
_remove_urls = re.compile(rf"\(\s*+{_URL}[\s.,;:!?]*+\)|{_URL}", re.ASCII | re.IGNORECASE).sub


def _remove_hidden(text: str) -> str:
    """Remove comments, scripts and style sheets with all they hold; one that never ends stays."""
    for opening, closing in _HIDDEN:
        pieces = []
        at = 0
        while (start := opening.search(text, at)) and (stop := closing.search(text, start.end())):
            pieces.append(text[at : start.start()])
            at = stop.end()
        text = "".join(pieces) + text[at:]
    return text


def _replace_tag(match: re.Match[str]) -> str:
    name = match[1]
    return " " if name and name.lower() in _PARTING else ""


def _remove_markup(text: str) -> str:
    if "<" not in text:
        return text
    return _TAG.sub(_replace_tag, _remove_hidden(_PERSON.sub("person", text)))


def clean_caption_light(text: object) -> str:
    """Clean a caption gently.

    Args:
        text: The caption; anything but a string is turned into one first.

    Returns:
        The caption on one line, possibly empty. Never raises: a lone surrogate becomes U+FFFD, a number too long to
        be turned into a string the empty string.
    """
    try:
        cleaned = str(text)
    except ValueError:  # an int of more than 4,300 digits
        return ""
    cleaned = mend(cleaned)
    for _ in range(2):  # markup is often escaped, sometimes twice
        cleaned = _remove_markup(cleaned)
        if "&" not in cleaned:
            break
        cleaned = fixes.unescape_html(cleaned)
    return " ".join(_remove_urls("", _remove_markup(cleaned)).split())
