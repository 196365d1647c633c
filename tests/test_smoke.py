"""The whole graph in a fresh clone, by DVC, offline, from the committed samples."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import REPO
from microdiff.artifacts.kinds import KINDS
from microdiff.core.code_identity import CodeIdentities
from microdiff.core.deciding_code import units
from microdiff.core.files import read_json
from microdiff.remote.dvc_lock import parse_lock
from tests.waiting import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smoke"), pytest.mark.timeout(1800)]

_LONGEST_S = 1200  # of a command, on a busy machine
ARTIFACTS = {"download": "raw", "clean": "captions", "encode": "latents", "shard": "shards"}


class Clone:
    """A clone of the committed and the uncommitted tree, with DVC on its path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.computed: dict[str, str | None] = {}  # the md5 of each artifact when all was computed from nothing
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = run(listing, cwd=REPO).stdout
        for name in filter(None, listed.split("\0")):
            if (REPO / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, root / name)
        (root / "dvc.lock").unlink(missing_ok=True)
        shutil.copy2(REPO / "presets" / "sample.yaml", root / "params.yaml")
        run(["git", "init", "-q"], cwd=root)

        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *command: str) -> str:
        done = run(command, seconds=_LONGEST_S, cwd=self.root, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout if "--json" in command else done.stdout + done.stderr

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def repro(self, *options: str) -> list[str]:
        """Run dvc repro and return the nodes that ran."""
        return [
            line.split("'")[1] for line in self.run("dvc", "repro", *options).splitlines() if "Running stage" in line
        ]

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")


def recorded(root: Path) -> dict[str, str | None]:
    """Return the md5 of each artifact that dvc.lock has."""
    outputs = parse_lock((root / "dvc.lock").read_bytes())
    return {output.path: output.md5 for output in outputs if output.path.startswith("data/")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"))
    datasets = yaml.safe_load((clone.root / "params.yaml").read_text(encoding="utf-8"))["datasets"]
    ran = clone.repro()
    assert sorted(ran) == sorted(["code", *(f"{step}@{name}" for step in ARTIFACTS for name in datasets)])
    clone.computed = recorded(clone.root)
    return clone


def test_every_node_leaves_an_artifact_and_metrics(clone: Clone) -> None:
    for metrics in (clone.root / "metrics").glob("*/*.json"):
        folder = clone.root / "data" / metrics.stem / ARTIFACTS[metrics.parent.name]
        assert (folder / "manifest.json").is_file()
        assert read_json(metrics)["kept"] == read_json(folder / "manifest.json")["counts"]["kept"] > 0
    assert len(list((clone.root / "metrics").glob("*/*.json"))) == 4 * len(list((clone.root / "data").glob("*/raw")))


def steps_with_listed_code() -> set[str]:
    """Return the steps some of whose code is listed: as declared, or as shown on this kind of machine."""
    import torch

    here = f"{platform.system()} {platform.machine()}, cpu, torch {torch.__version__.partition('+')[0]}"
    code = CodeIdentities(REPO)
    datasets = [path.stem for path in (REPO / "microdiff" / "handlers").glob("[!_]*.py")]
    found = [(unit.step, code.same_bytes.listings.get(code.digest(unit.modules))) for unit in units(datasets)]
    return {step for step, each in found if each and (each.is_declared or each.reason.endswith(here))}


def test_what_is_computed_from_nothing_is_what_is_recorded(clone: Clone) -> None:
    """A digest in code/same_bytes.tsv whose code gives other bytes is seen here: nothing is in the store of a clone.

    Latents, and shards with them, differ in their last bits between kinds of processors. So they are compared where
    code is listed to give the same bytes, which has to be done on the kind of machine that recorded dvc.lock.
    """
    steps = {"download", "clean"} | steps_with_listed_code()
    if "encode" in steps:
        steps.add("shard")
    kinds = [kind for kind, step in KINDS.items() if step in steps]
    expected = {path: md5 for path, md5 in recorded(REPO).items() if path.rpartition("/")[2] in kinds}
    assert len(expected) * len(KINDS) == len(clone.computed) * len(kinds) > 0
    assert {path: clone.computed[path] for path in expected} == expected, (
        "not the bytes that dvc.lock records. Does code/same_bytes.tsv list code that gives other bytes? "
        "python -m stages.code --same-bytes --since REV compares with the code of REV, on this machine"
    )


def test_a_second_run_says_that_nothing_changed(clone: Clone) -> None:
    output = clone.run("dvc", "repro")
    assert "Data and pipelines are up to date." in output
    assert "Running stage" not in output


def test_the_report_shows_the_ledger_and_the_first_batch(clone: Clone) -> None:
    output = clone.run("python", "-m", "stages.report", "--first-batch")
    assert "image_latents      float16  (8, 4, 32, 32)" in output
    assert "caption_latents    float16  (8, 1, 77, 64)" in output
    assert "drop_caption_mask  float64  (8,)" in output
    assert re.search(r"^coco +download +38 +28 +10 ", output, re.MULTILINE)
    assert (clone.root / "reports" / "index.html").is_file()


@pytest.mark.parametrize(
    ("name", "old", "new", "nodes"),
    [
        ("params.yaml", "order: shuffled", "order: source", "shard@*"),
        ("params.yaml", "images_per_partition: 10", "images_per_partition: 10  # ten", ""),
        ("microdiff/artifacts/mds.py", '"""Write MDS', '"""Make MDS', ""),
        ("microdiff/handlers/coco.py", '"""MS-COCO 2014', '"""COCO 2014', ""),
        ("microdiff/handlers/coco.py", "HANDLER = Coco", "HANDLER = Coco\nEDITED = True", "download@coco"),
        ("microdiff/formats/webdataset.py", "\n\n@dataclass", "\n\nEDITED = True\n\n\n@dataclass", "download@*"),
        ("microdiff/models/image_encoder.py", "import torch\n", "import torch\n\nEDITED = True\n", "encode@*"),
    ],
)
def test_an_edit_makes_stale_the_nodes_that_depend_on_it(
    clone: Clone, name: str, old: str, new: str, nodes: str
) -> None:
    datasets = [path.parent.name for path in (clone.root / "data").glob("*/raw")]
    expected = [nodes.replace("*", dataset) for dataset in datasets] if "*" in nodes else [nodes] if nodes else []
    clone.edit(name, old, new)
    try:
        clone.run("dvc", "repro", "--single-item", "code")
        assert sorted(json.loads(clone.run("dvc", "status", "--json"))) == sorted(expected)
    finally:
        clone.edit(name, new, old)
        clone.run("dvc", "repro", "--single-item", "code")


def test_two_datasets_are_made_at_once(clone: Clone) -> None:
    """With code edited since: both see that the `code` node is stale, and neither stops the other."""
    clone.edit("microdiff/shard/packing.py", "import numpy as np\n", "import numpy as np\n\nEDITED = True\n")
    makes = [clone.start("make", "-o", "setup", dataset) for dataset in ("coco", "cc12m")]
    for make in makes:
        said, _ = make.communicate(timeout=_LONGEST_S)
        assert make.returncode == 0, said
    assert not {"shard@coco", "shard@cc12m", "code"} & json.loads(clone.run("dvc", "status", "--json")).keys()


def test_each_byte_is_held_once(clone: Clone) -> None:
    shard = next(clone.root.glob("data/coco/shards/512/*.mds"))
    assert shard.stat().st_nlink == 3  # the work store, DVC's cache and the workspace
    assert not shard.stat().st_mode & 0o222


def test_pruning_keeps_a_second_run_free_of_work(clone: Clone) -> None:
    assert "removed" in clone.run("python", "-m", "stages.clean_work")
    clone.run("dvc", "repro", "-f", "-s", "shard@coco")
    assert read_json(clone.root / "reports/runs/shard/coco.json")["partitions_computed"] == 0
