"""Remove URLs, and what says nothing without them.

A URL has a scheme, or begins with `www.`, or is a path behind a well-known domain. It ends before the first character
that cannot stand in one unescaped (a blank, a quote, a character outside ASCII but for accented letters), before a
closing bracket that was not opened inside it, and before the punctuation of the sentence at its end. A path that goes
on with such characters and ends in a file name is taken as a whole.

Of `[text](URL)`, `<URL|text>` and `[url=URL]text[/url]` the text stays, and `[img]` goes with the URL in it.

With it go the brackets or quotes around it, the separators that parted it from the rest, and what leads to it and to
nothing else, see `microdiff.captions.lead_ins`.
"""

import re

from microdiff.captions.lead_ins import strip_lead_in, strip_preposition

# These are words, too, or parts of amounts and abbreviations, see `_is_plain`.
_WORDS = (
    "info|biz|io|co|eu|us|uk|ca|au|de|fr|it|es|nl|ru|jp|cn|br|pl|se|dk|fi|ch|kr|tw|nz|za|tv|cc|app|shop|online|blog"
)
_DOMAINS = (
    r"com|org|net|edu|gov|xyz|(?<=\bt\.)co|(?<=bit\.)ly|(?<=\bow\.)ly|(?<=youtu\.)be|(?<=goo\.)gl|(?<=amzn\.)to|(?<=\bfb\.)me|(?<=\bt\.)me"
    rf"|(?<=ift\.)tt|(?<=\bis\.)gd|(?P<word>{_WORDS})"
)
# Behind a scheme, behind www, or a domain with the slash of a path; each begins with a mark, which `re` finds fast.
_find_mark = re.compile(
    r":(?:(?<=[psePSE3]:)//|(?<=data:)[a-z]++/[a-z0-9.+-]++[;,])"
    rf"|\.(?:(?<![a-zA-Z0-9_@][wW]{{3}}\.)(?<=[wW]{{3}}\.)(?=[a-zA-Z0-9])|(?i:{_DOMAINS})(?::[0-9]++)?/)",
    re.ASCII,
).search
_SCHEMES = ("https", "http", "ftps", "sftp", "ftp", "file", "data", "rtsp", "rtmp", "ipfs", "s3")
# Accented letters are often left as they are (`/wiki/España`); no language that has them goes on without a blank.
_find_stop = re.compile(
    r"[()\[\]]|(?:%2[27])?%3[CcEe]|[^a-zA-Z0-9_.~:/?#\[\]@!$&'()*+,;=%\xc0-\xd6\xd8-\xf6\xf8-\u024f\u1e00-\u1eff-]|\Z"
).finditer
_MARKDOWN_LINK = re.compile(
    r"!?\[([^\[\]]*+)\]\(\s*+(?:https?://|www\.)(?>(?:[^\s()<>]|\([^\s()<>]*+\))*)(?:\s[^()<>]*+)?\)", re.IGNORECASE
)
_CHAT_LINK = re.compile(r"<https?://[^\s<>|]++\|([^<>|]++)>", re.IGNORECASE)
_FORUM_TAG = re.compile(r"\[/?(?:img|url)(?:=[^\[\]\s]*+)?\]", re.IGNORECASE)
_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
_LONGEST_HOST = 253
# A path with characters that should have been escaped, known by how it ends.
_REST = re.compile(
    r"(?=[^\x00-\x7f])[^\s<>\"'，。、；：！？（）【】「」《》]{1,300}?"
    r"\.(?:jpe?g|png|gif|webp|html?|php|aspx?)(?:\?[!-;=?-~]*+)?(?=[\s)\]\"']|\Z)",
    re.IGNORECASE,
)
_CLOSING = {")": "(", "]": "["}
_is_path = re.compile(r"[^/]++/[^A-Z]*?[0-9/?=&#_%].*").fullmatch

_AROUND = {
    "(": ")",
    "[": "]",
    "{": "}",
    "<": ">",
    "«": "»",
    "“": "”",
    "„": "“",
    "‘": "’",
    "（": "）",
    "【": "】",
    "「": "」",
}
_AROUND |= {'"': '"', "'": "'", "*": "*"}
_SEPARATORS = " \t\n\r\f\v\xa0-–—|:•·,;/~=→►▶>»…\u3000，、：；"
_SENTENCE = ".!?。！？"
_STOPS = ".!?。！？,;:)]}»”\"'，、：；）】」"
_readable = re.compile(r"[^\W_]").search


