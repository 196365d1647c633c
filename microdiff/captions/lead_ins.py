"""Words that lead to a URL and say nothing without it: `Full review at`, `Source:`, `from`.

English, German, French, Spanish, Italian, Portuguese, Dutch, the Scandinavian languages, Polish, Russian, Chinese and
Japanese. Prepositions always go, as what they lead to is gone. Invitations and labels go if nothing follows and they
stand alone or begin with a capital: the words of the sentence before them stay.
"""

import re

_TAIL = 120  # characters in which a lead-in is looked for

_PREPOSITIONS = (
    "at from via on by in of to with through under "
    "von vom bei auf unter aus mit über zu zum "
    "sur de du chez par dans en avec à "
    "desde por con "
    "su da dal di con tramite "
    "em na pela pelo "
    "op van bij met naar "
    "på från fra hos av til till "
    "ze od przez "
    "на с из от по в"
)
_CONJUNCTIONS = "and or like & see visit for und oder siehe et ou voir y vedi veja en zie och og se zobacz и или см"
_LABELS = (
    "(?:photos?|images?|pictures?|pics?|art|more|media|original|video|recipe|news)?\\s*(?:sources?|credits?|courtesy|links?|urls?|"
    "web\\s?sites?|web|sites?|home\\s?page|blog|info|details|online|shop|store|order|contact|e-?mail|via|photo|image|video|read|"
    "follow|instagram|facebook|twitter|youtube|etsy|pinterest|download|tickets|here|see)"
    "|quelle|bildquelle|fotos?|webseite|lien|site "
    "web|fuente|enlace|web|fonte|sito|bron|website|källa|kilde|lähde|źródło|zdroj|nguồn|sumber|المصدر|منبع|מקור"
    "|источник|сайт|ссылка|kaynak"
)
_THING = (
    "(?:info(?:rmation)?s?|details?|story|stories|article|review|recipes?|post|tutorial|interview|report|photos?|pictures?|images?"
    "|gallery|set|list|collection|version|size|video|here|online|now|today|us|it|them|out|website|web\\s?site|site|page|blog|shop|"
    "store|link|about|visit|see|check|this|the|our|my|me|your|full|more|rest|complete|entire|whole|original|all|on|of|at|to|for|and|or)"
)
_INVITATIONS = (
    "(?:please\\s+|you can\\s+|to\\s+|just\\s+|also\\s+|for\\s+)*"
    f"(?:(?:read|see|view|visit|click|check|find|learn|discover|follow|get|buy|shop|order|download|watch|listen|book|join|like)"
    f"(?:\\s+{_THING})*|(?:full|more|complete)(?:\\s+{_THING})+|(?:is\\s+|are\\s+|now\\s+|also\\s+)*available(?:\\s+(?:now|here|online"
    "|today))*)"
    "|(?:mehr|weitere)(?:\\s+(?:infos?|informationen|details|dazu|lesen|bilder))?"
    "|(?:plus d['’]infos?(?:rmations)?|en savoir plus|lire la suite|voir plus)"
    "|(?:más|mas) (?:info|información|informacion|detalles|fotos)|(?:leer|lea|lee|ver|vea|saber) "
    "más|visit[ae]|visitez|besuchen sie|смотрите|читайте|kjøp nå|köp nu|koop nu"
    "|(?:maggiori|più|ulteriori) info(?:rmazioni)?|(?:leggi|scopri) (?:di più|tutto)"
    "|mais info(?:rmações)?|(?:saiba|leia|veja) mais"
    "|meer info(?:rmatie)?|lees (?:meer|verder)"
    "|więcej(?: informacji)?|czytaj więcej"
    "|подробнее|читать далее"
)


