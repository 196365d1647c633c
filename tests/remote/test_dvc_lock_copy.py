"""A dvc.lock that a kill cut: told from a whole one as DVC tells them, and put right from a copy or from git."""

import os
import re
import threading
import time
from pathlib import Path

import pytest
import yaml
from dvc import schema

from conftest import REPO
from microdiff.errors import SchemaError
from microdiff.remote.dvc_lock_copy import BROKEN, keep_copy, lock_problem, restore_lock
from tests.waiting import PATIENCE_S, run

WHOLE = (REPO / "dvc.lock").read_bytes()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.lock").write_bytes(WHOLE)
    return tmp_path


def commit(project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for command in (["init", "-q"], ["add", "-f", "dvc.lock"], ["commit", "-qm", "lock"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        assert run(["git", *identity, *command], cwd=project, env=environment).returncode == 0


def dvc_refuses(data: bytes) -> bool:
    try:
        schema.COMPILED_LOCKFILE_SCHEMA(yaml.load(data, Loader=yaml.CSafeLoader))
    except (schema.vol.Invalid, yaml.YAMLError, UnicodeDecodeError):
        return True
    return False


def test_whatever_dvc_refuses_of_a_cut_file_is_found() -> None:
    assert lock_problem(WHOLE) is None
    start, end = WHOLE.index(b"clean@coco"), WHOLE.index(b"encode@coco")
    cuts = [*range(40), *range(start, end), *range(0, len(WHOLE), 997)]
    missed = [cut for cut in cuts if dvc_refuses(WHOLE[:cut]) and lock_problem(WHOLE[:cut]) is None]
    assert missed == []
    too_much = [cut for cut in cuts if not dvc_refuses(WHOLE[:cut]) and lock_problem(WHOLE[:cut]) is not None]
    assert all(re.search(rb"md5: \d+$", WHOLE[:cut]) for cut in too_much)  # read as a number
    assert sum(dvc_refuses(WHOLE[:cut]) for cut in cuts) > len(cuts) / 3


@pytest.mark.parametrize("cut", [0, 8192, 20000])
def test_the_last_good_copy_comes_back(project: Path, cut: int) -> None:
    cut = next(n for n in range(cut, len(WHOLE)) if lock_problem(WHOLE[:n]) is not None)
    keep_copy(project)
    (project / "dvc.lock").write_bytes(WHOLE[:cut])
    keep_copy(project)  # which leaves the copy as it is
    said = restore_lock(project)
    assert said is not None
    assert "the last good copy" in said
    assert (project / "dvc.lock").read_bytes() == WHOLE
    assert (project / BROKEN).read_bytes() == WHOLE[:cut]
    assert restore_lock(project) is None


def test_the_copy_without_its_end_is_a_cut_file_though_dvc_would_take_it(project: Path) -> None:
    keep_copy(project)
    cut = WHOLE.index(b"md5: ", 9000) + len("md5: 0123456789abcdef")
    (project / "dvc.lock").write_bytes(WHOLE[:cut])
    assert lock_problem(WHOLE[:cut]) is None
    keep_copy(project)
    said = restore_lock(project)
    assert said is not None
    assert "it ends in the middle of a line" in said
    assert (project / "dvc.lock").read_bytes() == WHOLE


def test_without_a_copy_git_has_one(project: Path) -> None:
    commit(project)
    (project / "dvc.lock").write_bytes(b"")
    said = restore_lock(project)
    assert said is not None
    assert "the one of git's HEAD" in said
    assert (project / "dvc.lock").read_bytes() == WHOLE


def test_without_either_the_remedy_is_said(project: Path) -> None:
    (project / "dvc.lock").write_bytes(WHOLE[:100])
    with pytest.raises(SchemaError, match=r"neither a copy of it nor git has a good one\.\nRemove it") as caught:
        restore_lock(project)
    assert len(str(caught.value).splitlines()) == 2
    assert (project / "dvc.lock").read_bytes() == WHOLE[:100]
    (project / "dvc.lock").unlink()
    assert restore_lock(project) is None
    assert not (project / "dvc.lock").exists()


def test_what_somebody_edited_stays(project: Path) -> None:
    commit(project)
    keep_copy(project)
    mine = WHOLE.replace(b"caption: first", b"caption: longest")
    for data in (mine, WHOLE[: WHOLE.index(b"  clean@cc12m")], mine.rstrip(b"\n")):
        (project / "dvc.lock").write_bytes(data)
        assert restore_lock(project) is None
        assert (project / "dvc.lock").read_bytes() == data
    assert not (project / BROKEN).exists()


def test_conflicts_of_a_merge_are_for_people(project: Path) -> None:
    keep_copy(project)
    data = WHOLE.replace(b"  clean@coco", b"<<<<<<< HEAD\n  clean@coco", 1)
    (project / "dvc.lock").write_bytes(data)
    with pytest.raises(SchemaError, match="holds conflicts of a merge"):
        restore_lock(project)
    assert (project / "dvc.lock").read_bytes() == data


def test_one_that_is_being_written_is_waited_for(project: Path) -> None:
    keep_copy(project)
    newer = WHOLE.replace(b"caption: first", b"caption: longest")
    (project / "dvc.lock").write_bytes(newer[:5000] + b"\n  - [")

    def finish() -> None:
        time.sleep(0.3)
        (project / "dvc.lock").write_bytes(newer)

    writer = threading.Thread(target=finish)
    writer.start()
    assert restore_lock(project) is None
    writer.join(PATIENCE_S)
    assert (project / "dvc.lock").read_bytes() == newer


def test_no_copy_is_kept_where_there_is_no_dvc(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_bytes(WHOLE)
    keep_copy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.lock"]