is_url = re.compile(r"\s*+https?://[a-zA-Z0-9_.~:/?#@!$&'*+,;=%-]++\s*+", re.ASCII).fullmatch


def remove_urls(text: str) -> str:
    """Remove URLs, see above."""
    if "](" in text or "[/" in text:
        text = _FORUM_TAG.sub(" ", _MARKDOWN_LINK.sub(r"\1", text))
    if "|" in text:
        text = _CHAT_LINK.sub(r"\1", text)
    parts: list[str] = []  # the text before, between and behind URLs
    at = 0
    from_here = 0
    while mark := _find_mark(text, from_here):
        from_here = mark.end()
        start = _start(text, mark.start(), at)
        if start < 0:
            continue
        end, stop = _end(text, start, mark.end())
        if mark["word"] and not _is_plain(text[start:end]):
            continue
        parts.append(text[at:start])
        at = end
        if at == stop and at < len(text) and (tail := _REST.match(text, at)):
            at = tail.end()
        from_here = max(at, from_here)
    if not parts:
        return text
    parts.append(text[at:])
    if len(parts) == 2 and not parts[0] and not parts[1]:
        return ""
    ends = True  # nothing more is said
    for number in range(len(parts) - 2, -1, -1):
        before, after = _unwrap(parts[number], parts[number + 1])
        following = after.lstrip()
        ends = ends and not _readable(after)
        if ends or not following or following[0] in _STOPS or following[0] in _SEPARATORS:
            before, after = _unwrap(strip_lead_in(before), after)
            if before[-2:-1].isspace() and before[-1] in _AROUND:  # a quote or bracket that nothing closes
                before = strip_lead_in(before[:-1])
        else:
            before = strip_preposition(before)
        parts[number : number + 2] = before, after
    return _join(parts)


def _start(text: str, mark: int, least: int) -> int:
    """Return where the URL begins of which a mark was found, -1 if it is none."""
    if text[mark] == ":":
        before = text[max(least, mark - 5) : mark].lower()
        return next((mark - len(scheme) for scheme in _SCHEMES if before.endswith(scheme)), -1)
    if mark - 3 >= least and text[mark - 3 : mark].lower() == "www":
        return mark - 3
    first = max(least, mark - _LONGEST_HOST)
    before = text[first:mark]
    host = before[len(before.rstrip(_HOST)) :].rpartition("..")[2]
    start = mark - len(host.lstrip(".-"))
    if start == mark or (start == first > least):
        return -1
    before = text[start - 1 : start] if start > least else ""
    return -1 if (before < "\u2e80" and before.isalnum()) or (before and before in "_@/$€£") else start


def _unwrap(before: str, after: str) -> tuple[str, str]:
    """Take away the brackets and quotes around a URL."""
    for _ in range(4):
        opening, closing = before.rstrip(), after.lstrip(" \t\n.,;:!?")
        if not (opening and closing and _AROUND.get(opening[-1]) == closing[0]):
            break
        before, after = opening[:-1], closing[1:]
    return before, after


def _join(parts: list[str]) -> str:
    said = parts[0].rstrip()
    pieces = [said]
    for part in parts[1:]:
        part = part.strip()
        if not said:
            part = part.lstrip(_SEPARATORS + _SENTENCE)
        else:
            part = part if _readable(part) else part.strip(_SEPARATORS)
            part = part.lstrip(_SENTENCE + " ") if said[-1] in _SENTENCE else part
        if part:
            pieces += ("" if not said or part[0] in _STOPS else " ", part)
            said = part
    return "".join(pieces)


def _end(text: str, start: int, body: int) -> tuple[int, int]:
    """Return where a URL ends, and where it would without the punctuation at its end.

    Args:
        text: The whole text.
        start: Where the URL begins.
        body: Where what may hold brackets begins.
    """
    opened: list[str] = []
    stop = body
    for match in _find_stop(text, body):
        stop = match.start()
        char = match[0]
        if char in ("(", "["):
            opened.append(char)
        elif opened and opened[-1] == _CLOSING.get(char):
            opened.pop()
        else:
            break
    return start + len(text[start:stop].rstrip(".,;:!?'*([")), stop


def _is_plain(url: str) -> bool:
    """Tell whether a domain that ends in a word is one: it has a host before its name, or a path that is no word.

    `shop.a.de/`, `a.de/b/c` and `a.it/?p=1` are, `this is.it/that`, `$5.us/uk` and `Love.It/Hate.It` are not.
    """
    return url.partition("/")[0].count(".") > 1 or _is_path(url) is not None
