"""The built wheel in an environment that has what it asks for and nothing else: no network, no pipeline."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parent.parent
# The pipeline's packages as modules, less what streaming asks for itself. None may even be there.
ABSENT = ["bs4", "datasets", "diffusers", "dvc", "ftfy", "img2dataset", "open_clip", "pyarrow", "s3fs", "simplejpeg"]
ABSENT += ["sentencepiece", "typer"]
# They are there, since streaming imports them, but not for us.
NOT_FOR_US = {"PIL", "fsspec", "safetensors", "tokenizers", "torchvision", "transformers", "xxhash"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: the wheel, and links to the installed ones that it asks for, directly or not."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    (metadata,) = folder.glob("microdiff-*.dist-info")
    for found in needed(Distribution.at(metadata).requires or []):
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(str(found.locate_file(name)))
    return folder


@pytest.fixture(scope="module")
def facts(site: Path) -> dict[str, Any]:
    """What tests/bare_install.py says, run by a Python that sees this folder and the standard library."""
    program = f"import runpy, sys; sys.path[:0] = [{str(site)!r}]; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", program, str(REPO / "tests/bare_install.py")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def test_the_loader_runs_from_the_wheel(facts: dict[str, Any], site: Path) -> None:
    shapes = {"image_latents": [3, 4, 32, 32], "caption_latents": [3, 1, 77, 64], "drop_caption_mask": [3]}
    assert len(facts["batches"]) == 2
    assert all(shapes.items() <= batch.items() for batch in facts["batches"])
    assert facts["folder"] == str(site / "microdiff")  # and not from the checkout


def test_the_loader_imports_nothing_of_the_pipeline(facts: dict[str, Any], site: Path) -> None:
    assert [name for name in ABSENT if (site / name).exists()] == []
    assert {"numpy", "streaming", "torch"} <= {*facts["imported"]}
    assert NOT_FOR_US & {*facts["imported"]} == set()


def test_what_the_wheel_lacks_it_says_in_words(facts: dict[str, Any]) -> None:
    assert facts["clean_caption"] == (
        "microdiff.clean_caption needs ftfy, which is not installed here: pip install 'microdiff[pipeline]'"
    )


def test_the_wheel_is_typed_and_says_its_version(facts: dict[str, Any], wheel: Path) -> None:
    assert facts["py.typed"]
    assert facts["version"] == "0.2.0"
    assert wheel.name == "microdiff-0.2.0-py3-none-any.whl"


def test_the_wheel_has_the_library_and_the_stages_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"microdiff", "stages", "microdiff-0.2.0.dist-info"}
    here = {path.relative_to(REPO).as_posix() for path in REPO.glob("microdiff/**/*.py")}
    assert here == {name for name in names if name.startswith("microdiff/") and name.endswith(".py")}


def needed(lines: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions that requirements name, with all that those ask for."""
    found: dict[tuple[str, str], Distribution] = {}
    pending = [(Requirement(line), "") for line in lines]
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found[key] = distribution(key[0])
                pending += [(Requirement(line), wanted) for line in found[key].requires or []]
    return list(found.values())
