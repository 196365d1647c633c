"""DVC's own files, read without DVC: its configuration, dvc.lock, and the objects that list a folder's files.

What DVC says of the same files is asked of DVC itself, in this process.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from dvc.config import Config
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.tree import Tree

from microdiff.errors import SchemaError, SourceError
from microdiff.remote.dvc_config import cache_folder, merged, parse_settings, read_settings, remotes
from microdiff.remote.dvc_dir_object import dir_object_bytes, fetch_dir_object, folder_digest, parse_dir_object
from microdiff.remote.dvc_lock import DvcOutput, parse_dvc_file, parse_lock
from microdiff.remote.dvc_record import dvc_record
from microdiff.storage.opening import open_remote
from tests.shard_project import md5_of, objects

SYSTEM, USER, PROJECT, LOCAL = "system", "user", "project/.dvc/config", "project/.dvc/config.local"
RAW = "data/coco/raw"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DVC_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    Repo.init(str(root), no_scm=True).close()
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def dvc_cache(project: Path) -> Path:
    with Repo(str(project), config={"core": {"no_scm": True}}) as repo:
        return Path(repo.cache.local.path)


# --- configuration

ABOVE = "[cache]\n    dir = {}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "project/.dvc/cache"),
        ({SYSTEM: ABOVE.format("/abs/system")}, "/abs/system"),
        ({USER: ABOVE.format("/abs/user")}, "/abs/user"),
        ({SYSTEM: ABOVE.format("/abs/system"), USER: ABOVE.format("/abs/user")}, "/abs/user"),
        ({USER: ABOVE.format("/abs/user"), PROJECT: ABOVE.format("/abs/project")}, "/abs/project"),
        ({PROJECT: ABOVE.format("/abs/project"), LOCAL: ABOVE.format("/abs/local")}, "/abs/local"),
        ({USER: ABOVE.format("/abs/user"), PROJECT: "[cache]\n    type = copy\n"}, "/abs/user"),
        ({PROJECT: ABOVE.format("../../shared")}, "shared"),
        ({LOCAL: ABOVE.format("near")}, "project/.dvc/near"),
        ({USER: ABOVE.format("beside")}, "user/beside"),
        ({USER: ABOVE.format("~/cache")}, "home/cache"),
        ({PROJECT: ABOVE.format("'/with # and blanks'  # a comment")}, "/with # and blanks"),
        ({PROJECT: '# mine\n[Cache]\nDIR="/quoted"\n\n[core]\n  analytics = false # no\n'}, "/quoted"),
        ({PROJECT: "[cache]\ndir = /first\n    type = copy\n"}, "/first"),
    ],
)
@pytest.mark.parametrize("named_by", ["DVC", "XDG"])
def test_the_cache_is_where_dvc_has_it(
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    expected: str,
    named_by: str,
) -> None:
    if named_by == "DVC":
        folders = {SYSTEM: tmp_path / SYSTEM, USER: tmp_path / USER}
        monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(folders[SYSTEM]))
        monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folders[USER]))
    else:
        folders = {SYSTEM: tmp_path / "etc" / "dvc", USER: tmp_path / "xdg" / "dvc"}
        monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path / 'etc'}{os.pathsep}/nowhere")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
        expected = expected.replace("user/", "xdg/dvc/")
    for name, text in files.items():
        write(folders[name] / "config" if name in folders else tmp_path / name, text)
    assert cache_folder(project) == tmp_path / expected / "files" / "md5" == dvc_cache(project)


def test_the_users_own_folder_is_where_dvc_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from microdiff.remote.dvc_config import _machine_folders

    assert list(map(str, _machine_folders())) == [Config.get_dir("system"), Config.get_dir("global")]


def test_remotes_are_read_as_dvc_reads_them(tmp_path: Path, project: Path) -> None:
    text = (
        "[core]\n    remote = Team\n"
        "['remote \"Team\"']\n    url = ../../bucket\n    endpointurl = https://host:9000/  # ours\n"
        '    credentialpath = ~/keys\n[\'remote "web"\']\n    url = "https://host/a b"\n    ask_password = true\n'
    )
    write(project / ".dvc/config", text)
    write(project / ".dvc/config.local", "['remote \"team\"']\n    configpath = own\n")
    dvc = Config(str(project / ".dvc"), validate=False)["remote"]
    found = remotes(merged(read_settings(project / ".dvc" / name) for name in ("config", "config.local")))
    assert {name: dict(values) for name, values in found.items()} == {
        name: {option: str(value) for option, value in values.items()} for name, values in dvc.items()
    }
    assert found["team"]["url"] == str(tmp_path / "bucket")
    assert found["team"]["configpath"] == str(project / ".dvc" / "own")


def test_paths_in_a_commit_without_a_checkout_are_left_as_they_are() -> None:
    settings = parse_settings(b"['remote \"r\"']\nurl = ../bucket\nkeyfile = s3://b/k\n", "a commit", None)
    assert remotes(settings) == {"r": {"url": "../bucket", "keyfile": "s3://b/k"}}


@pytest.mark.parametrize("text", [b"[core\n", b"secret\n", b"a = secret\n", b"[core]\nsecret\n", b"[core]\n\xff = 1\n"])
def test_what_is_no_configuration_is_refused_without_telling_what_it_holds(project: Path, text: bytes) -> None:
    (project / ".dvc/config.local").write_bytes(text)
    with pytest.raises(SourceError, match=r"config\.local: not a DVC configuration") as error:
        cache_folder(project)
    assert "secret" not in str(error.value)


# --- dvc.lock and .dvc files

HASH = "a" * 32
WHOLE = f"schema: '2.0'\nstages:\n  a@b:\n    cmd: x\n    outs:\n    - {{path: data/x, hash: md5, md5: {HASH}.dir}}\n"


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        "schema: '2.0'\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x}\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: [{path: p}]}\n",
        "",
        "[]",
        "stages: [",
        WHOLE.replace("'2.0'", "'1.0'"),
        WHOLE.partition("\n")[2],
        "schema: '2.0'\nstages: 3\n",
        "schema: '2.0'\nstages:\n  a: []\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: {path: p}}\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: }\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: [p]}\n",
        f"schema: '2.0'\nstages:\n  a: {{cmd: x, outs: [{{md5: {HASH}}}]}}\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: [{path: 3}]}\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x, outs: [{path: p, md5: 3}]}\n",
        "schema: '2.0'\nstages:\n  \udcff: {cmd: x}\n",
        WHOLE[: len(WHOLE) - 8],
    ],
)
def test_a_lock_is_refused_where_dvc_refuses_it(project: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    (project / "dvc.lock").write_bytes(data)
    with Repo(str(project)) as repo:
        try:
            stages = Lockfile(repo, str(project / "dvc.lock")).load().get("stages", {})
        except DvcException:
            with pytest.raises(SchemaError, match=r"dvc\.lock: damaged .*Restore it with git checkout dvc\.lock"):
                dvc_record(project, "coco", "raw")
            return
    expected = [(out["path"], out.get("md5")) for stage in stages.values() for out in stage.get("outs", ())]
    assert [(output.path, output.md5) for output in parse_lock(data)] == expected


def test_a_lock_in_a_folder_and_a_dvc_file_name_what_they_track() -> None:
    assert parse_lock(WHOLE.encode(), "sub") == [DvcOutput("sub/data/x", f"{HASH}.dir", "md5")]
    text = f"wdir: ..\nouts:\n- {{path: x, md5: {HASH}, hash: md5, remote: far}}\n- path: y\n"
    assert parse_dvc_file(text.encode(), "a/b") == [
        DvcOutput("a/b/../x", HASH, "md5", "far"),
        DvcOutput("a/b/../y", None),
    ]
    text = f"deps: [{{path: there, repo: {{url: https://h/r, rev_lock: abc}}}}]\nouts: [{{path: x, md5: {HASH}}}]\n"
    assert parse_dvc_file(text.encode()) == [DvcOutput("x", HASH, imported="dvc://https://h/r//there@abc")]


# --- the objects that list a folder's files

FILES = {"b.txt": "1" * 32, "a/é": "2" * 32, "a.b": "3" * 32, "a/b": "4" * 32, "B": "5" * 32}


def test_a_dir_object_is_what_dvc_writes() -> None:
    tree = Tree.from_list([{"md5": md5, "relpath": path} for path, md5 in FILES.items()])
    tree.digest()
    assert dir_object_bytes(FILES) == tree.as_bytes()
    assert folder_digest(FILES) == tree.oid
    assert parse_dir_object(tree.as_bytes(), "x") == FILES


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{}", b"3", b"[3]", b'[{"relpath": "a"}]', b'[{"md5": "00"}]', b"\xff", b'{"a": {}}']
)
def test_what_is_no_dir_object_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="x: the object that lists its files is no such list"):
        parse_dir_object(data, "x")


@pytest.mark.parametrize(
    ("path", "md5"),
    [
        *[("a", md5) for md5 in ("0" * 31, "G" * 32, "0" * 33, 5, None)],
        *[(path, HASH) for path in ("/a", "a//b", "../a", "", 5, None, "a\x00", "\ud800", "x" * 300)],
    ],
)
def test_a_dir_object_with_impossible_files_is_refused(path: object, md5: object) -> None:
    with pytest.raises(SourceError, match="which cannot be"):
        parse_dir_object(json.dumps([{"relpath": path, "md5": md5}]).encode(), "x")


@pytest.mark.parametrize("other", ["a", "a/b", "a/b/c"])
def test_a_dir_object_whose_files_do_not_fit_together_is_refused(other: str) -> None:
    with pytest.raises(SourceError, match=r"(twice|of a folder), which cannot be"):
        parse_dir_object(json.dumps([{"relpath": path, "md5": HASH} for path in ("a/b", other)]).encode(), "x")


@pytest.mark.parametrize("directory", ["../../evil.dir", "/evil.dir", HASH, f"{HASH}.dir/../evil", ""])
def test_a_folder_that_is_not_named_by_content_is_asked_for_nowhere(tmp_path: Path, directory: str) -> None:
    store = open_remote({"url": str(tmp_path / "remote")})
    with pytest.raises(SourceError, match="expected the MD5 of a folder"):
        fetch_dir_object(store, directory, tmp_path / "cache", "x")
    assert list(tmp_path.iterdir()) == []


# --- what is recorded of an artifact


@pytest.fixture
def recorded(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The raw artifact of COCO in dvc.lock and in a cache that the user's configuration names; its objects by path."""
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    write(tmp_path / "user" / "config", ABOVE.format(tmp_path / "shared"))
    cached = objects({"0000.tar": b"pictures", "manifest.json": b"{}"})
    for place, data in cached.items():
        (tmp_path / "shared" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / place).write_bytes(data)
    digest = next(iter(cached)).removeprefix("files/md5/").replace("/", "")
    write(project / "dvc.lock", WHOLE.replace("data/x", RAW).replace(f"{HASH}.dir", digest))
    return cached


