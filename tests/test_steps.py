"""The four steps on the COCO miniature: resume, determinism, and what is recomputed when."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from conftest import REPO, build_coco, changed, made_once, sample_preset, tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.clean.step import clean
from microdiff.core.files import read_json
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.errors import MicrodiffError, RejectionError, SchemaError, SourceError, StepError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard
from tests.waiting import PATIENCE_S, end, run, wait_until
from tests.web_server import Fault, Request, WebServer

STEPS = {"download": download, "clean": clean, "encode": encode, "shard": shard}
ARTIFACT = {"download": "raw", "clean": "captions", "encode": "latents", "shard": "shards"}
MANY_PARTITIONS = {"datasets.coco.download.images_per_partition": 4, "shard.shard_bytes": 131072}

MakeParams = Callable[..., Params]


def run_all(params: Params, workspace: Workspace, steps: tuple[str, ...] = tuple(STEPS)) -> None:
    for step in steps:
        STEPS[step]("coco", params, workspace)


def computed(workspace: Workspace, step: str) -> int:
    number: int = read_json(workspace.run_facts(step, "coco"))["partitions_computed"]
    return number


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All four steps with many partitions, undisturbed; tests must not change it."""
    return Workspace(made_once("done", lambda root: build_coco(root, MANY_PARTITIONS), tmp_path_factory))


def copy_of(done: Workspace, root: Path) -> Workspace:
    """Return a workspace that starts where `done` ended."""

    shutil.copytree(done.root, root, copy_function=os.link, ignore=shutil.ignore_patterns("params.yaml"))
    return Workspace(root)


def test_every_step_ties_to_the_one_before(done: Workspace) -> None:
    manifests = {step: read_manifest(done.artifact("coco", kind)) for step, kind in ARTIFACT.items()}
    before = None
    for step, manifest in manifests.items():
        metrics = read_json(done.metrics(step, "coco"))
        assert metrics["in"] == metrics["kept"] + metrics["rejected"]
        assert before is None or metrics["in"] == before
        assert manifest.source_records == 38
        before = metrics["kept"]
    assert before == 28


def test_artifacts_have_the_columns_of_the_design(done: Workspace) -> None:
    folders = {kind: done.artifact("coco", kind) for kind in ARTIFACT.values()}
    captions = pq.read_table(folders["captions"] / "0000.parquet")
    assert {"key", "status", "caption", "captions", "original"} <= set(captions.column_names)
    assert read_json(folders["latents"] / "encoders.json") == read_json(folders["shards"] / "manifest.json")["encoders"]
    index = read_json(folders["shards"] / "index.json")
    groups = {shard["raw_data"]["basename"].partition("/")[0] for shard in index["shards"]}
    assert groups == {"256", "512"}
    assert sum(shard["samples"] for shard in index["shards"]) == 28
    assert sum(shard["samples"] for shard in read_json(folders["shards"] / "512" / "index.json")["shards"]) == 8
    assert all(shard["raw_data"]["bytes"] <= 131072 for shard in index["shards"])
    typed = dict(zip(index["shards"][0]["column_names"], index["shards"][0]["column_encodings"], strict=True))
    assert typed["latents_256"] == "ndarray:float16:4,32,32"
    assert (typed["key"], typed["caption"], typed["width"]) == ("str", "str", "int32")


def test_nothing_in_an_artifact_tells_of_its_machine(done: Workspace) -> None:
    import platform

    for name, data in tree_bytes(done.root / "data").items():
        assert str(REPO).encode() not in data, name
        assert str(done.root).encode() not in data, name
        assert f'"{platform.node()}"'.encode() not in data, name


