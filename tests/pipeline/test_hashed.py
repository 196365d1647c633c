"""Which files of the store are hashed before they are used again, and which are known to be as they were."""

import json
import os
import time
from pathlib import Path

import pytest

from microdiff.core.files import digest_file, link_or_copy
from microdiff.core.verified_files import InputFile
from microdiff.errors import DamagedError
from microdiff.pipeline.hashed import HASH_ALWAYS, NOTE, carried_over, check_hashed, remember_written, unchanged
from tests.waiting import wait_until

TICK_S = 0.02


@pytest.fixture
def files(tmp_path: Path) -> dict[str, InputFile]:
    """Two files that have just been written by this process, in a folder of the store."""
    folder = tmp_path / "folder"
    (folder / "512").mkdir(parents=True)
    for name in ("0000.tar", "512/shard.mds"):
        (folder / name).write_bytes(name.encode() * 1000)
    return {
        name: InputFile(folder / name, (folder / name).stat().st_size, digest_file(folder / name))
        for name in ("0000.tar", "512/shard.mds")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "folder"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    names: list[str] = []
    check = InputFile.check

    def watched(file: InputFile) -> Path:
        names.append(file.path.name)
        return check(file)

    monkeypatch.setattr(InputFile, "check", watched)
    return names


def rest() -> None:
    """Let the clock tick, so that what happens from now on has another time of change."""
    began = time.time_ns()
    wait_until(lambda: time.time_ns() - began > 2 * TICK_S * 1e9, "the clock has ticked")


def flip_keeping_mtime(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([file.read(1)[0] ^ 1]) if file.seek(0) == 0 else b"")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_files_are_hashed_once(folder: Path, files: dict[str, InputFile], hashed: list[str]) -> None:
    rest()
    check_hashed(folder, files)
    assert sorted(hashed) == ["0000.tar", "shard.mds"]
    check_hashed(folder, files)
    assert len(hashed) == 2
    assert unchanged(folder, files).keys() == files.keys()


def test_what_this_process_has_written_is_known(folder: Path, files: dict[str, InputFile], hashed: list[str]) -> None:
    remember_written(folder, files)
    check_hashed(folder, files)
    assert hashed == []


def test_a_written_file_with_another_name_is_not_known(
    folder: Path, files: dict[str, InputFile], hashed: list[str]
) -> None:
    """Somebody else may have written to it by that name meanwhile, as to what is taken in by a link."""
    os.link(folder / "0000.tar", folder.parent / "other")
    remember_written(folder, files)
    check_hashed(folder, files)
    assert hashed == ["0000.tar"]


def test_a_change_whose_mtime_was_put_back_is_found(
    folder: Path, files: dict[str, InputFile], hashed: list[str]
) -> None:
    rest()
    check_hashed(folder, files)
    flip_keeping_mtime(folder / "0000.tar")
    with pytest.raises(DamagedError, match=r"0000\.tar: damaged"):
        check_hashed(folder, files)
    assert hashed.count("0000.tar") == 2
    assert hashed.count("shard.mds") == 1


def test_a_change_by_another_name_is_found(folder: Path, files: dict[str, InputFile]) -> None:
    """As in DVC's cache, or in the artifact."""
    os.link(folder / "0000.tar", folder.parent / "cached")
    rest()
    check_hashed(folder, files)
    flip_keeping_mtime(folder.parent / "cached")
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


def test_a_file_put_in_the_place_of_another_is_found(folder: Path, files: dict[str, InputFile]) -> None:
    rest()
    check_hashed(folder, files)
    path = folder / "0000.tar"
    other = folder.parent / "other"
    other.write_bytes(b"?" * path.stat().st_size)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


@pytest.mark.parametrize("change", ["unlink", "cut"])
def test_what_is_missing_or_cut_is_found(folder: Path, files: dict[str, InputFile], change: str) -> None:
    rest()
    check_hashed(folder, files)
    if change == "unlink":
        (folder / "0000.tar").unlink()
    else:
        os.truncate(folder / "0000.tar", 5)
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


def test_a_change_just_before_is_not_believed_to_be_the_last(
    folder: Path, files: dict[str, InputFile], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock two changes have one time: one that follows the hashing would not be seen."""
    (folder / "0000.tar").touch()
    changed = (folder / "0000.tar").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(TICK_S * 1e9) - 1)
    check_hashed(folder, files)
    assert "0000.tar" not in unchanged(folder, files)
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(TICK_S * 1e9))
    check_hashed(folder, files)
    assert "0000.tar" in unchanged(folder, files)


def test_a_change_while_it_is_hashed_is_not_known(
    folder: Path, files: dict[str, InputFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    rest()
    check = InputFile.check

    def writing(file: InputFile) -> Path:
        found = check(file)
        if file.path.name == "0000.tar":
            flip_keeping_mtime(file.path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(InputFile, "check", writing)
        check_hashed(folder, files)
    assert unchanged(folder, files).keys() == {"512/shard.mds"}
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


def test_links_made_here_are_carried_over_and_others_are_not(
    folder: Path, files: dict[str, InputFile], hashed: list[str]
) -> None:
    rest()
    check_hashed(folder, files)
    hashed.clear()
    with carried_over({folder: files}):
        for name in files:
            link_or_copy(folder / name, folder.parent / Path(name).name)
    check_hashed(folder, files)
    assert hashed == []
    os.link(folder / "0000.tar", folder.parent / "made by DVC")
    rest()
    check_hashed(folder, files)
    assert hashed == ["0000.tar"]
    check_hashed(folder, files)
    assert hashed == ["0000.tar"]


def test_a_change_before_links_are_made_is_not_carried_over(folder: Path, files: dict[str, InputFile]) -> None:
    rest()
    check_hashed(folder, files)
    flip_keeping_mtime(folder / "0000.tar")
    with carried_over({folder: files}):
        link_or_copy(folder / "0000.tar", folder.parent / "published")
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


def test_a_write_while_links_are_made_is_not_carried_over(folder: Path, files: dict[str, InputFile]) -> None:
    rest()
    check_hashed(folder, files)
    with carried_over({folder: files}):
        rest()
        with (folder / "0000.tar").open("r+b") as file:
            file.write(b"?")
    with pytest.raises(DamagedError):
        check_hashed(folder, files)


def test_all_is_hashed_where_that_is_asked_for(
    folder: Path, files: dict[str, InputFile], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rest()
    check_hashed(folder, files)
    monkeypatch.setenv(HASH_ALWAYS, "1")
    check_hashed(folder, files)
    assert len(hashed) == 4
    monkeypatch.setenv(HASH_ALWAYS, "0")
    check_hashed(folder, files)
    assert len(hashed) == 4


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "7", '{"0000.tar": 5}', '{"0000.tar": [1, 2, 3, 4]}', "\0" * 64, b"\xff"]
)
def test_a_note_that_says_nothing_costs_a_hash(
    folder: Path, files: dict[str, InputFile], hashed: list[str], note: str | bytes
) -> None:
    """A loss of power may leave any bytes there."""
    rest()
    (folder / NOTE).write_bytes(note if isinstance(note, bytes) else note.encode())
    check_hashed(folder, files)
    assert sorted(hashed) == ["0000.tar", "shard.mds"]
    assert json.loads((folder / NOTE).read_text()).keys() == files.keys()


def test_a_folder_that_may_not_be_written_to_is_hashed_every_time(
    folder: Path, files: dict[str, InputFile], hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    rest()
    monkeypatch.setattr(Path, "write_text", refuse)
    check_hashed(folder, files)
    check_hashed(folder, files)
    assert len(hashed) == 4
