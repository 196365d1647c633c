"""What stands beside a shard set counts by whatever path the set is named; and a loader says what it leaves out."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.errors import SchemaError
from microdiff.loader.set_places import manifest_of, withdrawn_beside
from tests.shard_factory import NUM, NUM_512, build, keys_of, write_shard_set

pytestmark = pytest.mark.usefixtures("own_names")


def withdraw(folder: Path, *keys: str) -> None:
    write_withdrawn(folder / "withdrawn.tsv", Withdrawn({key: Withdrawal(key, "asked") for key in keys}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose set of 37 samples has one withdrawn, in the group `512` and so in the set."""
    root = tmp_path / "project"
    write_shard_set(root / "data/coco/shards")
    withdraw(root / "data/coco", "coco003")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(root)
    return root


def link(path: Path, target: str | Path) -> str:
    path.symlink_to(target)
    return str(path)


NAMES: dict[str, Callable[[Path], str]] = {
    "its path": lambda root: str(root / "data/coco/shards"),
    "a relative path": lambda _: "data/coco/shards",
    "a slash at the end": lambda _: "data/coco/shards/",
    "a dot": lambda _: "./data/./coco/shards/.",
    "above and back": lambda _: "data/coco/../coco/shards",
    "above from a group": lambda _: "data/coco/shards/512/..",
    "above from elsewhere": lambda root: f"{root.parent}/elsewhere/../project/data/coco/shards",
    "a link": lambda root: link(root / "X", "data/coco/shards"),
    "an absolute link": lambda root: link(root.parent / "elsewhere/X", root / "data/coco/shards"),
    "a link to a link": lambda root: link(root / "Y", link(root / "X", "data/coco/shards")),
    "a link to the parent": lambda root: link(root / "X", "data/coco") + "/shards",
    "a link to the grandparent": lambda root: link(root / "X", "data") + "/coco/shards",
    "a link to the project": lambda root: link(root.parent / "X", "project") + "/data/coco/shards",
    "a link with .. in it": lambda root: link(root / "data/X", "../data/coco/shards"),
    "above a link to a group": lambda root: link(root / "X", "data/coco/shards/512") + "/..",
    "below a link beside it": lambda root: link(root / "X", "data/coco/shards") + "/../shards",
}
GROUPS: dict[str, Callable[[Path], str]] = {
    "its path": lambda root: str(root / "data/coco/shards/512"),
    "a link": lambda root: link(root / "X", "data/coco/shards/512"),
    "a link to the set": lambda root: link(root / "X", "data/coco/shards") + "/512",
    "a link with digits": lambda root: link(root / "7", "data/coco/shards/512"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_withdrawn_samples_stay_out_by_whatever_path(project: Path, name: Callable[[Path], str]) -> None:
    keys = keys_of(build(name(project), drop_last=False))
    assert len(keys) == NUM
    assert "coco003" not in keys


@pytest.mark.parametrize("name", GROUPS.values(), ids=GROUPS)
def test_withdrawn_samples_stay_out_of_a_group(project: Path, name: Callable[[Path], str]) -> None:
    keys = keys_of(build(name(project), drop_last=False, image_size=512))
    assert len(keys) == NUM_512
    assert "coco003" not in keys


@pytest.mark.parametrize("working_directory", ["data/coco/shards", "data/coco", "data/coco/shards/512", "X"])
def test_withdrawn_samples_stay_out_wherever_one_works(
    project: Path, monkeypatch: pytest.MonkeyPatch, working_directory: str
) -> None:
    link(project / "X", "data/coco/shards/512")
    monkeypatch.chdir(project / working_directory)
    relative = os.path.relpath(project / "data/coco/shards", Path.cwd())
    assert "coco003" not in keys_of(build(relative, drop_last=False))


def test_lists_at_the_link_on_the_way_and_at_the_files_all_count(project: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk/coco/shards"
    disk.parent.mkdir(parents=True)
    (project / "data/coco/shards").rename(disk)  # to a larger disk, with a link in its place
    link(project / "data/coco/shards", disk)
    (project / "mine").mkdir()
    name = link(project / "mine/X", project / "data/coco/shards")
    withdraw(disk.parent, "coco004")
    withdraw(project / "mine", "coco005")
    assert set(withdrawn_beside(Path(name)).entries) == {"coco003", "coco004", "coco005"}
    assert not {"coco003", "coco004", "coco005"} & set(keys_of(build(name, drop_last=False)))


def test_a_damaged_list_behind_a_link_is_refused(project: Path) -> None:
    (project / "data/coco/withdrawn.tsv").write_text("coco003\n")
    with pytest.raises(SchemaError, match="expected a header key<TAB>reason"):
        build(link(project / "X", "data/coco/shards"))


def test_links_in_a_circle_are_refused(project: Path) -> None:
    link(project / "X", "Y")
    with pytest.raises(SchemaError, match=r"Y.index\.json: it cannot be read: Too many levels"):
        build(link(project / "Y", "X"))


def test_a_list_that_is_a_pipe_is_refused_without_waiting(project: Path) -> None:
    (project / "data/coco/withdrawn.tsv").unlink()
    os.mkfifo(project / "data/coco/withdrawn.tsv")
    with pytest.raises(SchemaError, match=r"withdrawn\.tsv: expected a file, found a pipe"):
        build("data/coco/shards")


def test_the_manifest_behind_a_link_to_a_group_is_found(project: Path) -> None:
    expected = project / "data/coco/shards/manifest.json"
    assert manifest_of(Path(link(project / "X", "data/coco/shards/512"))) == expected
    assert manifest_of(project / "data/coco/shards/512").resolve() == expected


# --- what is left out is said


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "microdiff"]


def test_a_loader_says_once_what_it_leaves_out(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    loader = build("data/coco/shards", image_size=512)
    list(loader)
    list(loader)
    assert said(caplog) == [
        "data/coco/shards: 11 of 37 samples have latents_512: the other 26 are left out",
        "data/coco/shards: withdrawn samples: 1; where shards still hold one, the next takes its place",
    ]


@pytest.mark.parametrize(
    ("given", "image_size", "withdrawn"), [("shards", 256, False), ("shards/512", 512, False), ("shards", 256, True)]
)
def test_a_loader_says_nothing_of_what_it_does_not_leave_out(
    project: Path, caplog: pytest.LogCaptureFixture, given: str, image_size: int, withdrawn: bool
) -> None:
    if not withdrawn:
        (project / "data/coco/withdrawn.tsv").unlink()
    list(build(f"data/coco/{given}", image_size=image_size))
    assert len(said(caplog)) == withdrawn


def test_one_rank_speaks_for_all(
    project: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microdiff.loader.build import say_left_out
    from microdiff.loader.shard_set import Wanted, open_shard_set

    shard_set = open_shard_set("data/coco/shards", Wanted(512))
    for rank, number in (("0", 2), ("1", 0)):
        caplog.clear()
        monkeypatch.setenv("RANK", rank)
        say_left_out([shard_set])
        assert len(said(caplog)) == number
