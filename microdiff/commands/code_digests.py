"""What the `code` node of dvc.yaml writes: digests of the code that each step runs, which comments do not change.

A step depends on `code/<step>.json`, the digests of every module that its stage script imports, and a download besides
on `code/handlers/<dataset>.json`, which is of the kind's module where a dataset has a kind. So DVC reruns a step when
code that it runs has changed in meaning, whatever file that is in, and a review sees which modules those were. Which
partitions are then computed again is decided by the partition store, by the digests of the modules that compute them
(`microdiff.core.code_fingerprint`), or by what these are listed to stand for (`microdiff.core.code_identity`). So a
file here also says which kinds of unit have another identity than their digest: a change of that list makes stale what
it concerns, and nothing else.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from microdiff.artifacts.kinds import KINDS
from microdiff.core.code_fingerprint import SourceTree
from microdiff.core.code_identity import CodeIdentities
from microdiff.core.deciding_code import Unit, units
from microdiff.core.files import canonical_json, digest_json, write_json
from microdiff.kinds import KINDS as SOURCE_KINDS
from microdiff.kinds import kind_module

FOLDER = "code"
_HANDLERS = "microdiff.handlers"
_POLL_S = 0.2


def code_files(root: Path) -> dict[str, Mapping[str, Any]]:
    """Return what each file below `code/` is to say, by its path there.

    Args:
        root: The repository; its handlers are those of the files in `microdiff/handlers/`.

    Raises:
        SchemaError: The list of digests that stand for others is damaged.
    """
    handlers = {dataset: f"{_HANDLERS}.{dataset}" for dataset in handled_datasets(root)}
    of_kinds = {name: kind_module(kind) for name, kind in datasets_of_kinds(root).items() if name not in handlers}
    # Which handler a download runs is known only when it runs: it depends on what any of them imports.
    any_of = [*handlers.values(), *map(kind_module, SOURCE_KINDS)]
    roots = {step: [f"stages.{step}", *(any_of if step == "download" else ())] for step in KINDS.values()}
    own = set(handlers.values())
    code = CodeIdentities(root)
    tree, kinds = code.tree, list(units(sorted(handlers)))
    steps = {step: [name for name in tree.import_closure(names) if name not in own] for step, names in roots.items()}
    return {
        **{
            f"{step}.json": {
                **_document(tree, modules),
                **_same_bytes(code, [unit for unit in kinds if unit.step == step and unit.dataset is None]),
            }
            for step, modules in steps.items()
        },
        **{
            f"handlers/{dataset}.json": {
                **_document(tree, [module]),
                **_same_bytes(code, [unit for unit in kinds if unit.dataset == dataset]),
            }
            for dataset, module in sorted({**handlers, **of_kinds}.items())
        },
    }


def handled_datasets(root: Path) -> list[str]:
    """Return the datasets that have a handler."""
    folder = root.joinpath(*_HANDLERS.split("."))
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def datasets_of_kinds(root: Path) -> dict[str, str]:
    """Return the datasets in params.yaml whose entry has a kind, and the kind; what is wrong there, others say."""
    path = root / "params.yaml"
    try:
        document = yaml.safe_load(path.read_bytes()) if path.is_file() else None
    except yaml.YAMLError:
        return {}
    entries = document.get("datasets") if isinstance(document, dict) else None
    kinds = {str(name): entry.get("kind") for name, entry in (entries or {}).items() if isinstance(entry, dict)}
    return {name: kind for name, kind in kinds.items() if kind in SOURCE_KINDS and name.isidentifier()}


def write_code_files(root: Path) -> None:
    """Write the files below `code/`, and remove those of datasets that are gone."""
    files = code_files(root)
    for name, document in files.items():
        write_json(root / FOLDER / name, document)
    for name in _gone(root, files):
        (root / FOLDER / name).unlink()


def stale_code_files(root: Path, wait_s: float = 0.0) -> list[str]:
    """Return those of the files below `code/` that do not say what the code is.

    Args:
        root: The repository.
        wait_s: How long to wait for another process that is writing them.
    """
    expected = {name: canonical_json(document) for name, document in code_files(root).items()}
    deadline = time.monotonic() + wait_s
    while True:
        stale = [name for name, text in expected.items() if _text(root / FOLDER / name) != text]
        stale += _gone(root, expected)
        if not stale or time.monotonic() >= deadline:
            return stale
        time.sleep(_POLL_S)


def _document(tree: SourceTree, modules: Iterable[str]) -> dict[str, Any]:
    digests = {module: tree.module_digest(module) for module in modules}
    return {"digest": digest_json(digests), "modules": digests}


def _same_bytes(code: CodeIdentities, kinds: Iterable[Unit]) -> dict[str, Any]:
    """Return which of some kinds of unit stand for earlier code, and for which; nothing if none does."""
    digests = {unit.name: code.digest(unit.modules) for unit in kinds}
    listed = {name: code.same_bytes.identity(digest) for name, digest in digests.items()}
    others = {name: identity for name, identity in listed.items() if identity != digests[name]}
    return {"same_bytes": others} if others else {}


def _gone(root: Path, files: Iterable[str]) -> list[str]:
    """Return the files of datasets that there are no more."""
    known, folder = set(files), root / FOLDER
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob("handlers/*.json"))
    return [name for name in found if name not in known]


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
