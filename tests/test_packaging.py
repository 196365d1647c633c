"""What pyproject.toml declares against what the code imports."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from microdiff.core.code_fingerprint import import_closure

REPO = Path(__file__).resolve().parent.parent
LOADER = "microdiff.loader.build"
# What the pipeline needs without importing it, and who does.
RUN_BY_OTHERS = {
    "dvc": "the program that runs the stages",
    "protobuf": "transformers, for T5's tokenizer",
    "safetensors": "diffusers and transformers, for weights",
    "sentencepiece": "transformers, for T5's tokenizer",
    "torchvision": "open_clip and streaming",
}
# Installed by hand where it is needed, as the script that imports it says.
BY_HAND = {
    "micro_diffusion": "what bench/input_side.py compares with; on no index",
    "skimage": "photographs for samples/models/train_vae.py",
}


def test_the_base_install_is_what_the_loader_imports() -> None:
    paths = [path_of(module) for module in import_closure([LOADER])]
    assert distributions(imports_of(paths)) == declared("dependencies")


def test_the_pipeline_is_what_the_library_and_the_stages_import() -> None:
    imported = distributions(imports_of([*REPO.glob("microdiff/**/*.py"), *REPO.glob("stages/*.py")]))
    assert imported - declared("dependencies") == declared("pipeline") - declared("dependencies") - {*RUN_BY_OTHERS}
    assert {*RUN_BY_OTHERS} <= declared("pipeline")


@pytest.mark.parametrize("folder", ["tests", "bench", "examples", "samples"])
def test_what_developers_run_imports_nothing_undeclared(folder: str) -> None:
    paths = sorted(REPO.glob(f"{folder}/**/*.py"))
    ours = {path.stem for path in paths} | {"microdiff", "stages", "bench", "samples", "tests"}
    everything = declared("dependencies") | declared("pipeline") | declared("dev")
    assert distributions(imports_of(paths) - ours - {*BY_HAND}) <= everything


@pytest.mark.parametrize("package", ["pillow", "dvc", "diffusers", "transformers"])
def test_training_installs_nothing_of_the_pipeline(package: str) -> None:
    assert package in declared("pipeline")
    assert package not in declared("dependencies")


def test_the_base_install_holds_no_package_back() -> None:
    assert [line for line in requirements("dependencies") if "<" in line or "==" in line or "~" in line] == []


def test_every_picture_of_the_embedded_vae_allows_the_licence_of_its_weights() -> None:
    lines = (REPO / "samples/models/vae_pictures.tsv").read_text(encoding="utf-8").splitlines()
    pictures = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    fit_gpl_3 = {"public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-SA-4.0", "LGPL-3.0-only"}
    fit_gpl_3 |= {"GPL-2.0-or-later", "GPL-3.0-or-later"}
    assert len({picture["picture"] for picture in pictures}) == len(pictures) == 259
    assert {picture["licence"] for picture in pictures} <= fit_gpl_3
    assert [picture["picture"] for picture in pictures if not picture["author"]] == []
    license_text = (REPO / "samples/models/vae_LICENSE").read_text(encoding="utf-8")
    assert license_text.split()[:6] == ["GNU", "GENERAL", "PUBLIC", "LICENSE", "Version", "3,"]


@cache
def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return document


def requirements(section: str) -> list[str]:
    lines: list[str] = project()[section] if section in project() else project()["optional-dependencies"][section]
    return lines


def declared(section: str) -> set[str]:
    """Return the distributions of `dependencies` or of an extra, by normalised name."""
    return {normalised(re.split(r"[\[<>=~!; ]", line)[0]) for line in requirements(section)}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def path_of(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    return Path(str(spec.origin))


def imports_of(paths: Iterable[Path]) -> set[str]:
    """Return the top-level names of other people's packages that modules import, inside functions too."""
    return {name for path in paths for name in _imported(path)} - {*sys.stdlib_module_names, "microdiff"}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def distributions(names: Iterable[str]) -> set[str]:
    """Return which installed distribution each import comes from."""
    found = _installed()
    missing = sorted(name for name in names if name not in found)
    assert missing == [], "imported, but no installed package has them"
    return {normalised(found[name][0]) for name in names}
