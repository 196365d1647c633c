"""Shards of a pinned revision, from a folder remote and a web remote, into a cache that many share."""

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import REPO, tree_bytes
from microdiff.errors import MicrodiffError, ParamsError, SourceError
from microdiff.remote.dvc_url import is_shard_source, open_dvc_source
from microdiff.remote.version_cache import CachedShards, tidy
from microdiff.storage import retry
from tests.durability import DiskOrder
from tests.shard_project import FIRST, SECOND, SHARDS, ShardProject, md5_of, object_of
from tests.waiting import PATIENCE_S, end, wait_until
from tests.web_server import Fault, WebServer

SHARD = "512/shard.00000.mds"
INDEXES = {"index.json", "512/index.json", "manifest.json"}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "GIT_", "FSSPEC_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MICRODIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardProject:
    project = ShardProject(tmp_path / "project")
    project.commit(FIRST, "v1")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ShardProject, WebServer]]:
    """A project whose remote is a web server, which counts requests and misbehaves as it is told."""
    with WebServer({}) as server:

        def put(place: str, data: bytes) -> None:
            server.files[f"remote/{place}"] = data

        project = ShardProject(tmp_path / "project", put)
        project.configure(f"[core]\n    remote = web\n['remote \"web\"']\n    url = {server.url}/remote\n")
        project.commit(FIRST, "v1")
        monkeypatch.chdir(project.root)
        yield project, server


def opened(url: str = f"dvc://{SHARDS}@v1", cache: Path | None = None) -> CachedShards:
    source = open_dvc_source(url, cache)
    assert isinstance(source, CachedShards)
    return source


def everything(source: CachedShards) -> dict[str, bytes]:
    for name in source.files:
        source.fetch(name)
    return tree_bytes(source.local)


# --- what is fetched, and where to


def test_indexes_come_at_once_and_shards_when_asked_for(project: ShardProject, tmp_path: Path) -> None:
    source = opened(cache=tmp_path / "given")
    assert source.local.is_relative_to(tmp_path / "given")
    assert tree_bytes(source.local) == {name: FIRST[name] for name in INDEXES}
    source.fetch(SHARD)
    assert tree_bytes(source.local) == {name: FIRST[name] for name in {*INDEXES, SHARD}}
    assert everything(source) == FIRST
    assert not list((tmp_path / "given" / "partial").iterdir())
    with pytest.raises(SourceError, match=r"it has no file 512/shard.00001.mds"):
        source.fetch("512/shard.00001.mds")


def test_a_group_of_a_set_is_a_set(project: ShardProject) -> None:
    source = opened(f"dvc://{SHARDS}/512@v1")
    assert source.local.name == "512"
    source.fetch("shard.00000.mds")
    assert tree_bytes(source.local) == {"index.json": FIRST["512/index.json"], "shard.00000.mds": FIRST[SHARD]}
    assert (source.local.parent / "manifest.json").is_file()


def test_a_source_travels_to_workers(project: ShardProject) -> None:
    source = pickle.loads(pickle.dumps(opened()))  # noqa: S301 - our own
    assert everything(source) == FIRST


def test_what_is_here_is_not_fetched_again(web: tuple[ShardProject, WebServer]) -> None:
    source = opened()
    everything(source)
    before = len(web[1].requests)
    assert before == len(FIRST) + 1  # one request for each file, and one for their list
    everything(opened())
    assert len(web[1].requests) == before
    (source.local / SHARD).unlink()  # as streaming's cache_limit does
    assert everything(opened()) == FIRST
    assert len(web[1].requests) == before + 1


def test_versions_share_what_they_have_in_common(web: tuple[ShardProject, WebServer]) -> None:
    project, server = web
    project.commit(SECOND, "v2")
    first = opened()
    everything(first)
    before = len(server.requests)
    second = opened(f"dvc://{SHARDS}@v2")
    assert everything(second) == SECOND
    assert len(server.requests) == before + 3  # the list, and the two files that differ
    assert (first.local / "256/shard.00000.mds").samefile(second.local / "256/shard.00000.mds")
    assert everything(first) == FIRST


def test_a_file_of_another_version_is_taken_only_if_it_has_the_bytes(project: ShardProject) -> None:
    """A stranger's list can give a name to a file of ours, under which its own shard is then decompressed."""
    project.commit(SECOND, "v2")
    first = opened()
    everything(first)
    (first.local / "256/shard.00000.mds").unlink()
    (first.local / "256/shard.00000.mds").write_bytes(b"forged" * 3000)
    second = opened(f"dvc://{SHARDS}@v2")
    assert everything(second) == SECOND