_LEADING = frozenset(f"{_PREPOSITIONS} {_CONJUNCTIONS}".split())
_PREPOSITION_WORDS = frozenset(_PREPOSITIONS.split())
_BEFORE = " \t\n\r,;.([|/-"
# With these words ends what is looked for as a whole.
_LAST_WORDS = (
    "info infos information informations informationen informação informações informazioni informatie "
    "informacji información informacion details detail story stories article review recipe recipes post "
    "tutorial interview report photo photos picture pictures image images gallery set list collection version "
    "size video here online now today us it them out website site page blog shop store link links about visit "
    "see check this the our my me your full more rest complete entire whole original all and or read view click "
    "find learn discover follow get buy order download watch listen book join like available mehr weitere dazu "
    "lesen bilder plus savoir suite más mas detalles fotos più tutto mais meer verder visita visite visitez sie "
    "смотрите читайте nå nu więcej подробнее далее "
    "source sources credit credits courtesy url urls web homepage contact mail email via instagram facebook "
    "twitter youtube etsy pinterest tickets quelle bildquelle foto webseite lien fuente enlace fonte sito bron "
    "källa kilde lähde źródło zdroj nguồn sumber المصدر منبع מקור источник сайт ссылка kaynak pic pics art media news"
)
_LAST = frozenset(_LAST_WORDS.split())
_last_word = re.compile(r"(?:[^\W\d_]+|&)\Z").search
_LONGEST_WORD = 20
_strip_label = re.compile(rf"(?:(?<=[\s,;.(\[|/-])|\A)(?:{_LABELS})\s*:?\Z", re.IGNORECASE).search
_strip_ideographs = re.compile(
    r"(?:来自|来源|來源|出处|出處|参见|请看|访问|摘自|见|在|从|更多|详情|网址|链接|请访问|出典|詳細(?:は)?|続きは|参照|转自|출처|より)\Z"
).search
_INVITATION = re.compile(rf"(?:{_INVITATIONS})\Z", re.IGNORECASE)
_invitation_begins = re.compile(r"(?:\A|(?<=[.!?…:;,|•()\-–—/*\n])\s*|(?<=\s)(?=[A-ZА-Я]))(?=\w)").finditer
_BOUNDARIES = ".!?…:;,|•()-–—/*\n"
_SEPARATORS = " \t\n\r-–—|:•·,;/~=→►▶>»…、，：；"


def strip_preposition(text: str) -> str:
    """Take a preposition from the end."""
    stripped = text.rstrip()
    match = _word(stripped)
    return stripped[: match.start()] if match and match[0].lower() in _PREPOSITION_WORDS else text


def _word(text: str) -> re.Match[str] | None:
    """Return the last word, if it stands behind a blank or the like."""
    match = _last_word(text, max(0, len(text) - _LONGEST_WORD))
    return match if match and (match.start() == 0 or text[match.start() - 1] in _BEFORE) else None


def strip_lead_in(text: str) -> str:
    """Take prepositions, conjunctions, labels, invitations and separators from the end while there are any."""
    start = max(0, len(text) - _TAIL)
    if start:
        start = text.find(" ", start) + 1 or start
    head, tail = text[:start], text[start:]
    led = False  # a colon or a preposition says that what stands before it leads on
    while True:
        stripped = tail.rstrip(_SEPARATORS)
        led = led or ":" in tail[len(stripped) :]
        tail = stripped
        word = _word(tail)
        said = word[0].lower() if word else ""
        if word and said in ("see", "visit") and tail[: word.start()].lower().endswith(" to "):
            return (head + tail).rstrip(_SEPARATORS)  # places to see
        if said in _LEADING or (not tail.isascii() and (word := _strip_ideographs(tail))):
            led = True
        elif said not in _LAST or not (word := (led and _label(tail)) or _invitation(tail)):
            return (head + tail).rstrip(_SEPARATORS)
        tail = tail[: word.start()]  # type: ignore[union-attr]  # one of the two was found


def _label(text: str) -> re.Match[str] | None:
    match = _strip_label(text)
    if match is None:
        return None
    before = text[: match.start()].rstrip(" ")
    return match if not before or before[-1] in _BOUNDARIES or not match[0][0].islower() else None


def _invitation(text: str) -> re.Match[str] | None:
    for begin in _invitation_begins(text):
        match = _INVITATION.match(text, begin.end())
        if match is None:
            continue
        before = text[: match.start()].rstrip(" \n")
        if not before or before[-1] in _BOUNDARIES or " " in match[0]:
            return match
    return None
