"""A source on the hub stays at the commit of the first run, wherever its branch moves, until it is set to another."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from conftest import REPO
from microdiff.artifacts.manifest import read_manifest
from microdiff.core.files import read_json
from microdiff.download.step import download
from microdiff.errors import SourceError
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from tests.hub_server import HubServer
from tests.tracked import track

MakeParams = Callable[..., Params]
ANY_LOSS = {"datasets.jdb.max_rejected_share": 1.0}
JDB = "JourneyDB/JourneyDB"


def files_of(name: str) -> Mapping[str, bytes]:
    root = REPO / "samples" / name
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer({JDB: files_of("jdb")}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def newer(hub: HubServer) -> str:
    """Have main move on to a commit where one archive is another's; return the commit."""
    files = dict(files_of("jdb"))
    files["data/train/imgs/000.tgz"] = files["data/train/imgs/003.tgz"]
    return hub.push(JDB, files)


def source_of(workspace: Workspace) -> str:
    source: str = read_manifest(workspace.artifact("jdb", "raw")).facts["source"]
    return source


def computed(workspace: Workspace) -> int:
    number: int = read_json(workspace.run_facts("download", "jdb"))["partitions_computed"]
    return number


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@refs/convert/parquet"])
@pytest.mark.parametrize("lost", ["nothing", "the store", "the artifact", "all that DVC has not"])
def test_a_rerun_stays_at_the_commit_of_the_first(
    hub: HubServer,
    workspace: Workspace,
    make_params: MakeParams,
    revision: str,
    lost: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = f"hf://datasets/{JDB}{revision}"
    first = hub.push(JDB, files_of("jdb"), branch=revision.removeprefix("@") or "main")
    params = make_params({**ANY_LOSS, "datasets.jdb.download.source": root})
    counts = download("jdb", params, workspace)
    assert source_of(workspace) == f"hf://datasets/{JDB}@{first}"
    assert read_manifest(workspace.artifact("jdb", "raw")).facts["revisions"] == {root: first}
    other = newer(hub)
    hub.push(JDB, {}, branch=revision.removeprefix("@") or "main") if revision not in ("", "@main") else None
    if lost.startswith("all"):
        track(workspace, kinds=["raw"], dataset="jdb")
    if lost == "the store" or lost.startswith("all"):
        shutil.rmtree(workspace.root / ".work")
    if lost == "the artifact" or lost.startswith("all"):  # DVC removes it before the step runs
        shutil.rmtree(workspace.artifact("jdb", "raw"))
    assert download("jdb", params, workspace) == counts
    assert source_of(workspace) == f"hf://datasets/{JDB}@{first}"
    assert f"{root}: stays at {first}" in caplog.text
    assert f"set it to hf://datasets/{JDB}@COMMIT" in caplog.text
    if lost == "nothing":
        assert computed(workspace) == 0

    moved = make_params({**ANY_LOSS, "datasets.jdb.download.source": f"hf://datasets/{JDB}@{other}"})
    download("jdb", moved, workspace)
    assert source_of(workspace) == f"hf://datasets/{JDB}@{other}"
    assert "revisions" not in read_manifest(workspace.artifact("jdb", "raw")).facts
    assert computed(workspace) == 1


def test_another_partition_comes_from_the_same_commit(
    hub: HubServer, workspace: Workspace, make_params: MakeParams
) -> None:
    source = {"datasets.jdb.download.source": f"hf://datasets/{JDB}@main"}
    first = hub.commit(JDB)
    download("jdb", make_params({**source, "datasets.jdb.download.partitions": "1"}), workspace)
    newer(hub)
    download("jdb", make_params({**source, "datasets.jdb.download.partitions": "0-1"}), workspace)
    assert source_of(workspace) == f"hf://datasets/{JDB}@{first}"
    assert computed(workspace) == 1


def test_the_manifest_counts_more_than_this_machine(
    hub: HubServer, workspace: Workspace, make_params: MakeParams, tmp_path: Path
) -> None:
    """It may have come from somebody else, who began later."""
    params = make_params({**ANY_LOSS, "datasets.jdb.download.source": f"hf://datasets/{JDB}@main"})
    download("jdb", params, workspace)
    theirs = newer(hub)
    other = Workspace(tmp_path / "theirs")
    download("jdb", params, other)
    shutil.rmtree(workspace.artifact("jdb", "raw"))
    shutil.copytree(other.artifact("jdb", "raw"), workspace.artifact("jdb", "raw"))
    download("jdb", params, workspace)
    assert source_of(workspace) == f"hf://datasets/{JDB}@{theirs}"


def test_captions_stay_at_their_commit_too(hub: HubServer, workspace: Workspace, make_params: MakeParams) -> None:
    repo, name = "PixArt-alpha/SAM-LLaVA-Captions10M", "SA1B_caption.tar.gz"
    captions = (REPO / "samples" / "sa1b" / "captions" / name).read_bytes()
    first = hub.push(repo, {name: captions})
    params = make_params({"datasets.sa1b.download.captions_source": f"hf://datasets/{repo}@main"})
    counts = download("sa1b", params, workspace)
    hub.push(repo, {name: b"another"})
    assert download("sa1b", params, workspace) == counts
    facts = read_manifest(workspace.artifact("sa1b", "raw")).facts
    assert facts["revisions"] == {f"hf://datasets/{repo}@main": first}


def test_a_commit_that_is_gone_is_an_error(hub: HubServer, workspace: Workspace, make_params: MakeParams) -> None:
    params = make_params({**ANY_LOSS, "datasets.jdb.download.source": f"hf://datasets/{JDB}@main"})
    download("jdb", params, workspace)
    first = hub.commit(JDB)
    newer(hub)
    del hub._commits[JDB][first]
    shutil.rmtree(workspace.root / ".work")
    with pytest.raises(SourceError, match=f"no revision {first}. Check datasets"):
        download("jdb", params, workspace)
