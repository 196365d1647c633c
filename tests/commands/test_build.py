"""`make coco` when something is missing, cut, misspelt or under way: real make and DVC, and nodes that cost nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import REPO, tree_bytes
from tests.waiting import PATIENCE_S, end, run, wait_until

pytestmark = pytest.mark.slow

ARTIFACTS = {"download": "raw", "clean": "captions", "encode": "latents", "shard": "shards"}
NODE = """
import hashlib, json, pathlib, sys, time
step, made, *read = sys.argv[1:]
log = pathlib.Path("node.log")
with log.open("a") as file: file.write(step + "\\n")
while pathlib.Path("hold-" + step).exists(): time.sleep(0.05)
from microdiff.pipeline.params import load_params
load_params(pathlib.Path("params.yaml"), "coco")
inputs = "".join((pathlib.Path("data/coco") / name / "manifest.json").read_text() for name in read)
data = (step + inputs + pathlib.Path("setting-" + step).read_text()).encode()
folder = pathlib.Path("data/coco") / made
folder.mkdir(parents=True)
(folder / "0.bin").write_bytes(data)
record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
partition = {"fingerprints": [], "counts": {"in": 1, "kept": 1}, "files": {"0.bin": record}, "parts": []}
from microdiff.artifacts.manifest import FORMAT, write_manifest
others = [path for path in pathlib.Path("data").glob("*/raw") if path.parent.name != "coco"] if step == "clean" else []
made_from = {str(path): hashlib.md5((path / "manifest.json").read_bytes()).hexdigest() for path in others}
write_manifest(folder, {"format": FORMAT, "step": step, "dataset": "coco", "source_records": 1, "made_from": made_from,
    "counts": {"in": 1, "kept": 1}, "partitions": {"0": partition}, "extra": {}, "withdrawn": 0})
metrics = pathlib.Path("metrics") / step / "coco.json"
metrics.parent.mkdir(parents=True, exist_ok=True)
metrics.write_text(json.dumps({"kept": 1, "of": record["sha256"]}))
"""


def pipeline() -> str:
    outs = [f"{{code/{step}.json: {{cache: false}}}}" for step in ARTIFACTS]
    lines = ["stages:", "  code:", "    cmd: python -m stages.code", "    deps: [microdiff]"]
    lines += [f"    outs: [{', '.join(outs)}, {{code/handlers: {{cache: false}}}}]"]
    before = None
    for step, made in ARTIFACTS.items():
        params = {"download": "download, 'datasets.${key}.download'", "encode": "encode", "shard": "shard"}
        lines += [
            f"  {step}:",
            "    foreach: [coco]" if step != "download" else "    foreach: {coco: 1}",
            "    do:",
            f"      cmd: python node.py {step} {made} {before or ''}",
            f"      params: [{params.get(step, 'datasets.coco.clean').replace('${key}', 'coco')}]",
            f"      deps: [setting-{step}{f', data/coco/{before}/manifest.json' if before else ''}]",
            f"      outs: [data/coco/{made}]",
            f"      metrics: [metrics/{step}/coco.json: {{cache: false}}]",
        ]
        before = made
    return "\n".join(lines) + "\n"


class Project:
    """A repository whose nodes write a few bytes, with its own make targets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO),
        }

    def create(self) -> None:
        for name in ("microdiff/handlers/__init__.py", "microdiff/handlers/coco.py"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        shutil.copy(REPO / "Makefile", self.root / "Makefile")
        shutil.copy(REPO / "presets" / "sample.yaml", self.root / "params.yaml")
        shutil.copytree(REPO / "samples" / "coco", self.root / "samples" / "coco")
        shutil.copytree(REPO / "samples" / "models", self.root / "samples" / "models")
        (self.root / "node.py").write_text(NODE)
        (self.root / "dvc.yaml").write_text(pipeline())
        for step in ARTIFACTS:
            (self.root / f"setting-{step}").write_text("one")
        (self.root / ".gitignore").write_text("/node.log\n/hold-*\n/dvc.lock.broken\n")
        for command in ("git init -q -b main", "dvc init -q", "dvc repro -q code"):
            self.call(*command.split())
        assert "Running stage 'shard@coco'" in self.make("coco")
        self.call("git", "add", "-A")
        self.call("git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "built")

    def call(self, *command: str, expected: int = 0) -> str:
        done = run(command, cwd=self.root, env=self.environment)
        assert (done.returncode == 0) == (expected == 0), done.stdout + done.stderr
        return done.stdout + done.stderr

    def make(self, *targets: str, expected: int = 0) -> str:
        return self.call("make", "-o", "setup", *targets, expected=expected)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True, **pipes
        )

    def ran(self) -> list[str]:
        """Return the nodes that ran since this was asked last."""
        log = self.root / "node.log"
        steps = log.read_text().split() if log.is_file() else []
        log.unlink(missing_ok=True)
        return steps

    def edit(self, old: str, new: str) -> None:
        text = (self.root / "params.yaml").read_text()
        assert old in text
        (self.root / "params.yaml").write_text(text.replace(old, new))

    def forget_runs(self) -> None:
        shutil.rmtree(self.root / ".dvc" / "cache" / "runs", ignore_errors=True)

    def outputs(self) -> dict[str, bytes]:
        return tree_bytes(self.root / "data") | tree_bytes(self.root / "metrics")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("project") / "made")
    project.root.mkdir()
    project.create()
    project.ran()
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def with_remote(project: Project, *pushed: str) -> Path:
    remote = project.root.with_name("remote")
    project.make("remote", f"URL={remote}")
    if pushed:
        project.call("dvc", "push", "-q", *pushed)
    return remote


