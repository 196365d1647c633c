"""The DVC graph, the presets, the handlers and the README say the same."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPO, sample_preset
from microdiff.core.files import md5_of, read_json
from tests.waiting import run, run_python

STEPS = ("download", "clean", "encode", "shard")
DATASETS = sorted(path.stem for path in (REPO / "microdiff" / "handlers").glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))
    return document["stages"]


def test_there_is_a_stage_per_step_a_node_per_dataset_and_one_for_code(graph: dict[str, Any]) -> None:
    assert tuple(graph) == ("code", *STEPS)
    assert all(graph[step]["foreach"] == "${datasets}" for step in STEPS)


def test_the_graph_is_on_one_screen_and_its_lock_is_short() -> None:
    assert len((REPO / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 70
    assert len((REPO / "dvc.lock").read_text(encoding="utf-8").splitlines()) < 1100


def test_the_code_node_reads_all_code_and_writes_what_steps_depend_on(graph: dict[str, Any]) -> None:
    node = graph["code"]
    assert node["cmd"] == "python -m stages.code"
    assert node["deps"] == ["microdiff", "stages", "code/same_bytes.tsv"]
    written = {name for out in node["outs"] for name, options in out.items() if options == {"cache": False}}
    assert written == {*(f"code/{step}.json" for step in STEPS), "code/handlers"}


@pytest.mark.parametrize(
    ("step", "deps", "params"),
    [
        (
            "download",
            ["code/handlers/${key}.json", "data/${key}/withdrawn.tsv"],
            {"download", "datasets.${key}.download"},
        ),
        ("clean", ["data/${key}/raw/manifest.json"], {"datasets.${key}.clean"}),
        ("encode", ["data/${key}/captions/manifest.json", "data/${key}/raw/manifest.json"], {"encode"}),
        ("shard", ["data/${key}/latents/manifest.json"], {"shard"}),
    ],
)
def test_nodes_depend_on_exactly_what_matters(
    graph: dict[str, Any], step: str, deps: list[str], params: set[str]
) -> None:
    node = graph[step]["do"]
    assert node["deps"] == [f"code/{step}.json", *deps]
    assert set(node["params"]) == params | {"datasets.${key}.max_rejected_share", "store_salt"}
    assert node["cmd"] == f"python -m stages.{step} ${{key}}"  # speed is no argument: DVC hashes the command
    assert node["metrics"] == [{f"metrics/{step}/${{key}}.json": {"cache": False}}]


def test_the_committed_lock_is_of_this_code() -> None:
    """Whoever edits code runs `make code`, so that review shows what the edit did to the data."""
    lock = yaml.safe_load((REPO / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert sorted(lock) == sorted(["code", *(f"{step}@{dataset}" for step in STEPS for dataset in DATASETS)])
    files = {
        dep["path"]: dep["md5"]
        for name, node in lock.items()
        for dep in node["deps"]
        if dep["path"].startswith("code/") or dep["path"].endswith(".tsv")
    }
    assert "code/same_bytes.tsv" in files
    assert {path: md5_of(REPO / path) for path in files} == files, (
        "run make code and dvc repro; commit what they change"
    )
    recorded = {dep["path"]: dep["md5"] for dep in lock["code"]["deps"] if dep["path"] not in files}
    assert sorted(recorded) == ["microdiff", "stages"]
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *recorded]
    listed = run(listing, cwd=REPO).stdout.split("\0")
    for folder, md5 in recorded.items():
        names = [name for name in listed if name.startswith(f"{folder}/") and (REPO / name).is_file()]
        files = {name.removeprefix(f"{folder}/"): md5_of(REPO / name) for name in names}
        assert f"{hashlib.md5(dir_bytes(files), usedforsecurity=False).hexdigest()}.dir" == md5, (
            f"run make code ({folder})"
        )


def dir_bytes(files: dict[str, str]) -> bytes:
    """Return the object in which DVC lists a folder's files."""
    return json.dumps([{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]).encode()


def _datasets_section() -> str:
    return (REPO / "README.md").read_text(encoding="utf-8").partition("\n## Datasets\n")[2].partition("\n## ")[0]


def test_datasets_are_the_same_everywhere() -> None:
    assert sorted(sample_preset()["datasets"]) == DATASETS
    rows = re.findall(r"^\| `(\w+)` \|", _datasets_section(), re.MULTILINE)
    assert sorted(rows) == DATASETS
    assert all((REPO / "samples" / name).is_dir() for name in DATASETS)


@pytest.mark.parametrize("stage", sorted(path.stem for path in (REPO / "stages").glob("[!_]*.py")))
def test_help_is_quick_to_come(stage: str) -> None:
    script = (
        f"import sys, runpy; sys.argv = ['{stage}', '--help']\n"
        f"try: runpy.run_module('stages.{stage}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'streaming', 'img2dataset', 'pandas'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = run_python("-c", script, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_importing_the_package_costs_nothing() -> None:
    script = (
        "import sys, microdiff; sys.exit(str({'torch', 'numpy', 'streaming', 'PIL'} & sys.modules.keys() or '') or 0)"
    )
    assert run_python("-c", script, cwd=REPO).returncode == 0


def test_the_lock_is_whole_and_names_no_registry() -> None:
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    pins = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:])
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(r'^    "([\w-]+)', project.partition("[build-system]")[2].partition("[tool.")[0], re.MULTILINE)
    assert set(wanted) <= set(pins)


def test_make_help_lists_every_target() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^TARGETS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert targets is not None
    shown = run(["make", "help"], cwd=REPO).stdout
    for target in [*targets[1].replace("\\\n", " ").split(), *DATASETS]:
        assert re.search(rf"\b{target}\b", shown), target


def test_no_module_is_over_its_size() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in Path(REPO, "microdiff").rglob("*.py")}
    assert not {str(path): lines for path, lines in sizes.items() if lines > 300}


@pytest.mark.parametrize("step", ["download", "clean", "encode", "shard"])
def test_metrics_of_a_step_have_the_same_keys_for_every_dataset(step: str) -> None:
    """So that a table of them has no holes: what did not occur is zero."""
    keys = {path.stem: set(read_json(path)) for path in (REPO / "metrics" / step).glob("*.json")}
    assert len(keys) == 6
    assert set.union(*keys.values()) == set.intersection(*keys.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "datasets:\n  coco:\n    kind: x\n  my_photos:  # mine\n    download: {a: b}\nother:\n  no: 1\n",
            "coco my_photos",
        ),
        ("# datasets:\na:\n  b: 1\ndatasets:\n    # c: 1\n    d:\n      e: 1\n    f: {kind: csv}\n", "d f"),
        ("datasets:\n  all:\n    a: 1\n  test: {}\n  x:\n    a: 1\n", "x"),
        ("datasets: {}\n", ""),
        (None, ""),
    ],
)
def test_make_targets_of_datasets_are_those_of_params(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    done = run(["make", "-f", str(REPO / "Makefile"), "help"], cwd=tmp_path)
    assert re.search(rf"^  make {expected} *Build the shards of one dataset", done.stdout, re.MULTILINE), done.stdout
