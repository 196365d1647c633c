"""What leads to a URL and says nothing without it: `Full review at`, `Source:`, `from`.

A word that might belong to the sentence stays, as a preposition too many costs little and a noun too few costs what
the picture shows. So these go, and only from the end of what stands in front of a URL:

- prepositions and conjunctions, see `microdiff.captions.languages`;
- labels with a colon behind them and a separator or nothing in front: `A barn, source:`, `Photo credit:`;
- invitations that are phrases, behind a separator or with a capital: `Read more`, `For more information visit our
  website`. Those that could be a title (`Full story`, `Follow me`) need a preposition or a colon behind them.
"""

import re

from microdiff.captions.languages import without_preposition

_TAIL = 120  # characters in which a lead-in is looked for
_SEPARATORS = " \t\n\r\xa0-–—|:•·,;/~=→►▶>»…、，：；"
_PARTS = ".!?…:;,|•()–—*\n，。：；、"  # behind these something new begins, and behind a hyphen after a blank

_LABELS = (
    "(?:(?:photo|image|picture|video|art|media|original|recipe|news)\\s+)?(?:sources?|credits?|courtesy|links?)"
    "|(?:photo|image|picture|pic|foto)s?|urls?|web\\s?sites?|home\\s?page|(?:more\\s+)?(?:info|information|details)|more|via|e-?mail"
    "|quelle|bildquelle|webseite|lien|site web|fuente|enlace|fonte|sito|bron|website|källa|kilde|lähde|źródło|zdroj"
    "|nguồn|sumber|kaynak|источник|сайт|ссылка"
)
_OTHER_SCRIPTS = "المصدر|منبع|מקור|출처|来源|來源|出处|出處|网址|链接|详情|出典|источник"
_OUR = (
    "(?:(?:our|the|my|their)\\s+(?:official\\s+)?(?:web\\s?site|site|web\\s?page|page|home\\s?page|blog|(?:online\\s+)?(?:shop|store)"
    "|link(?:\\s+below)?)|us|here)"
)
_INFO = "(?:info|information|details?)"
_WORK = f"(?:review|article|recipe|post|tutorial|interview|report|{_INFO})"
_FULL = f"(?:(?:full|complete|entire|original)\\s+{_WORK}|full\\s+story)"
_WHERE = f"(?:\\s+(?:(?:on|at|in)\\s+)?{_OUR}|\\s+(?:online|now|today))?"
_FIND = (
    "(?:(?:please|to)\\s+)?"
    "(?:read|see|view|find(?:\\s+out)?|get|learn|discover|(?:(?:click|visit)\\s+)?for|check\\s+out)"
)
# Nobody's title: wherever a new part or a capital begins.
_PHRASES = (
    f"{_FIND}\\s+(?:(?:(?:the|our|my)\\s+)?{_FULL}|(?:some\\s+)?more\\s+{_INFO}){_WHERE}(?:,?\\s+(?:please\\s+)?(?:visit|see|click|check|contact|go\\s+to)"
    f"(?:\\s+{_OUR})?)?"
    f"|read\\s+more(?:\\s+about\\s+(?:this|it))?{_WHERE}|(?:find\\s+out|learn)\\s+more(?:\\s+about\\s+(?:this|it|us))?\\s+"
    f"(?:(?:on|at)\\s+)?{_OUR}"
    f"|more\\s+{_INFO}{_WHERE}|(?:please\\s+)?visit\\s+{_OUR}|click\\s+(?:here|on\\s+the\\s+link|the\\s+link)"
    "|(?:mehr|weitere)\\s+(?:infos?|informationen|details|dazu|lesen)|plus\\s+d['’]info(?:s|rmations?)?|en\\s+savoir\\s+plus|lire\\s+la\\s+suite"
    "|(?:más|mas)\\s+(?:info|información|informacion|detalles)|(?:leer|lea|lee|saber)\\s+más|besuchen\\s+sie\\s+(?:uns|unsere\\s+webseite)"
    "|(?:maggiori|più|ulteriori)\\s+info(?:rmazioni)?|(?:leggi|scopri)\\s+(?:di\\s+più|tutto)|mais\\s+info(?:rmações)?"
    "|(?:saiba|leia|veja)\\s+mais|meer\\s+info(?:rmatie)?|lees\\s+(?:meer|verder)|więcej\\s+informacji|czytaj\\s+więcej|подробнее"
    "|читать\\s+далее|kjøp\\s+nå|köp\\s+nu|koop\\s+nu"
)
# These are, but not with a preposition or a colon behind them.
_LED_PHRASES = f"{_FULL}{_WHERE}|more\\s+(?:photos|pictures|images)"
# Only as a part of its own.
_PARTS_ALONE = (
    "(?:shop|buy|order|download|read|watch|listen|book|get)\\s+(?:(?:it|them|yours|this)\\s+)?(?:here|now|online)"
    "|(?:see|view|find|get|learn|discover|find\\s+out)\\s+more"
)
_LED_PARTS = (
    "(?:follow|like|join|find)\\s+(?:us|me)|check\\s+(?:it|us|them)\\s+out|(?:now\\s+)?available(?:\\s+(?:now|here|online|today))?"
    "|more|order|buy|get\\s+(?:it|yours)|(?:photo|image|picture|pic|foto)s?(?:\\s+(?:courtesy|credit))?|courtesy"
)
_FLAGS = re.IGNORECASE
_is_phrase = re.compile(_PHRASES, _FLAGS).fullmatch
_is_led_phrase = re.compile(f"{_PHRASES}|{_LED_PHRASES}", _FLAGS).fullmatch
_is_part = re.compile(f"{_PHRASES}|{_PARTS_ALONE}", _FLAGS).fullmatch
_is_led_part = re.compile(f"{_PHRASES}|{_LED_PHRASES}|{_PARTS_ALONE}|{_LED_PARTS}", _FLAGS).fullmatch
_is_label = re.compile(_LABELS, _FLAGS).fullmatch
_find_starts = re.compile(rf"(?:\A|(?<=[{_PARTS}])|(?<=\s-\s)|(?<=\s)(?=[^\W\d_a-z]))\s*(?=\w)").finditer
_find_foreign_label = re.compile(rf"(?:\A|(?<=[\s{_PARTS}]))(?:{_OTHER_SCRIPTS})\Z").search
# Behind a blank, as `见` ends words like `意见` too; the longer ones wherever they stand.
_find_ideographs = re.compile(
    rf"(?:(?:\A|(?<=[\s{_PARTS}]))(?:见|見|在|从|從|更多|访问|参照|转自|詳細は?|続きは|より)|来自|來自|摘自|参见|请看|请访问)\Z"
).search


