"""What DVC tracks, as its own files say it: dvc.lock and `*.dvc`, read without DVC."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

LOCK = "dvc.lock"
_SCHEMA = "2.0"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


@dataclass(frozen=True)
class DvcOutput:
    """A file or folder that DVC tracks.

    Attributes:
        path: Relative to the project's folder.
        md5: Its digest, that of a folder being the name of its dir object, `<md5>.dir`; None where DVC has none.
        hash_name: `md5`, as DVC 3 says; None in the files of earlier versions.
        remote: Name of the remote that it is kept on, None for the default one.
        imported: Where it was imported from, as a `dvc://` URL; None where it was not.
    """

    path: str
    md5: str | None
    hash_name: str | None = None
    remote: str | None = None
    imported: str | None = None


def parse_lock(data: bytes, folder: str = "") -> list[DvcOutput]:
    """Return what a dvc.lock tracks.

    Args:
        data: Its bytes.
        folder: Where it is, relative to the project's folder.

    Raises:
        ValueError: It is damaged.
    """
    document = _mapping(_load(data), "the file")
    if document.get("schema") != _SCHEMA:
        raise ValueError(f"expected schema {_SCHEMA}, got {document.get('schema')!r}")
    stages = _mapping(document.get("stages", {}), "stages")
    return [
        _output(facts, folder, None)
        for name, stage in stages.items()
        for facts in _list(_mapping(stage, f"stage {name}").get("outs", []), f"outs of {name}")
    ]


def parse_dependencies(data: bytes) -> list[tuple[str, str]]:
    """Return the paths and MD5s of the files that stages depend on; arguments and errors as for `parse_lock`."""
    stages = _mapping(_mapping(_load(data), "the file").get("stages", {}), "stages")
    deps = [dep for name, stage in stages.items() for dep in _list(_mapping(stage, name).get("deps", []), "deps")]
    found = ((_mapping(dep, "a dependency").get("path"), dep.get("md5")) for dep in deps)
    return [(path, md5) for path, md5 in found if isinstance(path, str) and isinstance(md5, str)]


def parse_dvc_file(data: bytes, folder: str = "") -> list[DvcOutput]:
    """Return what a `.dvc` file tracks; arguments and errors as for `parse_lock`."""
    document = _mapping(_load(data), "the file")
    base = str(PurePosixPath(folder, str(document.get("wdir") or ".")))
    imported = next(_origins(_list(document.get("deps") or [], "deps")), None)
    return [_output(facts, base, imported) for facts in _list(document.get("outs") or [], "outs")]


def _load(data: bytes) -> object:
    try:
        return yaml.load(data.decode(), Loader=_LOADER)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise ValueError("not YAML" if line is None else f"not YAML: line {line + 1}") from None


def _output(facts: object, folder: str, imported: str | None) -> DvcOutput:
    facts = _mapping(facts, "an output")
    path, md5 = facts.get("path"), facts.get("md5")
    if not isinstance(path, str) or not isinstance(md5, str | None):
        raise ValueError(f"expected an output with a path, got path {path!r} and md5 {md5!r}")
    return DvcOutput(str(PurePosixPath(folder, path)), md5, facts.get("hash"), facts.get("remote"), imported)


def _origins(deps: list[Any]) -> Iterator[str]:
    for dep in deps:
        if isinstance(origin := _mapping(dep, "a dependency").get("repo"), dict):
            yield f"dvc://{origin.get('url')}//{dep.get('path')}@{origin.get('rev_lock') or origin.get('rev')}"


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected {what} to be a mapping, got {value!r:.80}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected {what} to be a list, got {value!r:.80}")
    return value
