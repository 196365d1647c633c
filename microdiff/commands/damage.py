"""Files of artifacts that were written to in place, before DVC looks at them.

Where outputs are hard links, a file that was changed or cut is so in DVC's cache, too. DVC sees that it changed, finds
its object in the cache, does not read it, and links it again as good. So such files are taken out of both first.
"""

import json
import logging
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, is_whole, parse_manifest
from microdiff.core.files import write_json
from microdiff.core.verified_files import InputFile
from microdiff.errors import SchemaError
from microdiff.remote.dvc_artifacts import DvcArtifacts

log = logging.getLogger("microdiff")


def drop_damaged(root: Path, dataset: str, notes: Path) -> int:
    """Remove the files of a dataset's artifacts that are damaged, as far as it shows; return how many.

    Those are hashed whose size is not the recorded one, or that are younger than their manifest, which is written last.
    One that turns out whole is remembered. A file whose time was put back is left to verification.

    Args:
        root: The project.
        dataset: The dataset's name.
        notes: Folder for what is remembered.
    """
    project = DvcArtifacts(root, notes)
    dropped = 0
    for kind in KINDS:
        folder = root / "data" / dataset / kind
        if not (folder / MANIFEST).is_file() or _states_no_digest(folder / MANIFEST):
            continue
        try:
            manifest = parse_manifest(folder) if is_whole(folder) else None
        except SchemaError:
            manifest = None
        if manifest is None:
            dropped += _drop(folder / MANIFEST, project)
            continue
        note = notes / f"{dataset}.{kind}.json"
        known, whole = _read(note), {}
        written_ns = (folder / MANIFEST).stat().st_mtime_ns
        for name, record in manifest.files.items():
            path = folder / name
            if path.is_symlink() and not path.exists():
                dropped += _drop(path, project)
            elif path.is_file():
                stat = path.stat()
                facts = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
                if stat.st_size == record.num_bytes and (stat.st_mtime_ns <= written_ns or known.get(name) == facts):
                    whole.update({name: facts} if name in known else {})
                elif InputFile(path, record.num_bytes, record.sha256).is_whole():
                    whole[name] = facts
                else:
                    dropped += _drop(path, project)
        if whole != known:
            write_json(note, whole)
    return dropped


def _drop(path: Path, project: DvcArtifacts) -> int:
    log.warning("%s: damaged: it is not what was recorded. It is dropped, and made or fetched again.", path)
    project.drop_links(path)
    path.unlink(missing_ok=True)
    return 1


def _states_no_digest(manifest: Path) -> bool:
    """Tell whether a manifest is JSON without a digest of its own, so that nothing can be told of it."""
    try:
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
    return not isinstance(found, dict) or "digest" not in found


def _read(note: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
