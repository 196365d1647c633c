"""A disk that is full or read-only, in every step: it stops at once, names the place, and goes on with room."""

import errno
import os
import stat
from pathlib import Path

import pytest

from conftest import REPO, copy_of, tree_bytes
from microdiff.pipeline.workspace import Workspace
from tests.small_disk import mount, small_disk
from tests.waiting import run_python

__all__ = ["small_disk"]
pytestmark = pytest.mark.slow
ARTIFACT = {"download": "raw", "clean": "captions", "encode": "latents", "shard": "shards"}
FAILING = """
import errno, os, runpy, sys
real, kind = os.fsync, int(sys.argv[1])

def fsync(descriptor):
    if {folder!r} in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        with open({log!r}, "a") as log:
            log.write("tried\\n")
        raise OSError(kind, os.strerror(kind))
    real(descriptor)

os.fsync = fsync
sys.argv = ["stage", *sys.argv[3:]]
runpy.run_module({stage!r}, run_name="__main__")
"""


@pytest.fixture
def here(built: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(built, tmp_path / "here")


def stage(step: str, here: Workspace, **environment: str) -> tuple[int, list[str]]:
    """Run a step as DVC does; return its exit code, and what it said but for progress."""
    return python("-m", f"stages.{step}", here=here, **environment)


def python(*command: str, here: Workspace, **environment: str) -> tuple[int, list[str]]:
    arguments = ["coco", "--params", str(here.root / "params.yaml"), "--root", str(here.root)]
    done = run_python(*command, *arguments, cwd=REPO, env={**os.environ, **environment})
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line for line in lines if "partitions to compute" not in line and "/s, " not in line]


@pytest.mark.parametrize(("step", "workers"), [*((step, "1") for step in ARTIFACT), ("download", "2")])
def test_a_full_store_ends_the_step_and_room_continues_it(
    here: Workspace, small_disk: Path, step: str, workers: str
) -> None:
    expected = tree_bytes(here.artifact("coco", ARTIFACT[step]))
    (small_disk / "ballast").write_bytes(bytes(2**20 - 2**15))
    environment = {"MICRODIFF_WORK": str(small_disk / "work"), "MICRODIFF_WORKERS": workers}
    code, said = stage(step, here, **environment)
    assert code == 1
    assert len(said) == 1, said
    assert f": {small_disk}/work" in said[0]
    assert f"the disk is full (0.0 MB free on the file system at {small_disk.resolve()})" in said[0]
    assert not list(small_disk.glob("work/*/tmp-*")), "what was half done takes no room"
    mount(small_disk, "remount,size=100m")
    assert stage(step, here, **environment)[0] == 0
    assert tree_bytes(here.artifact("coco", ARTIFACT[step])) == expected


@pytest.mark.parametrize(
    ("step", "number"),
    [*((step, errno.ENOSPC) for step in ARTIFACT), *(("clean", n) for n in (errno.EDQUOT, errno.EROFS, errno.EACCES))],
)
def test_a_write_that_fails_is_not_tried_again(here: Workspace, tmp_path: Path, step: str, number: int) -> None:
    """Whoever runs this: a call of the system fails in the store, as it does on a full or read-only disk."""
    folder, log = tmp_path / "empty", tmp_path / "log"
    script = FAILING.format(
        folder=f"{folder}/{'clean' if step == 'clean' else step}", log=str(log), stage=f"stages.{step}"
    )
    environment = {"MICRODIFF_WORK": str(folder), "MICRODIFF_WORKERS": "1", "MICRODIFF_THREADS": "1"}
    code, said = python("-c", script, str(number), "-m", here=here, **environment)
    assert code == 1
    assert len(said) == 1, said
    assert said[0].startswith(f"error: {step} coco: ")
    assert log.read_text().count("tried") == 1
    if number != errno.EACCES:
        assert str(folder) in said[0]
    assert stage(step, here, **environment)[0] == 0


@pytest.mark.parametrize("name", ["data/coco", "metrics/shard", "reports/runs/shard", ".work"])
def test_what_is_read_only_is_said_before_the_work(here: Workspace, small_disk: Path, name: str) -> None:
    mount(small_disk, "remount,ro")
    if name == ".work":
        environment = {"MICRODIFF_WORK": str(small_disk)}
    else:
        environment = {"MICRODIFF_WORK": str(here.root / "other")}
        folder = here.root / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(folder.with_name("moved"))
        folder.symlink_to(small_disk)
    code, said = stage("shard", here, **environment)
    assert (code, len(said)) == (1, 1), said
    assert f"the file system (mounted at {small_disk.resolve()}) is read-only" in said[0]
    assert not (here.root / "other" / "shard").exists()


@pytest.mark.parametrize("name", [".work", "data", "data/coco", "metrics", "metrics/clean", "reports", "reports/runs"])
@pytest.mark.parametrize("step", ["clean", "report", "clean_work"])
def test_a_file_where_a_folder_is_needed_is_said(here: Workspace, name: str, step: str) -> None:
    path = here.root / name
    if path.exists():
        path.rename(path.with_name("moved"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    options = {"clean": ["coco"], "report": [], "clean_work": []}[step]
    params = ["--params", str(here.root / "params.yaml")] if step != "clean_work" else []
    done = run_python("-m", f"stages.{step}", *options, *params, "--root", str(here.root), cwd=REPO)
    assert "Traceback" not in done.stderr
    if step == "clean":
        assert done.returncode == 1
        assert f"{path}: expected a folder, found a file. Move it away" in done.stderr
    assert done.returncode in (0, 1)
    assert len(done.stderr.splitlines()) <= 3
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.parametrize("step", ["download", "verify", "report", "clean_work"])
def test_a_root_that_is_none_is_said(tmp_path: Path, step: str) -> None:
    (tmp_path / "file").touch()
    for root, problem in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "file", "expected a folder")):
        options = ["coco"] if step in ("download", "verify") else []
        done = run_python("-m", f"stages.{step}", *options, "--root", str(root), cwd=REPO)
        assert (done.returncode, done.stderr.splitlines()[1:]) == (1, [])
        assert f"error: {root}: {problem}" in done.stderr


def test_tracebacks_are_shown_when_asked_for(here: Workspace) -> None:
    (here.root / "reports").touch()
    environment = {"MICRODIFF_DEBUG": "1"}
    code, said = stage("shard", here, **environment)
    assert code == 1
    assert any("Traceback" in line for line in said)
