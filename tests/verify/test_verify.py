"""Verification: whatever happens to a file is seen and told with its name, and repair brings back the same bytes."""

import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import REPO, build_coco, copy_of, made_once, sample_preset, tree_bytes
from microdiff.artifacts.finiteness import is_finite
from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.manifest import MANIFEST, is_whole, read_manifest, write_manifest
from microdiff.artifacts.mds_index import read_index
from microdiff.artifacts.mds_scan import MdsFile
from microdiff.core.files import digest_file, md5_of, read_json, write_json
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.errors import ParamsError, SchemaError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.remote.dvc_dir_object import folder_digest
from microdiff.remote.dvc_record import dvc_record
from microdiff.verify.dataset import Verification, verify_dataset
from microdiff.verify.deep import psnr, relative_difference, verify_deep
from microdiff.verify.run import run
from tests import tiny_models
from tests.waiting import run as run_program
from tests.waiting import run_python

FLIPS_PER_FILE = 3


@pytest.fixture(scope="module")
def arena(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy whose files are damaged one at a time, and put right again."""
    return copy_of(built, tmp_path_factory.mktemp("arena") / "copy")


@pytest.fixture
def here(built: Workspace, tmp_path: Path) -> Workspace:
    """A copy of one's own, with hard links between the store and the artifacts."""
    return copy_of(built, tmp_path / "copy")


def files_of(workspace: Workspace, kind: str) -> list[Path]:
    return sorted(path for path in workspace.artifact("coco", kind).rglob("*") if path.is_file())


def blamed(result: Verification) -> set[str]:
    return {f"{problem.kind}/{problem.file}" for problem in result.problems}


def name_of(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root / "data" / "coco").as_posix()


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Change a bit in place, so that every name of the file has it changed."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def reseal(folder: Path) -> None:
    """Make a manifest say of its folder's files what they are: for what is wrong though no byte has changed."""
    value = read_json(folder / MANIFEST)
    del value["digest"]
    for partition in value["partitions"].values():
        for name in partition["files"]:
            path = folder / name
            partition["files"][name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    value["extra"] = {name: digest_file(folder / name) for name in value["extra"]}
    write_manifest(folder, value)


def rewrite_table(path: Path, change: Any) -> None:
    rows = pq.read_table(path).to_pylist()
    schema = pq.read_schema(path)
    path.unlink()
    pq.write_table(pa.Table.from_pylist(change(rows), schema), path)


def test_whole_artifacts_pass(built: Workspace) -> None:
    for deep in (False, True):
        result = verify_dataset("coco", built, deep=deep)
        assert result.problems == []
        assert result.kinds == list(KINDS)
        files = [path for kind in KINDS for path in files_of(built, kind)]
        assert result.num_files == len(files)
        assert result.num_bytes == sum(path.stat().st_size for path in files)
        assert [note for note in result.notes if "not in dvc.lock" not in note] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_caught_and_nothing_else_is_blamed(arena: Workspace, kind: str) -> None:
    dice = random.Random(kind)
    for path in files_of(arena, kind):
        for _ in range(FLIPS_PER_FILE):
            at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
            flip(path, at, bit)
            try:
                result = verify_dataset("coco", arena)
                assert blamed(result) == {name_of(arena, path)}, (path, at, bit)
                assert set(result.damaged) == {kind}, (path, at, bit)
            finally:
                flip(path, at, bit)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("latents", "encoders"),
        ("latents", "downsampling"),
        ("latents", "text"),
        ("shards", "columns"),
        ("raw", "bytes"),
    ],
)
def test_a_manifest_in_which_a_name_has_changed_is_all_that_is_blamed(arena: Workspace, kind: str, name: str) -> None:
    path = arena.artifact("coco", kind) / MANIFEST
    at = path.read_bytes().index(f'"{name}"'.encode()) + 1
    flip(path, at)
    try:
        result = verify_dataset("coco", arena)
        assert blamed(result) == {f"{kind}/{MANIFEST}"}
        assert result.damaged == {kind: {MANIFEST}}
    finally:
        flip(path, at)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "emptied", "deleted", "longer", "zeroed"])
