"""Folders that are written to by several machines."""

from pathlib import Path

import pytest

from microdiff.core.progress import NullReporter
from microdiff.errors import SourceError
from microdiff.storage import writable
from microdiff.storage.writable import open_writable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("bytes")
    return path


def test_what_is_written_is_listed_and_removed(tmp_path: Path, file: Path) -> None:
    store = open_writable(str(tmp_path / "store"), "A_SETTING", NullReporter())
    (tmp_path / "store").mkdir()
    for path in ("clean/a/one", "clean/a/two", "clean/b/one"):
        store.write(path, file)
    assert sorted((each.path, each.num_bytes) for each in store.walk("clean")) == [
        ("clean/a/one", 5),
        ("clean/a/two", 5),
        ("clean/b/one", 5),
    ]
    store.remove("clean/a/one")
    store.remove("clean/b/one")
    store.remove("clean/c/none")
    assert [each.path for each in store.walk("")] == ["clean/a/two"]
    assert [path.name for path in (tmp_path / "store/clean").iterdir()] == ["a"]
    store.remove("clean/a/two")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, removals = writable.copy_whole, [1, 2]

    def removing(source: Path, target: Path) -> None:
        if removals:
            removals.pop()
            target.parent.rmdir()
        copy(source, target)

    monkeypatch.setattr(writable, "copy_whole", removing)
    open_writable(str(tmp_path / "store"), "A_SETTING", NullReporter()).write("access/a", file)
    assert (tmp_path / "store/access/a").read_text() == "bytes"


def test_what_cannot_be_written_is_said(tmp_path: Path, file: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(SourceError, match=r"store/a/b: cannot be written: .* Check A_SETTING"):
        open_writable(str(tmp_path / "store"), "A_SETTING", NullReporter()).write("a/b", file)