def forget_all(project: Project) -> None:
    """Leave a clone that has fetched nothing yet."""
    for path in (project.root / "data" / "coco").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(project.root / ".dvc" / "cache")


def test_what_is_current_is_left_alone(project: Project) -> None:
    assert "Data and pipelines are up to date." in project.make("coco")
    assert project.ran() == []


def test_captions_follow_the_artifacts_of_other_datasets(project: Project) -> None:
    """Which those are is a setting, such as `exclude_pictures`; DVC knows nothing of them."""
    manifest = project.root / "data/sa1b/raw/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("first")
    (project.root / "setting-clean").write_text("with sa1b")
    project.make("coco")
    assert project.ran() == ["clean", "encode", "shard"]
    manifest.write_text("second")
    assert "data/sa1b/raw: changed since the captions of coco were made" in project.make("coco")
    assert project.ran() == ["clean", "encode", "shard"]
    assert "Data and pipelines are up to date." in project.make("coco")
    assert project.ran() == []


@pytest.mark.parametrize(
    ("gone", "has_run_cache"),
    [
        (["data/coco/raw"], True),
        (["data/coco/raw"], False),
        (["data/coco/latents", "metrics/encode"], False),
        (["data/coco", "metrics"], True),
    ],
)
def test_outputs_that_are_gone_come_back_and_it_is_said(project: Project, gone: list[str], has_run_cache: bool) -> None:
    expected = project.outputs()
    for name in gone:
        shutil.rmtree(project.root / name)
    if not has_run_cache:
        project.forget_runs()
    said = project.make("coco")
    assert project.outputs() == expected
    for name in gone:
        assert f"{name if name.count('/') > 1 else name + '/'}" in said
    (project.root / "setting-clean").write_text("two")
    project.make("coco")
    assert project.ran()[-3:] == ["clean", "encode", "shard"]


def test_a_typo_costs_nothing(project: Project) -> None:
    expected = project.outputs()
    project.edit("images_per_partition: 10", "images_per_partitoin: 10")
    said = project.make("coco", expected=2)
    assert "datasets.coco.download.images_per_partitoin: unknown; did you mean 'images_per_partition'?" in said
    assert "Traceback" not in said
    assert project.outputs() == expected
    for target in ("demo",):
        assert "did you mean" in project.make(target, expected=2)
    assert project.outputs() == expected
    assert project.ran() == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source: samples/coco", "source: samples/cooc", "datasets.coco.download.source: samples/cooc: no such folder"),
        ("model: samples/models/vae", "model: samples/models/vea", "encode.image: samples/models/vea: no model there"),
        ("source: samples/coco", "source: https://me:pass@host/coco", "holds a user and password; DVC copies it into"),
    ],
)
def test_a_setting_that_leads_nowhere_costs_nothing(project: Project, old: str, new: str, said: str) -> None:
    expected = project.outputs()
    project.edit(old, new)
    assert said in project.make("coco", expected=2)
    assert project.outputs() == expected


def test_a_source_that_was_put_away_is_not_asked_for(project: Project) -> None:
    shutil.rmtree(project.root / "samples")
    assert "Data and pipelines are up to date." in project.make("coco")


def test_after_a_typo_that_dvc_met_first_all_comes_back(project: Project) -> None:
    """A bare `dvc repro` removes the outputs of the node before the node finds the mistake."""
    expected = project.outputs()
    project.edit("images_per_partition: 10", "images_per_partitoin: 10")
    project.call("dvc", "repro", "download@coco", expected=1)
    assert not (project.root / "data/coco/raw").exists()
    project.edit("images_per_partitoin: 10", "images_per_partition: 10")
    project.make("coco")
    assert project.outputs() == expected


def test_with_a_remote_what_it_has_is_not_missed(project: Project) -> None:
    with_remote(project, "download@coco", "clean@coco", "encode@coco", "shard@coco")
    forget_all(project)
    project.make("coco")
    assert sorted(path.name for path in (project.root / "data/coco").iterdir() if path.is_dir()) == ["shards"]
    project.make("coco")
    assert project.ran() == []
    (project.root / "setting-shard").write_text("two")
    project.make("coco")
    assert project.ran() == ["shard"]
    assert [path.name for path in (project.root / "data/coco/latents").iterdir()] == ["manifest.json"]
    said = project.make("coco")  # of latents, the manifest alone is here
    assert "up to date" in said
    assert "not here" not in said
    assert project.ran() == []


