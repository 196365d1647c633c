"""A git repository with a DVC remote of a few tiny shards, written without running DVC; quick to make and to change."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.waiting import run

SHARDS = "data/coco/shards"
FIRST = {
    "index.json": b'{"shards": []}',
    "manifest.json": b'{"encoders": {"image": 1}, "columns": {"256": {}}, "partitions": {}}',
    "512/index.json": b'{"shards": [1]}',
    "512/shard.00000.mds": b"first" * 2000,
    "256/shard.00000.mds": b"second" * 3000,
}
SECOND = {**FIRST, "index.json": b'{"shards": [2]}', "512/shard.00000.mds": b"other" * 2000}


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def object_of(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def objects(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what DVC pushes of a folder, by path below the remote's root."""
    listing = json.dumps([{"md5": md5_of(data), "relpath": path} for path, data in sorted(files.items())]).encode()
    return {
        object_of(f"{md5_of(listing)}.dir"): listing,
        **{object_of(md5_of(data)): data for data in files.values()},
    }


class ShardProject:
    """The repository at `root`. `put` receives each object that is pushed; by default, a folder beside it."""

    def __init__(self, root: Path, put: Callable[[str, bytes], None] | None = None) -> None:
        self.root = root
        self.remote = root.with_name(f"{root.name}-remote")
        self.put = put or self._write
        root.mkdir()
        self.remote.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "someone@example.org")
        self.git("config", "user.name", "Someone")
        self.configure(f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {self.remote}\n")

    def git(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = run(["git", *arguments], cwd=self.root, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def configure(self, text: str, name: str = "config") -> None:
        (self.root / ".dvc").mkdir(exist_ok=True)
        (self.root / ".dvc" / name).write_text(text)

    def commit(self, files: Mapping[str, bytes], tag: str | None = None, path: str = SHARDS) -> str:
        """Push a version of the shards, commit it, and return the commit."""
        pushed = objects(files)
        for place, data in pushed.items():
            self.put(place, data)
        md5 = next(iter(pushed)).removeprefix("files/md5/").replace("/", "")
        self.lock([{"path": path, "hash": "md5", "md5": md5, "size": 1, "nfiles": len(files)}])
        return self.save(tag)

    def lock(self, outs: list[dict[str, object]]) -> None:
        stages = {"shard@coco": {"cmd": "true", "outs": outs}}
        (self.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def save(self, tag: str | None = None) -> str:
        (self.root / ".dvc/.gitignore").write_text("/config.local\n")
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", "change")
        if tag is not None:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def _write(self, place: str, data: bytes) -> None:
        (self.remote / place).parent.mkdir(parents=True, exist_ok=True)
        (self.remote / place).write_bytes(data)