def test_every_cut_emptied_deleted_or_overwritten_file_is_caught(arena: Workspace, kind: str, damage: str) -> None:
    for path in files_of(arena, kind):
        data = path.read_bytes()
        path.unlink()
        if damage != "deleted":
            path.write_bytes(
                {"cut": data[: len(data) * 2 // 3], "emptied": b"", "longer": data + b"\0", "zeroed": bytes(len(data))}[
                    damage
                ]
            )
        try:
            result = verify_dataset("coco", arena)
            assert blamed(result) == {name_of(arena, path)}
            assert result.damaged == {kind: {path.relative_to(arena.artifact("coco", kind)).as_posix()}}
        finally:
            path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("raw", "0000.tar", "0001.tar"),
        ("raw", "0000.parquet", "0002.parquet"),
        ("captions", "0000.parquet", "0001.parquet"),
        ("latents", "0000.image.safetensors", "0001.image.safetensors"),
        ("latents", "0001.text.safetensors", "0002.text.safetensors"),
        ("latents", "0001.parquet", "0002.parquet"),
        ("latents", "encoders.json", MANIFEST),
        ("shards", "256/index.json", "512/index.json"),
        ("shards", "*", "*"),
    ],
)
def test_swapped_files_are_caught(here: Workspace, kind: str, first: str, second: str) -> None:
    folder = here.artifact("coco", kind)
    if first == "*":
        first, second = (path.relative_to(folder).as_posix() for path in sorted(folder.glob("256/*.mds"))[:2])
    (folder / first).rename(folder / "aside")
    (folder / second).rename(folder / first)
    (folder / "aside").rename(folder / second)
    assert blamed(verify_dataset("coco", here)) == {f"{kind}/{first}", f"{kind}/{second}"}


def test_a_damaged_picture_latent_or_shard_is_told_by_its_sample(here: Workspace) -> None:
    raw, latents, shards = (here.artifact("coco", kind) for kind in ("raw", "latents", "shards"))
    row = next(row for row in pq.read_table(raw / "0001.parquet").to_pylist() if row["status"] == "kept")
    tar = (raw / "0001.tar").read_bytes()
    flip(raw / "0001.tar", tar.index(b"\xff\xd8\xff") + 500)
    assert row["key"] in {problem.key for problem in verify_dataset("coco", here).problems}
    flip(raw / "0001.tar", tar.index(b"\xff\xd8\xff") + 500)

    path = latents / "0002.text.safetensors"
    keys = LatentsFile(path).keys("caption_latents")
    flip(path, path.stat().st_size - 3)
    assert {problem.key for problem in verify_dataset("coco", here).problems} == {"", keys[-1]}
    flip(path, path.stat().st_size - 3)

    entry = read_index(shards / "index.json")[0]
    *_, last = MdsFile(shards, entry)
    path = shards / entry.raw.name
    flip(path, path.stat().st_size - 9)
    assert {problem.key for problem in verify_dataset("coco", here).problems} == {"", str(last["key"], "utf-8")}


def test_a_strange_file_is_told(here: Workspace) -> None:
    (here.artifact("coco", "shards") / "512" / "copy.mds").write_bytes(b"1")
    (problem,) = verify_dataset("coco", here).problems
    assert (problem.kind, problem.file) == ("shards", "512/copy.mds")
    assert problem.what == "listed neither in manifest.json nor by DVC: remove it"


def test_only_what_is_here_is_verified(here: Workspace) -> None:
    for kind in ("raw", "captions", "latents"):
        shutil.rmtree(here.artifact("coco", kind))
    result = verify_dataset("coco", here)
    assert (result.kinds, result.problems) == (["shards"], [])
    assert [note for note in result.notes if "not here" in note] == [
        f"data/coco/{kind}: not here, not verified" for kind in ("raw", "captions", "latents")
    ]
    flip(next(here.artifact("coco", "shards").glob("*/*.mds")), 1000)
    assert verify_dataset("coco", here).problems