def test_workers_do_not_change_a_byte(
    done: Workspace, workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICRODIFF_WORKERS", "2")
    run_all(make_params(MANY_PARTITIONS), workspace)
    assert tree_bytes(workspace.root / "data") == tree_bytes(done.root / "data")


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        ({}, (0, 0, 0, 0), "nothing changed"),
        ({"datasets.coco.max_rejected_share": 0.9}, (0, 0, 0, 0), "a limit decides no bytes"),
        ({"shard.shard_bytes": 262144}, (0, 0, 0, 4), "only the layout of shards"),
        (
            {"datasets.coco.clean.caption": "longest"},
            (0, 9, 14, 15),
            "captions cost no VAE time; two partitions come out equal, seven are listed for eight shards",
        ),
        ({"encode.image.latents": "mode"}, (0, 0, 18, 18), "the VAE's output costs no text encoder time"),
        ({"encode.text.caption_latents.batch_size": 7}, (0, 0, 9, 0), "equal bytes stop the change"),
    ],
)
def test_only_what_changed_is_computed(
    done: Workspace,
    tmp_path: Path,
    make_params: MakeParams,
    changes: dict[str, Any],
    expected: tuple[int, ...],
    why: str,
) -> None:
    workspace = copy_of(done, tmp_path / "copy")
    run_all(make_params({**MANY_PARTITIONS, **changes}), workspace)
    for step, number in zip(STEPS, expected, strict=True):
        assert computed(workspace, step) == number, f"{step}: {why}"
    run_all(make_params(MANY_PARTITIONS), workspace)
    assert [computed(workspace, step) for step in STEPS] == [0, 0, 0, 0], "the way back computes nothing"
    assert tree_bytes(workspace.root / "data") == tree_bytes(done.root / "data")


def test_more_partitions_compute_only_the_new_ones(workspace: Workspace, make_params: MakeParams) -> None:
    where = "datasets.coco.download.partitions"
    run_all(make_params({**MANY_PARTITIONS, where: "0-1"}), workspace, ("download", "clean"))
    run_all(make_params({**MANY_PARTITIONS, where: "0-8"}), workspace, ("download", "clean"))
    assert (computed(workspace, "download"), computed(workspace, "clean")) == (7, 7)
    assert sorted(read_manifest(workspace.artifact("coco", "raw")).partitions) == [f"{n:04d}" for n in range(9)]


def test_pruning_keeps_what_artifacts_refer_to(done: Workspace, tmp_path: Path, make_params: MakeParams) -> None:
    workspace = copy_of(done, tmp_path / "copy")
    run_all(make_params({**MANY_PARTITIONS, "shard.order": "source"}), workspace, ("shard",))
    removed, _ = workspace.store().prune(workspace.fingerprints())
    assert removed > 0
    run_all(make_params({**MANY_PARTITIONS, "shard.order": "source"}), workspace)
    assert [computed(workspace, step) for step in STEPS] == [0, 0, 0, 0]


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_in_the_middle_then_rerun_gives_the_same_bytes(done: Workspace, tmp_path: Path, step: str) -> None:
    workspace = copy_of(done, tmp_path / "copy")
    kind = ARTIFACT[step]
    for folder in workspace.root.glob(f".work/{step}*"):
        shutil.rmtree(folder)
    shutil.rmtree(workspace.artifact("coco", kind))
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(changed(sample_preset(), MANY_PARTITIONS)), encoding="utf-8")
    workspace.root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"stages.{step}", "coco", "--params", str(params), "--root", str(workspace.root)]
    victim = subprocess.Popen(command, cwd=REPO, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_under_way(workspace, step) or victim.poll() is not None, f"{step} is under way")
        assert victim.poll() is None, "it ended before it could be killed"
    finally:
        end_group(victim)
    assert victim.returncode == -signal.SIGKILL
    assert not workspace.artifact("coco", kind).exists()

    STEPS[step]("coco", load_params(params), workspace)
    facts = read_json(workspace.run_facts(step, "coco"))
    assert facts["partitions_reused"] >= 1
    assert tree_bytes(workspace.artifact("coco", kind)) == tree_bytes(done.artifact("coco", kind))


