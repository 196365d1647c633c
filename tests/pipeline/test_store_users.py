"""Clones that share a partition store: none removes what another one needs."""

import shutil
from pathlib import Path

import pytest

from conftest import REPO, copy_of
from microdiff.clean.step import clean
from microdiff.core.files import read_json, write_json
from microdiff.errors import StepError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.store_users import needed_by_others, register
from microdiff.pipeline.workspace import Workspace
from tests.small_disk import as_nobody
from tests.waiting import run_python

pytestmark = pytest.mark.slow


@pytest.fixture
def clones(built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Workspace]:
    """Two clones with artifacts of other settings, of which the store has both."""
    one, two = copy_of(built, tmp_path / "one"), copy_of(built, tmp_path / "two")
    shutil.move(one.root / ".work", tmp_path / "shared")
    shutil.rmtree(two.root / ".work")
    shutil.rmtree(tmp_path / "shared" / "users")  # they name the original of both
    monkeypatch.setenv("MICRODIFF_WORK", str(tmp_path / "shared"))
    text = (two.root / "params.yaml").read_text()
    (two.root / "params.yaml").write_text(text.replace("caption: first", "caption: longest"))
    for clone in (one, two):
        clean("coco", load_params(clone.root / "params.yaml", "coco"), clone)
    return one, two


def clean_work(clone: Workspace) -> tuple[int, str]:
    done = run_python("-m", "stages.clean_work", "--root", str(clone.root), cwd=REPO)
    return done.returncode, done.stdout + done.stderr


def in_store(clone: Workspace) -> set[str]:
    store = clone.store().root
    return {name for name in clone.fingerprints() if list(store.glob(f"*/{name}"))}


def test_one_clone_keeps_what_another_needs(clones: tuple[Workspace, Workspace]) -> None:
    one, two = clones
    assert set(two.fingerprints()) - set(one.fingerprints())
    for clone in clones:
        assert clean_work(clone)[0] == 0
        assert in_store(one) == set(one.fingerprints())
        assert in_store(two) == set(two.fingerprints())


def test_a_clone_that_is_gone_is_forgotten(clones: tuple[Workspace, Workspace]) -> None:
    one, two = clones
    only_two = set(two.fingerprints()) - set(one.fingerprints())
    shutil.rmtree(two.root)
    code, said = clean_work(one)
    assert code == 0
    assert f"{two.root} is gone" in said
    assert not [name for name in only_two if list(one.store().root.glob(f"*/{name}"))]
    assert in_store(one) == set(one.fingerprints())
    assert len(list(one.store().root.glob("users/*.json"))) == 1


def test_what_cannot_be_told_is_kept(clones: tuple[Workspace, Workspace]) -> None:
    one, two = clones
    before = sorted(one.store().root.rglob("*"))
    manifest = two.artifact("coco", "raw") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:50])
    code, said = clean_work(one)
    assert (code, len(said.splitlines())) == (1, 2), said
    assert f"{two.root} uses it, too, and what that needs cannot be told" in said
    assert sorted(one.store().root.rglob("*")) == before


def test_a_clone_on_another_machine_is_named(clones: tuple[Workspace, Workspace]) -> None:
    one, _ = clones
    write_json(one.store().root / "users" / "other.json", {"root": "/elsewhere/clone", "host": "far-away"})
    code, said = clean_work(one)
    assert (code, len(said.splitlines())) == (1, 2), said
    assert "/elsewhere/clone on far-away uses it, too" in said
    (one.store().root / "users" / "other.json").write_text("{")
    with pytest.raises(StepError, match=r"other\.json: damaged\. Remove it"):
        needed_by_others(one)


def test_a_clone_of_somebody_else_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine, theirs = Workspace(tmp_path / "mine"), tmp_path / "closed" / "theirs"
    theirs.mkdir(parents=True)
    write_json(mine.store().root / "users" / "other.json", {"root": str(theirs), "host": "any"})
    theirs.parent.chmod(0)

    def attempt() -> None:
        with pytest.raises(StepError, match="theirs uses it, too, and what that needs cannot be told"):
            needed_by_others(mine)

    as_nobody(attempt, tmp_path)


def test_clones_register_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    register(workspace)
    (record,) = (tmp_path / ".work" / "users").iterdir()
    assert read_json(record)["root"] == str(tmp_path.resolve())
    before = record.stat().st_mtime_ns
    register(workspace)
    assert record.stat().st_mtime_ns == before
    workspace.store().prune([])
    assert record.is_file()
    assert needed_by_others(workspace) == []