# What no byte tells: the files are as their manifests say, and wrong all the same.


def not_finite(workspace: Workspace) -> None:
    path = workspace.artifact("coco", "latents") / "0001.image.safetensors"
    data = bytearray(path.read_bytes())
    data[-2:] = np.float16("nan").tobytes()
    path.unlink()
    path.write_bytes(data)


def other_values(workspace: Workspace) -> None:
    path = workspace.artifact("coco", "latents") / "0001.image.safetensors"
    flip(path, path.stat().st_size - 4)


def other_dtype(workspace: Workspace) -> None:
    path = workspace.artifact("coco", "latents") / "0001.text.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b'"dtype":"F16"', b'"dtype":"BF16"').replace(b" " * 8, b" " * 8, 1))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["caption_latents"]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def row_lost(workspace: Workspace) -> None:
    rewrite_table(workspace.artifact("coco", "captions") / "0001.parquet", lambda rows: rows[:-1])


def row_twice(workspace: Workspace) -> None:
    rewrite_table(workspace.artifact("coco", "raw") / "0000.parquet", lambda rows: [*rows[:-1], {**rows[-1], **TWIN}])


TWIN = {"key": "COCO_val2014_000000600142"}


def rows_turned(workspace: Workspace) -> None:
    rewrite_table(workspace.artifact("coco", "captions") / "0000.parquet", lambda rows: rows[::-1])


def other_caption(workspace: Workspace) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "caption": row["caption"] + "!"} if n == 2 else row for n, row in enumerate(rows)]

    rewrite_table(workspace.artifact("coco", "captions") / "0002.parquet", change)


def other_status(workspace: Workspace) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**rows[0], "status": "nsfw"}, *rows[1:]]

    rewrite_table(workspace.artifact("coco", "latents") / "0002.parquet", change)


def other_encoders(workspace: Workspace) -> None:
    path = workspace.artifact("coco", "latents") / "encoders.json"
    value = read_json(path)
    value["image"]["scaling_factor"] = 1.0
    write_json(path, value)


def sample_less(workspace: Workspace) -> None:
    path = workspace.artifact("coco", "shards") / "index.json"
    value = read_json(path)
    value["shards"].pop()
    write_json(path, value)


@pytest.mark.parametrize(
    ("kind", "change", "file", "message"),
    [
        ("latents", not_finite, "0001.image.safetensors", "holds NaN or infinity"),
        ("latents", other_values, "*.mds", "values are not those of the latents"),
        ("latents", other_dtype, "0001.text.safetensors", "bfloat16"),
        ("captions", row_lost, "0001.parquet", "adds up to"),
        ("captions", row_lost, "0001.parquet", "not those that raw kept"),
        ("captions", rows_turned, "0000.parquet", "not those that raw kept"),
        ("captions", other_caption, "0002.parquet", "not those that captions kept"),
        ("latents", other_status, "0002.parquet", "nsfw, but its latents do not say so"),
        ("latents", other_status, "*.mds", "the latents have no such sample"),
        ("latents", other_encoders, "encoders.json", "not say what manifest.json says"),
        ("shards", sample_less, "index.json", "not list what the groups"),
        ("shards", sample_less, "index.json", "no shard has this sample"),
        ("raw", row_twice, "0000.parquet", "rows have this key"),
    ],
)
def test_what_does_not_fit_together_is_told(here: Workspace, kind: str, change: Any, file: str, message: str) -> None:
    change(here)
    reseal(here.artifact("coco", kind))
    result = verify_dataset("coco", here, deep=True)
    assert not result.damaged
    told = [each for each in result.problems if message in each.what and Path(each.file).match(file)]
    assert told, "\n".join(map(str, result.problems))
    assert told[0].remedy == "python -m stages.verify coco --repair"


