"""Straighten quotes that a file format or a tokenizer has bent.

- A field of a CSV file, quoted and with its own quotes doubled, is unquoted: `"a ""red"" barn"`. What is doubled
  without that becomes one: `""hi""`.
- The Penn Treebank's quotes: ``` ``old mill'' ``` becomes `"old mill"`, and its brackets `-LRB-`, `-RRB-` are brackets
  again.
- A backtick between letters is an apostrophe: "I`m".

`7''` and `''Be our guest''` stay as they are.
"""

import re

_DOUBLED = re.compile('""++')
_QUOTED = re.compile('"(?>(?:[^"]|"")*)"')
_TREEBANK = re.compile(r"``\s*+([^`'\n]*+(?>(?:'(?!')[^`'\n]*+)*))''")
_OPENING = re.compile(r"``\s*+")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
_BRACKET = re.compile("-(LRB|RRB|LSB|RSB|LCB|RCB)-", re.IGNORECASE)
_BRACKETS = {"LRB": "(", "RRB": ")", "LSB": "[", "RSB": "]", "LCB": "{", "RCB": "}"}


def unquote_csv(text: str) -> str:
    """Undo what quoting in a CSV file has done."""
    text = text.strip()
    if _QUOTED.fullmatch(text) and len(text) > 2:
        text = text[1:-1]
    elif text.startswith('"') and text.count('"') % 2:  # cut off, or with something behind it
        text = text[1:]
    return _DOUBLED.sub('"', text)


def undo_treebank(text: str) -> str:
    """Undo the Penn Treebank's quotes and brackets."""
    if "`" in text:
        text = _TREEBANK.sub(lambda match: f'"{match[1].strip()}"', text)
        text = _APOSTROPHE.sub("'", _OPENING.sub('"', text))
    return _BRACKET.sub(lambda match: _BRACKETS[match[1].upper()], text)
