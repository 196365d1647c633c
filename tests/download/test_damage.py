"""Archives that arrive damaged: fetched again, compared, salvaged, asked for anew; and what is lost is not hidden."""

import gzip
import io
import json
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from microdiff.artifacts.manifest import read_manifest
from microdiff.artifacts.tables import read_rows
from microdiff.core.files import read_json
from microdiff.download.copies import read_copies, watched
from microdiff.download.losses import uncounted_losses
from microdiff.download.raw_writer import SCHEMA
from microdiff.download.step import download
from microdiff.errors import ParamsError, RejectionError, SourceError, StepError
from microdiff.formats.records import Rejection, Sample
from microdiff.formats.zips import Refusal, open_zip, read_picture, zip_members
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.opening import open_source
from tests.archive_order import write_members
from tests.reporters import Said
from tests.web_server import Fault, Request, WebServer

MakeParams = Callable[..., Params]
Members = Sequence[tuple[str, bytes]]
IDS = range(1, 7)
WHOLE = {"in": 6, "kept": 5, "missing_caption": 1}
NAME = "sa_000000.tar"


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((300 + number, 300), 50).convert("RGB").save(out, "JPEG")
    return out.getvalue()


PICTURES = {number: picture(number) for number in range(1, 13)}


def tarred(members: Members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def archive(numbers: Sequence[int] = IDS, masks: bool = False) -> bytes:
    members: list[tuple[str, bytes]] = []
    for number in numbers:
        members.append((f"sa_{number}.jpg", PICTURES[number]))
        members += [(f"sa_{number}.json", b"{}")] if masks else []
    return tarred(members)


GOOD = archive()


def spoilt(data: bytes, number: int = 2, seed: int = 0) -> bytes:
    """Return an archive of the same size whose header of one picture is damaged, and another byte of the picture."""
    at = data.index(f"sa_{number}.jpg".encode())
    return data[: at + 40] + bytes([1 + seed]) * 60 + data[at + 100 :]


class Cdn(WebServer):
    """Serves the archives; what it sends of each may be damaged, one body for each whole answer."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.bodies: dict[str, deque[bytes]] = {}
        self.names_versions = True

    def take(self, request: Request) -> Fault:
        fault = super().take(request)
        bodies = self.bodies.get(request.path)
        if request.method == "GET" and bodies and "Range" not in request.headers and fault == Fault():
            return Fault(body=bodies.popleft())
        return fault

    def fetched(self, name: str = NAME) -> int:
        """Return how often a file was sent from its beginning."""
        return sum(each.path == name and "Range" not in each.headers for each in self.asked("GET"))


@pytest.fixture
def cdn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cdn]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MICRODIFF_WORKERS", "1")  # in this process
    monkeypatch.setattr("microdiff.formats.tar._MAX_PADDING", 20_000)
    with Cdn({NAME: GOOD}) as server:
        yield server


Settings = Callable[..., Params]


@pytest.fixture
def settings(cdn: Cdn, tmp_path: Path, make_params: MakeParams) -> Settings:
    captions = [(f"sa_{number}.txt", f"picture {number}".encode()) for number in PICTURES if number != 6]
    (tmp_path / "captions").mkdir()
    write_members(tmp_path / "captions" / "SA1B_caption.tar.gz", captions)

    def make(**changes: Any) -> Params:
        lines = [f"{name}\t{cdn.url}/{name}" for name in sorted(cdn.files)]
        (tmp_path / "links.txt").write_text("\n".join(["file_name\tcdn_link", *lines]))
        where = "datasets.sa1b.download"
        common = {
            f"{where}.source": str(tmp_path / "links.txt"),
            f"{where}.captions_source": str(tmp_path / "captions"),
        }
        own = {name: changes.pop(name) for name in list(changes) if name != "max_rejected_share"}
        return make_params(
            common
            | {"datasets.sa1b.max_rejected_share": 0.5}
            | {f"datasets.sa1b.{name}": value for name, value in changes.items()}
            | {f"{where}.{name}": value for name, value in own.items()}
        )

    return make


def keys(workspace: Workspace, status: str, name: str = "000000") -> list[str]:
    path = workspace.artifact("sa1b", "raw") / f"{name}.parquet"
    return [row["key"] for row in read_rows(path, SCHEMA.names) if row["status"] == status]


def facts(workspace: Workspace) -> Mapping[str, Any]:
    return read_manifest(workspace.artifact("sa1b", "raw")).facts


def run_again(params: Params, workspace: Workspace) -> tuple[int, Mapping[str, int]]:
    counts = download("sa1b", params, workspace)
    computed: int = read_json(workspace.run_facts("download", "sa1b"))["partitions_computed"]
    return computed, counts


# --- fetched again


@pytest.mark.parametrize(
    "damage",
    [
        spoilt,
        lambda data: data[:4000] + bytes(len(data) - 4000),
        lambda data: bytes(len(data)),
        lambda data: b"?" * len(data),
        lambda data: data[:-2048] + b"?" * 2048,
    ],
    ids=["a header", "zeros", "nothing but zeros", "no archive", "behind the end"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_damaged_in_transfer_is_fetched_again(
    cdn: Cdn, settings: Settings, workspace: Workspace, damage: Callable[[bytes], bytes], times: int
) -> None:
    """Also twice, where each time it is damaged in another way."""
    bodies = [damage(GOOD), spoilt(GOOD, 4, seed=1)][:times]
    cdn.bodies[NAME] = deque(bodies)
    assert download("sa1b", settings(), workspace) == WHOLE
    assert keys(workspace, "kept") == [f"sa_{number}" for number in IDS if number != 6]
    assert cdn.fetched() == times + 1
    whole = [each.headers.get("Cache-Control") for each in cdn.asked("GET") if "Range" not in each.headers]
    assert whole == [None, *["no-cache"] * times]  # a proxy may keep what is damaged
    assert "uncounted_losses" not in facts(workspace)
    assert run_again(settings(), workspace) == (0, WHOLE)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_gzip_that_breaks_off_is_fetched_again(
    cdn: Cdn, settings: Settings, workspace: Workspace, packed: bool
) -> None:
    data = gzip.compress(GOOD, mtime=0) if packed else GOOD
    cdn.files[NAME] = data
    cdn.bodies[NAME] = deque([data[: len(data) // 2] + bytes(len(data) - len(data) // 2)])
    assert download("sa1b", settings(), workspace) == WHOLE


def test_what_the_source_has_damaged_is_salvaged_after_a_second_look(
    cdn: Cdn, settings: Settings, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    cdn.files = {NAME: spoilt(GOOD), "sa_000001.tar": archive(range(7, 13))}
    counts = download("sa1b", settings(), workspace)
    assert counts == {"in": 12, "kept": 10, "damaged_archive": 1, "missing_caption": 1}
    assert cdn.fetched() == 2
    assert cdn.fetched("sa_000001.tar") == 1
    assert keys(workspace, "damaged_archive") == ["sa_000000_damaged"]
    assert facts(workspace)["uncounted_losses"] == {"000000": 0}
    assert "damaged, and no checksum says how it should be: fetched again" in caplog.text
    assert "set datasets.sa1b.download.fetch_again: {'000000': 1}" in caplog.text


@pytest.mark.parametrize("damaged", [1, 2])
def test_two_copies_that_are_the_same_are_what_the_source_has(
    cdn: Cdn, settings: Settings, workspace: Workspace, damaged: int
) -> None:
    """Also where the first of three is another one."""
    bodies = [spoilt(GOOD, 2), spoilt(GOOD, 2)] if damaged == 1 else [spoilt(GOOD, 3), spoilt(GOOD), spoilt(GOOD)]
    cdn.bodies[NAME] = deque(bodies)
    counts = download("sa1b", settings(max_rejected_share=1.0), workspace)
    assert counts == {"in": 6, "kept": 4, "damaged_archive": 1, "missing_caption": 1}
    assert cdn.fetched() == damaged + 1


def test_what_is_damaged_in_another_way_each_time_is_an_error(
    cdn: Cdn, settings: Settings, workspace: Workspace
) -> None:
    cdn.bodies[NAME] = deque([spoilt(GOOD, number) for number in (2, 3, 4)])
    with pytest.raises(StepError, match=rf"{NAME}: damaged 3 times, each time in another way"):
        download("sa1b", settings(), workspace)
    assert download("sa1b", settings(), workspace) == WHOLE


def test_a_published_checksum_settles_it(cdn: Cdn, settings: Settings, workspace: Workspace) -> None:
    import hashlib

    damaged = spoilt(GOOD)
    cdn.files[NAME] = damaged
    md5 = hashlib.md5(damaged, usedforsecurity=False).hexdigest()
    params = settings(md5={NAME: md5}, max_rejected_share=1.0)
    assert download("sa1b", params, workspace)["damaged_archive"] == 1
    assert cdn.fetched() == 1


@pytest.mark.parametrize("data", [b"?" * 5000, bytes(10_240), tarred([("README.txt", b"none")])])
def test_what_cannot_be_read_is_dropped_and_the_next_run_is_right(
    cdn: Cdn, settings: Settings, workspace: Workspace, data: bytes
) -> None:
    """Its size as well, which was remembered."""
    cdn.files[NAME] = data
    with pytest.raises(StepError, match=rf"{NAME}: .*\n?.*They are dropped: the next run fetches anew"):
        download("sa1b", settings(), workspace)
    assert cdn.fetched() == 2
    assert not [path for path in workspace.root.rglob(NAME) if path.is_file()]
    cdn.files[NAME] = GOOD
    assert download("sa1b", settings(), workspace) == WHOLE


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Sign in", b'{"error": "no"}', b"<?xml version='1.0'?><Error/>"])
def test_a_page_is_no_archive_and_the_next_run_is_right(
    cdn: Cdn, settings: Settings, workspace: Workspace, page: bytes
) -> None:
    cdn.files[NAME] = page
    with pytest.raises(StepError, match=rf"{NAME}: the server sent .* in its place"):
        download("sa1b", settings(), workspace)
    cdn.files[NAME] = GOOD
    assert download("sa1b", settings(), workspace) == WHOLE


def test_a_users_own_file_is_not_said_to_be_removed(settings: Settings, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / NAME).write_bytes(b"?" * 5000)
    with pytest.raises(StepError) as error:
        download("sa1b", settings(source=str(folder)), workspace)
    assert "Put a whole one in its place" in str(error.value)
    assert "emove it" not in str(error.value)
    assert (folder / NAME).is_file()


def test_captions_damaged_in_transfer_are_fetched_again(
    cdn: Cdn, settings: Settings, workspace: Workspace, tmp_path: Path
) -> None:
    captions = (tmp_path / "captions" / "SA1B_caption.tar.gz").read_bytes()
    params = settings(captions_source=f"{cdn.url}/c")
    cdn.files["c/SA1B_caption.tar.gz"] = captions
    cdn.bodies["c/SA1B_caption.tar.gz"] = deque([captions[:-20] + bytes(20)])
    cdn.on("HEAD", Fault())
    bodies = cdn.bodies.pop("c/SA1B_caption.tar.gz")
    cdn.take = _with_etag(cdn, "c/SA1B_caption.tar.gz", bodies)  # type: ignore[method-assign]
    assert download("sa1b", params, workspace) == WHOLE
    assert cdn.fetched("c/SA1B_caption.tar.gz") == 2


def _with_etag(cdn: Cdn, path: str, bodies: deque[bytes]) -> Callable[[Request], Fault]:
    take = cdn.take

    def taken(request: Request) -> Fault:
        fault = take(request)
        return Fault(body=bodies.popleft()) if request.path == path and request.method == "GET" and bodies else fault

    return taken


def test_a_list_that_is_none_is_dropped(
    workspace: Workspace, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read before there are partitions is no exception."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WebServer({"cc12m.tsv": b"URL signature expired"}) as server:
        where = "datasets.cc12m.download"
        params = make_params({f"{where}.form": "url_list", f"{where}.source": server.url})
        with pytest.raises(SourceError, match=r"no list of URLs .*\nWhat was fetched is dropped: the next run"):
            download("cc12m", params, workspace)
    assert not [path for path in workspace.root.rglob("cc12m.tsv") if path.is_file()]


@pytest.mark.parametrize("final", [False, True])
def test_a_zip_whose_sums_are_wrong_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, final: bool
) -> None:
    """It says by its own checksums that a picture is damaged."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.jpg", PICTURES[1])
        archive.writestr("b.jpg", PICTURES[2])
    good = out.getvalue()
    bad = good[:2000] + b"?" + good[2001:]

    def read(local: Mapping[str, Path], settled: Collection[str]) -> list[str]:
        def records() -> Iterator[Sample | Rejection]:
            with open_zip(local["a.zip"]) as archive:
                for member in zip_members(archive):
                    found, name = read_picture(archive, member), member.name
                    facts: dict[str, Any] = {"key": name, "source": f"a.zip/{name}", "captions": ("one",)}
                    if isinstance(found, Refusal):
                        yield Rejection(reason=found.reason, **facts)
                    else:
                        yield Sample(image=found, **facts)

        return [f"{type(record).__name__} {record.key}" for record in watched(records(), ["a.zip"], settled)]

    with WebServer({"a.zip": good}) as server:
        source, said = open_source(server.url, tmp_path), Said()
        file = source.stat("a.zip")
        (server.always if final else {})["GET"] = Fault(body=bad)
        server.on("GET", Fault(body=bad))
        first = "Rejection a.jpg" if final else "Sample a.jpg"
        assert read_copies(source, [file], read, said) == [first, "Sample b.jpg"]
        assert len(server.asked("GET")) == 2
        assert len(said.messages) == 1


