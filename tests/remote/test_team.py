"""A team that shares data by S3: DVC and make at one end, `dvc://` and release files at the other.

Against moto, and against the real servers that are installed (see tests/s3_servers.py).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPO, tree_bytes
from microdiff.core.files import read_json, write_json
from microdiff.errors import SourceError
from microdiff.remote.dvc_url import open_dvc_source
from microdiff.remote.release_writer import write_release
from microdiff.remote.version_cache import CachedShards
from microdiff.storage import s3
from tests.s3_servers import KEY, SECRET, SERVERS, S3Server, missing
from tests.shard_project import FIRST, SHARDS, md5_of, object_of
from tests.stalling_proxy import StallingProxy
from tests.waiting import PATIENCE_S, end
from tests.waiting import run as run_program

ROOT = "team/latents"
SHARD = "512/shard.00000.mds"
PIPELINE = """
stages:
  download:
    foreach: [coco]
    do:
      cmd: mkdir -p data/${item}/raw && echo raw > data/${item}/raw/a.tar
      outs: ["data/${item}/raw"]
  clean:
    foreach: [coco]
    do:
      cmd: mkdir -p data/${item}/captions && echo captions > data/${item}/captions/a.parquet
      deps: ["data/${item}/raw"]
      outs: ["data/${item}/captions"]
  encode:
    foreach: [coco]
    do:
      cmd: mkdir -p data/${item}/latents && cp -r made/. data/${item}/latents
      deps: ["data/${item}/raw"]
      outs: ["data/${item}/latents"]
  shard:
    foreach: [coco]
    do:
      cmd: mkdir -p data/${item}/shards && cp -r data/${item}/latents/. params.yaml data/${item}/shards
      deps: ["data/${item}/latents"]
      params: [shard]
      outs: ["data/${item}/shards"]
"""


@pytest.fixture(
    scope="module",
    params=[
        "moto",
        pytest.param("rclone", marks=pytest.mark.s3server),
        pytest.param("radosgw", marks=pytest.mark.s3server),
    ],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if reason := missing(request.param):
        pytest.skip(reason)
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as server:
        with server.client() as client:
            client.create_bucket(Bucket="team")
        yield server


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_", "GIT_"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }


def run(folder: Path, *command: str, expected: int = 0, **more: str) -> str:
    done = run_program(command, cwd=folder, env=environment(**more))
    assert (done.returncode != 0) == bool(expected), done.stdout + done.stderr
    return done.stdout + done.stderr


def make(folder: Path, *arguments: str, **more: str) -> str:
    return run(folder, "make", "-o", "setup", *arguments, **more)


@pytest.fixture(scope="module")
def team(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose data were built and pushed by its own make targets."""
    root = tmp_path_factory.mktemp("team") / "repository"
    for name in ("microdiff/handlers/__init__.py", "microdiff/handlers/coco.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    shutil.copy(REPO / "Makefile", root / "Makefile")
    (root / "dvc.yaml").write_text(PIPELINE)
    shutil.copy(REPO / "presets" / "sample.yaml", root / "params.yaml")
    for name, data in FIRST.items():
        (root / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "made" / name).write_bytes(data)
    run(root, "git", "init", "--quiet", "--initial-branch=main")
    run(root, "git", "config", "user.email", "someone@example.org")
    run(root, "git", "config", "user.name", "Someone")
    run(root, "dvc", "init", "--quiet")
    run(root, "python", "-m", "stages.code")
    assert "commit it" in make(root, "remote", f"URL=s3://{ROOT}", f"ENDPOINT={server.url}")
    run(root, "dvc", "repro", "--quiet")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "--quiet", "-m", "data")
    run(root, "git", "tag", "v1")
    make(root, "push")
    return root


def clone_of(team: Path, into: Path) -> Path:
    run(into, "git", "clone", "--quiet", str(team), "clone")
    return into / "clone"