def is_under_way(workspace: Workspace, step: str) -> bool:
    """Tell whether a first partition is finished, in the middle of a step."""
    return bool(list(workspace.root.glob(f".work/{step}*/[0-9a-f]*/partition.json")))


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Kill a step and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    end(process)


def run_stage(step: str, dataset: str, params: Path, root: Path) -> "subprocess.CompletedProcess[str]":
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"stages.{step}", dataset, "--params", str(params), "--root", str(root)]
    return run(command, cwd=REPO)


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({"datasets.coco.download.source": "samples/cocoa"}, "coco", "samples/cocoa: no such folder"),
        ({}, "cocoa", "unknown dataset 'cocoa'; did you mean 'coco'?"),
        ({"datasets.coco.download.splitt": 1}, "coco", "datasets.coco.download.splitt: unknown; did you mean 'split'?"),
        ({"datasets.coco.max_rejected_share": 0.1}, "coco", "10 of 38 source records are rejected so far (26.32%;"),
        ({"datasets.coco.download.partitions": "0-9"}, "coco", "names 9, but the source has 4 partitions from 0 to 3"),
        ({"datasets.coco.download.sha256/zips/val2014.zip": "0" * 64}, "coco", "expected sha256:000"),
    ],
)
def test_bad_input_is_a_clear_message_and_exit_code_1(
    tmp_path: Path, changes: dict[str, Any], dataset: str, message: str
) -> None:
    document = sample_preset()
    for name, value in changes.items():
        if "/" in name:
            document["datasets"]["coco"]["download"]["sha256"]["zips/val2014.zip"] = value
        else:
            document = changed(document, {name: value})
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(document), encoding="utf-8")
    ended = run_stage("download", dataset, params, tmp_path / "root")
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 5
    assert not (tmp_path / "root" / "data").exists()