def test_the_cache_of_the_users_configuration_is_read_and_cleared(
    tmp_path: Path, project: Path, recorded: dict[str, bytes]
) -> None:
    record = dvc_record(project, "coco", "raw")
    assert record is not None
    assert record.files == {"0000.tar": md5_of(b"pictures"), "manifest.json": md5_of(b"{}")}
    assert dvc_record(project, "coco", "latents") is None
    tar = record.object_path(record.files["0000.tar"])
    assert tar.read_bytes() == b"pictures"
    assert record.drop_damaged({"0000.tar", "manifest.json"}) == 0
    tar.write_bytes(b"pictureS")
    assert record.drop_damaged({"manifest.json"}) == 0
    assert record.drop_damaged({"0000.tar"}) == 1
    assert not tar.exists()


@pytest.mark.parametrize("damage", [b"", b"[]", b"[{"])
def test_a_damaged_dir_object_is_not_believed_and_goes(
    project: Path, recorded: dict[str, bytes], damage: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "shared" / next(iter(recorded))
    path.write_bytes(damage)
    record = dvc_record(project, "coco", "raw")
    assert record is not None
    assert record.files is None
    assert record.drop_damaged(set()) == 1
    assert not path.exists()


def test_without_a_lock_nothing_is_recorded(project: Path) -> None:
    record: Any = dvc_record(project, "coco", "raw")
    assert record is None
