"""What digests of code stand for: the list of them, who is told, and that steps and commands mean the same code."""

import ast
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import REPO
from microdiff.core import code_identity as subject
from microdiff.core.code_fingerprint import import_closure
from microdiff.core.code_identity import (
    DECLARED,
    SAME_BYTES,
    CodeIdentities,
    Listing,
    add_listings,
    code_identity,
    read_same_bytes,
)
from microdiff.core.deciding_code import DECIDING_CODE, deciding_modules, units
from microdiff.errors import ParamsError, SchemaError

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
HEADER = "digest\tidentity\treason\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / SAME_BYTES
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return written


def test_a_missing_or_empty_list_changes_nothing(tmp_path: Path, write: Callable[[str], Path]) -> None:
    assert read_same_bytes(tmp_path / "absent").identity(A) == A
    assert read_same_bytes(write(HEADER)).identity(A) == A


def test_a_listed_digest_stands_for_another(write: Callable[[str], Path]) -> None:
    found = read_same_bytes(write(f"{HEADER}{B}\t{A}\tseen\n{C}\t{A}\tdeclared: why\n"))
    assert [found.identity(each) for each in (A, B, C, D)] == [A, A, A, D]
    assert [found.listings[each].is_declared for each in (B, C)] == [False, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected digest<TAB>identity<TAB>reason"),
        ("digest\tidentity\n", "line 1"),
        (f"{HEADER}{B}\t{A}\n", "line 2: expected two digests"),
        (f"{HEADER}{B}\t{A}\tone\ttoo many\n", "line 2"),
        (f"{HEADER}{B}\t{A}\tfine\n{C}\t{A[:-1]}\tshort\n", "line 3"),
        (f"{HEADER}{B.upper()}\t{A}\tcapitals\n", "line 2"),
        (f"{HEADER}{B}\t{A}\t \n", "line 2"),
        (f"{HEADER}\n{B}\t{A}\tfine\n", "line 2"),
        (f"{HEADER}<<<<<<< HEAD\n{B}\t{A}\tfine\n", "line 2"),
        (f"{HEADER}{B}\t{A}\tone\n{B}\t{C}\tother\n", f"line 3: {B} is in line 2, too"),
        (f"{HEADER}{B}\t{A}\tone\n{C}\t{B}\ta chain\n", f"line 3: {C} stands for {B}.* line 2. Write {A} instead"),
        (f"{HEADER}{B}\t{C}\tone\n{C}\t{B}\ta loop\n", "line 2: .* line 3. Remove the line"),
        (f"{HEADER}{B}\t{B}\titself\n", "line 2: .* Remove the line"),
    ],
)
def test_a_damaged_list_is_refused_with_its_line(write: Callable[[str], Path], text: str, says: str) -> None:
    path = write(text)
    with pytest.raises(SchemaError, match=says) as error:
        read_same_bytes(path)
    assert str(path) in str(error.value)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"digest\xff\n")
    with pytest.raises(SchemaError, match="not UTF-8"):
        read_same_bytes(tmp_path / "list")


def test_what_is_added_is_sorted_and_stands_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "code" / "list.tsv"
    add_listings(path, {C: Listing(A, "seen")})
    add_listings(path, {B: Listing(C, "seen later")})  # C itself stands for A
    assert path.read_text(encoding="utf-8") == f"{HEADER}{B}\t{A}\tseen later\n{C}\t{A}\tseen\n"


def test_nothing_is_listed_that_others_stand_for(write: Callable[[str], Path]) -> None:
    path = write(f"{HEADER}{B}\t{A}\tseen\n")
    with pytest.raises(SchemaError, match=f"{A} cannot be listed"):
        add_listings(path, {A: Listing(C, "seen")})
    assert read_same_bytes(path).listings == {B: Listing(A, "seen")}


@pytest.mark.parametrize("reason", ["", " ", DECLARED, "a\ttab", "two\nlines", "a return\r", "a bell\a"])
def test_a_reason_says_something_in_one_line(tmp_path: Path, reason: str) -> None:
    with pytest.raises(ParamsError, match="a reason"):
        add_listings(tmp_path / "list", {B: Listing(A, reason)})
    assert not (tmp_path / "list").exists()


def test_two_may_add_at_once(tmp_path: Path) -> None:
    path = tmp_path / "list"
    digests = [f"{number:064x}" for number in range(1, 9)]
    threads = [threading.Thread(target=add_listings, args=(path, {each: Listing(A, "seen")})) for each in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(read_same_bytes(path).listings) == digests


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one module, whose code is the running one."""
    (tmp_path / "microdiff").mkdir()
    (tmp_path / "microdiff" / "a.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(subject, "_RUNNING", CodeIdentities(tmp_path))
    subject._warn.cache_clear()
    return tmp_path


def test_the_identity_is_the_digest_unless_it_is_listed(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    digest = CodeIdentities(project).digest(["microdiff.a"])
    assert code_identity(["microdiff.a"]) == digest
    add_listings(project / SAME_BYTES, {digest: Listing(A, "seen")})
    assert CodeIdentities(project).identity(["microdiff.a"]) == A
    assert not caplog.records


def test_what_was_declared_is_said_once(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    digest = CodeIdentities(project).digest(["microdiff.a"])
    add_listings(project / SAME_BYTES, {digest: Listing(A, f"{DECLARED}only the GPU branch was renamed")})
    with caplog.at_level(logging.WARNING):
        assert [code_identity(["microdiff.a"]) for _ in range(3)] == [A] * 3
    (record,) = caplog.records
    assert digest[:12] in record.getMessage()
    assert "only the GPU branch was renamed" in record.getMessage()


def test_no_step_has_a_digest_of_its_own_making() -> None:
    """Fingerprints hold identities, of the modules that `stages.code` shows to give the same bytes."""
    kinds = set()
    for path in (
        path for step in ("download", "clean", "encode", "shard") for path in REPO.glob(f"microdiff/{step}/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            assert node.func.id != "code_digest", path
            if node.func.id == "code_identity":
                (argument,) = node.args
                assert isinstance(argument, ast.Call)
                assert ast.unparse(argument.func) == "deciding_modules", path
                kinds.add(ast.literal_eval(argument.args[0]))
    assert kinds == {kind for each in DECIDING_CODE.values() for kind in each}


def test_all_deciding_modules_exist() -> None:
    for unit in units(["coco", "jdb"]):
        for module in unit.modules:
            assert import_closure([module]), unit.name
    assert deciding_modules("download", "coco")[-1] == "microdiff.handlers.coco"
    assert [unit.name for unit in units(["coco", "jdb"])][:2] == ["download coco", "download jdb"]


def test_the_committed_list_is_whole() -> None:
    assert (REPO / SAME_BYTES).is_file(), "DVC's code node depends on it"
    read_same_bytes(REPO / SAME_BYTES)
