"""In which order bytes reach the disk and files get their names: a power cut would tell, kill -9 cannot."""

import os
from pathlib import Path
from typing import Any

import pytest


class DiskOrder:
    """Remembers what is synced and renamed, in order, while it goes on being done.

    Attributes:
        steps: `("sync", path)` and `("rename", new path)`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, Path]] = []
        fsync, rename = os.fsync, Path.rename

        def watched_fsync(descriptor: int) -> None:
            self.steps.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        def watched_rename(path: Path, target: Any) -> Path:
            self.steps.append(("rename", Path(target)))
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(Path, "rename", watched_rename)

    def of(self, part: Path, target: Path) -> list[str]:
        """Return what happened to a partial file, to the file that it became, and to their folder."""
        names = {
            ("sync", part): "file synced",
            ("rename", target): "renamed",
            ("sync", target.parent): "folder synced",
        }
        return [names[step] for step in self.steps if step in names]
