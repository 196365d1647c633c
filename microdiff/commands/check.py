"""Look at params.yaml and dvc.lock before DVC does: it removes a node's outputs before it runs the node.

So a setting that is misspelt is found by the step when its output and metrics are gone. They come back from the
partition store, but it is better not to lose them.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from microdiff.config.model_reference import parse_model_reference
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.errors import ParamsError
from microdiff.pipeline.params import Params, load_params
from microdiff.remote.dvc_lock import LOCK
from microdiff.remote.dvc_lock_copy import restore_lock
from microdiff.remote.dvc_presence import restore_rwlock

log = logging.getLogger("microdiff")

PARAMS = "params.yaml"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINK_LISTS = (".txt", ".tsv")


def check_lock(root: Path) -> None:
    """Put a dvc.lock right that a kill cut, and say so.

    Raises:
        SchemaError: It holds conflicts of a merge, or no good copy is left.
    """
    for said in (restore_lock(root), restore_rwlock(root)):
        if said is not None:
            log.warning("%s", said)


def check_params(root: Path, datasets: Sequence[str] = ()) -> None:
    """Check the settings of some datasets, or of all, as the steps will, and that what changed in them leads somewhere.

    Raises:
        ParamsError: Something is wrong; the message says all of it.
    """
    path = root / PARAMS
    problems = []
    for dataset in datasets or (None,):
        params = load_params(path, dataset, recorded=True)
        recorded = _recorded_params(root)
        document = yaml.load(path.read_bytes(), Loader=_LOADER)  # noqa: S506 - a safe loader
        problems += [line for name in params.datasets for line in _leading_nowhere(params, name, document, recorded)]
    if problems:
        lines = [f"{path}: {len(set(problems))} problem(s)", *(f"  {line}" for line in dict.fromkeys(problems))]
        raise ParamsError("\n".join(lines))


def _leading_nowhere(
    params: Params, name: str, document: Mapping[str, Any], recorded: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Yield which local folders are not there, of settings that changed since the node last ran.

    Of those that did not, a node that is up to date needs none: the source may be on a disk that is elsewhere now.
    """
    entry = params.datasets[name]
    where = f"datasets.{name}.download"
    if _changed(recorded.get(f"download@{name}"), where, document["datasets"][name]["download"]):
        for field, root in (("source", entry.source), ("captions_source", entry.handler.annotation_root())):
            if root and "://" not in root and not Path(root).exists():
                what = "list of links" if root.endswith(_LINK_LISTS) else "folder"
                yield f"{where}.{field}: {root}: no such {what}"
    if _changed(recorded.get(f"encode@{name}"), "encode", document["encode"]):
        encoders: dict[str, ImageEncoderSettings | TextEncoderSettings] = {"encode.image": params.encode.image}
        encoders |= {f"encode.text.{column}": each for column, each in params.encode.text.items()}
        for section, settings in encoders.items():
            reference = parse_model_reference(settings.model, settings.subfolder, settings.revision)
            folder = Path(reference.root, reference.folder)
            if reference.kind == "folder" and not folder.is_dir():
                yield f"{section}: {folder}: no model there. Check model and subfolder"


def _changed(recorded: Mapping[str, Any] | None, section: str, value: object) -> bool:
    """Tell whether a section is another than when a node last ran, or it never did."""
    return recorded is None or (section in recorded and recorded[section] != value)


def _recorded_params(root: Path) -> dict[str, Mapping[str, Any]]:
    """Return the settings of each node as it last ran, by the node's name."""
    lock = root / LOCK
    document = yaml.load(lock.read_bytes(), Loader=_LOADER) if lock.is_file() else {}  # noqa: S506 - a safe loader
    return {name: node.get("params", {}).get(PARAMS, {}) for name, node in document.get("stages", {}).items()}
