"""Compute the samples from their sources, with the code of now or of a commit, and tell whether files are the same.

Everything but code comes from the commit: settings, sources, models and lists of withdrawn samples.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST, Manifest, parse_manifest
from microdiff.commands import recompute
from microdiff.core.files import digest_file, digest_json, md5_of, read_json
from microdiff.core.withdrawn import WITHDRAWN
from microdiff.errors import MicrodiffError, ParamsError, StepError
from microdiff.remote.dvc_dir_object import folder_digest
from microdiff.remote.dvc_lock import LOCK, parse_lock

_SETTINGS = Path("presets") / "sample.yaml"
_OTHERS = ("MICRODIFF_", "COVERAGE_", "COV_CORE_", "PYTHONPATH")
_COVERAGE = """
[run]
parallel = true
patch = subprocess
sigterm = true
data_file = {data}
include =
    {code}/microdiff/*
    {code}/stages/*
"""


@dataclass(frozen=True)
class Commit:
    """A commit's files in a temporary folder, its code apart from the rest.

    Attributes:
        name: As the user names it.
        code: Holds `microdiff/`, `stages/` and the list of digests.
        inputs: Holds all else.
    """

    name: str
    code: Path
    inputs: Path

    @cached_property
    def datasets(self) -> list[str]:
        """The datasets of its sample preset."""
        import yaml

        path = self.inputs / _SETTINGS
        if not path.is_file():
            raise ParamsError(f"{self.name} has no {_SETTINGS}, by which samples are computed")
        return list(yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"])


@dataclass(frozen=True)
class Recomputed:
    """Artifacts that were computed from the sources.

    Attributes:
        root: Holds `data/`.
        platform: System and machine, such as `Linux x86_64`.
        device: `cpu` or `cuda`.
        torch: The version of torch.
        ran: The lines that ran, by file, if they were recorded.
    """

    root: Path
    platform: str
    device: str
    torch: str
    ran: Mapping[Path, frozenset[int]]


def recompute_samples(commit: Commit, code: Path, root: Path, *, record_lines: bool) -> Recomputed:
    """Compute all datasets of a commit's sample preset from their sources.

    Args:
        commit: Where all but code comes from.
        code: The code to run.
        root: A folder that is not there yet; receives `data/` and a partition store of its own.
        record_lines: Whether to record which lines run.

    Raises:
        ParamsError: coverage.py, which records them, is not installed.
        StepError: A step failed.
    """
    for dataset in commit.datasets:
        (root / "data" / dataset).mkdir(parents=True)
        withdrawn = Path("data", dataset, WITHDRAWN)
        if (commit.inputs / withdrawn).is_file():
            (root / withdrawn).write_bytes((commit.inputs / withdrawn).read_bytes())
    facts, lines = root / "made_by.json", root / "lines"
    program = [str(Path(recompute.__file__).resolve())]
    if record_lines:
        if not _has_coverage():
            raise ParamsError("coverage.py, which tells what ran, is not installed: pip install 'microdiff[pipeline]'")
        settings = root / "coveragerc"
        settings.write_text(_COVERAGE.format(data=lines, code=code.resolve()), encoding="utf-8")
        program = ["-m", "coverage", "run", f"--rcfile={settings}", *program]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    # In one process, which sees every line, and with nobody's finished work.
    environment |= {"PYTHONPATH": str(code.resolve()), "MICRODIFF_WORKERS": "1"}
    arguments = [str(path.resolve()) for path in (code, commit.inputs / _SETTINGS, root, facts)]
    done = subprocess.run(  # noqa: S603 - this Python, our own program
        [sys.executable, "-P", *program, *arguments], cwd=commit.inputs, env=environment, check=False
    )
    if done.returncode or not facts.is_file():
        raise StepError(f"the samples cannot be recomputed with {code}: see above")
    made_by = read_json(facts)
    ran = _lines(root) if record_lines else {}
    return Recomputed(root, made_by["platform"], made_by["device"], made_by["torch"], ran)


def _has_coverage() -> bool:
    from importlib.util import find_spec

    return find_spec("coverage") is not None


def _lines(root: Path) -> dict[Path, frozenset[int]]:
    from coverage import CoverageData

    found: dict[Path, frozenset[int]] = {}
    for path in sorted(root.glob("lines*")):
        data = CoverageData(str(path))
        data.read()
        for name in data.measured_files():
            file = Path(name).resolve()
            found[file] = found.get(file, frozenset()) | frozenset(data.lines(name) or ())
    return found


def contents(root: Path, dataset: str, kind: str) -> dict[str, str]:
    """Return the digest of every file of an artifact by path; of its manifest, of what it says that units gave.

    Raises:
        SchemaError: It has no manifest.
    """
    folder = root / "data" / dataset / kind
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    found = {path.relative_to(folder).as_posix(): digest_file(path) for path in files}
    return {**found, MANIFEST: digest_json(_results(parse_manifest(folder)))}


def _results(manifest: Manifest) -> object:
    """Return a manifest without what names code: fingerprints, and facts of the whole artifact."""
    partitions = {
        name: {
            "files": {file: record.to_json() for file, record in partition.files.items()},
            "counts": dict(partition.counts),
            "parts": [[part.step, dict(part.counts), dict(part.facts), list(part.files)] for part in partition.parts],
        }
        for name, partition in manifest.partitions.items()
    }
    return [manifest.source_records, dict(manifest.counts), dict(manifest.extra), partitions]


def recorded_artifacts(commit: Commit, root: Path, identities: Mapping[str, Mapping[str, str]]) -> str | None:
    """Tell whether the artifacts below a folder are those of a commit.

    Args:
        commit: The commit.
        root: The repository.
        identities: By dataset, by kind of artifact: the code that its manifest has to state.

    Returns:
        None if they are; else what is not as it should be, in words.
    """
    try:
        outputs = parse_lock((commit.inputs / LOCK).read_bytes())
    except (OSError, ValueError) as error:
        return f"{LOCK} of {commit.name} cannot be read ({error})"
    recorded = {output.path: output.md5 for output in outputs}
    for dataset in commit.datasets:
        for kind in KINDS:
            path = f"data/{dataset}/{kind}"
            folder = root / path
            md5s = {file.relative_to(folder).as_posix(): md5_of(file) for file in _files(folder)}
            if recorded.get(path) != folder_digest(md5s):
                return f"{path} is not what {LOCK} of {commit.name} records"
            try:
                made_by = parse_manifest(folder).facts.get("code")
            except MicrodiffError as error:
                return str(error)
            if made_by != identities[dataset][kind]:
                return f"{path} was not made by the code of {commit.name}"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
