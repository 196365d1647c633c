"""`python -m stages.code --same-bytes` on a pipeline of a few lines: what it lists, what it refuses, and why."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from conftest import REPO, sample_preset
from microdiff.commands.same_bytes import list_same_bytes
from microdiff.core.code_identity import SAME_BYTES, CodeIdentities
from microdiff.core.deciding_code import deciding_modules
from microdiff.errors import ParamsError, SourceError, StepError
from tests.tiny_project import TinyProject
from tests.waiting import run

POLICY = "microdiff/clean/policy.py"
RECOMPUTED = "recomputed 1 datasets, 4 files: Linux x86_64, cpu, torch 2.0.1"
TWICE = "recomputing the samples with the code of HEAD, too"


@pytest.fixture
def project(tmp_path: Path) -> TinyProject:
    return TinyProject(tmp_path / "project")


def same_bytes(project: TinyProject, declared: str | None = None, since: str = "HEAD") -> tuple[bool, str]:
    said: list[str] = []
    is_all = list_same_bytes(project.root, since, declared, said.append)
    return is_all, "\n".join(said)


def test_without_an_edit_there_is_nothing_to_show(project: TinyProject) -> None:
    project.edit(POLICY, "def clean", "# a comment\ndef clean")
    is_all, said = same_bytes(project)
    assert is_all
    assert said == "nothing to show: all code is that of HEAD, or listed in code/same_bytes.tsv"


def test_a_refactoring_is_listed_and_later_ones_stand_for_the_same(project: TinyProject) -> None:
    first = project.digest("clean")
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    second = project.digest("clean")
    is_all, said = same_bytes(project)
    assert is_all
    assert TWICE in said  # there is no data/ to compare with
    assert project.listed() == [(second, first, RECOMPUTED)]
    assert (project.root / "code" / "clean.json").is_file()
    project.commit()
    project.edit(POLICY, "def clean(text,", "def clean(words,")
    project.edit(POLICY, "text.strip()", "words.strip()")
    is_all, said = same_bytes(project)
    assert not is_all  # the branch that did not run has changed, too
    project.edit(POLICY, "def clean(words,", "def clean(text,")
    project.edit(POLICY, "words.strip()", "str.strip(text)")
    is_all, said = same_bytes(project)
    assert is_all
    assert sorted(project.listed()) == sorted(
        [(second, first, RECOMPUTED), (project.digest("clean"), first, RECOMPUTED)]
    )
    assert same_bytes(project)[1].startswith("nothing to show")


def test_artifacts_that_the_commit_records_are_compared_with(project: TinyProject, tmp_path: Path) -> None:
    project.build(tmp_path / "built")
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    is_all, said = same_bytes(project)
    assert is_all
    assert TWICE not in said
    assert [reason for *_, reason in project.listed()] == [RECOMPUTED]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("changed", "data/tiny/captions is not what dvc.lock of HEAD records"),
        ("missing", "data/tiny/captions is not what dvc.lock of HEAD records"),
        ("stale code", "data/tiny/captions was not made by the code of HEAD"),
        ("of another kind of machine", "some bytes differ from those in data/"),
    ],
)
def test_other_artifacts_are_not(project: TinyProject, tmp_path: Path, damage: str, why: str) -> None:
    project.build(tmp_path / "built")
    file = project.root / "data" / "tiny" / "captions" / "0000.txt"
    if damage == "changed":
        file.write_text("a dog", encoding="utf-8")
    elif damage == "missing":
        file.unlink()
    elif damage == "stale code":
        project.edit(POLICY, "def clean(", "MORE = 1\n\n\ndef clean(")
        project.commit()
    else:
        file.write_text("a dog", encoding="utf-8")
        project.record()
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    is_all, said = same_bytes(project)
    assert is_all
    assert f"{why}: {TWICE}" in said
    assert len(project.listed()) == 1


@pytest.mark.parametrize("declared", [None, "I believe so"])
def test_other_bytes_are_never_listed(project: TinyProject, declared: str | None) -> None:
    project.edit(POLICY, "text.strip()", "text.lstrip()")
    project.edit("microdiff/handlers/tiny.py", "    return text", "    words = text\n    return words")
    project.edit("microdiff/shard/writer.py", "    return text", "    words = text\n    return words")
    is_all, said = same_bytes(project, declared)
    assert not is_all
    for kind in ("clean", "shard", "shards"):  # shards were given other latents
        assert f"{kind}: gives other bytes, or is given other input: data/tiny/captions/0000.txt" in said
    assert {digest for digest, *_ in project.listed()} == {
        project.digest("download"),
        project.digest("download-annotations"),
    }


def test_a_branch_that_did_not_run_is_refused_with_its_line(project: TinyProject) -> None:
    project.edit(POLICY, "text[:LIMIT]", "text[0:LIMIT]")
    project.edit("microdiff/encode/merge.py", "encode(text) + '!'", "f'{encode(text)}!'")
    is_all, said = same_bytes(project)
    assert not is_all
    assert "clean: not shown to give the same bytes\n  microdiff/clean/policy.py:6: changed, and did not run" in said
    assert "--declare" in said
    assert {digest for digest, *_ in project.listed()} == {project.digest("encode-join"), project.digest("latents")}


def test_what_was_declared_is_listed_as_such(project: TinyProject) -> None:
    before = project.digest("clean")
    project.edit(POLICY, "text[:LIMIT]", "text[0:LIMIT]")
    is_all, said = same_bytes(project, "0 is where slices begin")
    assert is_all
    assert "clean: listed, since it was declared: 0 is where slices begin" in said
    assert "policy.py:6: changed, and did not run" in said
    assert project.listed() == [(project.digest("clean"), before, "declared: 0 is where slices begin")]
    project.commit()
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    assert same_bytes(project)[0]
    reasons = {digest: reason for digest, _, reason in project.listed()}
    assert reasons[project.digest("clean")] == f"declared: 0 is where slices begin; then {RECOMPUTED}"


def test_an_earlier_commit_may_be_compared_with(project: TinyProject) -> None:
    first = project.digest("clean")
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    project.commit()
    assert same_bytes(project)[1].startswith("nothing to show")
    assert same_bytes(project, since="HEAD~1")[0]
    assert project.listed() == [(project.digest("clean"), first, RECOMPUTED)]


def test_finished_work_and_settings_of_the_environment_are_not_used(
    project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICRODIFF_WORK", str(tmp_path / "elsewhere"))
    project.edit(
        "stages/tiny.py",
        "import json\n",
        "import json, os\nassert {n: v for n, v in os.environ.items() if n[:10] == 'MICRODIFF_'} "
        "== {'MICRODIFF_WORKERS': '1'}\n",
    )
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    assert same_bytes(project)[0]


@pytest.mark.parametrize("reason", ["", " ", "a\ttab", "two\nlines"])
def test_reasons_are_checked_before_anything_is_run(project: TinyProject, reason: str) -> None:
    with pytest.raises(ParamsError, match="a reason"):
        same_bytes(project, reason)


def test_no_such_commit(project: TinyProject) -> None:
    with pytest.raises(SourceError, match="no tag, branch or commit nonsense"):
        same_bytes(project, since="nonsense")


def test_code_that_fails_is_not_listed(project: TinyProject) -> None:
    project.edit(POLICY, "text.strip()", "text.no_such_method()")
    with pytest.raises(StepError, match="the samples cannot be recomputed"):
        same_bytes(project)
    assert project.listed() == []


def test_code_that_changes_meanwhile_is_not_listed(project: TinyProject) -> None:
    project.edit(
        "stages/tiny.py",
        "import json\n",
        f"import json\nPath = __import__('pathlib').Path\n"
        f"p = Path({str(project.root / POLICY)!r})\np.write_text(p.read_text() + 'x = 1\\n')\n",
    )
    project.edit(POLICY, "    words = text.strip()\n    return words\n", "    return text.strip()\n")
    with pytest.raises(StepError, match="the code of clean has changed while it ran"):
        same_bytes(project)
    assert project.listed() == []


def test_real_code_is_seen_to_run(tmp_path: Path) -> None:
    """Also what runs on threads; of all datasets the one with the fewest samples."""
    root = tmp_path / "project"
    for name in ("microdiff", "stages", "code", "presets", "samples/textcaps", "samples/models"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    preset = sample_preset()
    preset["datasets"] = {"textcaps": preset["datasets"]["textcaps"]}
    (root / "presets" / "sample.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    (root / SAME_BYTES).write_text("digest\tidentity\treason\n", encoding="utf-8")
    project = TinyProject(root)
    project.edit(
        "microdiff/encode/merge.py", "    ledger = Ledger()\n", "    entered = Ledger()\n    ledger = entered\n"
    )
    project.edit(
        "microdiff/encode/image_batches.py",
        "        encoder = self.encoder.result()\n",
        "        future = self.encoder\n        encoder = future.result()\n",
    )
    is_all, said = same_bytes(project)
    assert is_all, said
    found = {digest for digest, *_ in project.listed()}
    assert found == {
        CodeIdentities(root).digest(deciding_modules(kind)) for kind in ("encode-image", "encode-join", "latents")
    }


def test_the_command_says_all_that_and_ends_with_1(project: TinyProject) -> None:
    project.edit(POLICY, "text[:LIMIT]", "text[0:LIMIT]")
    command = [sys.executable, "-P", "-m", "stages.code", "--same-bytes"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = run(command, cwd=project.root, env=environment)
    assert done.returncode == 1
    assert "microdiff/clean/policy.py:6: changed, and did not run" in done.stdout
    assert (project.root / SAME_BYTES).read_text(encoding="utf-8") == "digest\tidentity\treason\n"
    done = run([*command, "--declare", ""], cwd=project.root, env=environment)
    assert (done.returncode, done.stderr.startswith("error: a reason must say something")) == (1, True)
    done = run([*command[:-1], "--declare", "why"], cwd=project.root, env=environment)
    assert (done.returncode, done.stderr.startswith("error: --declare needs --same-bytes")) == (1, True)
