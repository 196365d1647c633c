"""A bit between every two steps: a step mends what it reads, says what was wrong, and gives a sound run's bytes."""

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import copy_of, made_once, tree_bytes
from microdiff.artifacts.kinds import KINDS
from microdiff.clean.step import clean
from microdiff.core.files import digest_file
from microdiff.download.step import download
from microdiff.encode.step import encode
from microdiff.errors import MicrodiffError
from microdiff.pipeline.params import Params, load_params
from microdiff.pipeline.shared_store import VARIABLE
from microdiff.pipeline.workspace import Workspace
from microdiff.shard import writer
from microdiff.shard.step import shard
from tests.tracked import track

STEPS = {"download": download, "clean": clean, "encode": encode, "shard": shard}
INPUTS = [
    ("clean", "raw/0001.parquet"),
    ("encode", "raw/0001.tar"),
    ("encode", "captions/0001.parquet"),
    ("shard", "latents/0001.image.safetensors"),
    ("shard", "latents/0001.text.safetensors"),
    ("shard", "latents/0001.parquet"),
]
CASES = [
    *((damage, "store") for damage in ("bit", "cut", "longer", "gone")),
    *((damage, "nowhere") for damage in ("bit", "cut", "gone")),
    ("bit", "cache"),
    ("gone", "remote"),
    ("bit", "shared"),
]
AGAIN = "the step before computes it again"


def params_of(workspace: Workspace) -> Params:
    return load_params(workspace.root / "params.yaml")


def run(step: str, here: Workspace) -> None:
    """Run a step by other settings of its own, by which it has all to compute."""
    params = params_of(here)
    if step == "clean":
        coco = params.dataset("coco")
        params = replace(params, datasets={"coco": replace(coco, clean=replace(coco.clean, caption="longest"))})
    elif step == "encode":
        image, texts = params.encode.image, params.encode.text
        texts = {name: replace(each, batch_size=each.batch_size - 1) for name, each in texts.items()}
        params = replace(params, encode=replace(params.encode, image=replace(image, seed=image.seed + 1), text=texts))
    else:
        params = replace(params, shard=replace(params.shard, seed=params.shard.seed + 1))
        for root in (here.root / ".work", here.root / "store"):
            shutil.rmtree(root / "shard-list", ignore_errors=True)
    STEPS[step]("coco", params, here)


@pytest.fixture(scope="module")
def expected(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each step makes of undamaged inputs by the other settings, in folders named after it."""

    def make(folder: Path) -> None:
        for step in STEPS:
            if step != "download":
                here = copy_of(built, folder / f"of {step}")
                run(step, here)
                kind = next(kind for kind in KINDS if KINDS[kind] == step)
                here.artifact("coco", kind).rename(folder / step)

    return made_once("expected of undamaged inputs", make, tmp_path_factory)


@pytest.fixture(scope="module")
def shared(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared store to which all four steps have sent what they use."""

    def make(folder: Path) -> None:
        here = copy_of(built, folder / "sender")
        (folder / "store").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, str(folder / "store"))
            for step in STEPS.values():
                step("coco", params_of(here), here)

    return made_once("shared store", make, tmp_path_factory) / "store"


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes most of the time, and is another test's matter
    yield
    writer._open_partitions().cache_clear()


@dataclass
class Harm:
    """What was done to a file: its sound bytes, and what is to be said of it."""

    data: bytes
    said: str


def harm(path: Path, damage: str, *, in_place: bool) -> Harm:
    """Damage a file, under all of its names if `in_place`."""
    data, place, part, sample = path.read_bytes(), path.stat().st_size // 2, slice(None), ""
    if path.suffix == ".tar":  # whose pictures have digests of their own
        with tarfile.open(path) as tar:
            member = tar.getmembers()[1]
        place = member.offset_data + member.size // 2
        if damage == "bit":
            part = slice(member.offset_data, member.offset_data + member.size)
            sample = f", sample {member.name.partition('.')[0]}"
    if damage == "gone":
        if in_place:
            os.truncate(path, 0)
        path.unlink()
        return Harm(data, "")
    if not in_place:
        path.unlink()
        path.write_bytes(data)
    with path.open("r+b") as file:
        if damage == "bit":
            file.seek(place)
            file.write(bytes([data[place] ^ 4]))
        elif damage == "cut":
            file.truncate(place)
        else:
            file.seek(0, 2)
            file.write(b"\0" * 512)
    size = path.stat().st_size
    found = f"{digest(path.read_bytes()[part])}..." if damage == "bit" else f"{size} bytes instead of {len(data)}"
    return Harm(data, f"{path}{sample}: damaged: expected sha256 {digest(data[part])}..., found {found}. It is mended")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def prepare(here: Workspace, place: str, remote: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a whole copy of every artifact's files in one place besides the artifact."""
    if place == "cache":
        track(here)
    elif place == "remote":
        track(here, remote=remote)
    elif place == "shared":
        own = shutil.copytree(shared, here.root / "store", copy_function=os.link)
        monkeypatch.setenv(VARIABLE, str(own))
    if place not in ("store", "nowhere"):
        shutil.rmtree(here.root / ".work")


@pytest.mark.parametrize(("step", "file"), INPUTS, ids=[file for _, file in INPUTS])
@pytest.mark.parametrize(("damage", "place"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_damaged_input_is_mended_and_the_result_is_that_of_a_sound_one(
    built: Workspace,
    expected: Path,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    file: str,
    damage: str,
    place: str,
) -> None:
    here = copy_of(built, tmp_path / "here")
    prepare(here, place, tmp_path / "remote", shared, monkeypatch)
    path = here.root / "data/coco" / file
    recorded = digest_file(path)
    done = harm(path, damage, in_place=place == "nowhere")
    run(step, here)
    kind = next(kind for kind in KINDS if KINDS[kind] == step)
    assert tree_bytes(here.artifact("coco", kind)) == tree_bytes(expected / step)
    said = "\n".join(caplog.messages)
    assert (AGAIN in said) == (place == "nowhere")
    if damage == "gone":
        inputs = here.root / ".work/inputs"
        assert (inputs / f"{recorded}{path.suffix}").read_bytes() == done.data
        return
    assert path.read_bytes() == done.data
    assert done.said in said


class Failing(io.RawIOBase):
    """A file of which the disk gives no more after half its bytes."""

    def __init__(self, file: io.RawIOBase, half: int) -> None:
        self._file, self._left = file, half

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data: bytes = self._file.read(min(self._left, size) if size >= 0 else self._left)
        self._left -= len(data)
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


@pytest.mark.parametrize(("step", "file"), INPUTS, ids=[file for _, file in INPUTS])
def test_an_input_that_the_disk_does_not_give_is_named_and_kept(
    built: Workspace, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, file: str
) -> None:
    """It may be read another time: nothing is dropped, the other partitions are computed, and a rerun does the rest."""
    here = copy_of(built, tmp_path / "here")
    path = here.root / "data/coco" / file
    whole = path.read_bytes()
    opened = Path.open

    def failing(self: Path, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        found = opened(self, mode, buffering, **options)
        return Failing(found, len(whole) // 2) if self == path and buffering == 0 else found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        with pytest.raises(MicrodiffError, match=rf"{re.escape(str(path))}: Input/output error"):
            run(step, here)
    assert path.read_bytes() == whole
    writer._open_partitions().cache_clear()
    run(step, here)
    kind = next(kind for kind in KINDS if KINDS[kind] == step)
    assert tree_bytes(here.artifact("coco", kind)) == tree_bytes(expected / step)
