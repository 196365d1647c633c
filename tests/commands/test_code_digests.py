"""What an edit makes stale: which of the files below `code/` change when a module of the project does."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import REPO
from microdiff.commands.code_digests import FOLDER, code_files, stale_code_files, write_code_files
from microdiff.core.code_fingerprint import SourceTree
from microdiff.core.code_identity import SAME_BYTES, CodeIdentities, Listing, add_listings
from microdiff.core.deciding_code import deciding_modules
from microdiff.kinds import KINDS, kind_module

DATASETS = sorted(path.stem for path in (REPO / "microdiff" / "handlers").glob("[!_]*.py"))
STEPS = {"download.json", "clean.json", "encode.json", "shard.json"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for package in ("microdiff", "stages"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    write_code_files(tmp_path)
    return tmp_path


def module_file(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def stale_after(root: Path, module: str, more: str) -> set[str]:
    """Return what is stale after text was added to a module; the module is put back."""
    path = module_file(root, module)
    before = path.read_bytes()
    path.write_bytes(before + more.encode())
    try:
        return set(stale_code_files(root))
    finally:
        path.write_bytes(before)


def test_there_is_a_file_per_step_and_per_handler(project: Path) -> None:
    written = {path.relative_to(project / FOLDER).as_posix() for path in (project / FOLDER).rglob("*.json")}
    assert written == STEPS | {f"handlers/{name}.json" for name in DATASETS}
    assert not stale_code_files(project)


@pytest.mark.parametrize(
    ("module", "stale"),
    [
        ("microdiff.formats.archives", {"download.json"}),
        ("microdiff.formats.tar", {"download.json"}),
        ("microdiff.formats.webdataset", {"download.json"}),
        ("microdiff.formats.parquet", {"download.json"}),
        ("microdiff.formats.url_list", {"download.json"}),
        ("microdiff.formats.url_fetcher", {"download.json"}),
        ("microdiff.captions.light", {"clean.json"}),
        ("microdiff.models.image_encoder", {"encode.json"}),
        ("microdiff.encode.image_latents", {"encode.json"}),
        ("microdiff.shard.packing", {"shard.json"}),
        ("microdiff.core.ledger", STEPS),
        ("microdiff.handlers.coco", {"handlers/coco.json"}),
        ("stages.clean", {"clean.json"}),
        ("microdiff.loader.build", set()),
        ("microdiff.verify.run", set()),
    ],
)
def test_an_edit_makes_stale_what_runs_it(project: Path, module: str, stale: set[str]) -> None:
    assert stale_after(project, module, "\n_EDITED = True\n") == stale


@pytest.mark.slow
def test_every_module_of_a_closure_makes_its_steps_stale_and_no_comment_does(project: Path) -> None:
    tree = SourceTree(project)
    handlers = [f"microdiff.handlers.{name}" for name in DATASETS]
    runs = {name: set(tree.import_closure([f"stages.{name.removesuffix('.json')}"])) for name in STEPS}
    runs["download.json"] |= set(tree.import_closure([*handlers, *map(kind_module, KINDS)])) - set(handlers)
    runs |= {f"handlers/{name}.json": {f"microdiff.handlers.{name}"} for name in DATASETS}
    modules = sorted(set().union(*runs.values()))
    assert len(modules) > 80
    for module in modules:
        expected = {name for name, found in runs.items() if module in found}
        assert stale_after(project, module, "\n_EDITED = True\n") == expected, module
        assert stale_after(project, module, "\n\n# a comment\n") == set(), module


def test_a_handler_that_does_not_parse_concerns_its_own_dataset(project: Path) -> None:
    """It takes nothing from the closure of downloads that another handler imports as well."""
    path = project / "microdiff" / "handlers" / "textcaps.py"
    path.write_text("def (\n", encoding="utf-8")
    assert stale_code_files(project) == ["handlers/textcaps.json"]


def test_a_dataset_that_has_a_kind_has_a_file_of_its_own_while_it_has_an_entry(project: Path) -> None:
    params = project / "params.yaml"
    before = "datasets:\n  coco: {}\n"
    params.write_text(
        before + "  my_photos: {kind: folder}\n  ../x: {kind: csv}\n  odd: {kind: odd}\n", encoding="utf-8"
    )
    assert stale_code_files(project) == ["handlers/my_photos.json"]
    write_code_files(project)
    assert stale_code_files(project) == []
    assert stale_after(project, "microdiff.kinds.folder", "\n_EDITED = True\n") == {
        "download.json",
        "handlers/my_photos.json",
    }
    params.write_text(before, encoding="utf-8")
    assert stale_code_files(project) == ["handlers/my_photos.json"]
    write_code_files(project)
    assert stale_code_files(project) == []


def test_a_new_handler_has_a_file_of_its_own(project: Path) -> None:
    shutil.copy(project / "microdiff/handlers/coco.py", project / "microdiff/handlers/laion.py")
    assert stale_code_files(project) == ["handlers/laion.json"]


@pytest.mark.parametrize(
    ("kind", "dataset", "stale"),
    [
        ("clean", "", ["clean.json"]),
        ("encode-join", "", ["encode.json"]),
        ("latents", "", ["encode.json"]),
        ("shard-list", "", ["shard.json"]),
        ("download", "coco", ["handlers/coco.json"]),
        ("download-annotations", "jdb", ["handlers/jdb.json"]),
    ],
)
def test_a_listed_digest_makes_stale_what_has_it(project: Path, kind: str, dataset: str, stale: list[str]) -> None:
    """Its fingerprints are others now: DVC runs these nodes, which find what the earlier code computed."""
    digest = CodeIdentities(project).digest(deciding_modules(kind, dataset))
    add_listings(project / SAME_BYTES, {digest: Listing("a" * 64, "seen")})
    assert stale_code_files(project) == stale
    name = f"{kind} {dataset}" if dataset else kind
    assert code_files(project)[stale[0]]["same_bytes"] == {name: "a" * 64}


def test_a_listed_digest_of_other_code_makes_nothing_stale(project: Path) -> None:
    add_listings(project / SAME_BYTES, {"b" * 64: Listing("a" * 64, "seen")})
    assert stale_code_files(project) == []


def test_a_damaged_list_is_said_in_words(project: Path) -> None:
    (project / SAME_BYTES).write_text("digest\tidentity\treason\n<<<<<<< HEAD\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(project)}
    command = [sys.executable, "-m", "stages.code"]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: code/same_bytes.tsv, line 2: expected two digests")


def test_check_says_what_is_stale_writes_nothing_and_waits_for_who_does(project: Path) -> None:
    (project / FOLDER / "clean.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", "stages.code", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (1, "code/ is not current: clean.json\n")
    assert (project / FOLDER / "clean.json").read_text(encoding="utf-8") == "{}"
    writer = threading.Timer(0.5, write_code_files, [project])
    writer.start()
    try:
        assert stale_code_files(project, wait_s=60) == []
    finally:
        writer.join(60)


def test_what_is_committed_is_of_this_code() -> None:
    assert stale_code_files(REPO) == [], "run make code, and commit code/ and dvc.lock"


def test_digests_do_not_depend_on_the_folder(project: Path) -> None:
    assert code_files(project) == code_files(REPO)