# --- asked for anew


def test_a_salvaged_partition_is_fetched_anew_when_asked_for(
    cdn: Cdn, settings: Settings, workspace: Workspace
) -> None:
    """Whatever is in the store and the artifact; other partitions are left alone; the same request is no new one."""
    cdn.files = {NAME: spoilt(GOOD), "sa_000001.tar": archive(range(7, 13))}
    salvaged = download("sa1b", settings(), workspace)
    assert salvaged["damaged_archive"] == 1
    other = read_manifest(workspace.artifact("sa1b", "raw")).partitions["000001"].fingerprints
    cdn.files[NAME] = GOOD
    cdn.forget()
    assert run_again(settings(), workspace) == (0, salvaged)
    assert not cdn.requests  # nothing says that it has changed
    again = settings(fetch_again={"000000": 1})
    assert run_again(again, workspace) == (1, {"in": 12, "kept": 11, "missing_caption": 1})
    assert cdn.fetched() == 1
    assert cdn.fetched("sa_000001.tar") == 0
    assert read_manifest(workspace.artifact("sa1b", "raw")).partitions["000001"].fingerprints == other
    assert facts(workspace)["fetch_again"] == {"000000": 1}
    assert run_again(again, workspace)[0] == 0
    assert run_again(settings(), workspace) == (0, salvaged)  # on the way back to what was asked for before
    assert run_again(settings(fetch_again={"000000": 2}), workspace)[0] == 1


