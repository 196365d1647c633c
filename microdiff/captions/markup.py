"""Remove markup, and only markup: what stands between angle brackets in a caption is often words.

- A start tag is markup if its element is one of HTML's, each of its attributes has a value or is a boolean one of HTML,
  and the element is void, closed later, or one that pages leave open and nobody writes as a word (`b`, `p`, `div`).
  A void element whose name is a word (`<track>`, `<source>`) does nothing without attributes: then it is words.
- Elements of SVG are markup with attributes, those of other vocabularies (`o:p`) if they are closed.
- End tags of HTML elements, doctypes, processing instructions and conditional sections are markup.
- Comments, scripts and style sheets go with what they hold; one that never ends stays.
- Of `<![CDATA[...]]>` the text stays.
- A tag that the end of the caption cuts off goes whole.
- `<person>`, which stands for a name, becomes the word.

Elements that part words (`br`, `p`, `td`) leave a blank, others (`b`, `sub`) nothing. Everything takes linear time:
nothing in a pattern reaches beyond the next `<`.
"""

import re

_FLAGS = re.IGNORECASE | re.ASCII


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Left open on many pages, and no words, or words that nobody puts in angle brackets.
_LOOSE = _names(
    "b big blockquote center dd div dl dt em fieldset font h1 h2 h3 h4 h5 h6 i iframe li nobr ol p s small span strike "
    "strong sub sup tbody td tfoot th thead tr tt u ul"
)
_VOID = _names("area base col embed frame hr img input link meta param source track wbr br")
_VOID_ALONE = _names("br hr img wbr")  # the others do nothing without attributes
_CLOSED = _names(
    "a abbr acronym address applet article aside audio bdi bdo body button canvas caption cite code colgroup data "
    "datalist del details dfn dialog dir figcaption figure footer form frameset head header hgroup html ins kbd label "
    "legend main map mark marquee math menu meter nav noembed noframes noscript object optgroup option output picture "
    "pre progress q rp rt ruby samp script section select slot style summary svg table template textarea time title "
    "var "
    "video xmp"
)
_DRAWN = _names("circle defs ellipse g line lineargradient path polygon polyline rect stop tspan use")  # within svg
_ELEMENTS = _LOOSE | _VOID | _CLOSED | _DRAWN
_PARTING = _names(
    "address article aside blockquote body br button caption center dd div dl dt fieldset figcaption figure footer "
    "form "
    "frame h1 h2 h3 h4 h5 h6 head header hr html iframe img input legend li main nav ol optgroup option p pre section "
    "select table tbody td textarea tfoot th thead title tr ul video"
)
_BOOLEAN = (
    "(?:allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|formnovalidate|hidden|"
    "inert|ismap|itemscope|loop|multiple|muted|nohref|nomodule|noresize|noshade|novalidate|nowrap|open|playsinline|"
    "readonly|required|reversed|selected)(?![^\\s/>])"
)
_NAME = r"[a-z@:_][-\w:.@]*+"
_VALUE = r"""(?:""[^"<>]*+""|"[^"<]*+"|'[^'<]*+'|[^\s"'<>][^\s"'<>]*+|["'][^\s"'<>]*+(?=\s*+/?>))"""
_ATTRIBUTES = rf"(?>(?:\s*+(?:{_NAME}\s*+=\s*+{_VALUE}|(?<=\s){_BOOLEAN}))*)"
_ELEMENT = "[a-z][a-z0-9]*+(?::[a-z]++)?"
_TAG = re.compile(rf"<(?:/\s*+({_ELEMENT})\s*+|({_ELEMENT})((?=[\s/>]){_ATTRIBUTES})[\s/]*+)>", _FLAGS)
_END_TAG = re.compile(rf"</\s*+({_ELEMENT})", _FLAGS)
_DECLARATION = re.compile(r"<!doctype\b[^<>]*+>|<!\[\s*+(?:if|else|endif)\b[^<>]*+>|<\?(?:xml|php)\b[^<>]*+>", _FLAGS)
_CDATA = re.compile(r"<!\[CDATA\[", _FLAGS)
_CUT = re.compile(
    rf"<(?:/\s*+([a-z][a-z0-9]*+)?|([a-z][a-z0-9]*+)(?>(?:((?=\s){_ATTRIBUTES})\s*+({_NAME})?"
    r"""(\s*+=\s*+(?:"[^"<]*+|'[^'<]*+|[^\s"'<>]*+))?)?))[\s/]*+""",
    _FLAGS,
)
_CUT_ATTRIBUTES = _names("align alt border class data-src height href id onclick rel src style target title width")
_PERSON = re.compile("<person>", _FLAGS)
_COMMENT = (re.compile("<!(?=--)"), re.compile("--!?>"))  # `<!-->` is one
_find_hidden = re.compile("<s(?:cript|tyle)[\\s/>]", _FLAGS).search
_HIDDEN = tuple(
    (re.compile(rf"<{name}(?=[\s/>]){_ATTRIBUTES}\s*+>", _FLAGS), re.compile(rf"</{name}\s*+>", _FLAGS))
    for name in ("script", "style")
)


