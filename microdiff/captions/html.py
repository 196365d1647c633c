"""Read the text out of a caption that holds HTML, exactly as html.parser and Beautiful Soup do.

Gives what `BeautifulSoup(markup, "html.parser").text` gives with beautifulsoup4 4.12 to 4.15 on CPython 3.11.7, 3.12.1
and 3.13.0, in time proportional to the length of the markup and without building a tree. The standard library's parser
has changed its mind about broken markup in later patch releases; this one does not, so captions stay the same.

What is odd is odd there too: an unknown `&name;` loses its semicolon, a lone `&x` at the end loses the `&`, the second
malformed `&#` turns everything after it into plain text, a chunk of blanks between two tags becomes one blank, the
words in script, style, template and ruby annotations vanish, and tags leave nothing between the words they part.

Markup the original refuses (`<![` before anything but a known keyword) loses those three characters and is read on;
numeric references of more than 4,300 digits, on which it raises, stand for the number they spell.
"""

import re

from microdiff.captions.elements import OpenElements
from microdiff.captions.entities import ENTITIES, character

# Elements without contents: their start tag closes them.
_VOID = frozenset(
    re.findall(
        r"\w+",
        "area base basefont bgsound br col command embed frame hr image img input isindex keygen link menuitem meta "
        "nextid param source spacer track wbr",
    )
)
_RAW = frozenset(["script", "style"])  # only their own end tag is markup inside

_DATA_END = re.compile(r"[&<]")
_NAME = re.compile(r"[a-zA-Z][^\t\n\r\f />\x00]*+")
_BLANKS_AND_SLASHES = re.compile(r"[\s/]*+")
_BLANKS = re.compile(r"\s*+")
# One attribute. A quote that is never closed makes the value end where the quote begins, or swallows an equals sign;
# the groups that are not possessive leave room for that.
_ATTRIBUTE = re.compile(
    r"(?<=['\"\s/])[^\s/>][^\s/=>]*+"
    r"(?:\s*+=+\s*(?:'[^']*+'|\"[^\"]*+\"|(?!['\"])[^>\s]*+)\s*+)?"
    r"(?:[\s/]*(?=/>)|[\s/]*+)"
)
_END_TAG = re.compile(r"</\s*+([a-zA-Z][-.a-zA-Z0-9:_]*+)\s*+>")
_NUMERIC = re.compile(r"&#(?:([0-9]++)|[xX]([0-9a-fA-F]++))[^0-9a-fA-F]")
_NAMED = re.compile(r"&([a-zA-Z][-.a-zA-Z0-9]*)[^a-zA-Z0-9]")
_KEYWORD = re.compile(r"[a-zA-Z][-_.a-zA-Z0-9]*+\s*+")
_COMMENT_CLOSE = re.compile(r"--\s*+>")
_SECTION_CLOSE = {
    **dict.fromkeys(["temp", "cdata", "ignore", "include", "rcdata"], re.compile(r"]\s*+]\s*+>")),
    **dict.fromkeys(["if", "else", "endif"], re.compile(r"]\s*+>")),
}
_RAW_CLOSE = {name: re.compile(rf"</\s*+{name}\s*+>", re.IGNORECASE) for name in _RAW}