def test_a_redone_archive_of_another_size_is_right_with_the_next_run(
    cdn: Cdn, settings: Settings, workspace: Workspace
) -> None:
    cdn.files[NAME] = GOOD[:-3000]
    download("sa1b", settings(max_rejected_share=1.0), workspace)
    cdn.files[NAME] = GOOD
    with pytest.raises(StepError, match=r"changed on the server: .*Run again"):
        download("sa1b", settings(fetch_again={"000000": 1}), workspace)
    assert download("sa1b", settings(fetch_again={"000000": 1}), workspace) == WHOLE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"000000": 0}, r"datasets\.sa1b\.download\.fetch_again\.000000: expected at least 1, got 0"),
        ({"000000": "x"}, r"fetch_again\.000000: expected a whole number, got 'x'"),
        (["000000"], r"fetch_again: expected a mapping"),
    ],
)
def test_a_wrong_request_is_a_problem(settings: Settings, value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        settings(fetch_again=value)


def test_a_request_for_what_is_no_partition_is_an_error(settings: Settings, workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match=r"fetch_again: '16' is no partition; expected .*'000000', in quo"):
        download("sa1b", settings(fetch_again={"16": 1}), workspace)  # what YAML makes of 000020


# --- what is lost


@pytest.mark.parametrize("lost", [(2,), (2, 4), (1, 3, 6)])
def test_pictures_that_their_masks_name_are_counted(
    cdn: Cdn, settings: Settings, workspace: Workspace, lost: Sequence[int]
) -> None:
    data = archive(masks=True)
    for number in lost:
        data = spoilt(data, number)
    cdn.files[NAME] = data
    counts = download("sa1b", settings(max_rejected_share=1.0), workspace)
    assert (counts["in"], counts["damaged_archive"]) == (6, len(lost))
    assert keys(workspace, "damaged_archive") == [f"sa_{number}" for number in lost]
    assert keys(workspace, "kept") == [f"sa_{number}" for number in IDS if number not in (*lost, 6)]


@pytest.mark.parametrize(
    ("limit", "others", "message"),
    [
        (0.5, 0, r"unknown: perhaps all, as none is whole, more than max_rejected_share 50"),
        (0.99, 0, r"unknown: perhaps all"),
        (1.0, 0, None),
        (0.3, 1, r"unknown: about 3, which makes 33\.33%, more than max_rejected_share 30\.00%"),
        (0.5, 1, None),
    ],
)
def test_an_unknown_loss_does_not_pass_silently(
    cdn: Cdn, settings: Settings, workspace: Workspace, limit: float, others: int, message: str | None
) -> None:
    """Four of six pictures are behind the end of a damaged archive: 1 is counted."""
    cut = GOOD[: GOOD.index(b"sa_3.jpg") + 2000]
    cdn.files = {NAME: cut} | ({"sa_000001.tar": archive(range(7, 13))} if others else {})
    params = settings(max_rejected_share=limit)
    if message is None:
        assert download("sa1b", params, workspace)["damaged_archive"] == 1
        assert facts(workspace)["uncounted_losses"] == {"000000": 3 if others else None}
        return
    with pytest.raises(RejectionError, match=message) as error:
        download("sa1b", params, workspace)
    assert "fetch_again: {'000000': 1}" in str(error.value)
    assert not workspace.artifact("sa1b", "raw").exists()


def test_losses_are_measured_by_the_largest_whole_partition() -> None:
    class Item:
        def __init__(self, name: str, counts: Mapping[str, int]) -> None:
            self.name, self.counts = name, counts

    items: Any = [Item("a", {"in": 10}), Item("b", {"in": 8}), Item("c", {"in": 3, "damaged_archive": 1})]
    assert uncounted_losses(items) == {"c": 7}
    items.append(Item("d", {"in": 12, "damaged_archive": 2}))
    assert uncounted_losses(items) == {"c": 7, "d": 0}
    assert uncounted_losses(items[:2]) == {}
    assert uncounted_losses(items[2:]) == {"c": None, "d": None}


def test_the_manifest_can_be_read_as_json(cdn: Cdn, settings: Settings, workspace: Workspace) -> None:
    cdn.files[NAME] = spoilt(GOOD)
    download("sa1b", settings(max_rejected_share=1.0), workspace)
    text = (workspace.artifact("sa1b", "raw") / "manifest.json").read_text()
    assert json.loads(text)["uncounted_losses"] == {"000000": None}
