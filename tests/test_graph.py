"""The DVC graph, the presets, the handlers and the README say the same."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPO, sample_preset
from microdiff.core.code_fingerprint import import_closure, module_path

STEPS = ("download", "clean", "encode", "shard")
DATASETS = sorted(path.stem for path in (REPO / "microdiff" / "handlers").glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))
    return document["stages"]


def imported_files(step: str) -> set[str]:
    """Return the files of this project that a stage script imports, read from its syntax tree."""
    source = (REPO / "stages" / f"{step}.py").read_text(encoding="utf-8")
    roots = re.findall(r"^from (microdiff[\w.]*) import", source, re.MULTILINE)
    paths = [module_path(module) for module in import_closure(roots)]
    files = {path.relative_to(REPO).as_posix() for path in paths if path is not None}
    return files | {f"stages/{step}.py", "stages/__init__.py"}


def test_there_is_a_stage_per_step_and_a_node_per_dataset(graph: dict[str, Any]) -> None:
    assert tuple(graph) == STEPS
    assert all(stage["foreach"] == "${datasets}" for stage in graph.values())


@pytest.mark.parametrize("step", STEPS)
def test_code_deps_are_what_the_step_imports(graph: dict[str, Any], step: str) -> None:
    listed = {dep for dep in graph[step]["do"]["deps"] if dep.endswith(".py")}
    own = {"microdiff/handlers/${key}.py"} if step == "download" else set()
    assert listed - own == imported_files(step)
    assert own <= listed


@pytest.mark.parametrize(
    ("step", "data", "params"),
    [
        ("download", ["data/${key}/withdrawn.tsv"], {"download", "datasets.${key}.download"}),
        ("clean", ["data/${key}/raw"], {"datasets.${key}.clean"}),
        ("encode", ["data/${key}/captions", "data/${key}/raw"], {"encode"}),
        ("shard", ["data/${key}/latents"], {"shard"}),
    ],
)
def test_nodes_depend_on_exactly_what_matters(
    graph: dict[str, Any], step: str, data: list[str], params: set[str]
) -> None:
    node = graph[step]["do"]
    assert [dep for dep in node["deps"] if dep.startswith("data/")] == data
    assert set(node["params"]) == params | {"datasets.${key}.max_rejected_share"}
    assert node["cmd"] == f"python -m stages.{step} ${{key}}"  # speed is no argument: DVC hashes the command
    assert node["metrics"] == [{f"metrics/{step}/${{key}}.json": {"cache": False}}]


def test_the_committed_lock_is_of_this_code() -> None:
    """Whoever edits code runs dvc repro, so that review shows what the edit did to the data."""
    lock = yaml.safe_load((REPO / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert sorted(lock) == sorted(f"{step}@{dataset}" for step in STEPS for dataset in DATASETS)
    recorded = {
        dep["path"]: dep["md5"] for node in lock.values() for dep in node["deps"] if dep["path"].endswith(".py")
    }
    current = {path: hashlib.md5((REPO / path).read_bytes(), usedforsecurity=False).hexdigest() for path in recorded}
    assert recorded == current, "run dvc repro, and commit dvc.lock and metrics/"


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
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_importing_the_package_costs_nothing() -> None:
    script = (
        "import sys, microdiff; sys.exit(str({'torch', 'numpy', 'streaming', 'PIL'} & sys.modules.keys() or '') or 0)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0


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
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for target in phony[1].replace("$(DATASETS)", " ".join(DATASETS)).split():
        assert re.search(rf"\b{target}\b", shown), target


def test_no_module_is_over_its_size() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in Path(REPO, "microdiff").rglob("*.py")}
    assert not {str(path): lines for path, lines in sizes.items() if lines > 400}
