"""A secret and a path of this machine in every setting and variable: neither is in any file written, nor in any log."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPO, changed, sample_preset, tree_bytes
from microdiff.artifacts.manifest import read_manifest
from microdiff.core.files import read_json
from microdiff.download.step import download
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from tests.waiting import run_python
from tests.web_server import Fault, WebServer

pytestmark = pytest.mark.slow

SECRET = "s3cret"  # noqa: S105 - planted
QUERY = f"X-Amz-Signature={SECRET}&sig={SECRET}"
VARIABLES = {
    name: f"{SECRET}-{name}"
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    )
}
LOCAL = ("cc12m", "diffdb", "jdb", "textcaps")


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    samples = REPO / "samples"
    files = {f"coco/{name}": data for name, data in tree_bytes(samples / "coco").items()}
    files |= {f"sa1b/{name}": data for name, data in tree_bytes(samples / "sa1b").items()}
    with WebServer(files) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this machine whose name must not be shown, with sources and models."""
    folder = tmp_path_factory.mktemp("private") / "hidden-path"
    shutil.copytree(REPO / "samples", folder)
    return folder


def settings(server: WebServer, elsewhere: Path) -> dict[str, Any]:
    web = f"http://me:{SECRET}@{server.address}"
    return changed(
        sample_preset(),
        {
            "datasets.coco.download.source": f"{web}/coco?{QUERY}",
            "datasets.coco.download.partitions": "0",
            "datasets.sa1b.download.source": f"{elsewhere}/sa1b",
            "datasets.sa1b.download.captions_source": f"{web}/sa1b/captions?{QUERY}",
            **{f"datasets.{name}.download.source": f"{elsewhere}/{name}" for name in LOCAL},
            "encode.image.model": f"{elsewhere}/models/vae",
            "encode.text.caption_latents.model": f"{elsewhere}/models/clip",
        },
    )


