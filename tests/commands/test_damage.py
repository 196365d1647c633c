"""What make drops before DVC looks at outputs that were written to in place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from microdiff.artifacts.manifest import MANIFEST, write_manifest
from microdiff.commands.damage import drop_damaged
from microdiff.core.files import digest_bytes, md5_of

COUNTS = {"in": 1, "kept": 1}
DATA = b"pictures" * 100


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An artifact of one file, which DVC's cache holds by a hard link."""
    folder = tmp_path / "data" / "coco" / "raw"
    folder.mkdir(parents=True)
    (folder / "0000.tar").write_bytes(DATA)
    files = {"0000.tar": {"bytes": len(DATA), "sha256": digest_bytes(DATA)}}
    partitions = {"0000": {"fingerprints": [], "counts": COUNTS, "files": files, "parts": []}}
    write_manifest(folder, {"format": 1, "source_records": 1, "counts": COUNTS, "partitions": partitions})
    for name in ("0000.tar", MANIFEST):
        cached = cached_copy(folder / name)
        cached.parent.mkdir(parents=True)
        os.link(folder / name, cached)
    return folder


def cached_copy(path: Path) -> Path:
    md5 = md5_of(path)
    return path.parents[3] / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\x01")


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [bit, longer, shorter])
@pytest.mark.parametrize("name", ["0000.tar", MANIFEST])
def test_what_was_written_to_in_place_goes_from_cache_and_artifact(
    raw: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cached = cached_copy(raw / name)
    other = raw / ("0000.tar" if name == MANIFEST else MANIFEST)
    damage(raw / name)
    assert drop_damaged(tmp_path, "coco", tmp_path / "notes") == 1
    assert not (raw / name).exists()
    assert not cached.exists()
    assert other.exists()
    assert f"{raw / name}: damaged" in caplog.text


def test_what_is_whole_stays_and_is_hashed_once(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / "0000.tar").touch()  # younger than the manifest
    assert drop_damaged(tmp_path, "coco", tmp_path / "notes") == 0
    monkeypatch.setattr("microdiff.core.verified_files.InputFile.is_whole", lambda _: pytest.fail("hashed again"))
    assert drop_damaged(tmp_path, "coco", tmp_path / "notes") == 0
    assert (raw / "0000.tar").read_bytes() == DATA


def test_a_link_that_leads_nowhere_goes(raw: Path, tmp_path: Path) -> None:
    (raw / "0000.tar").unlink()
    (raw / "0000.tar").symlink_to(tmp_path / "nothing")
    assert drop_damaged(tmp_path, "coco", tmp_path / "notes") == 1
    assert not (raw / "0000.tar").is_symlink()


def test_an_artifact_of_which_only_the_manifest_is_here_is_left_alone(raw: Path, tmp_path: Path) -> None:
    (raw / "0000.tar").unlink()
    assert drop_damaged(tmp_path, "coco", tmp_path / "notes") == 0
    assert (raw / MANIFEST).is_file()
