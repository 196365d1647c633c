"""Sources as people write them: a folder, or files in it by name or pattern."""

import re
from pathlib import Path

_HUB = re.compile(r"(hf://datasets/[^/]+/[^/]+)(?:/(.+))?")
_PATTERN = re.compile(r"[*?\[]")
SUFFIXES = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "folder": (),
}


def split_source(source: str, kind: str) -> tuple[str, str | None]:
    """Return the root of a source, and which files below it are meant: a path or pattern, or None for all.

    `/data/list.csv` is `list.csv` in `/data`, `hf://datasets/ORG/NAME@REVISION/data/*.parquet` is a pattern in a
    repository.
    """
    if kind == "folder" or ("://" not in source and Path(source).is_dir()):
        return source, None
    if hub := _HUB.fullmatch(source):
        return hub[1], (hub[2] or "").strip("/") or None
    scheme, mark, path = source.partition("://") if "://" in source else ("", "", source)
    found = _PATTERN.search(path)
    if found is None and not path.lower().endswith(SUFFIXES.get(kind, ())):
        return source, None
    cut = path.rfind("/", 0, found.start() if found else len(path))
    if cut < 0:
        return (source, None) if mark else (".", path)
    return f"{scheme}{mark}{path[:cut] or '/'}", path[cut + 1 :]


def kind_of_name(name: str) -> str | None:
    """Return the kind of source that a file's name speaks of."""
    for kind, suffixes in SUFFIXES.items():
        if suffixes and name.lower().endswith(suffixes):
            return kind
    return None
