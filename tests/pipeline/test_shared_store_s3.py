"""The shared store in a bucket, on an imitation of S3 at 127.0.0.1."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from microdiff.core.ledger import Result
from microdiff.core.progress import Reporter
from microdiff.pipeline.params import Params
from microdiff.pipeline.run import Run
from microdiff.pipeline.shared_store import VARIABLE, open_shared_store
from microdiff.pipeline.store_record import RECORD
from microdiff.pipeline.task import Task
from microdiff.pipeline.workspace import Workspace
from tests.s3_servers import KEY, SECRET, S3Server, moto

LARGE = 9 * 2**20  # sent in parts


def write(log: Path, num_bytes: int, name: str, folder: Path, report: Reporter) -> Result:
    with log.open("a") as file:
        file.write(f"{name}\n")
    (folder / f"{name}.bin").write_bytes(name.encode() * (num_bytes // len(name)))
    report.tick(1)
    return Result({"in": 1, "kept": 1}, {"fact": name})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with moto(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("MICRODIFF_WORKERS", "1")
        with server.client() as client:
            client.create_bucket(Bucket="team")
        monkeypatch.setenv(VARIABLE, "s3://team/some/prefix")
        yield server


def test_what_one_machine_has_computed_another_finds(
    server: S3Server, tmp_path: Path, make_params: Callable[..., Params]
) -> None:
    log = tmp_path / "log"
    sizes = {"0000": 1000, "0001": LARGE}
    tasks = [Task("clean", name, {"n": name}, partial(write, log, size, name)) for name, size in sizes.items()]
    results = []
    for machine in ("a", "b"):
        run = Run("clean", "coco", Workspace(tmp_path / machine), make_params())
        with run.active():
            results.append(run.compute(tasks))
    assert log.read_text().split() == ["0000", "0001"]
    first, second = ([item.paths[f"{item.name}.bin"].read_bytes() for item in each] for each in results)
    assert first == second
    keys = server.objects("team")
    folders = {key.rpartition("/")[0] for key in keys}
    assert folders == {f"some/prefix/clean/{item.fingerprints[0]}" for item in results[0]}
    assert sorted(key.rpartition("/")[2] for key in keys) == ["0000.bin", "0001.bin", RECORD, RECORD]
    store = open_shared_store()
    assert store is not None
    walked = sorted(file.path for file in store.storage.walk("clean"))
    assert walked == sorted(key.removeprefix("some/prefix/") for key in keys)
    store.storage.remove(walked[0])
    assert walked[0] not in {file.path for file in store.storage.walk("")}
