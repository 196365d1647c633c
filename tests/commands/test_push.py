"""What the DVC remote has under a name is what the name says: damage here is not sent, damage there is mended."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from microdiff.commands.push import check_objects
from microdiff.errors import SchemaError, SourceError
from tests.shard_project import FIRST, SHARDS, ShardProject, md5_of, object_of, objects

SHARD = "512/shard.00000.mds"
OBJECT = object_of(md5_of(FIRST[SHARD]))
LIST = next(iter(objects(FIRST)))


class Project(ShardProject):
    """Shards that are in DVC's cache and, where `linked`, by hard links in the artifact."""

    def __init__(self, root: Path, *, pushed: bool, linked: bool) -> None:
        super().__init__(root)
        for place, data in objects(FIRST).items():
            (self.cache / place).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / place).write_bytes(data)
        for name, data in FIRST.items():
            path = root / SHARDS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if linked:
                os.link(self.cache / object_of(md5_of(data)), path)
            else:
                path.write_bytes(data)
        self.commit(FIRST)
        if not pushed:
            for place in objects(FIRST):
                (self.remote / place).unlink()

    @property
    def cache(self) -> Path:
        return self.root / ".dvc/cache"

    def check(self, *, read_remote: bool = False) -> None:
        check_objects(self.root, self.root / ".work/push", read_remote=read_remote)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_whole_passes_and_nothing_is_written(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", pushed=False, linked=True)
    project.check(read_remote=True)
    assert not [path for path in project.remote.rglob("*") if path.is_file()]


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"longer")])
def test_an_object_that_is_damaged_with_its_artifact_is_not_sent(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    project = Project(tmp_path / "project", pushed=False, linked=True)
    harm(project.cache / OBJECT)
    with pytest.raises(SchemaError, match=rf"{SHARDS}/{SHARD}: damaged in DVC's cache[^\n]*\n.*verify --repair"):
        project.check()


@pytest.mark.parametrize("place", [OBJECT, LIST])
def test_an_object_that_is_damaged_in_the_cache_alone_is_taken_from_the_artifact(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(tmp_path / "project", pushed=False, linked=False)
    damage(project.cache / place)
    project.check()
    assert (project.cache / place).read_bytes() == objects(FIRST)[place]
    assert "it was damaged in DVC's cache" in caplog.text


def test_a_folder_in_the_place_of_an_object_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", pushed=False, linked=False)
    (project.cache / OBJECT).unlink()
    (project.cache / OBJECT).mkdir()
    with pytest.raises(SchemaError, match=rf"{SHARDS}/{SHARD}: damaged in DVC's cache \(.*{OBJECT}\)"):
        project.check()


@pytest.mark.parametrize("place", [OBJECT, LIST])
def test_an_object_of_another_size_on_the_remote_is_sent_again(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(tmp_path / "project", pushed=True, linked=True)
    (project.remote / place).write_bytes(b"cut")
    project.check()
    assert (project.remote / place).read_bytes() == objects(FIRST)[place]
    assert "it was damaged on the remote" in caplog.text


def test_an_object_of_the_same_size_on_the_remote_is_sent_again_when_it_is_read(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", pushed=True, linked=True)
    damage(project.remote / OBJECT)
    project.check()
    assert (project.remote / OBJECT).read_bytes() != FIRST[SHARD]
    project.check(read_remote=True)
    assert (project.remote / OBJECT).read_bytes() == FIRST[SHARD]


def test_what_is_damaged_here_and_there_is_not_sent(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", pushed=True, linked=True)
    damage(project.cache / OBJECT)
    (project.remote / OBJECT).write_bytes(b"cut")
    with pytest.raises(SchemaError, match="damaged in DVC's cache"):
        project.check()
    assert (project.remote / OBJECT).read_bytes() == b"cut"


def test_without_a_remote_it_is_said_how_to_set_one(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", pushed=True, linked=True)
    project.configure("")
    with pytest.raises(SourceError, match="make remote URL="):
        project.check()


def test_of_a_remote_that_only_dvc_can_open_everything_here_is_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = Project(tmp_path / "project", pushed=True, linked=True)
    project.configure("[core]\n    remote = storage\n['remote \"storage\"']\n    url = gs://bucket/latents\n")
    project.check()
    assert "What the remote has is not looked at" in caplog.text
    damage(project.cache / OBJECT)
    with pytest.raises(SchemaError, match="damaged in DVC's cache"):
        project.check()