def test_a_damaged_list_of_another_version_is_not_looked_at(project: ShardProject) -> None:
    project.commit(SECOND, "v2")
    first = opened()
    listing = first.cache / "listings" / first.directory
    listing.write_bytes(b"damaged")
    assert everything(opened(f"dvc://{SHARDS}@v2")) == SECOND
    with pytest.raises(SourceError, match=r"\.dir: damaged: its bytes have MD5 .* Remove it"):
        opened()
    listing.unlink()
    assert everything(opened()) == FIRST


def test_what_is_fetched_is_on_disk_before_it_gets_its_name(
    project: ShardProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = DiskOrder(monkeypatch)
    source = opened()
    everything(source)
    partial = source.cache / "partial"
    fetched = {md5: source.local / path for path, md5 in source.files.items()}
    fetched[source.directory] = source.cache / "listings" / source.directory
    for md5, target in fetched.items():
        steps = order.of(partial / md5 / "part", target)
        first = steps.index("renamed")
        assert "file synced" in steps[:first], target
        assert "folder synced" in steps[first:], target


# --- revisions


def test_a_pinned_run_is_not_disturbed_by_what_happens_on_main(project: ShardProject) -> None:
    project.git("tag", "-a", "annotated", "-m", "of note")
    names = ("v1", "annotated", "main", "HEAD", project.git("rev-parse", "HEAD"), project.git("rev-parse", "HEAD")[:9])
    sources = {name: opened(f"dvc://{SHARDS}@{name}", project.root.parent / name) for name in names}
    project.commit(SECOND)
    assert project.git("status", "--porcelain") == ""
    for name, source in sources.items():
        assert everything(source) == FIRST, name
    assert everything(opened(f"dvc://{SHARDS}@main")) == SECOND
    assert everything(opened()) == FIRST


def test_a_branch_is_resolved_to_a_commit_and_said(project: ShardProject, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    opened(f"dvc://{SHARDS}@main")
    assert f"main is commit {project.git('rev-parse', 'HEAD')}" in caplog.text


@pytest.mark.parametrize("form", ["{root}", "file://{root}"], ids=["folder", "URL"])
def test_another_repository_is_named_before_two_slashes(project: ShardProject, tmp_path: Path, form: str) -> None:
    project.git("tag", "-a", "annotated", "-m", "of note")
    first = project.git("rev-parse", "HEAD")
    project.commit(SECOND)
    os.chdir(tmp_path)
    repository = form.format(root=project.root)
    for rev in ("v1", "annotated", first):
        assert everything(opened(f"dvc://{repository}//{SHARDS}@{rev}", tmp_path / f"c-{rev}")) == FIRST
    assert everything(opened(f"dvc://{repository}//{SHARDS}@main")) == SECOND
    project.commit(FIRST)  # a branch moves on
    assert everything(opened(f"dvc://{repository}//{SHARDS}@main")) == FIRST
    with pytest.raises(SourceError, match=r"no tag.* branch.* nothing"):
        opened(f"dvc://{repository}//{SHARDS}@nothing")


def test_an_older_commit_is_found_by_a_remote_that_was_set_up_later(project: ShardProject) -> None:
    text = (project.root / ".dvc/config").read_text()
    project.configure("[core]\n    analytics = false\n")
    project.save("before")
    with pytest.raises(SourceError, match="no default DVC remote"):
        opened(f"dvc://{SHARDS}@before")
    project.configure(text)
    assert everything(opened(f"dvc://{SHARDS}@before")) == FIRST
    project.configure("")
    project.configure(text.replace(str(project.remote), "../../project-remote"), "config.local")
    assert everything(opened(f"dvc://{SHARDS}@before", project.root.parent / "other")) == FIRST


def test_a_commit_is_looked_up_where_it_was_pushed_and_config_local_overrides(project: ShardProject) -> None:
    text = (project.root / ".dvc/config").read_text()
    project.configure(text.replace(str(project.remote), "/nowhere"))
    assert everything(opened()) == FIRST
    project.configure(text.replace(str(project.remote), "/elsewhere"), "config.local")
    with pytest.raises(SourceError, match="/elsewhere: no such folder"):
        opened(cache=project.root.parent / "other")


def test_a_dvc_file_tracks_as_well(project: ShardProject) -> None:
    lock = (project.root / "dvc.lock").read_text()
    md5 = lock.partition("md5: ")[2].split()[0]
    (project.root / "dvc.lock").unlink()
    (project.root / "data").mkdir()
    (project.root / "data/old.dvc").write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: old\n")
    project.save("v2")
    assert everything(opened("dvc://data/old@v2")) == FIRST


def test_withdrawn_samples_are_those_of_the_commit_and_of_later(project: ShardProject) -> None:
    listed = project.root / "data/coco/withdrawn.tsv"
    listed.parent.mkdir(parents=True)
    listed.write_text("key\treason\na\tasked for\n")
    project.save("v2")
    listed.write_text("key\treason\nb\tasked for\n")
    source = opened(f"dvc://{SHARDS}@v2")
    assert [source.withdrawn.contains(key) for key in ("a", "b#1", "c")] == [True, True, False]
    there = opened(f"dvc://file://{project.root}//{SHARDS}@v2")
    assert [there.withdrawn.contains(key) for key in ("a", "b#1", "c")] == [True, False, False]
    assert not opened(f"dvc://file://{project.root}//{SHARDS}@v1").withdrawn


# --- errors


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (SHARDS, "expected dvc://PATH@REVISION"),
        (f"dvc://{SHARDS}", "expected dvc://PATH@REVISION"),
        (f"dvc://https://host/org/repo/{SHARDS}@v1", "expected dvc://PATH@REVISION"),
        (f"dvc://{SHARDS}@v9", "no tag, branch or commit v9. If others have it: git fetch --tags"),
        (f"dvc://{SHARDS}@--output=x", "neither may begin with a dash"),
        ("dvc://data/cc12m/shards@v1", f"tracks no data/cc12m/shards at .* It tracks {SHARDS}"),
        (f"dvc://{SHARDS}/256@v1", "no index.json, so it is no folder of shards"),
        (f"dvc://file:///nowhere//{SHARDS}@v1", "file:///nowhere: git cannot read this repository"),
        ("dvc://absent.json", "absent.json: no such file"),
    ],
)
def test_what_cannot_be_opened_is_said(project: ShardProject, url: str, message: str) -> None:
    with pytest.raises(MicrodiffError, match=message) as error:
        opened(url)
    assert len(str(error.value).splitlines()) <= 3
    assert isinstance(error.value, ParamsError) == ("expected dvc://" in message)


