"""A git repository with a pipeline of one dataset and a few lines, in which code can be edited and run in a second."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST
from microdiff.commands.recomputation import Commit, recompute_samples
from microdiff.core.code_identity import SAME_BYTES, CodeIdentities
from microdiff.core.deciding_code import deciding_modules
from microdiff.core.files import md5_of, read_json, write_json
from microdiff.remote.dvc_dir_object import folder_digest
from tests.waiting import run

POLICY = """\
LIMIT = 3


def clean(text, gpu=False):
    if gpu:
        return text[:LIMIT]
    words = text.strip()
    return words
"""
_STAGE = """\
import typer
from stages.tiny import run
from microdiff.{module} import {function}

app = typer.Typer(add_completion=False)


@app.command()
def main(dataset: str, params: str = "", root: str = "") -> None:
    run("{kind}", {before!r}, {function}, dataset, root)
"""
_TINY = """\
import hashlib
import json
from pathlib import Path


def run(kind, before, compute, dataset, root):
    folder = Path(root, "data", dataset, kind)
    folder.mkdir(parents=True)
    source = Path("source.txt") if before is None else folder.parent / before / "0000.txt"
    data = compute(source.read_text()).encode()
    (folder / "0000.txt").write_bytes(data)
    counts = {"in": 1, "kept": 1}
    files = {"0000.txt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    partitions = {"0000": {"fingerprints": ["0"], "counts": counts, "files": files}}
    manifest = {"format": 1, "source_records": 1, "counts": counts, "extra": {}, "partitions": partitions}
    (folder / "manifest.json").write_text(json.dumps(manifest))
"""
_FILES = {
    "microdiff/__init__.py": "",
    "microdiff/handlers/__init__.py": "",
    "microdiff/handlers/tiny.py": "def read(text):\n    return text\n",
    "microdiff/formats/annotations.py": "def table():\n    return {}\n",
    "microdiff/download/raw_writer.py": "from microdiff.handlers.tiny import read\n\n"
    "def write(text):\n    return read(text)\n",
    "microdiff/clean/policy.py": POLICY,
    "microdiff/encode/image_latents.py": "def encode(text):\n    return text\n",
    "microdiff/encode/caption_latents.py": "def encode(text):\n    return text\n",
    "microdiff/encode/merge.py": "from microdiff.encode.image_latents import encode\n\n"
    "def merge(text):\n    return encode(text) + '!'\n",
    "microdiff/shard/sample_index.py": "",
    "microdiff/shard/packing.py": "",
    "microdiff/shard/writer.py": "def write(text):\n    return text\n",
    "stages/__init__.py": "",
    "stages/tiny.py": _TINY,
    "stages/download.py": _STAGE.format(module="download.raw_writer", function="write", kind="raw", before=None),
    "stages/clean.py": _STAGE.format(module="clean.policy", function="clean", kind="captions", before="raw"),
    "stages/encode.py": _STAGE.format(module="encode.merge", function="merge", kind="latents", before="captions"),
    "stages/shard.py": _STAGE.format(module="shard.writer", function="write", kind="shards", before="latents"),
    "torch.py": "__version__ = '2.0.1+cpu'\n\n\nclass cuda:\n    is_available = staticmethod(lambda: False)\n",
    "presets/sample.yaml": "datasets:\n  tiny: {}\n",
    "source.txt": " a cat ",
    SAME_BYTES: "digest\tidentity\treason\n",
    ".gitignore": "/data/\n__pycache__/\n",
}


class TinyProject:
    """The repository.

    Args:
        root: A folder; what is in it becomes the repository. If it is not there, it is made, with the pipeline in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in ({} if root.is_dir() else _FILES).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
        done = run(["git", *identity, *arguments], cwd=self.root)
        assert done.returncode == 0, done.stderr

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=something")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def digest(self, kind: str) -> str:
        return CodeIdentities(self.root).digest(deciding_modules(kind, "tiny"))

    def listed(self) -> list[tuple[str, str, str]]:
        """Return the lines of the list."""
        rows = (self.root / SAME_BYTES).read_text(encoding="utf-8").splitlines()[1:]
        return [(digest, identity, reason) for digest, identity, reason in (row.split("\t") for row in rows)]

    def build(self, scratch: Path) -> None:
        """Make `data/` and a dvc.lock that records it, and commit that."""
        commit = Commit("now", self.root, self.root)
        recompute_samples(commit, self.root, scratch, record_lines=False)
        shutil.copytree(scratch / "data", self.root / "data")
        kinds = {"raw": "download", "captions": "clean", "latents": "latents", "shards": "shards"}
        for kind, unit in kinds.items():
            path = self.root / "data" / "tiny" / kind / MANIFEST
            write_json(
                path, {**read_json(path), "code": CodeIdentities(self.root).identity(deciding_modules(unit, "tiny"))}
            )
        self.record()

    def record(self) -> None:
        """Record `data/` in dvc.lock, and commit that."""
        folders = {f"data/tiny/{kind}": self.root / "data" / "tiny" / kind for kind in KINDS}
        outs = [{"path": name, "md5": folder_digest(_md5s(folder))} for name, folder in folders.items()]
        lock = {"schema": "2.0", "stages": {"all": {"cmd": "", "outs": outs}}}
        (self.root / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")  # JSON is YAML
        self.commit()


def _md5s(folder: Path) -> Mapping[str, str]:
    return {path.name: md5_of(path) for path in folder.iterdir()}