class _Reader:
    """Walks over the markup once, remembering every search that failed so that none is repeated."""

    def __init__(self, markup: str) -> None:
        self.markup = markup
        self.text = OpenElements()
        self.raw: str | None = None  # the script or style element whose end is awaited
        self.missing: dict[re.Pattern[str], int] = {}  # it does not match from here on
        self.nearest: dict[str, tuple[int, int]] = {}  # where it was looked for last, and found
        self.dead: set[tuple[bool, int]] = set()  # places inside a tag from which no tag is completed
        self.name_span = (0, 0)

    def find(self, what: str, start: int) -> int:
        """Like `str.find`, but no place is looked at twice for the same character."""
        size = len(self.markup)
        first, found = self.nearest.get(what, (0, -1))
        if not first <= start <= found:
            found = self.markup.find(what, start)
            if found < 0:
                found = size
            self.nearest[what] = (start, found)
        return found if found < size else -1

    def search(self, pattern: re.Pattern[str], start: int) -> re.Match[str] | None:
        """Like `Pattern.search`, but what was missed once is not looked for again further on."""
        if start >= self.missing.get(pattern, len(self.markup) + 1):
            return None
        match = pattern.search(self.markup, start)
        if match is None:
            self.missing[pattern] = start
        return match

    def read(self) -> str:
        """Read all of it."""
        markup, text = self.markup, self.text
        size = len(markup)
        at = 0
        # The original reads what it can, then reads the rest knowing that nothing follows.
        final = False
        while at < size:
            match = self.search(_RAW_CLOSE[self.raw] if self.raw else _DATA_END, at)
            if match is None and self.raw:
                return self.finish()  # a script that never ends takes the rest with it
            stop = match.start() if match else size
            if at < stop:
                text.pending.append(markup[at:stop])
                at = stop
            if at == size:
                break
            if markup[at] == "<":
                after = self.markup_at(at)
                if after == at:  # a lone "<" as the last character
                    break
                if after < 0:
                    final = True
                    after = self.find(">", at + 1) + 1
                    if after <= 0:
                        after = self.find("<", at + 1)
                        if after < 0:
                            after = at + 1
                    text.pending.append(markup[at:after])
                at = after
                continue
            after = self.numeric_at(at) if markup.startswith("&#", at) else self.named_at(at)
            if after >= 0:
                at = after
                continue
            if markup.startswith("&#", at):
                if self.find(";", at) >= 0:
                    text.pending.append("&#")
                    at += 2
            elif final and size - at == 2:
                at += 1  # "&x" ends the markup: the "&" is lost
            if final:
                break
            final = True
        if at < size:
            text.pending.append(markup[at:])
        return self.finish()

    def finish(self) -> str:
        """Return the text."""
        self.text.flush()
        return "".join(self.text.pieces)

    def numeric_at(self, at: int) -> int:
        """Take a numeric reference; return where it ends, or -1."""
        match = _NUMERIC.match(self.markup, at)
        if match is None:
            return -1
        decimal, hexadecimal = match.groups()
        self.text.pending.append(character(decimal, 10) if decimal else character(hexadecimal, 16))
        return match.end() - (self.markup[match.end() - 1] != ";")

    def named_at(self, at: int) -> int:
        """Take a named reference, or an "&" that begins none; return where it ends, or -1."""
        markup = self.markup
        match = _NAMED.match(markup, at)
        if match is not None:
            self.text.pending.append(ENTITIES.get(match[1]) or "&" + match[1])
            return match.end() - (markup[match.end() - 1] != ";")
        following = markup[at + 1 : at + 2]
        if not following or (following.isascii() and following.isalpha()):
            return -1
        self.text.pending.append("&")
        return at + 1

    def markup_at(self, at: int) -> int:
        """Take what begins with "<"; return where it ends, -1 if it does not, `at` if it cannot be told."""
        markup = self.markup
        kind = markup[at + 1 : at + 2]
        if not kind:
            return at
        if kind.isascii() and kind.isalpha():
            return self.start_tag(at)
        if kind == "/":
            return self.end_tag(at)
        if kind == "?":
            return self.aside(at + 2, self.find(">", at + 2))
        if kind != "!":
            self.text.pending.append("<")
            return at + 1
        if markup.startswith("<!--", at):
            close = self.search(_COMMENT_CLOSE, at + 4)
            return self.aside(at + 4, close.start(), close.end()) if close else -1
        if markup.startswith("<![", at):
            return self.section(at)
        if markup[at : at + 9].lower() == "<!doctype":
            return self.aside(at + 2, self.find(">", at + 9))
        return self.aside(at + 2, self.find(">", at + 2))

    def aside(self, start: int, stop: int, after: int = 0) -> int:
        """Take a comment or the like whose text ends at `stop`."""
        if stop < 0:
            return -1
        self.text.aside(self.markup[start:stop])
        return after or stop + 1

    def section(self, at: int) -> int:
        """Take a marked section, `<![keyword ...]]>` or `<![if ...]>`."""
        keyword = _KEYWORD.match(self.markup, at + 3)
        if at + 3 == len(self.markup) or (keyword and keyword.end() == len(self.markup)):
            return -1
        pattern = _SECTION_CLOSE.get(keyword[0].strip().lower()) if keyword else None
        if pattern is None:
            return at + 3  # refused by the original
        close = self.search(pattern, at + 3)
        if close is None:
            return -1
        content = self.markup[at + 3 : close.start()]
        if content[:6].upper() == "CDATA[":
            self.text.aside(content[6:], visible=True)
        else:
            self.text.aside(content)
        return close.end()

    def end_tag(self, at: int) -> int:
        """Take an end tag."""
        markup = self.markup
        close = self.find(">", at + 1)
        if close < 0:
            return -1
        match = _END_TAG.match(markup, at)
        if match is not None:
            self.text.end_tag(match[1].lower())
            self.raw = None
        elif self.raw is not None:
            self.text.pending.append(markup[at : close + 1])
        else:
            name = _NAME.match(markup, at + 2)
            if name is not None:
                self.text.end_tag(name[0].lower())
            elif close > at + 2:
                self.text.aside(markup[at + 2 : close])
        return close + 1

    def start_tag(self, at: int) -> int:
        """Take a start tag."""
        markup = self.markup
        first, last = self.name_span
        if not first <= at + 1 < last:  # a name inside a name ends where that one does
            first = at + 1
            last = _NAME.match(markup, first).end()  # type: ignore[union-attr]  # a letter is there
            self.name_span = (first, last)
        end, empty = self.attributes(last)
        if end < 0:
            return -1
        if end == last:
            self.text.pending.append(markup[at:end])  # the name runs into a NUL: text after all
            return end
        name = markup[at + 1 : last].lower()
        self.text.start(name)
        if empty:
            self.text.end(name)
        elif name in _VOID:
            self.text.end(name)
            self.text.closed[name] = self.text.closed.get(name, 0) + 1
        elif name in _RAW:
            self.raw = name
        return end

    def attributes(self, at: int) -> tuple[int, bool]:
        """Skip the attributes of a tag.

        What follows depends on the place alone, so places that led nowhere are remembered: without that, a row of
        unfinished tags would be read anew from each of them.

        Args:
            at: Where the name of the tag ends.

        Returns:
            Where the tag ends (-1 if it does not) and whether it closes itself.
        """
        markup = self.markup
        if self.find(">", at) < 0:
            cut = markup[at : at + 1] == "\x00" and not (markup[at - 1] in "'\"" or markup[at - 1].isspace())
            return (at if cut else -1), False
        passed = [(False, at)]
        if passed[0] in self.dead:
            return -1, False
        here = _BLANKS_AND_SLASHES.match(markup, at).end()  # type: ignore[union-attr]  # matches the empty string
        empty = here > at and markup[here - 1] == "/"
        while True:
            place = (True, here)
            if place in self.dead:
                self.dead.update(passed)
                return -1, False
            passed.append(place)
            match = _ATTRIBUTE.match(markup, here)
            if match is None:
                break
            here = match.end()
            empty = False
        here = _BLANKS.match(markup, here).end()  # type: ignore[union-attr]  # matches the empty string
        following = markup[here : here + 1]
        if following == ">":
            return here + 1, empty
        if following == "/" and markup.startswith("/>", here):
            return here + 2, True
        if not following or following in "/=" or (following.isascii() and following.isalpha()):
            self.dead.update(passed)
            return -1, False
        return here, False


def read_html(markup: str) -> str:
    """Return the text in a caption that may hold HTML."""
    return _Reader(markup).read()