def remove_markup(text: str) -> str:
    """Remove markup, see above; other angle brackets stay, see `microdiff.captions.brackets`."""
    if "<" not in text:
        return text
    if "erson>" in text or "ERSON>" in text:
        text = _PERSON.sub("person", text)
    if "<!" in text or "<?" in text:
        text, sections = _CDATA.subn(" ", _remove_hidden(text, *_COMMENT))
        if sections:
            text = text.replace("]]>", " ")
        text = _DECLARATION.sub(" ", text)
    if _find_hidden(text):
        for pair in _HIDDEN:
            text = _remove_hidden(text, *pair)
    closed: dict[str, int] = {}  # where the last end tag of each name is, read when first asked for

    def is_closed(name: str, at: int) -> bool:
        if not closed:
            closed.update({"": 0}, **{match[1].lower(): match.start() for match in _END_TAG.finditer(text)})
        return closed.get(name, -1) > at

    def replace(match: re.Match[str]) -> str:
        end, start, attributes = match.groups()
        name = (end or start).lower()
        if end:
            is_markup = name in _ELEMENTS or ":" in name
        elif name in _LOOSE:
            is_markup = True
        elif name in _VOID or name in _DRAWN:
            is_markup = name in _VOID_ALONE or "=" in attributes
        elif name in _CLOSED or ":" in name:
            is_markup = (name == "a" and "=" in attributes) or is_closed(name, match.start())
        else:
            is_markup = False
        if not is_markup:
            return match[0]
        return " " if name in _PARTING else ""

    return _remove_cut(_TAG.sub(replace, text))


def _remove_hidden(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    pieces = []
    at = 0
    while (start := opening.search(text, at)) and (stop := closing.search(text, start.end())):
        pieces.append(text[at : start.start()])
        at = stop.end()
    return "".join(pieces) + text[at:] if at else text


def _remove_cut(text: str) -> str:
    """Remove a tag that the end of the text cuts off, and the one before it that then is at the end."""
    end = len(text)
    while (start := text.rfind("<", 0, end)) >= 0:
        match = _CUT.fullmatch(text, start, end)
        if match is None or not _is_cut(*match.groups()):
            break
        end = start
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _is_cut(end: str | None, start: str | None, attributes: str | None, last: str | None, value: str | None) -> bool:
    if start is None:  # `</` or `</b`
        return not end or any(name.startswith(end.lower()) for name in _ELEMENTS)
    name = start.lower()
    if name not in _ELEMENTS:
        return False
    if attributes or last:
        if (
            last
            and not value
            and not (len(last) > 1 and any(each.startswith(last.lower()) for each in _CUT_ATTRIBUTES))
        ):
            return False
        return bool(value or last) or "=" in (attributes or "")
    return len(name) > 1 and (name in _LOOSE or name in _VOID_ALONE)
