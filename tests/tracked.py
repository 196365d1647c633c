"""Artifacts that DVC tracks, without running DVC: its cache, its remote, and dvc.lock."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from microdiff.artifacts.kinds import KINDS
from microdiff.core.files import md5_of
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_dir_object import dir_object_bytes, folder_digest

CACHE = ".dvc/cache/files/md5"


def track(
    workspace: Workspace, *, remote: Path | None = None, kinds: Iterable[str] = KINDS, dataset: str = "coco"
) -> None:
    """Have a dataset's artifacts in dvc.lock as they are.

    Args:
        workspace: Where they are.
        remote: Has their files then; else DVC's cache has them.
        kinds: Which.
        dataset: The dataset.
    """
    root = workspace.root
    (root / ".dvc").mkdir(exist_ok=True)
    if remote is not None:
        (root / ".dvc/config").write_text(f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n")
    objects = root / CACHE if remote is None else remote / "files" / "md5"
    stages = {}
    for kind in kinds:
        folder = workspace.artifact(dataset, kind)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: md5_of(folder / name) for name in names}
        for name, md5 in files.items():
            target = place(objects, md5)
            shutil.copyfile(folder / name, target)
            target.chmod(0o444)
        digest = folder_digest(files)
        place(objects, digest).write_bytes(dir_object_bytes(files))
        out = {"path": f"data/{dataset}/{kind}", "hash": "md5", "md5": digest, "size": 1, "nfiles": len(files)}
        stages[f"{KINDS[kind]}@{dataset}"] = {"cmd": "true", "outs": [out]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def place(objects: Path, md5: str) -> Path:
    """Return where an object is, its folder made."""
    path = objects / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def cached(workspace: Workspace, path: Path) -> Path:
    """Return where DVC's cache has the bytes that a file has now."""
    md5 = md5_of(path)
    return workspace.root / CACHE / md5[:2] / md5[2:]
