"""Which kind of storage a root, or a DVC remote's settings, mean."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import REPO
from microdiff.errors import SourceError
from microdiff.storage import retry
from microdiff.storage.local import LocalStorage
from microdiff.storage.opening import open_remote, open_source, public_settings
from microdiff.storage.s3 import S3Storage
from microdiff.storage.web import WebStorage
from tests.reporters import Said
from tests.waiting import run_python


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (
            "gopher://host/files",
            "unknown kind of source; expected a local folder, a list of links, http://.*hf://.*s3://",
        ),
        ("gs://bucket/files", "gs:// needs the package gcsfs"),
        ("hf://ORG/REPO", "expected hf://datasets/ORG/REPO@REVISION"),
        ("hf://datasets/ORG/REPO/folder", "expected hf://datasets/ORG/REPO@REVISION"),
        ("https://user:secret@host/links.txt", r"https://host/links\.txt"),
        ("no/such/folder", "no/such/folder: no such folder"),
        ("no/such/links.txt", r"links\.txt: no such list of links. Check datasets"),
        ("pyproject.toml", "no such folder"),
    ],
)
def test_a_root_that_cannot_be_read_is_an_error(
    root: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda _: None))
    with pytest.raises(SourceError, match=message):
        open_source(root, tmp_path)


def test_sources_are_quick_to_import() -> None:
    script = (
        "import sys, microdiff.storage.opening\n"
        "sys.exit(str({'fsspec', 's3fs', 'huggingface_hub', 'torch'} & sys.modules.keys() or '') or 0)"
    )
    assert run_python("-c", script, cwd=REPO).returncode == 0


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("http://host/files/", "http://host/files"),
        ("https://host:8443", "https://host:8443"),
        ("https://user:pass@host/files", "https://host/files"),
        ("https://host/files?token=secret", "https://host/files"),
        ("samples/coco", "samples/coco"),
        (str(Path("samples/coco").absolute()), "coco"),
    ],
)
def test_names_show_neither_secrets_nor_absolute_paths(root: str, name: str, tmp_path: Path) -> None:
    source = open_source(root, tmp_path)
    assert source.name == name
    assert source.with_reporter(Said()).name == name
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - sources travel to workers


@pytest.mark.parametrize(
    ("settings", "kind", "name"),
    [
        ({"url": "s3://user@bucket/a/b/"}, S3Storage, "s3://bucket/a/b"),
        ({"url": "https://user:SECRET@host/a/"}, WebStorage, "https://host/a"),
        ({"url": "file:///a/b"}, LocalStorage, "/a/b"),
        ({"url": "/a/b"}, LocalStorage, "/a/b"),
    ],
)
def test_a_remote_is_opened_by_its_url(settings: dict[str, str], kind: type, name: str) -> None:
    remote = open_remote(settings)
    assert isinstance(remote, kind)
    assert remote.name == name
    assert remote.setting == "the remote's settings"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "gs://bucket/a"}, "gs://bucket/a: shards are streamed from s3://"),
        ({"url": "s3://bucket/a", "worktree": "true"}, "a remote with worktree keeps files by name"),
        ({"url": "s3://bucket/a", "version_aware": "True"}, "a remote with version_aware keeps files by name"),
    ],
)
def test_a_remote_that_cannot_be_streamed_from_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_remote(settings)


def test_only_what_is_public_is_handed_on() -> None:
    settings = {
        "url": "https://user:SECRET@host/remote",
        "endpointurl": "http://x:SECRET@host:9000",
        "region": "eu-1",
        "access_key_id": "SECRET",
        "secret_access_key": "SECRET",
        "password": "SECRET",
        "profile": "lab",
    }
    assert public_settings(settings) == {
        "url": "https://host/remote",
        "endpointurl": "http://host:9000",
        "region": "eu-1",
    }