def test_a_key_of_two_partitions_is_told(here: Workspace) -> None:
    key = pq.read_table(here.artifact("coco", "raw") / "0002.parquet")["key"][0].as_py()
    rewrite_table(here.artifact("coco", "raw") / "0000.parquet", lambda rows: [*rows[:-1], {**rows[-1], "key": key}])
    reseal(here.artifact("coco", "raw"))
    told = [each for each in verify_dataset("coco", here).problems if "has the same key" in each.what]
    assert [(each.file, each.key) for each in told] == [("0002.parquet", key)]


def test_counts_and_metrics_must_agree(here: Workspace) -> None:
    path = here.metrics("clean", "coco")
    write_json(path, {**read_json(path), "kept": 3})
    (problem,) = verify_dataset("coco", here).problems
    assert "metrics/clean has another number for kept" in problem.what
    folder = here.artifact("coco", "captions")
    value = read_json(folder / MANIFEST)
    value["counts"]["kept"] += 1
    value["partitions"]["0001"]["counts"]["kept"] += 1
    value["partitions"]["0001"]["counts"]["in"] += 1
    value["counts"]["in"] += 1
    del value["digest"]
    write_manifest(folder, value)
    what = " ".join(problem.what for problem in verify_dataset("coco", here).problems)
    assert "samples came in, but raw kept" in what
    assert "samples came in, but captions kept" in what


def test_withdrawn_samples_must_be_nowhere(here: Workspace) -> None:
    key = LatentsFile(here.artifact("coco", "latents") / "0001.image.safetensors").keys("latents_256")[1]
    write_withdrawn(here.withdrawn("coco"), Withdrawn({key: Withdrawal(key, "why")}))
    told = {(each.kind, each.key) for each in verify_dataset("coco", here).problems if "withdrawn" in each.what}
    assert told == {(kind, key) for kind in KINDS}