def test_a_truncated_archive_is_an_error(tmp_path: Path, workspace: Workspace, make_params: MakeParams) -> None:

    source = tmp_path / "coco"
    shutil.copytree(REPO / "samples" / "coco", source)
    archive = source / "zips" / "val2014.zip"
    os.truncate(archive, archive.stat().st_size // 2)
    params = make_params({"datasets.coco.download.source": str(source), "datasets.coco.download.sha256": {}})
    with pytest.raises(StepError, match="not a complete zip archive"):
        download("coco", params, workspace)
    assert not workspace.artifact("coco", "raw").exists()


def test_too_much_loss_is_an_error_and_publishes_nothing(workspace: Workspace, make_params: MakeParams) -> None:
    with pytest.raises(RejectionError, match="max_rejected_share 20"):
        download("coco", make_params({"datasets.coco.max_rejected_share": 0.2}), workspace)
    assert not workspace.artifact("coco", "raw").exists()
    download("coco", make_params(), workspace)
    assert computed(workspace, "download") == 0  # the work was kept


def test_loss_counts_over_all_steps(workspace: Workspace, make_params: MakeParams) -> None:
    share = {"datasets.coco.max_rejected_share": 0.28}
    download("coco", make_params(share), workspace)
    with pytest.raises(RejectionError, match="empty_caption"):
        clean("coco", make_params({**share, "datasets.coco.clean.min_chars": 60}), workspace)


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_damaged_manifest_is_named(done: Workspace, tmp_path: Path, make_params: MakeParams, is_cut: bool) -> None:
    workspace = copy_of(done, tmp_path / "copy")
    target = workspace.artifact("coco", "latents") / "manifest.json"
    data = target.read_bytes()
    target.unlink()
    if is_cut:
        target.write_bytes(data[: len(data) // 2])
    with pytest.raises(SchemaError, match=r"manifest\.json"):
        shard("coco", make_params(MANY_PARTITIONS), workspace)


@pytest.mark.parametrize("is_cut", [True, False])
def test_an_input_that_is_not_whole_is_said_and_mended(
    done: Workspace, tmp_path: Path, make_params: MakeParams, caplog: pytest.LogCaptureFixture, is_cut: bool
) -> None:
    caplog.set_level("INFO", "microdiff")
    workspace = copy_of(done, tmp_path / "copy")
    folder = workspace.artifact("coco", "latents")
    target = folder / "0001.image.safetensors"
    data = target.read_bytes()
    target.unlink()
    if is_cut:
        target.write_bytes(data[: len(data) // 2])
    shard("coco", make_params({**MANY_PARTITIONS, "shard.seed": 7}), workspace)
    assert computed(workspace, "shard") > 0
    record = read_manifest(done.artifact("coco", "latents")).files[target.name]
    said = {
        True: f"{target}: damaged: expected sha256 {record.sha256[:12]}..., found {len(data) // 2} bytes "
        f"instead of {len(data)}. It is mended first.",
        False: f"data/coco/latents: fetching 1 files that are not here ({len(data) / 1e6:.1f} MB)",
    }
    assert said[is_cut] in caplog.messages
    here = target if is_cut else workspace.root / f".work/inputs/{record.sha256}.safetensors"
    assert here.read_bytes() == data


def test_a_full_disk_is_said_so(
    workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import errno

    from microdiff.download import raw_writer

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "0000.tar")

    monkeypatch.setattr(raw_writer, "add_picture", full)
    with pytest.raises(MicrodiffError, match="the disk is full"):
        download("coco", make_params(), workspace)
    assert not workspace.artifact("coco", "raw").exists()
    monkeypatch.undo()
    download("coco", make_params(), workspace)


class FirstTarOnly(WebServer):
    """Serves the first tar; of the others, a few bytes."""

    def take(self, request: Request) -> Fault:
        fault = super().take(request)
        return fault if request.path.endswith("0000.tar") else replace(fault, stall_after=1000)


def test_ctrl_c_ends_with_130_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: MakeParams
) -> None:
    tars = {path.name: path.read_bytes() for path in sorted((REPO / "samples" / "cc12m").glob("*.tar"))}
    end_of_links = f"{int(time.time()) + 86_400:X}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    workspace, links, params = Workspace(tmp_path / "root"), tmp_path / "links.txt", tmp_path / "params.yaml"
    make_params({"datasets.cc12m.download.source": str(links)}, params)
    workspace.root.mkdir()
    command = [sys.executable, "-m", "stages.download", "cc12m", "--params", str(params), "--root", str(workspace.root)]
    environment = {**os.environ, "MICRODIFF_WORKERS": "2"}
    with FirstTarOnly(tars) as server:
        rows = [f"{name}\t{server.url}/{name}?oe={end_of_links}" for name in tars]
        links.write_text("\n".join(["file_name\tcdn_link", *rows]), encoding="utf-8")
        process = subprocess.Popen(
            command, cwd=REPO, start_new_session=True, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            wait_until(lambda: is_under_way(workspace, "download") or process.poll() is not None, "a tar is done")
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            end_group(process)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    with WebServer(tars) as server:
        rows = [f"{name}\t{server.url}/{name}?oe={end_of_links}" for name in tars]
        links.write_text("\n".join(["file_name\tcdn_link", *rows]), encoding="utf-8")
        download("cc12m", load_params(params), workspace)
    facts = read_json(workspace.run_facts("download", "cc12m"))
    assert (facts["partitions_reused"], facts["partitions_computed"]) == (1, len(tars) - 1)


def test_source_error_is_about_the_source(workspace: Workspace, make_params: MakeParams, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"val2014\.zip: no such file"):
        download("coco", make_params({"datasets.coco.download.source": str(tmp_path / "empty")}), workspace)


def test_retries_are_said_also_while_listing(
    workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from microdiff.storage import retry

    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SourceError, match="ConnectionError, 5 times in a row"):
            download("coco", make_params({"datasets.coco.download.source": root}), workspace)
    assert "annotations/annotations_trainval2014.zip: ConnectionError, trying again" in caplog.text
