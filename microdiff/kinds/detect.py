"""What a source looks like: which kind it is of, where its captions are, and what cannot be decided."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from microdiff.errors import SourceError
from microdiff.formats.archives import read_tar
from microdiff.formats.members import PICTURE_EXTENSIONS, extension, is_document, is_litter
from microdiff.formats.text import BadTextError, parse_json
from microdiff.kinds.folder import NOT_DECODED
from microdiff.kinds.rows import read_rows
from microdiff.kinds.source import SUFFIXES, kind_of_name, split_source
from microdiff.kinds.tables import matching
from microdiff.storage import Source

_LOOKED_AT = 200_000  # names; a source of more is judged by these
_ROWS = 50
_MEMBERS = 300
_TRAIN = "train"
_SPLIT = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val|dev)(?:[^a-z]|$)")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_TEXTS = ("txt", "caption", "json")
# By likelihood, as people and the hub's datasets call them.
_CAPTIONS = (
    *("caption", "captions", "text", "prompt", "description", "short_caption", "long_caption", "sentence", "sentences"),
    *("alt_text", "alt", "title", "label"),
)
_IMAGES = (
    *("image", "jpg", "file_name", "filename", "image_path", "path", "file", "img", "image_url", "url", "picture"),
    *("webp", "png", "image_file", "image_name"),
)


class Doubt(NamedTuple):
    """What could not be decided, in words, and the most likely answers, as options of `stages.add`."""

    words: str
    answers: Sequence[str] = ()

    def is_answered(self, options: Collection[str]) -> bool:
        """Tell whether one of some options answers it."""
        return any(answer.split()[0].removeprefix("--") in options for answer in self.answers)


@dataclass
class Guess:
    """What a source is taken for.

    Attributes:
        kind: Its kind; None if that cannot be told.
        settings: Of its `download`, besides `source`.
        doubts: What could not be decided.
        seen: What was seen, in words.
    """

    kind: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    seen: str = ""

    def doubt(self, words: str, *answers: str) -> None:
        """Note what could not be decided."""
        self.doubts.append(Doubt(words, answers))


def detect(
    source: Source, root: str, given: str | None = None, metadata: str | None = None, files: str | None = None
) -> Guess:
    """Look at a source.

    Args:
        source: At the root that `split_source` gives.
        root: As the user has written it: a file's name or pattern says the kind.
        given: The kind that the user says it is.
        metadata: The tables that the user says have the captions of a folder.
        files: Which files the user says are meant.

    Raises:
        SourceError: It cannot be read.
    """
    guess = Guess(kind=given or kind_of_name(root))
    names: list[str] = []
    if guess.kind in (None, "folder"):
        names = [each.path for each in islice(source.all_files(), _LOOKED_AT) if not is_litter(each.path)]
        _decide(guess, names)
    if guess.kind == "folder":
        _captions_of_folder(guess, source, names, metadata)
    elif guess.kind is not None:
        pattern = files or split_source(root, guess.kind)[1]
        found = matching(source, pattern, SUFFIXES[guess.kind])
        if pattern is None:
            _splits(guess, found)
        if guess.kind == "webdataset":
            _captions_of_tars(guess, source, found[0])
        else:
            guess.seen = guess.seen or f"{len(found)} {guess.kind}"
            _choose(guess, _columns_of(source, found[0]))
    return guess


def _decide(guess: Guess, names: Sequence[str]) -> None:
    counts: Counter[str] = Counter()
    for name in names:
        last = extension(name).rpartition(".")[2]
        counts["pictures" if last in PICTURE_EXTENSIONS else kind_of_name(name) or last or "no extension"] += 1
    more = f" (of the first {_LOOKED_AT})" if len(names) == _LOOKED_AT else ""
    guess.seen = ", ".join(f"{number} {what}" for what, number in counts.most_common(6)) + more or "nothing"
    if guess.kind is not None:
        return
    tables = sorted((kind for kind in ("parquet", "jsonl", "csv") if counts[kind]), key=lambda kind: -counts[kind])
    metadata = any(name.rpartition("/")[2].lower() in _METADATA for name in names)
    if counts["pictures"] and counts["webdataset"]:
        words = "pictures and tars are in it: which are the dataset?"
        guess.doubt(words, "--kind folder", "--kind webdataset")
    elif counts["webdataset"]:  # beside tars, img2dataset writes parquet and JSON about them
        guess.kind = "webdataset"
    elif counts["pictures"] and (metadata or not tables):
        guess.kind = "folder"
    elif counts["pictures"] and _has_texts(names):
        words = f"texts beside the pictures, and tables ({tables[0]}): which has the captions?"
        guess.doubt(words, "--kind folder", f"--kind {tables[0]}")
    elif tables:
        guess.kind = tables[0]
        if len(tables) > 1:
            guess.kind = None
            words = "tables of several kinds are in it: which are the dataset?"
            guess.doubt(words, *(f"--kind {kind}" for kind in tables[:2]))
    else:
        if unread := sorted(NOT_DECODED & counts.keys()):
            guess.doubt(f"{', '.join(unread)} are not decoded: convert the pictures to JPEG")
        guess.doubt(f"no pictures, tars or tables in it, but {guess.seen}. Is it the right place?")


def _has_texts(names: Sequence[str]) -> bool:
    return any(number > 0 for number in _beside(names).values())


def _beside(names: Sequence[str]) -> Counter[str]:
    """Return how many pictures have a text of each extension beside them."""
    stems: dict[str, set[str]] = {}
    for name in names:
        stem, _, extension = name.rpartition(".")
        kind = "picture" if extension.lower() in PICTURE_EXTENSIONS else extension.lower()
        if kind in ("picture", *_TEXTS) and not is_document(name):
            stems.setdefault(kind, set()).add(stem)
    pictures = stems.get("picture", set())
    return Counter({kind: len(stems.get(kind, set()) & pictures) for kind in _TEXTS})


def _captions_of_folder(guess: Guess, source: Source, names: Sequence[str], metadata: str | None) -> None:
    beside = _beside(names)
    found = [kind for kind in _TEXTS if beside[kind]]
    tables = sorted({name.rpartition("/")[2] for name in names if name.rpartition("/")[2].lower() in _METADATA})
    if metadata is not None:
        tables, found = [name for name in tables if name == metadata], []
        if not tables:
            raise SourceError(f"{source.name}: has no {metadata}. Check --metadata.")
    if tables and not found:
        guess.settings["metadata"] = tables[0]
        if len(tables) > 1:
            guess.doubt(f"{' and '.join(tables)} are in it", *(f"--metadata {name}" for name in tables[:2]))
        of_that_name = [name for name in names if name.rpartition("/")[2] == tables[0]]
        table = min(of_that_name, key=lambda name: (len(name), name))
        _choose(guess, _columns_of(source, table))
        if guess.settings.get("image") == "file_name":
            del guess.settings["image"]
    elif tables and found:
        words = f"captions may be in {tables[0]}, or in the .{found[0]} files ({beside[found[0]]} fit)"
        guess.doubt(words, f"--metadata {tables[0]}", f"--caption {found[0]}")
    elif len(found) > 1 and "json" in found and "caption" not in found:
        guess.settings["caption"] = found[0]  # JSON beside texts says more of the picture
    elif len(found) > 1:
        best = sorted(found, key=lambda kind: -beside[kind])
        words = "captions may be in " + " or in ".join(f"the .{kind} files ({beside[kind]} fit)" for kind in best[:2])
        guess.doubt(words, *(f"--caption {kind}" for kind in best[:2]))
    elif found:
        guess.settings["caption"] = found[0]
    elif guess.kind == "folder":
        guess.doubt(f"no captions: no .txt, .caption or .json beside the pictures, no metadata.csv ({guess.seen})")


def _captions_of_tars(guess: Guess, source: Source, tar: str) -> None:
    """Look at the first members of the first tar: texts, or else a field of the JSON."""
    found: Counter[str] = Counter()
    fields: dict[str, None] = {}
    for member in islice(read_tar(source.fetch(source.stat(tar)), lambda name: not is_litter(name)), _MEMBERS):
        kind = extension(member.name)
        found[kind] += 1
        if kind == "json" and member.data is not None and not fields:
            with suppress(BadTextError):
                document = parse_json(member.data)
                fields = dict.fromkeys(document if isinstance(document, dict) else ())
    texts = [kind for kind in ("txt", "caption") if found[kind]]
    said = [f"json:{name}" for each in _CAPTIONS for name in fields if name.lower() == each]
    if texts:
        guess.settings["caption"] = texts[0]
    elif len(said) == 1:
        guess.settings["caption"] = said[0]
    else:
        members = ", ".join(f"{number} .{kind}" for kind, number in found.most_common(6))
        answers = said[:2] or [f"json:{name}" for name in list(fields)[:2]]
        words = f"which members of {tar} have the captions? The first ones are {members or 'none'}"
        guess.doubt(words, *(f"--caption {answer}" for answer in answers))


def _splits(guess: Guess, files: Sequence[str]) -> None:
    """Ask which files are meant where their names say that some are for tests."""
    found = Counter(match[1] for path in files if (match := _SPLIT.search(path.lower())))
    suffix = next(each for each in SUFFIXES[str(guess.kind)] if files[0].lower().endswith(each))
    if len({_TRAIN if name == _TRAIN else "other" for name in found}) > 1:
        words = "some files are for training, some for tests: " + ", ".join(f"{n} {name}" for name, n in found.items())
        guess.doubt(words, f"--files '**/*{_TRAIN}*{suffix}'", f"--files '**/*{suffix}'")


def _columns_of(source: Source, path: str) -> list[str]:
    """Return the columns of a table, or the fields of its first lines, in order."""
    file = source.stat(path)
    if path.lower().endswith(".parquet"):
        try:
            with source.open(file) as stream:
                return list(pq.read_schema(stream).names)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{source.name}/{path}: not a complete parquet file ({error})") from error
    names: dict[str, None] = {}
    for _, row in islice(read_rows(source.fetch(file), ()), _ROWS):
        names |= dict.fromkeys(row if isinstance(row, dict) else ())
    return list(names)


def _choose(guess: Guess, columns: Sequence[str]) -> None:
    """Choose the columns of captions and pictures by their names."""
    for setting, likely in (("image", _IMAGES), ("caption", _CAPTIONS)):
        found = [name for each in likely for name in columns if name.lower() == each]
        if found:
            guess.settings[setting] = found[0]
        if setting == "caption" and len(found) > 1:
            words = f"captions may be in the column {found[0]} or {found[1]}"
            guess.doubt(words, *(f"--caption {name}" for name in found[:2]))
        if not found:
            words = f"which column has the {setting}s? There are {', '.join(columns[:20]) or 'none'}"
            guess.doubt(words, *(f"--{setting} {name}" for name in columns[:2]))