def strip_preposition(text: str) -> str:
    """Take a preposition from the end."""
    stripped = text.rstrip()
    without = without_preposition(stripped)
    return without if without != stripped else text


def strip_lead_in(text: str) -> str:
    """Take prepositions, labels, invitations and separators from the end while there are any."""
    start = max(0, len(text) - _TAIL)
    if start:
        start = text.find(" ", start) + 1 or start
    head, tail = text[:start], text[start:]
    led = False  # a colon or a preposition says that what stands before it leads on
    while True:
        stripped = tail.rstrip(_SEPARATORS)
        between = tail[len(stripped) :].strip()
        colon = between[:1] in (":", "：") and bool(between)
        without = _without(stripped, between, colon=colon, led=led or colon)
        if without is None:
            return (head + stripped).rstrip(_SEPARATORS)
        led = True
        tail = without


def _without(text: str, between: str, *, colon: bool, led: bool) -> str | None:
    """Return a text without what leads on at its end, None if there is nothing.

    Args:
        text: What stands in front of the separators.
        between: The separators, without blanks.
        colon: Whether they begin with a colon.
        led: Whether what follows shows that something leads on to it.
    """
    if not between or colon:
        without = without_preposition(text)
        if without != text:
            return without
        if not text.isascii() and (match := _find_ideographs(text)):
            return text[: match.start()]
    if colon and not text.isascii() and (match := _find_foreign_label(text)):
        return text[: match.start()]
    for match in _find_starts(text):
        phrase = text[match.end() :]
        if _begins_part(text[: match.end()]):
            found = (_is_led_part if led else _is_part)(phrase) or (colon and _is_label(phrase))
        else:
            found = (_is_led_phrase if led else _is_phrase)(phrase)
        if found:
            return text[: match.end()]
    return None


def _begins_part(before: str) -> bool:
    before = before.rstrip()
    return not before or before[-1] in _PARTS or before.endswith(" -") or before == "-"