@pytest.mark.parametrize(("value", "expected"), [(1.0, True), (np.nan, False), (np.inf, False), (-np.inf, False)])
def test_bfloat16_is_looked_at_by_its_bits(value: float, expected: bool) -> None:
    bits = (np.array([0.5, value], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert is_finite(bits, "bfloat16") is expected
    assert is_finite(bits, "uint16")
    assert is_finite(np.array([value], np.float16), "float16") is expected


def test_a_manifest_knows_whether_it_is_whole(here: Workspace) -> None:
    folder = here.artifact("coco", "raw")
    assert is_whole(folder)
    text = (folder / MANIFEST).read_text()
    for other in (text.replace("0001", "0003", 1), text + " ", text.replace('"digest"', '"digests"'), "[]", "{"):
        (folder / MANIFEST).write_text(other)
        assert not is_whole(folder)


# Repair.


def damage_all(path: Path) -> None:
    """Damage a file in place: in the store it is the same one."""
    flip(path, path.stat().st_size // 2)


LISTINGS = 3  # of the latents, one per partition; cheap, and in no artifact


@pytest.mark.parametrize(
    ("kind", "name", "computed", "has_store"),
    [
        ("raw", "0001.tar", 1, True),
        ("raw", "0002.parquet", 1, False),
        ("raw", MANIFEST, 0, True),
        ("captions", "0001.parquet", 1, True),
        ("captions", "0000.parquet", 1, False),
        ("latents", "0000.parquet", 1, True),
        ("latents", "0002.text.safetensors", 1, True),
        ("latents", "0002.image.safetensors", 1, False),
        ("latents", "encoders.json", 0, False),
        ("shards", "index.json", 0, True),
        ("shards", "index.json", LISTINGS, False),
        ("shards", "512/index.json", LISTINGS, False),
        ("shards", "512/*.mds", 1, True),
        ("shards", "256/*.mds", 1 + LISTINGS, False),
    ],
)
def test_repair_brings_back_the_bytes_and_computes_nothing_else(
    built: Workspace, here: Workspace, kind: str, name: str, computed: int, has_store: bool
) -> None:
    path = next(here.artifact("coco", kind).glob(name))
    damage_all(path)
    if not has_store:
        shutil.rmtree(here.root / ".work")  # as after a pull
    said: list[str] = []
    params = here.root / "params.yaml"
    assert run(["coco"], params, here, deep=False, repair=True, say=said.append), "\n".join(said)
    assert tree_bytes(here.root / "data") == tree_bytes(built.root / "data")
    assert tree_bytes(here.root / "metrics") == tree_bytes(built.root / "metrics")
    assert read_json(here.run_facts(KINDS[kind], "coco"))["partitions_computed"] == computed
    assert any("--repair" in line for line in said)


def test_repair_of_several_things_at_once(built: Workspace, here: Workspace) -> None:
    damage_all(here.artifact("coco", "raw") / "0000.tar")
    (here.artifact("coco", "captions") / "0002.parquet").unlink()
    os.truncate(next(here.artifact("coco", "shards").glob("256/*.mds")), 100)
    (here.artifact("coco", "shards") / "stray").write_text("x")
    assert run([], here.root / "params.yaml", here, deep=False, repair=True, say=lambda _: None)
    assert tree_bytes(here.root / "data") == tree_bytes(built.root / "data")


def test_the_command_tells_and_fails(here: Workspace) -> None:
    def verify(*options: str) -> "subprocess.CompletedProcess[str]":
        return run_python("-m", "stages.verify", *options, "--root", str(here.root), cwd=REPO)

    done = verify("coco")
    assert (done.returncode, done.stdout.splitlines()[-1][:14]) == (0, "coco: all well")
    damage_all(here.artifact("coco", "captions") / "0001.parquet")
    done = verify()
    assert done.returncode == 1
    assert "data/coco/captions/0001.parquet (clean): its bytes have changed: sha256" in done.stdout
    assert "repair it: python -m stages.verify coco --repair" in done.stdout
    with pytest.raises(ParamsError, match="no artifacts of sa1b to verify"):
        run(["sa1b"], here.root / "params.yaml", here, deep=False, repair=False, say=lambda _: None)


# Deep.


@pytest.fixture
def few_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode as little as shows something: a picture of 512 px takes seconds."""
    monkeypatch.setattr("microdiff.verify.deep._PARTITIONS", 2)
    monkeypatch.setattr("microdiff.verify.deep._SAMPLES", 3)


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_drawn")
def test_decoded_latents_are_like_their_pictures(built: Workspace) -> None:
    deep = verify_deep("coco", load_params(built.root / "params.yaml"), built)
    assert deep.findings.problems == []
    assert {each.px for each in deep.compared} == {256, 512}
    assert all(each.psnr_db >= each.floor_db > 10 for each in deep.compared)
    assert all(each.difference < 0.01 for each in deep.compared)


@pytest.mark.slow
@pytest.mark.usefixtures("few_are_drawn")
def test_latents_and_captions_of_others_are_told(here: Workspace) -> None:
    folder = here.artifact("coco", "latents")
    for path in (*folder.glob("*.image.safetensors"), *folder.glob("*.text.safetensors")):
        tensors = LatentsFile(path)
        data = bytearray(path.read_bytes())
        for name in tensors.names:
            rows = tensors.rows(name)
            data[rows.offset : rows.offset + rows.nbytes] = rows[::-1].tobytes()  # type: ignore[attr-defined]
        path.unlink()
        path.write_bytes(data)
    deep = verify_deep("coco", load_params(here.root / "params.yaml"), here)
    files = {problem.file.partition(".")[2] for problem in deep.findings.problems if problem.key}
    assert files == {"image.safetensors", "text.safetensors"}
    what = " ".join(problem.what for problem in deep.findings.problems)
    assert "dB, expected" in what
    assert "encoded anew" in what


@pytest.fixture(scope="module")
def other_forms(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All steps with what the sample settings leave out: moments, bfloat16, a second encoder with masks, zstd."""
    return Workspace(made_once("other forms", build_other_forms, tmp_path_factory))


def build_other_forms(root: Path) -> None:
    tiny_models.save_t5(root / "t5")
    text = {**sample_preset()["encode"]["text"]["caption_latents"], "model": str(root / "t5"), "revision": None}
    changes = {
        "datasets.coco.download.partitions": "0-1",
        "datasets.coco.download.images_per_partition": 5,
        "datasets.coco.max_rejected_share": 0.9,
        "encode.image.resolutions": [64, 128],
        "encode.image.latents": "moments",
        "encode.image.store": "bfloat16",
        "encode.text.caption_latents_t5": {**text, "store": "bfloat16"},
        "shard.compression": "zstd",
    }
    build_coco(root, changes)


def test_sets_of_other_forms_pass(other_forms: Workspace) -> None:
    shards = [path.name for path in files_of(other_forms, "shards")]
    assert any(name.endswith(".mds.zstd") for name in shards)
    assert any("t5" in path.name for path in files_of(other_forms, "latents"))
    result = verify_dataset("coco", other_forms)
    assert (result.problems, result.kinds) == ([], list(KINDS))
    deep = verify_deep("coco", load_params(other_forms.root / "params.yaml"), other_forms)
    assert (deep.findings.problems, deep.note) == ([], "")
    assert [each.px for each in deep.compared].count(64) == [each.px for each in deep.compared].count(128) == 8
    assert all(each.psnr_db >= each.floor_db > 5 for each in deep.compared)


@pytest.mark.parametrize("kind", ["latents", "shards"])
def test_flipped_bits_in_sets_of_other_forms_are_caught(other_forms: Workspace, tmp_path: Path, kind: str) -> None:
    test_every_flipped_bit_is_caught_and_nothing_else_is_blamed(copy_of(other_forms, tmp_path / "copy"), kind)


def test_values_of_other_forms_must_be_finite(other_forms: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(other_forms, tmp_path / "copy")
    damaged = {}
    for kind in ("image", "text_t5"):
        path = workspace.artifact("coco", "latents") / f"0000.{kind}.safetensors"
        tensors = LatentsFile(path)
        column = tensors.names[0]
        rows = tensors.rows(column)
        data = bytearray(path.read_bytes())
        data[rows.offset + 2 : rows.offset + 4] = b"\x80\x7f"  # type: ignore[attr-defined]  # infinity
        path.unlink()
        path.write_bytes(data)
        damaged[f"latents/{path.name}"] = tensors.keys(column)[0]
    reseal(workspace.artifact("coco", "latents"))
    problems = [each for each in verify_dataset("coco", workspace).problems if "holds NaN or infinity" in each.what]
    assert {f"{each.kind}/{each.file}": each.key for each in problems} == damaged


def test_measures_of_likeness() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0)
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
    assert relative_difference(np.array([1.1, -1.1]), np.array([1.0, -1.0])) == pytest.approx(0.1)


# DVC.


@pytest.fixture
def repository(built: Workspace, tmp_path: Path) -> Path:
    """A repository in which DVC has recorded the artifacts of COCO, its cache linked to them and to the store."""
    root = tmp_path / "repository"
    copy_of(built, root)
    for name in ("dvc.yaml", ".dvc/config", ".dvcignore", "code", "stages", "microdiff", "samples"):
        source = REPO / name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, root / name)
    (root / "data" / "coco" / "withdrawn.tsv").write_text("key\treason\tpartition\n")
    assert run_program(["git", "init", "-q"], cwd=root).returncode == 0
    dvc(root, "commit", "--force", *(f"{step}@coco" for step in KINDS.values()))
    return root


def dvc(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = run_python("-m", "dvc", *arguments, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_dvc_the_damaged_copies_go_and_all_three_come_back(
    built: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    workspace = Workspace(repository)
    lock = (repository / "dvc.lock").read_bytes()
    result = verify_dataset("coco", workspace)
    assert (result.problems, result.notes) == ([], [])
    record = dvc_record(repository, "coco", "captions")
    assert record is not None
    assert record.files is not None
    path = workspace.artifact("coco", "captions") / "0001.parquet"
    cached = record.object_path(record.files["0001.parquet"])
    assert path.stat().st_nlink == 3
    assert path.samefile(cached)
    path.chmod(0o644)
    damage_all(path)
    done = run_python("-m", "stages.verify", "coco", "--repair", cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_json(workspace.run_facts("clean", "coco"))["partitions_computed"] == 1
    assert path.read_bytes() == (built.artifact("coco", "captions") / "0001.parquet").read_bytes()
    assert path.samefile(cached)
    assert path.stat().st_nlink == 3
    assert (repository / "dvc.lock").read_bytes() == lock
    assert dvc(repository, "status", "clean@coco").strip() == "Data and pipelines are up to date."


@pytest.mark.parametrize("has_cloud_copy", [True, False])
def test_repair_pulls_what_the_remote_has_and_computes_the_rest(
    built: Workspace, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_cloud_copy: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    workspace = Workspace(repository)
    dvc(repository, "remote", "add", "--default", "team", str(tmp_path / "remote"))
    if has_cloud_copy:
        dvc(repository, "push", "clean@coco", "shard@coco")
        for kind in ("raw", "latents"):  # now nothing can be computed
            shutil.rmtree(workspace.artifact("coco", kind))
        shutil.rmtree(repository / "samples")
        shutil.rmtree(repository / ".work")
    damaged = [
        workspace.artifact("coco", "captions") / "0001.parquet",
        next(workspace.artifact("coco", "shards").glob("512/*.mds")),
    ]
    expected = [(built.root / path.relative_to(repository)).read_bytes() for path in damaged]
    for path in damaged:
        path.chmod(0o644)
        damage_all(path)
    command = ("-m", "stages.verify", "coco")
    assert run_python(*command, cwd=repository).returncode == 1
    done = run_python(*command, "--repair", cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.read_bytes() for path in damaged] == expected
    assert run_python(*command, cwd=repository).returncode == 0


def test_dvc_knows_a_changed_manifest_and_another_version(here: Workspace) -> None:
    folder = here.artifact("coco", "captions")
    md5 = {path.relative_to(folder).as_posix(): md5_of(path) for path in files_of(here, "captions")}
    digest = folder_digest(md5)
    outs = [{"path": "data/coco/captions", "md5": digest}]
    write_json(here.root / "dvc.lock", {"schema": "2.0", "stages": {"clean@coco": {"outs": outs}}})
    assert verify_dataset("coco", here).problems == []  # by the digest alone: there is no listing
    listing = here.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    listing.parent.mkdir(parents=True)
    listing.write_text(
        json.dumps([{"md5": each, "relpath": name} for name, each in sorted(md5.items())], sort_keys=True)
    )
    assert verify_dataset("coco", here).problems == []

    value = read_json(folder / MANIFEST)
    del value["digest"]
    write_manifest(folder, {**value, "code": "0" * 64})  # whole in itself, so another version
    (problem,) = verify_dataset("coco", here).problems
    assert (problem.file, problem.is_damage) == (MANIFEST, True)
    listing.unlink()
    (problem,) = verify_dataset("coco", here).problems
    assert problem.what.startswith("it is whole, but not the version in dvc.lock")
    (here.root / "dvc.lock").write_text("stages: [")
    with pytest.raises(SchemaError, match=r"dvc\.lock: damaged"):
        verify_dataset("coco", here)


def test_manifests_say_what_the_store_holds(built: Workspace) -> None:
    for kind in KINDS:
        manifest = read_manifest(built.artifact("coco", kind))
        for partition in manifest.partitions.values():
            assert tuple(part.fingerprint for part in partition.parts) == partition.fingerprints
            assert sorted(file for part in partition.parts for file in part.files) == sorted(partition.files)
