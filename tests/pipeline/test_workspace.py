"""What a step does with an artifact of which DVC has brought nothing but the manifest."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from conftest import REPO, copy_of
from microdiff.artifacts.manifest import MANIFEST
from microdiff.commands.forget import Request, forget
from microdiff.core.verified_files import InputFile
from microdiff.errors import SchemaError, StepError
from microdiff.pipeline.inputs import InputArtifact
from microdiff.pipeline.params import load_params
from microdiff.pipeline.run import Run
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.dataset import verify_dataset
from tests.waiting import run as run_program
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
    """A DVC repository that tracks the raw artifact, with a remote that has it and a full cache; its store is empty."""
    workspace = copy_of(built, tmp_path / "here")
    shutil.rmtree(workspace.root / ".work")
    dvc(workspace.root, "init", "--no-scm", "--quiet")
    dvc(workspace.root, "remote", "add", "--default", "storage", str(tmp_path / "remote"), "--quiet")
    dvc(workspace.root, "add", "data/coco/raw", "--quiet")
    dvc(workspace.root, "push", "--quiet")
    tracked = yaml.safe_load((workspace.root / "data/coco/raw.dvc").read_text())["outs"][0]
    stages = {"download@coco": {"cmd": "true", "outs": [{**tracked, "path": "data/coco/raw"}]}}
    (workspace.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return workspace


def opened(workspace: Workspace, source: Path = REPO / "samples/coco") -> InputArtifact:
    params = load_params(workspace.root / "params.yaml")
    coco = replace(params.dataset("coco"), source=str(source))
    return Run("clean", "coco", workspace, replace(params, datasets={"coco": coco})).input("raw")


def fetched(artifact: InputArtifact, *names: str) -> list[InputFile]:
    files = [artifact.file(name) for name in names]
    artifact.fetch(files)
    return files


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_step_fetches_what_it_reads_and_no_more(here: Workspace, has_cache: bool) -> None:
    """It puts that beside the store: the artifact's folder is whole, or it is not there."""
    folder = here.artifact("coco", "raw")
    keep_the_manifest_alone(folder)
    if not has_cache:
        shutil.rmtree(here.root / ".dvc" / "cache")
    artifact = opened(here)
    assert artifact.manifest.partitions.keys() == {"0000", "0001", "0002"}
    files = fetched(artifact, "0001.parquet", "0002.tar")
    assert [file.is_whole() for file in files] == [True, True]
    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert sorted((here.root / ".work/inputs").iterdir()) == sorted(file.path for file in files)


def test_what_is_nowhere_is_computed_again(here: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_the_manifest_alone(here.artifact("coco", "raw"))
    shutil.rmtree(here.root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    (file,) = fetched(opened(here), "0001.tar")
    assert file.is_whole()
    assert "data/coco/raw: 0001.tar is nowhere whole: the step before computes it again" in caplog.messages


def test_what_is_nowhere_and_cannot_be_computed_is_said(here: Workspace, tmp_path: Path) -> None:
    keep_the_manifest_alone(here.artifact("coco", "raw"))
    shutil.rmtree(here.root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    with pytest.raises(StepError, match=r"data/coco/raw: 0001\.tar is damaged and cannot be computed again: .*nowhere"):
        fetched(opened(here, tmp_path / "nowhere"), "0001.tar")


def flip(path: Path) -> None:
    """Change a bit of a file that has no other names."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def commit_all(root: Path) -> None:
    """Make a git repository of a folder, with one commit of dvc.lock."""
    for arguments in (
        ["init", "--quiet"],
        ["add", "dvc.lock"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "-m", "data"],
    ):
        done = run_program(["git", *arguments], cwd=root)
        assert done.returncode == 0, done.stderr


def test_a_damaged_manifest_is_replaced_by_the_recorded_one(here: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    path = here.artifact("coco", "raw") / MANIFEST
    whole = path.read_bytes()
    flip(path)
    assert opened(here).manifest.partitions.keys() == {"0000", "0001", "0002"}
    assert path.read_bytes() == whole
    assert "data/coco/raw/manifest.json: damaged: its own digest does not fit" in caplog.messages


def test_a_damaged_manifest_is_not_replaced_by_an_earlier_one(here: Workspace) -> None:
    """What an earlier one lists is whole, and may be other pictures and captions."""
    commit_all(here.root)
    flip(here.artifact("coco", "raw") / MANIFEST)
    lock = here.root / "dvc.lock"
    recorded = yaml.safe_load(lock.read_text())
    recorded["stages"]["download@coco"]["outs"][0]["md5"] = f"{'0' * 32}.dir"  # which neither cache nor remote has
    lock.write_text(yaml.safe_dump(recorded))
    with pytest.raises(
        SchemaError, match=r"raw/manifest\.json: damaged.*dvc repro --force --single-item download@coco"
    ):
        opened(here)


def test_without_dvc_a_missing_file_comes_from_the_store(built: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(built, tmp_path / "copy")
    (workspace.artifact("coco", "raw") / "0001.tar").unlink()
    (file,) = fetched(opened(workspace, tmp_path / "nowhere"), "0001.tar")
    assert file.is_whole()


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
