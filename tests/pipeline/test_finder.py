"""Where a finished partition is looked for, in which order, and that nothing is fetched but what is used."""

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import tree_bytes
from microdiff.core.ledger import Result
from microdiff.core.progress import Reporter
from microdiff.pipeline.params import Params
from microdiff.pipeline.run import Run
from microdiff.pipeline.shared_store import VARIABLE
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.local import LocalStorage
from tests.tracked import CACHE, cached, track
from tests.waiting import run as run_program

computed: list[str] = []


def write(name: str, text: str, folder: Path, report: Reporter) -> Result:
    computed.append(name)
    (folder / f"{name}.txt").write_text(f"{text} of {name}")
    return Result({"in": 1, "kept": 1}, {"fact": text})


def task(name: str, text: str = "text") -> Task:
    return Task("clean", name, {"text": text}, partial(write, name, text))


NAMES = ("0000", "0001", "0002")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    computed.clear()
    (tmp_path / "here").mkdir()
    return Workspace(tmp_path / "here")


Work = Callable[..., list[str]]


@pytest.fixture
def work(here: Workspace, make_params: Callable[..., Params]) -> Work:
    """Return a function that runs a step with tasks of names and texts; it returns the names of those computed."""

    def do(texts: dict[str, str], salt: str = "") -> list[str]:
        computed.clear()
        run = Run("clean", "coco", here, make_params({"store_salt": salt}))
        with run.active():
            stored: list[StoredPartition] = run.compute([task(name, text) for name, text in texts.items()])
            run.publish(here.artifact("coco", "captions"), stored, None, None, None, 1.0, {"step": "clean"})
        files = tree_bytes(here.artifact("coco", "captions"))
        assert {name: files[f"{name}.txt"].decode() for name in texts} == {
            name: f"{text} of {name}" for name, text in texts.items()
        }
        return list(computed)

    return do


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that are read from remotes and shared stores."""
    paths: list[str] = []
    read = LocalStorage.read

    def watched(storage: LocalStorage, path: str, *arguments: object, **options: object) -> object:
        paths.append(path)
        return read(storage, path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "read", watched)
    return paths


FIRST = dict.fromkeys(NAMES, "text")
CHANGED = {**FIRST, "0001": "other"}


def leave_nothing(here: Workspace) -> None:
    """Be a fresh clone, in which DVC has removed a step's output before it runs."""
    shutil.rmtree(here.root / ".work")
    shutil.rmtree(here.artifact("coco", "captions"))


def test_the_folder_that_is_here_gives_what_the_store_lacks(here: Workspace, work: Work) -> None:
    assert work(FIRST) == list(NAMES)
    shutil.rmtree(here.root / ".work")
    assert work(CHANGED) == ["0001"]


def test_the_cache_gives_what_dvc_has_recorded(here: Workspace, work: Work) -> None:
    work(FIRST)
    track(here, kinds=["captions"])
    leave_nothing(here)
    assert work(CHANGED) == ["0001"]


def test_of_the_remote_only_what_is_used_is_fetched(
    here: Workspace, work: Work, tmp_path: Path, fetched: list[str]
) -> None:
    work(FIRST)
    track(here, remote=tmp_path / "remote", kinds=["captions"])
    leave_nothing(here)
    assert work({"0002": "text", "0001": "other"}) == ["0001"]
    assert len(fetched) == 3  # the dir object, the manifest, and one file
    assert len(set(fetched)) == 3


def test_what_the_remote_has_no_more_is_computed_again_in_the_same_run(
    here: Workspace, work: Work, tmp_path: Path
) -> None:
    work(FIRST)
    remote = tmp_path / "remote"
    lost = cached(here, here.artifact("coco", "captions") / "0002.txt").relative_to(here.root / CACHE)
    track(here, remote=remote, kinds=["captions"])
    (remote / "files/md5" / lost).unlink()
    leave_nothing(here)
    assert work(FIRST) == ["0002"]


def git(here: Workspace, *arguments: str) -> None:
    done = run_program(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=here.root)
    assert done.returncode == 0, done.stderr


