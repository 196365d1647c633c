"""What `make` does before DVC runs: put in place what DVC must find, and see whether sources have changed.

DVC refuses a node whose settings or dependencies are absent, and it does not watch sources.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from microdiff.artifacts.manifest import parse_manifest
from microdiff.core.files import write_text
from microdiff.core.withdrawn import Withdrawn, write_withdrawn
from microdiff.errors import SchemaError, SourceError
from microdiff.kinds import DEFAULT_REJECTED_SHARE, KindHandler
from microdiff.kinds.listing import current_digest
from microdiff.pipeline.params import Dataset, load_params
from microdiff.pipeline.params_text import completed
from microdiff.pipeline.selection import parse_selection
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_lock_copy import in_head
from microdiff.storage.opening import open_source

log = logging.getLogger("microdiff")

PARAMS = "params.yaml"
_DVC_WANTS = {"max_rejected_share": DEFAULT_REJECTED_SHARE, "clean": {}}


def complete_entries(root: Path, datasets: Sequence[str] = ()) -> None:
    """Write into the entries of some datasets, or of all, the settings with defaults that DVC would miss, and say so.

    Of settings that cannot be read nothing is said here: whoever checks them says it better.

    Raises:
        ParamsError: params.yaml cannot be completed.
    """
    for name, entry in _entries(root / PARAMS).items():
        if not datasets or name in datasets:
            _complete(root / PARAMS, name, entry)


def place_withdrawn(root: Path, datasets: Sequence[str] = ()) -> None:
    """Put the lists of withdrawn samples in place that are not there, as git has them or empty, and say so."""
    for name in _entries(root / PARAMS):
        if datasets and name not in datasets:
            continue
        path = Workspace(root).withdrawn(name)
        if path.exists() or not name.isidentifier():
            continue
        before = in_head(root, f"data/{name}/{path.name}")
        if before is None:
            write_withdrawn(path, Withdrawn())
            log.info("%s: not here: made, with no sample in it. Commit it.", path.relative_to(root))
        else:
            write_text(path, before.decode("utf-8", "surrogateescape"))
            log.info("%s: not here; it is as git has it", path.relative_to(root))


def source_changed(root: Path, dataset: str) -> bool:
    """Tell whether a dataset's source has other records than its raw artifact is of, and say so.

    A source that does not answer is not looked at; nor is one at a commit of the hub, which never changes.
    """
    entry = load_params(root / PARAMS, dataset).dataset(dataset)
    workspace = Workspace(root)
    if not isinstance(entry.handler, KindHandler) or entry.source.startswith("hf://"):
        return False
    try:
        facts = parse_manifest(workspace.artifact(dataset, "raw")).facts
    except (SchemaError, OSError):
        return False
    try:
        now = _digest_now(entry, entry.handler, workspace)
    except SourceError as error:
        log.info("%s\nWhether the source of %s has changed is not known.", error, dataset)
        return False
    if now == facts.get("listing"):
        return False
    log.info("%s: its source has changed: listing it again; what is finished is found", dataset)
    return True


def _digest_now(entry: Dataset, handler: KindHandler, workspace: Workspace) -> str:
    work = workspace.store().root
    source = open_source(entry.source, work)
    ranges = parse_selection(entry.partitions)
    return current_digest(handler, source, work, entry.name, workspace.partition_list(entry.name), ranges)


def _entries(path: Path) -> Mapping[str, Any]:
    """Return the entries of datasets, as they are; none if they cannot be read."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    entries = document.get("datasets") if isinstance(document, dict) else None
    return {str(name): entry for name, entry in entries.items()} if isinstance(entries, dict) else {}


def _complete(path: Path, name: str, entry: object) -> None:
    """Write those of a dataset's settings that have defaults, where DVC would miss them."""
    if not isinstance(entry, dict) or "kind" not in entry:
        return
    if missing := {key: value for key, value in _DVC_WANTS.items() if key not in entry}:
        write_text(path, completed(path.read_text(encoding="utf-8"), name, missing))
        written = ", ".join(f"{key}: {value}" for key, value in missing.items())
        log.info("%s: datasets.%s: %s written, the defaults: DVC must find them", path.name, name, written)
