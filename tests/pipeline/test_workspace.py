"""What a step does with an artifact of which DVC has brought nothing but the manifest."""

import shutil
from pathlib import Path

import pytest

from conftest import copy_of
from microdiff.artifacts.manifest import MANIFEST
from microdiff.commands.forget import Request, forget
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.dataset import verify_dataset
from tests.waiting import run_python

pytestmark = pytest.mark.slow


def dvc(root: Path, *arguments: str) -> None:
    done = run_python("-m", "dvc", *arguments, cwd=root)
    assert done.returncode == 0, done.stderr


def keep_the_manifest_alone(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != MANIFEST:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def here(built: Workspace, tmp_path: Path) -> Workspace:
    """A DVC repository that tracks the raw artifact, with a remote that has it and a full cache."""
    workspace = copy_of(built, tmp_path / "here")
    dvc(workspace.root, "init", "--no-scm", "--quiet")
    dvc(workspace.root, "remote", "add", "--default", "storage", str(tmp_path / "remote"), "--quiet")
    dvc(workspace.root, "add", "data/coco/raw", "--quiet")
    dvc(workspace.root, "push", "--quiet")
    return workspace


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_step_fetches_what_it_reads(here: Workspace, has_cache: bool) -> None:
    folder = here.artifact("coco", "raw")
    whole = sorted(path.name for path in folder.iterdir())
    keep_the_manifest_alone(folder)
    if not has_cache:
        shutil.rmtree(here.root / ".dvc" / "cache")
    assert here.read_input("coco", "raw").partitions.keys() == {"0000", "0001", "0002"}
    assert sorted(path.name for path in folder.iterdir()) == whole


def test_what_is_nowhere_is_said(here: Workspace, tmp_path: Path) -> None:
    folder = here.artifact("coco", "raw")
    keep_the_manifest_alone(folder)
    shutil.rmtree(here.root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    with pytest.raises(StepError, match="data/coco/raw: 6 files are not here and cannot be fetched: "):
        here.read_input("coco", "raw")


def test_without_dvc_a_missing_file_is_an_error(built: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(built, tmp_path / "copy")
    (workspace.artifact("coco", "raw") / "0001.tar").unlink()
    with pytest.raises(SchemaError, match=r"0001\.tar: .*it is missing"):
        workspace.read_input("coco", "raw")


def test_a_manifest_alone_is_no_artifact_and_no_damage(built: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(built, tmp_path / "copy")
    fingerprints = workspace.fingerprints()
    keep_the_manifest_alone(workspace.artifact("coco", "raw"))
    assert workspace.fingerprints() == fingerprints  # their partitions stay in the store
    result = verify_dataset("coco", workspace)
    assert result.problems == []
    assert "data/coco/raw: not here, not verified" in result.notes
    (done,) = forget([Request("COCO_val2014_000000604721", "coco", "why")], workspace, allow_unknown=False)
    assert done.added == ["COCO_val2014_000000604721"]
