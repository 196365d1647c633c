"""Files are whole or absent, whatever fails and when; locks are held; digests are what they were."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disk_spy import DiskSpy
from microdiff.core.files import (
    canonical_json,
    digest_bytes,
    digest_file,
    digest_json,
    link_or_copy,
    locked_folder,
    md5_of,
    replace_folder,
    scratch_folder,
    sweep,
    sync,
    write_json,
    write_text,
)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> DiskSpy:
    return DiskSpy(monkeypatch)


def is_locked(folder: Path) -> bool:
    """Tell whether somebody holds a folder, by trying to."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.mark.parametrize("write", [lambda path: write_text(path, "ä\n"), lambda path: write_json(path, {"b": 1})])
def test_a_files_bytes_are_on_disk_before_its_name(
    tmp_path: Path, disk: DiskSpy, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "folder" / "file"
    for _ in range(2):  # a new one, and over an old one
        write(path)
        assert disk.renamed.pop() == path
        assert (disk.lost, disk.unsynced) == ([], [])
    assert [each.name for each in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=r"(?i)no space left"):
        write_text(path, "new")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"file": "old"}


@pytest.mark.parametrize("before", ["nothing", "folder", "file", "link", "link to nothing"])
def test_a_folder_takes_the_place_of_whatever_was_there(tmp_path: Path, disk: DiskSpy, before: str) -> None:
    new, target, other = tmp_path / "new", tmp_path / "deep" / "target", tmp_path / "other"
    new.mkdir()
    (new / "file").write_text("new")
    target.parent.mkdir()
    other.mkdir()
    (other / "file").write_text("other")
    if before == "folder":
        shutil.copytree(other, target)
        (target / "stray").write_text("x")
    elif before == "file":
        target.write_text("x")
    elif before != "nothing":
        target.symlink_to(other if before == "link" else tmp_path / "none")
    sync(new / "file")
    sync(new)
    replace_folder(new, target)
    assert not target.is_symlink()
    assert {each.name: each.read_text() for each in target.iterdir()} == {"file": "new"}
    assert (other / "file").read_text() == "other"
    assert disk.renamed == [target]
    assert (disk.lost, disk.unsynced) == ([], [])


NO_LINKS = [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES]


@pytest.mark.parametrize("number", [*NO_LINKS, errno.ENOENT, errno.ENOSPC, errno.EEXIST])
def test_a_link_or_a_copy_that_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: DiskSpy, number: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    link_or_copy(source, target)
    assert target.samefile(source)
    target.unlink()

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if number not in NO_LINKS:
        with pytest.raises(OSError, match=os.strerror(number)):
            link_or_copy(source, target)
        assert not target.exists()
        return
    link_or_copy(source, target)
    assert target.read_bytes() == b"bytes"
    assert not target.samefile(source)
    target.rename(tmp_path / "final")
    assert disk.lost == []


def test_the_spy_sees_what_was_not_synced(tmp_path: Path, disk: DiskSpy) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("1")
    sync(tmp_path / "a" / "file")
    (tmp_path / "a" / "file").write_text("2")
    (tmp_path / "a").rename(tmp_path / "b")
    assert disk.lost == ["a as b", "a/file as b"]
    assert disk.unsynced == [str(tmp_path)]


def test_a_scratch_folder_is_held_and_removed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "work") as folder:
        assert is_locked(folder)
        (folder / "file").write_text("x")
        assert sweep(tmp_path / "work") == 0
    assert list((tmp_path / "work").iterdir()) == []
    with scratch_folder(tmp_path) as folder:
        folder.rename(tmp_path / "finished")
    assert (tmp_path / "finished").is_dir()
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path) as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_sweeping_leaves_everything_but_the_folders_of_the_dead(tmp_path: Path) -> None:
    for name in ("tmp-a", "tmp-b", "finished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    held = os.open(tmp_path / "tmp-b", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished", "tmp-b"]
    os.close(held)
    assert sweep(tmp_path) == 1
    assert sweep(tmp_path / "none") == 0


def once(function: Any, before: Callable[[], None]) -> Any:
    """Return the function, before whose first call something happens."""
    happened: list[bool] = []

    def call(*arguments: Any, **options: Any) -> Any:
        if not happened:
            happened.append(True)
            before()
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_scratch_folder_swept_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def sweep_up() -> None:
        shutil.rmtree(next(tmp_path.glob("tmp-*")))

    if when == "before it is opened":
        monkeypatch.setattr(os, "open", once(os.open, sweep_up))
    else:
        monkeypatch.setattr(fcntl, "flock", once(fcntl.flock, sweep_up))
    with scratch_folder(tmp_path) as folder:
        assert is_locked(folder)


def test_a_scratch_folder_that_is_being_swept_is_left_to_the_sweeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    flock = fcntl.flock

    def take() -> None:
        held.append(os.open(next(tmp_path.glob("tmp-*")), os.O_RDONLY))
        flock(held[0], fcntl.LOCK_EX)

    monkeypatch.setattr(fcntl, "flock", once(flock, take))
    with scratch_folder(tmp_path) as folder:
        assert len(list(tmp_path.glob("tmp-*"))) == 2
        assert not os.path.samestat(os.fstat(held[0]), folder.stat())
    os.close(held[0])


def test_a_locked_folder_is_held_until_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with locked_folder(folder):
        assert is_locked(folder)
    assert not is_locked(folder)
    with pytest.raises(ZeroDivisionError), locked_folder(folder):
        raise ZeroDivisionError
    assert not is_locked(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError), locked_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_folder_removed_while_somebody_waits_for_it_is_not_what_they_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made_again: bool
) -> None:
    folder = tmp_path / "folder"

    def remove() -> None:
        folder.rmdir()
        if is_made_again:
            (tmp_path / "between").mkdir()  # or the new one could be the old one's inode
            folder.mkdir()

    monkeypatch.setattr(fcntl, "flock", once(fcntl.flock, remove))
    with locked_folder(folder):
        assert is_locked(folder)


def test_digests_are_what_they_were(tmp_path: Path) -> None:
    """They name what is in stores: another form would compute everything again."""
    value = {"b": [1, 2.5, None, True], "a": {"ö": "é\ud800"}}
    assert digest_json(value) == "4168329c0d628c2760d947cb3d08e127a310d865110afff581da0a9f5187f9a8"
    assert digest_json(dict(reversed(value.items()))) == digest_json(value)
    assert canonical_json({"b": [1], "a": "ö"}) == '{\n "a": "ö",\n "b": [\n  1\n ]\n}\n'
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 3_000_000)
    assert (
        digest_file(path)
        == digest_bytes(path.read_bytes())
        == "a889aaea4dd43c3ef1b6f125177026b6445c8374d9cd585dd0c52bb020bb8cc5"
    )
    assert md5_of(path) == "5fcba8cd68f540e8370ca52d4378a2a2"