def test_outside_a_project_the_two_other_ways_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"not in a DVC project.*or use a release file"):
        opened()


def test_without_git_the_release_file_is_told(project: ShardProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match=r"git is not installed. Install it, or use a release file"):
        opened()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ({"md5": "0" * 32 + ".dir"}, "not kept by MD5, as DVC 3 does"),
        ({"md5": "0" * 32, "hash": "md5"}, "not a folder of shards"),
        ({"hash": "md5", "files": []}, "not a folder of shards"),
    ],
)
def test_outputs_that_are_not_objects_are_refused(project: ShardProject, out: dict[str, Any], message: str) -> None:
    project.lock([{"path": SHARDS, **out}])
    project.save("v2")
    with pytest.raises(SourceError, match=message):
        opened(f"dvc://{SHARDS}@v2")


def test_an_imported_folder_names_where_it_is(project: ShardProject) -> None:
    (project.root / "other.dvc").write_text(
        "deps:\n- path: data/coco/shards\n  repo: {url: https://host/r, rev_lock: abc}\n"
        f"outs:\n- {{md5: {'0' * 32}.dir, hash: md5, path: other}}\n"
    )
    project.save("v2")
    with pytest.raises(SourceError, match="Use dvc://https://host/r//data/coco/shards@abc"):
        opened("dvc://other@v2")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "./a", "a/"])
def test_a_list_cannot_name_files_outside_its_folder(project: ShardProject, path: str) -> None:
    project.commit({**FIRST, path: b"evil"}, "v2")
    with pytest.raises(SourceError, match=r"which cannot be. Do not trust it"):
        opened(f"dvc://{SHARDS}@v2")


def test_remotes_of_other_kinds_are_refused(project: ShardProject) -> None:
    for settings, message in (("url = gs://b/p", "gs://b/p: shards are streamed from"),
                              ("url = s3://b/p\n    version_aware = true", "keeps files by name")):  # fmt: skip
        project.configure(f"[core]\n    remote = r\n['remote \"r\"']\n    {settings}\n", "config.local")
        with pytest.raises(SourceError, match=message):
            opened()


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", [SHARD, "index.json"])
@pytest.mark.parametrize("change", ["flip", "truncate", "longer", "empty"])
def test_a_damaged_object_is_refused(project: ShardProject, name: str, change: str) -> None:
    data = FIRST[name]
    bad = {"flip": b"X" + data[1:], "truncate": data[:-1], "longer": data + b"!", "empty": b""}[change]
    (project.remote / object_of(md5_of(data))).write_bytes(bad)
    with pytest.raises(SourceError, match=f"damaged: its bytes have MD5 {md5_of(bad)}, twice") as error:
        opened().fetch(name)
    assert len(str(error.value).splitlines()) <= 3
    assert bad not in tree_bytes(project.root.parent / "cache").values()
    (project.remote / object_of(md5_of(data))).write_bytes(data)
    assert everything(opened()) == FIRST


