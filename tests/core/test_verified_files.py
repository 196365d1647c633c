"""Inputs are hashed as they are read: what is made of other bytes than the recorded ones is never used."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from microdiff.core.verified_files import HashingReader, InputFile, open_input, path_of
from microdiff.errors import DamagedError, SchemaError

DATA = bytes(range(256)) * 40


def recorded(path: Path, data: bytes = DATA) -> InputFile:
    """Return what is recorded of a file that holds these bytes, and write it."""
    path.write_bytes(data)
    return InputFile(path, len(data), hashlib.sha256(data).hexdigest())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def file(tmp_path: Path) -> InputFile:
    return recorded(tmp_path / "0000.tar")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "cut": lambda path: path.write_bytes(DATA[:-1]),
    "longer": lambda path: path.write_bytes(DATA + b"!"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


def test_a_whole_file(file: InputFile) -> None:
    assert file.read() == DATA
    assert file.check() == file.path
    assert file.is_whole()
    with file.open() as opened:
        assert opened.read(3) + opened.read(0) + opened.read() + opened.read(5) == DATA


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_another_file_is_told_by_all_that_read_it(file: InputFile, damage: Callable[[Path], object]) -> None:
    damage(file.path)
    assert not file.is_whole()
    for read in (file.read, file.check):
        with pytest.raises(DamagedError) as error:
            read()
        found = hashlib.sha256(file.path.read_bytes()).hexdigest() if file.path.exists() else "it is missing"
        assert (error.value.path, error.value.expected, error.value.found) == (file.path, file.sha256, found)


def test_the_error_is_one_line_of_file_sample_expected_and_found(file: InputFile) -> None:
    flip(file.path)
    with pytest.raises(DamagedError) as error:
        file.check()
    found = hashlib.sha256(file.path.read_bytes()).hexdigest()
    said = f"damaged: expected sha256 {file.sha256[:12]}..., found {found[:12]}..."
    assert str(error.value) == f"{file.path}: {said}"
    assert str(error.value.of_sample("COCO_7")) == f"{file.path}, sample COCO_7: {said}"
    file.path.unlink()
    with pytest.raises(DamagedError, match=r"found it is missing$"):
        file.check()


def test_what_the_block_leaves_unread_is_hashed_as_well(file: InputFile) -> None:
    flip(file.path)  # the last byte
    with pytest.raises(DamagedError), file.open() as opened:
        assert opened.read(5) == DATA[:5]


def test_a_blocks_error_over_damaged_bytes_gives_way(file: InputFile) -> None:
    """Whoever reads them says what he stumbled over, such as a picture that cannot be decoded."""
    flip(file.path)
    with pytest.raises(DamagedError) as error, file.open():
        raise SchemaError("no such picture")
    assert error.value.found != file.sha256


def test_a_blocks_error_over_whole_bytes_is_its_own(file: InputFile) -> None:
    with pytest.raises(SchemaError, match="no such picture"), file.open():
        raise SchemaError("no such picture")


@pytest.mark.parametrize("is_damaged", [True, False])
def test_an_error_of_the_system_is_no_damage(file: InputFile, is_damaged: bool) -> None:
    """A disk that is full while a result is written says nothing of what is read."""
    if is_damaged:
        flip(file.path)
    with pytest.raises(OSError, match="No space left"), file.open():
        raise OSError(28, "No space left on device")


def test_what_ends_a_program_is_not_kept_waiting(file: InputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(_: HashingReader) -> str:
        raise AssertionError("a large file would be read to its end first")

    monkeypatch.setattr(HashingReader, "digest", digest)
    with pytest.raises(KeyboardInterrupt), file.open():
        raise KeyboardInterrupt


def test_the_file_is_closed_whatever_happens(file: InputFile) -> None:
    opened: list[HashingReader] = []
    with file.open() as reader:
        opened.append(reader)
    flip(file.path)
    with pytest.raises(DamagedError), file.open() as reader:
        opened.append(reader)
    assert [reader.closed for reader in opened] == [True, True]
    assert opened[0].readable()


def test_a_size_that_is_not_the_recorded_one_needs_no_hashing(file: InputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.path.write_bytes(DATA[:-1])
    monkeypatch.setattr(InputFile, "check", lambda _: pytest.fail("it was hashed"))
    assert not file.is_whole()


def test_files_of_which_nothing_is_recorded_are_read_as_they_are(file: InputFile) -> None:
    flip(file.path)
    with open_input(file.path) as opened:
        assert opened.read() == file.path.read_bytes()
    with pytest.raises(DamagedError), open_input(file) as opened:
        opened.read()
    assert path_of(file) == path_of(file.path) == file.path
