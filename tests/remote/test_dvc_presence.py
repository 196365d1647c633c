"""DVC's own files that a kill may cut."""

import json
import threading
import time
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.fs import localfs
from dvc.rwlock import rwlock

from microdiff.commands.check import check_lock
from microdiff.remote.dvc_presence import restore_rwlock

WHOLE = {"write": {"/a/data/coco/raw": {"pid": 1, "cmd": "dvc repro"}}, "read": {}}


def locked_by_dvc(folder: Path) -> None:
    with rwlock(str(folder), localfs, "dvc repro", [], [str(folder / "out")], False):
        pass


@pytest.mark.parametrize("size", [0, 1, 20, 60])
def test_a_cut_file_of_locks_is_emptied_and_said(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microdiff.remote.dvc_presence._PATIENCE_S", 0.1)
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    (folder / "rwlock").write_text(json.dumps(WHOLE)[:size])
    with pytest.raises(DvcException, match="corrupted"):
        locked_by_dvc(folder)
    check_lock(tmp_path)
    assert "rwlock: a killed DVC command left it cut; it is emptied" in caplog.text
    locked_by_dvc(folder)


def test_a_whole_one_and_none_are_left_alone(tmp_path: Path) -> None:
    assert restore_rwlock(tmp_path) is None
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.write_text(json.dumps(WHOLE))
    assert restore_rwlock(tmp_path) is None
    assert json.loads(path.read_text()) == WHOLE


def test_one_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    path.write_text("")

    def write() -> None:
        time.sleep(0.2)
        path.write_text(json.dumps(WHOLE))

    writer = threading.Thread(target=write)
    writer.start()
    assert restore_rwlock(tmp_path, patience_s=60) is None
    writer.join(60)
    assert json.loads(path.read_text()) == WHOLE