def stage(step: str, *arguments: str, root: Path, params: bool = True, **more: str) -> tuple[int, str]:
    options = ["--params", str(root / "params.yaml")] if params else []
    environment = {**os.environ, **VARIABLES, "MICRODIFF_WORK": f"{root}/hidden-path/work", "NO_PROXY": "*", **more}
    done = run_python("-m", f"stages.{step}", *arguments, *options, "--root", str(root), cwd=REPO, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(server: WebServer, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All that the stages write and say."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(yaml.safe_dump(settings(server, elsewhere)))
    said = ""
    calls = [("download", name) for name in (*LOCAL, "sa1b", "coco")]
    calls += [(step, "coco") for step in ("clean", "encode", "shard", "verify")]
    for step, name in calls:
        code, lines = stage(step, name, root=root)
        assert code == 0, lines
        said += lines
    for step in ("report", "clean_work"):
        code, lines = stage(step, root=root, params=step == "report")
        assert code == 0, lines
        said += lines
    return root, said


def test_secrets_were_used_and_are_nowhere(built: tuple[Path, str], server: WebServer) -> None:
    root, said = built
    assert all(request.headers["Authorization"].startswith("Basic ") for request in server.requests)
    assert all(request.query["sig"] == SECRET for request in server.requests)
    assert SECRET not in said
    files = {name: data for name, data in tree_bytes(root).items() if name != "params.yaml"}
    assert len(files) > 60
    assert not [name for name, data in files.items() if SECRET.encode() in data]
    assert not [name for name in files if SECRET in name]


def test_paths_of_the_machine_are_in_no_artifact(built: tuple[Path, str]) -> None:
    root, _ = built
    for folder in ("data", "metrics", "reports"):
        found = tree_bytes(root / folder)
        assert found
        assert not [name for name, data in found.items() if b"hidden-path" in data or str(root).encode() in data]


def test_artifacts_say_where_their_bytes_are_from(built: tuple[Path, str], server: WebServer) -> None:
    root, _ = built
    manifest = read_json(root / "data/sa1b/raw/manifest.json")
    assert manifest["source"] == "sa1b"
    assert manifest["settings"]["handler"]["captions_source"] == f"{server.url}/sa1b/captions"
    assert read_json(root / "data/coco/raw/manifest.json")["source"] == f"{server.url}/coco"
    assert read_json(root / "data/coco/latents/encoders.json")["image"]["model"] == "vae"


def test_equal_content_has_one_fingerprint_wherever_it_is(
    built: tuple[Path, str], elsewhere: Path, tmp_path: Path
) -> None:
    shutil.copytree(elsewhere / "sa1b", tmp_path / "other" / "copy")
    shutil.move(tmp_path / "other" / "copy" / "captions", tmp_path / "texts")
    found = {}
    for name, source, captions in (
        ("one", elsewhere / "sa1b", elsewhere / "sa1b" / "captions"),
        ("two", tmp_path / "other" / "copy", tmp_path / "texts"),
    ):
        root = tmp_path / name
        root.mkdir()
        changes = {
            "datasets.sa1b.download.source": str(source),
            "datasets.sa1b.download.captions_source": str(captions),
        }
        (root / "params.yaml").write_text(yaml.safe_dump(changed(sample_preset(), changes)))
        download("sa1b", load_params(root / "params.yaml", "sa1b"), Workspace(root))
        found[name] = read_manifest(root / "data" / "sa1b" / "raw")
    partitions = [{name: part.fingerprints for name, part in each.partitions.items()} for each in found.values()]
    assert partitions[0] == partitions[1]


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_server_that_refuses_is_told_of_without_secrets(
    server: WebServer, elsewhere: Path, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = changed(settings(server, elsewhere), {"datasets.coco.download.partitions": "0"})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    if status < 500:
        for method in ("HEAD", "GET"):
            server.always[method] = Fault(status=status)
    else:
        for method in ("HEAD", "GET"):
            server.always[method] = Fault(headers={"Content-Length": None, "ETag": None}, whole=True)
    try:
        for name in ("coco", "sa1b"):
            code, said = stage("download", name, root=tmp_path, MICRODIFF_DEBUG="1" if status == 403 else "")
            assert code == 1
            assert f"{server.url}/{name}" in said
            assert SECRET not in said
    finally:
        server.always.clear()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datasets.coco.download.source", [f"https://me:{SECRET}@host"]),
        ("datasets.coco.download.source", {"url": f"https://host?sig={SECRET}"}),
        ("datasets.coco.download.source", f"https://me:{SECRET}/x@host"),
        ("datasets.coco.download", f"https://me:{SECRET}@host"),
        ("datasets.coco.clean.cleaner", f"https://me:{SECRET}@host"),
        ("datasets.sa1b.download.captions_source", f"hf://{SECRET}:{SECRET}@datasets/a"),
        ("encode.image.model", f"hf://me:{SECRET}@ORG/NAME"),
        ("encode.image.model", f"https://me:{SECRET}@host/model?sig={SECRET}"),
        ("encode.image.revision", f"https://me:{SECRET}@host"),
        ("download", f"https://me:{SECRET}@host"),
    ],
)
def test_a_wrong_setting_is_told_of_without_secrets(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(sample_preset(), {name: value})))
    for dataset in ("coco", "sa1b"):
        code, said = stage("download", dataset, root=tmp_path)
        is_met = dataset in name or "datasets" not in name
        assert code == (0 if name == "encode.image.model" and "host/model" in value else is_met), said
        assert SECRET not in said


def test_a_line_that_is_no_yaml_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"a: b\n source: https://me:{SECRET}@host\n")
    code, said = stage("download", "coco", root=tmp_path)
    assert code == 1
    assert "not YAML: mapping values are not allowed here in line 2, column 8" in said
    assert SECRET not in said


def test_dvc_is_not_let_record_a_secret(server: WebServer, elsewhere: Path, tmp_path: Path) -> None:
    """DVC copies params.yaml into dvc.lock, whatever is in it; a variable's name is no secret."""
    document = settings(server, elsewhere)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    for dataset, name in (("coco", "source"), ("sa1b", "captions_source")):
        code, said = stage("download", dataset, root=tmp_path, DVC_STAGE=f"download@{dataset}")
        assert code == 1
        assert f"datasets.{dataset}.download.{name}: holds a user and password; DVC copies it into dvc.lock" in said
        assert SECRET not in said
    variables = {"datasets.coco.download.source": "http://me:$PASSWORD@$HOST/coco?$SIGNATURE"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(document, variables)))
    given = {"PASSWORD": SECRET, "HOST": server.address, "SIGNATURE": QUERY, "DVC_STAGE": "download@coco"}
    code, said = stage("download", "coco", root=tmp_path, **given)
    assert code == 0, said
    assert not [name for name, data in tree_bytes(tmp_path).items() if SECRET.encode() in data and "params" not in name]
    code, said = stage("download", "coco", root=tmp_path, DVC_STAGE="download@coco")
    assert code == 1
    assert "datasets.coco.download.source: names the environment variable PASSWORD, which is not set" in said
