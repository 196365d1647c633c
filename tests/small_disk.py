"""Disks that are full, folders of somebody else: what a test needs root for, or must not be root for."""

import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import run

_BYTES = 2**20
_NOBODY = 65534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB of its own; skips where this user may not mount one."""
    place = tmp_path / "small-disk"
    place.mkdir()
    if shutil.which("mount") is None or not mount(place, f"size={_BYTES}"):
        pytest.skip("may not mount a file system here")
    try:
        yield place
    finally:
        run(["umount", "--lazy", str(place)])


def mount(place: Path, options: str) -> bool:
    """Mount a file system in memory, or change the options of one that is mounted there; tell whether it may be."""
    return run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)]).returncode == 0


def as_nobody(attempt: Callable[[], None], folder: Path) -> None:
    """Do something in a folder as a user to whom permissions apply; they do not to root."""
    if os.geteuid() != 0:
        attempt()
        return
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and parent.name:
            parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(folder, _NOBODY, _NOBODY)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            attempt()
        except BaseException:  # noqa: BLE001 - the child must not go on as pytest
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
