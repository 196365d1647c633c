"""What the command says of several datasets, and its verdict on all of them."""

from pathlib import Path

import pytest

from microdiff.errors import ParamsError
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.dataset import Verification
from microdiff.verify.findings import Problem
from microdiff.verify.run import run


def result(dataset: str, num_problems: int) -> Verification:
    problems = [
        Problem(dataset, "raw", f"{n:04d}.tar", "is wrong", key=f"k{n}", is_damage=n == 0) for n in range(num_problems)
    ]
    return Verification(dataset, problems, ["a note"], ["raw"], num_bytes=2_500_000, num_files=4)


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    for dataset, kind in (("a", "raw"), ("b", "shards"), ("c", "latents"), ("none", "other")):
        (tmp_path / "data" / dataset / kind).mkdir(parents=True)
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("problems", "is_well"), [([0, 0, 0], True), ([1, 0, 0], False), ([0, 1, 0], False), ([0, 0, 2], False)]
)
def test_one_that_is_wrong_is_enough(
    here: Workspace, monkeypatch: pytest.MonkeyPatch, problems: list[int], is_well: bool
) -> None:
    found = dict(zip("abc", problems, strict=True))
    monkeypatch.setattr("microdiff.verify.run.verify_dataset", lambda name, *_, **__: result(name, found[name]))
    said: list[str] = []
    assert run([], here.root / "none.yaml", here, deep=False, repair=False, say=said.append) is is_well
    assert [line.partition(":")[0] for line in said if "raw: 4 files, 2.5 MB" in line] == ["a", "b", "c"]
    assert sum("is wrong" in line for line in said) == sum(problems)
    assert said.count("note: a note") == 3


def test_of_many_problems_some_are_shown_and_each_remedy_once(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microdiff.verify.run.verify_dataset", lambda name, *_, **__: result(name, 60))
    said: list[str] = []
    assert not run(["b"], here.root / "none.yaml", here, deep=False, repair=False, say=said.append)
    assert sum("is wrong" in line for line in said) == 50
    assert said[1] == "data/b/raw/0000.tar (download, sample k0): is wrong"
    assert said[51:] == [
        "... and 10 more",
        "repair it: python -m stages.verify b --repair",
        said[-1],
    ]
    assert said[-1].startswith("b: 60 problems in raw: 4 files")


def test_there_must_be_something_to_verify(here: Workspace, tmp_path: Path) -> None:
    for names in (["none"], ["a", "d"]):
        with pytest.raises(ParamsError, match=f"no artifacts of {names[-1]} to verify"):
            run(names, here.root / "none.yaml", here, deep=False, repair=False, say=print)
    with pytest.raises(ParamsError, match="no artifacts to verify"):
        run([], here.root / "none.yaml", Workspace(tmp_path / "empty"), deep=False, repair=False, say=print)