def test_with_a_remote_what_is_nowhere_is_made_again(project: Project) -> None:
    with_remote(project, "download@coco", "clean@coco", "shard@coco")
    expected = project.outputs()
    forget_all(project)
    said = project.make("coco")
    assert "data/coco/latents: not here, neither on the remote nor in DVC's cache: making it again" in said
    assert project.ran() == ["encode"]
    here = {path.name for path in (project.root / "data/coco").iterdir() if path.is_dir()}
    assert here == {"captions", "latents", "shards"}
    assert all(expected[name] == data for name, data in project.outputs().items())


def test_with_a_remote_metrics_come_back(project: Project) -> None:
    with_remote(project, "download@coco", "clean@coco", "encode@coco", "shard@coco")
    expected = project.outputs()
    (project.root / "metrics/clean/coco.json").unlink()
    assert "metrics/clean/coco.json: not here; it is as git has it" in project.make("coco")
    assert project.outputs() == expected
    assert project.ran() == []


def test_a_remote_that_cannot_be_asked_is_told_of(project: Project) -> None:
    remote = with_remote(project, "download@coco", "clean@coco", "encode@coco", "shard@coco")
    shutil.rmtree(remote)
    shutil.rmtree(project.root / "data/coco/raw")
    project.forget_runs()
    project.make("coco")
    (project.root / "setting-clean").write_text("two")
    project.make("coco")
    assert "clean" in project.ran()


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("dvc.lock", 0),
        ("dvc.lock", 60),
        ("metrics/clean/coco.json", 0),
        ("data/coco/raw/manifest.json", 60),
        ("code/clean.json", 0),
    ],
)
def test_a_file_that_a_kill_cut_is_whole_again(project: Project, name: str, num_bytes: int) -> None:
    path = project.root / name
    expected = path.read_bytes()
    path.unlink()
    path.write_bytes(expected[:num_bytes])
    said = project.make("coco")
    assert path.read_bytes() == expected
    if name == "dvc.lock":
        assert "dvc.lock: damaged" in said
        assert "Put the last good copy in its place" in said
        assert (project.root / "dvc.lock.broken").read_bytes() == expected[:num_bytes]
    assert "Data and pipelines are up to date." in project.make("coco")


@pytest.mark.parametrize("target", ["pull-coco", "push", "demo"])
def test_every_target_that_calls_dvc_puts_a_cut_lock_right(project: Project, target: str) -> None:
    with_remote(project)
    (project.root / "dvc.lock").write_bytes(b"")
    done = run(["make", "-o", "setup", target], cwd=project.root, env=project.environment)
    assert "Put the last good copy in its place" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("make", "-o", "setup", "coco"), "another make is at work on it: waiting for its end"),
        (("dvc", "repro", "shard@coco"), "another DVC command (process"),
    ],
)
def test_a_make_waits_for_what_is_at_work(project: Project, command: tuple[str, ...], told: str) -> None:
    (project.root / "setting-encode").write_text("two")
    (project.root / "hold-encode").touch()
    first = project.start(*command)
    second = None
    try:
        wait_until(lambda: "encode" in log_of(project), "the first one is in the midst of a node")
        second = project.start("make", "-o", "setup", "coco")
        wait_until_said(second, told)
        (project.root / "hold-encode").unlink()
        for process in (first, second):
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
        assert project.ran() == ["encode", "shard"]
    finally:
        end(first)
        if second is not None:
            end(second)


def test_a_make_that_was_killed_leaves_nobody_waiting(project: Project) -> None:
    (project.root / "setting-encode").write_text("two")
    (project.root / "hold-encode").touch()
    first = project.start("make", "-o", "setup", "coco")
    wait_until(lambda: "encode" in log_of(project), "a node runs")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=PATIENCE_S)
    (project.root / "hold-encode").unlink()
    project.ran()
    project.make("coco")
    assert project.ran() == ["encode", "shard"]


def test_checking_is_quick(project: Project) -> None:
    def check() -> float:
        started = time.monotonic()
        project.call("python", "-m", "stages.check", "coco")
        return time.monotonic() - started

    assert min(check() for _ in range(5)) < 2  # 0.3 s where nothing else runs


def test_a_folder_that_is_no_repository_is_said(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "error: params.yaml: no such file" in project.call("python", "-m", "stages.check", expected=1)
    shutil.copy(REPO / "params.yaml", tmp_path / "params.yaml")
    said = project.call("python", "-m", "stages.build", "coco", expected=1)
    assert f"error: {tmp_path}: no DVC repository" in said
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]


def log_of(project: Project) -> str:
    log = project.root / "node.log"
    return log.read_text() if log.is_file() else ""


def wait_until_said(process: "subprocess.Popen[str]", words: str) -> None:
    """Read what a process says until it says this; its end ends the wait, too."""
    assert process.stdout is not None
    heard: list[str] = []
    for line in process.stdout:
        heard.append(line)
        if words in line:
            return
    raise AssertionError(f"it did not say {words!r}: {''.join(heard)}")