def commit(here: Workspace) -> None:
    git(here, "init", "--quiet")
    git(here, "add", "dvc.lock")
    git(here, "commit", "--quiet", "--message", "lock")


def test_commits_give_what_they_have_recorded(here: Workspace, work: Work, fetched: list[str]) -> None:
    """Back at an earlier commit's settings: dvc.lock has the second change, HEAD the first, HEAD~1 the original."""
    for number, texts in enumerate((FIRST, CHANGED, {**FIRST, "0002": "third"})):
        work(texts)
        track(here, kinds=["captions"])
        if number < 2:
            commit(here)
    leave_nothing(here)
    assert work({"0000": "text", "0001": "other", "0002": "third"}) == []
    leave_nothing(here)
    assert work(FIRST) == []
    assert fetched == []
    (here.root / "dvc.lock").write_text("<<<<<<< cut or in conflict")
    leave_nothing(here)
    assert work(CHANGED) == []
    shutil.rmtree(here.root / ".git")
    leave_nothing(here)
    assert work(CHANGED) == list(NAMES)


def test_the_shared_store_is_asked_last(
    here: Workspace, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    work(FIRST)
    track(here, kinds=["captions"])
    shutil.rmtree(here.root / ".work")

    def of_partitions() -> list[str]:
        found = [path for path in fetched if path.startswith("clean/") and not path.endswith("partition.json")]
        fetched.clear()
        return found

    of_partitions()
    assert work(FIRST) == []
    assert of_partitions() == [], "the folder has them"
    leave_nothing(here)
    assert work(FIRST) == []
    assert of_partitions() == [], "the cache has them"
    leave_nothing(here)
    shutil.rmtree(here.root / ".dvc")
    assert work(FIRST) == []
    assert sorted(path.rpartition("/")[2] for path in of_partitions()) == [f"{name}.txt" for name in NAMES]


def test_a_damaged_copy_is_passed_over_for_the_next_place(
    here: Workspace, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    work(FIRST)
    track(here, kinds=["captions"])
    shutil.rmtree(here.root / ".work")
    path = here.artifact("coco", "captions") / "0001.txt"
    in_cache = cached(here, path)
    for each in (path, in_cache):
        data = each.read_bytes()
        each.unlink()
        each.write_bytes(data.replace(b"text", b"test"))
    assert work(FIRST) == []
    assert re.search(r"captions/0001\.txt: damaged: expected sha256 .*It is dropped", caplog.text)
    assert "data/coco/captions/0001.txt: damaged in DVC's cache. It is dropped there." in caplog.messages
    assert not in_cache.exists()


def test_another_salt_finds_nothing_anywhere(
    here: Workspace, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared"))
    work(FIRST)
    track(here, kinds=["captions"])
    assert work(FIRST, salt="again") == list(NAMES)
    assert work(FIRST, salt="again") == []
    assert work(FIRST) == []


# What the store itself has.


@pytest.mark.parametrize("keeps_mtime", [True, False])
def test_a_damaged_result_is_dropped_under_all_its_names(
    here: Workspace, work: Work, caplog: pytest.LogCaptureFixture, keeps_mtime: bool
) -> None:
    """Store, artifact and DVC's cache hold one file, to which root may write whatever its permissions are."""
    work(FIRST)
    track(here, kinds=["captions"])
    path = here.artifact("coco", "captions") / "0001.txt"
    in_cache = cached(here, path)
    in_cache.unlink()
    os.link(path, in_cache)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"T")
    if keeps_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert work(FIRST) == ["0001"]
    assert not in_cache.exists()
    (dropped,) = [each for each in caplog.messages if each.endswith("It is dropped from the store.")]
    assert "0001.txt: damaged: expected sha256 " in dropped
    assert any(
        "the same file, by a hard link, in DVC's cache. It is dropped there." in each for each in caplog.messages
    )
    assert "damaged in DVC's cache" not in caplog.text, "it was not left for others to find"
