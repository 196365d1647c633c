"""What the `code` node of dvc.yaml writes: digests of the code that each step runs, which comments do not change.

A step depends on `code/<step>.json`, the digests of every module that its stage script imports, and a download besides
on `code/handlers/<dataset>.json`. So DVC reruns a step when code that it runs has changed in meaning, whatever file
that is in, and a review sees which modules those were. Which partitions are then computed again is decided by the
partition store, by the digests of the modules that compute them (`microdiff.core.code_fingerprint`), or by what these
are listed to stand for (`microdiff.core.code_identity`). So a file here also says which kinds of unit have another
identity than their digest: a change of that list makes stale what it concerns, and nothing else.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from microdiff.artifacts.kinds import KINDS
from microdiff.core.code_fingerprint import SourceTree
from microdiff.core.code_identity import CodeIdentities
from microdiff.core.deciding_code import Unit, units
from microdiff.core.files import canonical_json, digest_json, write_json

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
    # Which handler a download runs is known only when it runs: it depends on what any of them imports.
    roots = {step: [f"stages.{step}", *(handlers.values() if step == "download" else ())] for step in KINDS.values()}
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
            for dataset, module in sorted(handlers.items())
        },
    }


def handled_datasets(root: Path) -> list[str]:
    """Return the datasets that have a handler."""
    folder = root.joinpath(*_HANDLERS.split("."))
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def write_code_files(root: Path) -> None:
    """Write the files below `code/`."""
    for name, document in code_files(root).items():
        write_json(root / FOLDER / name, document)


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


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
