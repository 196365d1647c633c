"""Fixtures that several test modules share."""

import copy
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace

REPO = Path(__file__).resolve().parent.parent

# Where images of containers switch it off, every process that a test starts would compile torch and all else anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Each process of the suite has a core: threads of several would wait for one another. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# What most systems give a program. Some machines give more, and hide what leaks.
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
# A shell leaves SIGINT ignored to what it starts in the background, and tests that interrupt would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whole steps, processes, servers and models: what `make quick` leaves out, besides tests marked one by one.
SLOW = (
    "artifacts/test_mds.py",
    "commands/test_same_bytes.py",
    "encode/test_step.py",
    "formats/test_tar.py",
    "handlers/test_cc12m_urls.py",
    "loader/test_descriptors.py",
    "loader/test_order.py",
    "loader/test_sources.py",
    "models/test_encoders.py",
    "models/test_families.py",
    "pipeline/test_executor.py",
    "pipeline/test_locks.py",
    "remote/test_team.py",
    "shard/test_step.py",
    "storage/test_s3.py",
    "test_damage.py",
    "test_steps.py",
    "test_takedown.py",
    "test_train_tiny.py",
    "verify/test_verify.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow modules."""
    for item in items:
        if item.path.relative_to(REPO / "tests").as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKERS", "THREADS", "EXECUTOR", "WORK", "DEBUG", "STORE", "HASH_ALWAYS"):
        monkeypatch.delenv(f"MICRODIFF_{name}", raising=False)
    monkeypatch.chdir(REPO)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def make_params(tmp_path: Path) -> Callable[..., Params]:
    """Return a function that loads the sample preset with changes given as dotted names."""

    def make(changes: dict[str, Any] | None = None, into: Path = tmp_path / "params.yaml") -> Params:
        into.write_text(yaml.safe_dump(changed(sample_preset(), changes or {})), encoding="utf-8")
        return load_params(into)

    return make


def sample_preset() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPO / "presets" / "sample.yaml").read_text(encoding="utf-8"))
    return document


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with dotted names set, or removed where the value is `...`."""
    document = copy.deepcopy(document)
    for name, value in changes.items():
        *path, last = name.split("/") if "/" in name else name.split(".")
        section = document
        for part in path:
            section = section[part]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return document


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes by path, for comparing artifacts."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


FEW_PARTITIONS = {"datasets.coco.download.partitions": "0-2", "shard.shard_bytes": 131072}


def made_once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the first process of the suite that asks for it makes, and all others use."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = folder.with_name(f"{name} is done")
    with FileLock(folder.with_name(f"{name} is locked"), timeout=900):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # somebody failed in the middle of it
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def build_coco(root: Path, changes: dict[str, Any]) -> None:
    """Run all four steps of COCO with the sample preset's settings, changed."""
    from microdiff.clean.step import clean
    from microdiff.download.step import download
    from microdiff.encode.step import encode
    from microdiff.shard.step import shard

    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(changed(sample_preset(), changes)), encoding="utf-8")
    os.chdir(REPO)
    for step in (download, clean, encode, shard):
        step("coco", load_params(path), Workspace(root))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All four steps on three partitions of the COCO miniature; tests work on copies of it (see `copy_of`)."""
    return Workspace(made_once("built", lambda root: build_coco(root, FEW_PARTITIONS), tmp_path_factory))


def copy_of(workspace: Workspace, root: Path) -> Workspace:
    """Return a copy of a workspace, its files being hard links in it as they are in the original."""
    shutil.copytree(workspace.root / "data", root / "data")
    shutil.copytree(workspace.root / "metrics", root / "metrics")
    shutil.copy(workspace.root / "params.yaml", root / "params.yaml")
    work = workspace.root / ".work"
    originals = {path.stat().st_ino: path for path in (workspace.root / "data").rglob("*") if path.is_file()}

    def link(source: str, target: str) -> None:
        original = originals.get(Path(source).stat().st_ino)
        if original is None:
            shutil.copy2(source, target)
        else:
            os.link(root / original.relative_to(workspace.root), target)

    shutil.copytree(work, root / ".work", copy_function=link)
    return Workspace(root)
