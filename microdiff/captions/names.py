"""Captions that say nothing but where a file, a site or a person is.

- A caption of file names, bare domains and e-mail addresses alone has no words: it becomes empty.
- The name of a file on a wiki is its title: `File:Red_barn.jpg` becomes `Red barn`. So does a name with blanks: `Red
  barn.jpg`. If the title is the number that a camera gave (`IMG 1234`), there are no words either.

Names within a caption stay.
"""

import re

_PICTURE = "(?:jpe?g|jpe|jfif|png|gif|webp|tiff?|bmp|svg|heic|avif|psd|eps|raw|cr2|nef|dng)"
_EXTENSION = (
    f"(?:{_PICTURE}|pdf|ai|mp4|mov|avi|webm|mkv|mp3|wav|zip|rar|docx?|xlsx?|pptx?|txt|html?|php|aspx?|jsp|csv|json)"
)
_TOP = (
    "(?:com|org|net|edu|gov|mil|int|info|biz|name|io|co|eu|us|uk|ca|au|de|fr|it|es|nl|ru|jp|cn|br|mx|ar|cl|pl|cz|sk|hu|ro|bg"
    "|gr|tr|se|no|dk|fi|ch|at|be|pt|ie|in|kr|tw|hk|sg|my|th|vn|id|ph|nz|za|il|ae|ir|ua|tv|me|cc|fm|ly|gl|app|dev|shop|store"
    "|online|site|website|blog|xyz|photography)"
)
# `Love.It` is no domain.
_NAMES = re.compile(
    r"(?>(?:\W*+(?:"
    rf"(?:mailto:)?[\w.+-]++@(?:[\w-]++\.)+[a-z]{{2,}}+(?![\w@])"  # an e-mail address
    rf"|[\w/\\:~@%+=,.()\[\]&#'!$-]*?\.{_EXTENSION}(?:\?[^\s]*+)?(?![\w@%-]|\.\w)"  # a file, with its path
    rf"|(?>(?:[a-z0-9-]++\.)+)(?-i:(?=[a-z]++(?![A-Z])|[A-Z]++(?![a-z]))){_TOP}/?(?![\w.@-])"  # a domain
    r"))+)\W*+",
    re.IGNORECASE,
)
_WIKI = re.compile(
    "(?:File|Image|Datei|Bild|Fichier|Archivo|Ficheiro|Arquivo|Bestand|Plik|Fil|Tiedosto|Soubor|Файл|Изображение|文件|ファイル"
    r"|파일|קובץ|ملف)\s*+:\s*+(?=\S)",
    re.IGNORECASE,
)
_is_picture = re.compile(_PICTURE, re.IGNORECASE).fullmatch
_CAMERA = re.compile(
    r"[\W_]*+(?:(?:img|image|dscn?|dscf|dsc|pict?|p|photo|picture|pano|mvi|gopr|dji|pxl|screenshot|screen "
    r"?shot|scan|untitled|slide|"
    r"thumbnail)(?![a-z]))?[\W\d_]*+",
    re.IGNORECASE,
)


def drop_names(text: str) -> str:
    """Return the caption without what makes it the name of a file, empty if it is nothing but names."""
    if "." not in text:
        return text
    title = " ".join(text.split())
    stem = _without_extensions(title)
    if stem != title and (wiki := _WIKI.match(stem)):
        text = stem[wiki.end() :].replace("_", " ")
    elif _NAMES.fullmatch(title):
        return ""
    elif stem != title and _ends_plainly(stem):
        text = stem
    else:
        return text
    return "" if _CAMERA.fullmatch(text) or _NAMES.fullmatch(text) else text


def _without_extensions(title: str) -> str:
    end = len(title)
    while (dot := title.rfind(".", max(0, end - 6), end)) > 0 and _is_picture(title, dot + 1, end):
        if title[dot - 1].isspace():
            break
        end = dot
    return title[:end]


def _ends_plainly(title: str) -> bool:
    """Tell whether the last word goes with those before it, and is no file's name of its own (`a dog | dog.jpg`)."""
    said, _, last = title.rpartition(" ")
    said, last = said.rstrip(), last.strip("()")
    if not said or not last.isalnum():
        return False
    return said[-1].isalnum() or said[-1] in ")]'\"!?.," or (said[-1] in "-–" and last.isalpha())