@pytest.fixture
def here(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as the working directory, with credentials in the environment and an empty cache."""
    clone = clone_of(team, tmp_path)
    for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "GIT_"))]:
        monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MICRODIFF_CACHE", str(tmp_path / "cache"))
    s3._client.cache_clear()  # a client keeps the credentials it was made with
    monkeypatch.chdir(clone)
    return clone


def artifacts(clone: Path) -> list[str]:
    return sorted(path.name for path in (clone / "data/coco").iterdir() if path.is_dir())


def everything(url: str) -> dict[str, bytes]:
    source = open_dvc_source(url)
    assert isinstance(source, CachedShards)
    for name in source.files:
        source.fetch(name)
    return {name: data for name, data in tree_bytes(source.local).items() if name != "params.yaml"}


def test_a_remote_is_set_up_with_verification(team: Path, server: S3Server) -> None:
    settings = (team / ".dvc/config").read_text()
    for line in ("remote = storage", f"url = s3://{ROOT}", "verify = true", f"endpointurl = {server.url}"):
        assert line in settings


def test_a_newcomer_needs_the_shards_alone_and_after_an_edit_the_latents(team: Path, tmp_path: Path) -> None:
    clone = clone_of(team, tmp_path)
    make(clone, "coco")
    assert artifacts(clone) == ["shards"]
    output = make(clone, "coco")
    assert "Data and pipelines are up to date." in output
    assert "Running stage" not in output
    assert artifacts(clone) == ["shards"]
    edited = (clone / "params.yaml").read_text().replace("order: shuffled", "order: source")
    (clone / "params.yaml").write_text(edited)
    output = make(clone, "coco")
    assert [line for line in output.splitlines() if "Running stage" in line] == ["Running stage 'shard@coco':"]
    assert artifacts(clone) == ["latents", "shards"]
    assert (clone / SHARDS / "params.yaml").read_text() == edited


def test_shards_are_streamed_from_what_dvc_pushed(here: Path, server: S3Server) -> None:
    assert everything(f"dvc://{SHARDS}@v1") == FIRST
    assert not (here / ".dvc/cache").exists()
    assert not (here / SHARDS).exists()


def test_credentials_in_config_local_are_used(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match=r"NoCredentialsError\. Give the credentials"):
        everything(f"dvc://{SHARDS}@v1")
    run(here, "dvc", "remote", "modify", "--local", "storage", "access_key_id", KEY)
    run(here, "dvc", "remote", "modify", "--local", "storage", "secret_access_key", SECRET)
    assert everything(f"dvc://{SHARDS}@v1") == FIRST


def test_a_release_needs_neither_git_nor_dvc(
    here: Path, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (here / ".dvc/config.local").open("w") as local:
        local.write(f"['remote \"storage\"']\n    access_key_id = {KEY}\n    secret_access_key = {SECRET}\n")
    listed = here / "data/coco/withdrawn.tsv"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("key\treason\nsample-1\tasked for\n")
    run(here, "git", "add", "-f", str(listed))
    run(here, "git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "withdraw")
    assert write_release("coco", out=tmp_path / "r.json") > sum(map(len, FIRST.values()))
    document = read_json(tmp_path / "r.json")
    assert SECRET not in (tmp_path / "r.json").read_text()
    assert document["remote"] == {"url": f"s3://{ROOT}", "endpointurl": server.url}
    assert document["encoders"] == {"image": 1}
    assert document["files"][SHARD] == {"bytes": len(FIRST[SHARD]), "md5": md5_of(FIRST[SHARD])}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("MICRODIFF_CACHE", str(tmp_path / "other"))
    assert everything(str(tmp_path / "r.json")) == FIRST
    assert open_dvc_source(str(tmp_path / "r.json")).withdrawn.contains("sample-1")
    with server.client() as client:
        client.put_object(Bucket="team", Key="public/r.json", Body=(tmp_path / "r.json").read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    assert everything("s3://team/public/r.json") == FIRST
    document["files"][SHARD]["md5"] = "0" * 32
    write_json(tmp_path / "r.json", document)
    with pytest.raises(SourceError, match="damaged: its files"):
        open_dvc_source(str(tmp_path / "r.json"))


def test_an_object_damaged_on_the_remote_is_refused_by_both(
    here: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"latents/{object_of(md5_of(FIRST[SHARD]))}"
    with server.client() as client:
        client.put_object(Bucket="team", Key=key, Body=b"X" + FIRST[SHARD][1:])
        try:
            with pytest.raises(SourceError, match="the object is damaged"):
                everything(f"dvc://{SHARDS}@v1")
            output = make(here, "pull-coco", expected=2)
            assert not (here / SHARDS / SHARD).is_file(), output
        finally:
            client.put_object(Bucket="team", Key=key, Body=FIRST[SHARD])
    assert everything(f"dvc://{SHARDS}@v1") == FIRST


def test_a_push_sends_no_damage_and_mends_the_remote(team: Path, server: S3Server, tmp_path: Path) -> None:
    clone = clone_of(team, tmp_path)
    make(clone, "pull-coco")
    key = f"latents/{object_of(md5_of(FIRST[SHARD]))}"
    cached = clone / ".dvc/cache" / object_of(md5_of(FIRST[SHARD]))
    with server.client() as client:
        client.put_object(Bucket="team", Key=key, Body=b"X" + FIRST[SHARD][1:])
        assert "it was damaged on the remote" in make(clone, "push", "CHECK=1")
        assert client.get_object(Bucket="team", Key=key)["Body"].read() == FIRST[SHARD]
        client.delete_object(Bucket="team", Key=key)
        try:
            for damaged in (cached, clone / SHARDS / SHARD):
                damaged.chmod(0o644)
                damaged.write_bytes(b"X" + FIRST[SHARD][1:])
            assert f"/{SHARD}: damaged in DVC's cache" in make(clone, "push", expected=2)
            assert f"{ROOT.removeprefix('team/')}/{object_of(md5_of(FIRST[SHARD]))}" not in server.objects("team", "")
        finally:
            client.put_object(Bucket="team", Key=key, Body=FIRST[SHARD])


def test_a_release_says_what_was_not_pushed(here: Path, server: S3Server, tmp_path: Path) -> None:
    key = f"latents/{object_of(md5_of(FIRST[SHARD]))}"
    with server.client() as client:
        client.delete_object(Bucket="team", Key=key)
        try:
            with pytest.raises(SourceError, match=rf"1 of \d+ files are not on s3://{ROOT}, such as {SHARD}"):
                write_release("coco", out=tmp_path / "r.json")
        finally:
            client.put_object(Bucket="team", Key=key, Body=FIRST[SHARD])
    assert not (tmp_path / "r.json").exists()


def test_wrong_credentials_and_buckets_are_said(here: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    local = here / ".dvc/config.local"
    local.write_text("['remote \"storage\"']\n    url = s3://no-such-bucket/latents\n")
    with pytest.raises(SourceError, match=f"s3://no-such-bucket: no such bucket at {server.url}"):
        everything(f"dvc://{SHARDS}@v1")
    if not server.checks_secrets:
        return
    for name, code in (("secret_access_key", "SignatureDoesNotMatch"), ("access_key_id", "InvalidAccessKeyId")):
        keys = {"access_key_id": KEY, "secret_access_key": SECRET, name: "something-wrong"}
        lines = "".join(f"    {option} = {value}\n" for option, value in keys.items())
        local.write_text(f"['remote \"storage\"']\n{lines}")
        with pytest.raises(SourceError, match=rf"the credentials are not accepted \({code}\)"):
            everything(f"dvc://{SHARDS}@v1")


def test_a_push_that_was_killed_leaves_no_part_and_is_completed(team: Path, server: S3Server, tmp_path: Path) -> None:
    clone = clone_of(team, tmp_path)
    (clone / "big").mkdir()
    for number in range(12):
        (clone / "big" / f"{number}.bin").write_bytes(bytes([number]) * 4_000_000)
    run(clone, "dvc", "add", "--quiet", "big")
    local = clone / ".dvc/config.local"
    settings = "['remote \"storage\"']\n    url = s3://team/killed\n"
    with StallingProxy(server.url, limit=20_000_000) as proxy:  # in the midst of an object
        local.write_text(f"{settings}    endpointurl = {proxy.url}\n")
        command = ["dvc", "push", "--quiet", "--jobs", "1", "big.dvc"]
        process = subprocess.Popen(command, cwd=clone, env=environment())
        try:
            assert proxy.stalled.wait(PATIENCE_S)
        finally:
            end(process)
    local.write_text(settings)
    left = server.objects("team", "killed/")
    assert 0 < len(left) < 13
    with server.client() as client:
        for key in left:
            data = client.get_object(Bucket="team", Key=key)["Body"].read()
            assert object_of(md5_of(data)) == key.removeprefix("killed/").removesuffix(".dir")
    assert f"{13 - len(left)} files pushed" in run(clone, "dvc", "push", "big.dvc")
    assert len(server.objects("team", "killed/")) == 13
