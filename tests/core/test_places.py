"""Which errors mean that a place takes no more bytes, which place that is, and what is said of it."""

import errno
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microdiff.core.files import link_or_copy, scratch_folder, whole_file, write_json
from microdiff.core.places import Unwritable, check_writable, os_error_in_words, writing_to
from microdiff.errors import SourceError, WriteError
from tests.small_disk import as_nobody, small_disk

__all__ = ["small_disk"]


def failing(number: int, *names: Path | None) -> Callable[..., Any]:
    """Return a function that fails as a call of the system does, naming up to two files."""

    def fail(*_: object, **__: object) -> None:
        first, second = (*map(lambda name: name and str(name), names), None, None)[:2]
        raise OSError(number, os.strerror(number), first, None, second)

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_travels_with_its_kind(number: int, tmp_path: Path) -> None:
    found = Unwritable.of(OSError(number, "as the system calls it", str(tmp_path / "a")))
    assert found == Unwritable(number, str(tmp_path / "a"))
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own
    assert str(found).startswith(f"{tmp_path}/a: ")
    assert "\n" not in str(found)


def test_of_two_names_the_target_is_meant(tmp_path: Path) -> None:
    found = Unwritable.of(OSError(errno.ENOSPC, "", str(tmp_path / "source"), None, str(tmp_path / "target")))
    assert found is not None
    assert found.place == str(tmp_path / "target")


def test_a_full_disk_is_named_with_what_is_free(tmp_path: Path) -> None:
    said = str(Unwritable(errno.ENOSPC, str(tmp_path / "not" / "there")))
    assert "the disk is full (" in said
    assert f" MB free on the file system at {next(p for p in tmp_path.resolve().parents if p.is_mount())})" in said


def raise_instead(error: Exception) -> None:
    try:
        raise error
    except OSError:
        raise SourceError("said otherwise") from None


def test_what_was_wrapped_is_found() -> None:
    full = OSError(errno.ENOSPC, "full", "/place")
    wrapped = SourceError("it cannot be had")
    wrapped.__cause__ = full
    assert Unwritable.of(wrapped) == Unwritable(errno.ENOSPC, "/place")
    wrapped.__cause__ = PermissionError(errno.EACCES, "a firewall's word")
    assert Unwritable.of(wrapped) is None
    with pytest.raises(SourceError) as said:
        raise_instead(full)
    assert Unwritable.of(said.value) is None


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.EPIPE, errno.EMFILE])
def test_other_errors_are_no_unwritable_places(number: int) -> None:
    assert Unwritable.of(OSError(number, "other", "/place")) is None


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "small.sqlite") as database:
        database.execute("PRAGMA max_page_count = 4")
        database.execute("CREATE TABLE big (value)")
        with pytest.raises(OSError, match="No space left on device") as caught, writing_to(tmp_path):
            database.execute("INSERT INTO big VALUES (zeroblob(1000000))")
    database.close()
    assert Unwritable.of(caught.value) == Unwritable(errno.ENOSPC, str(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_copy_that_fails_names_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("text")
    monkeypatch.setattr(os, "link", failing(errno.EXDEV, source, target))
    for names in ((source,), (source, target), ()):
        monkeypatch.setattr(shutil, "copyfile", failing(number, *names))
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            link_or_copy(source, target)
        found = Unwritable.of(caught.value)
        assert found == Unwritable(number, str(target)), names


def test_a_link_that_fails_names_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    monkeypatch.setattr(os, "link", failing(errno.EROFS, source, target))
    with pytest.raises(OSError, match="Read-only") as caught:
        link_or_copy(source, target)
    assert Unwritable.of(caught.value) == Unwritable(errno.EROFS, str(target))


def test_a_write_that_fails_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EDQUOT))
    with pytest.raises(OSError, match="quota") as caught:
        write_json(tmp_path / "a.json", {})
    assert Unwritable.of(caught.value) == Unwritable(errno.EDQUOT, str(tmp_path / "a.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_a_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a"):
        1 / 0  # noqa: B018 - it raises
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "none").read_bytes()


def test_temporary_names_are_not_shown(tmp_path: Path) -> None:
    def attempt() -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        for write in (lambda: write_json(tmp_path / "closed" / "a.json", {}), lambda: enter(tmp_path / "closed")):
            try:
                write()
            except OSError as error:
                found = Unwritable.of(error)
                assert found is not None
                assert found.place in (f"{tmp_path}/closed/a.json", f"{tmp_path}/closed")
                assert "permission denied (it is " in str(found)
            else:
                raise AssertionError("it was written")

    def enter(parent: Path) -> None:
        with scratch_folder(parent):
            pass

    as_nobody(attempt, tmp_path)


def test_a_folder_is_checked_before_it_is_needed(tmp_path: Path) -> None:
    check_writable(tmp_path / "one" / "two")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WriteError, match=r"file: expected a folder, found a file\. Move it away"):
            check_writable(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WriteError, match="dangling: expected a folder, found a file"):
        check_writable(tmp_path / "dangling")


def test_a_folder_of_somebody_else_is_said(tmp_path: Path) -> None:
    def attempt() -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(WriteError, match=r"closed: permission denied \(it is .*, mode 500; this is user"):
            check_writable(tmp_path / "closed" / "below")

    as_nobody(attempt, tmp_path)


def test_a_disk_that_is_full_is_told_from_one_that_is_read_only(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, whole_file(small_disk / "big") as file:
        file.write(bytes(4_000_000))
    assert Unwritable.of(caught.value) == Unwritable(errno.ENOSPC, str(small_disk / "big"))
    assert f"on the file system at {small_disk.resolve()})" in str(Unwritable.of(caught.value))
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOENT, "x", "/no/where"), "/no/where: No such file or directory"),
        (OSError(errno.EIO, "x", "/disk"), "/disk: Input/output error"),
        (OSError(errno.EIO, "no name"), None),
        (OSError("a library's own"), None),
    ],
)
def test_what_the_system_refuses_is_one_line(error: OSError, words: str | None) -> None:
    assert os_error_in_words(error) == words
