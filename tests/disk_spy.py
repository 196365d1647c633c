"""A spy on the order of syncs and renames: what a loss of power could take, which no kill of a process shows."""

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest


class DiskSpy:
    """Watches this process publish files and folders by renaming them.

    Args:
        patch: Undoes it.
        spared: Names of files that hold nothing that could not be lost.

    Attributes:
        lost: What was given its final name before its bytes, or its entries, were on disk.
        renamed: The final names given.
    """

    def __init__(self, patch: pytest.MonkeyPatch, spared: Collection[str] = ()) -> None:
        self._spared = spared
        self.lost: list[str] = []
        self.renamed: list[Path] = []
        self._on_disk: dict[int, object] = {}  # by inode
        self._folders: dict[int, str] = {}  # in which names were given, and not synced since
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def syncing(descriptor: int) -> None:
            fsync(descriptor)
            inode = os.fstat(descriptor).st_ino
            self._on_disk[inode] = _state(Path(f"/proc/self/fd/{descriptor}"))
            self._folders.pop(inode, None)

        def renaming(source: Any, target: Any) -> None:
            self._check(Path(source), Path(target))
            rename(source, target)
            self._note(Path(target))

        def replacing(source: Any, target: Any) -> None:
            self._check(Path(source), Path(target))
            replace(source, target)
            self._note(Path(target))

        patch.setattr(os, "fsync", syncing)
        patch.setattr(os, "rename", renaming)
        patch.setattr(os, "replace", replacing)

    @property
    def unsynced(self) -> list[str]:
        """Folders whose last new names are not known to be on disk."""
        return sorted(self._folders.values())

    def _check(self, source: Path, target: Path) -> None:
        if target.name in self._spared:
            return
        for path in (source, *(source.rglob("*") if source.is_dir() else ())):
            if self._on_disk.get(path.stat().st_ino) != _state(path):
                self.lost.append(f"{path.relative_to(source.parent)} as {target.name}")

    def _note(self, target: Path) -> None:
        if target.name in self._spared:
            return
        self.renamed.append(target)
        self._folders[target.parent.stat().st_ino] = str(target.parent)


def _state(path: Path) -> object:
    if stat.S_ISDIR(path.stat().st_mode):
        return sorted(os.listdir(path))  # noqa: PTH208 - of a descriptor's link
    return hashlib.sha256(path.read_bytes()).hexdigest()