def test_an_object_that_was_not_pushed_is_said(project: ShardProject) -> None:
    source = opened()
    (project.remote / object_of(md5_of(FIRST[SHARD]))).unlink()
    with pytest.raises(SourceError, match=rf"{SHARD} is not on the remote(.|\n)*make push"):
        source.fetch(SHARD)
    project.commit(SECOND, "v2")
    for listing in project.remote.rglob("*.dir"):
        listing.unlink()
    with pytest.raises(SourceError, match="it is not on the remote"):
        opened(f"dvc://{SHARDS}@v2")


@pytest.mark.usefixtures("no_waiting")
def test_a_remote_that_stays_busy_is_given_up_sooner_at_first_contact(web: tuple[ShardProject, WebServer]) -> None:
    _, server = web
    server.always["GET"] = Fault(status=503)
    with pytest.raises(SourceError, match="HTTP 503, 5 times in a row"):
        opened()
    server.on("GET", Fault())  # the list; then come the indexes
    with pytest.raises(SourceError, match="HTTP 503, 5 times in a row"):
        opened()
    server.always.clear()
    source = opened()
    server.always["GET"] = Fault(status=503)
    with pytest.raises(SourceError, match="HTTP 503, 10 times in a row"):
        source.fetch(SHARD)


# --- many at once, and kills


def _fetch_all(source: CachedShards, start: Any) -> None:
    start.wait(PATIENCE_S)
    for name in source.files:
        source.fetch(name)


def test_many_processes_fetch_each_object_once(web: tuple[ShardProject, WebServer]) -> None:
    source = opened()
    web[1].always["GET"] = Fault(pause_s=0.05)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=_fetch_all, args=(source, start)) for _ in range(6)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(PATIENCE_S)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert tree_bytes(source.local) == FIRST
    asked = [request.path for request in web[1].asked("GET")]
    assert len(asked) == len(set(asked)) == len(FIRST) + 1
    assert not list((source.cache / "partial").iterdir())


_FETCH = f"""
import sys
from pathlib import Path
from microdiff.remote.dvc_url import open_dvc_source
source = open_dvc_source(sys.argv[1])
print("open", flush=True)
source.fetch({SHARD!r})
"""


def test_a_killed_download_continues(web: tuple[ShardProject, WebServer]) -> None:
    project, server = web
    big = bytes(range(256)) * 4096
    project.commit({**FIRST, SHARD: big}, "big")
    opened(f"dvc://{SHARDS}@big")
    server.always["GET"] = Fault(stall_after=2**18)
    command = [sys.executable, "-c", _FETCH, f"dvc://{SHARDS}@big"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    cache = Path(os.environ["MICRODIFF_CACHE"])
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    part = cache / "partial" / md5_of(big) / "part"
    try:
        wait_until(lambda: part.is_file() and part.stat().st_size >= 2**17, "the download is under way")
        assert process.poll() is None
    finally:
        end(process)
    assert not list(cache.rglob("*.mds"))
    had = part.stat().st_size
    server.always.clear()
    source = opened(f"dvc://{SHARDS}@big")
    source.fetch(SHARD)
    assert (source.local / SHARD).read_bytes() == big
    assert server.requests[-1].headers["Range"] == f"bytes={had}-"
    assert not list((cache / "partial").iterdir())


def test_what_nobody_continues_is_removed_after_a_week(project: ShardProject) -> None:
    source = opened()
    for name, days in (("old", 8), ("new", 6)):
        part = source.cache / "partial" / name / "part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"some")
        os.utime(part, (time.time() - days * 86400,) * 2)
    tidy(source.cache)
    assert [path.name for path in (source.cache / "partial").iterdir()] == ["new"]


def test_names_of_sources_are_told_from_folders() -> None:
    names = ("dvc://a@b", "microdiff-release.json", "https://host/r.json?signed", "data/coco/shards", "s3.shards")
    assert [is_shard_source(name) for name in names] == [True, True, True, False, False]
