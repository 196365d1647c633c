"""What the loader reads beside plain shards: fetched, compressed, withdrawn, other dtypes; what it leaves behind."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import REPO
from microdiff.artifacts.mds_index import index_document
from microdiff.core.files import write_json
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.errors import ParamsError, SchemaError, SourceError
from tests.mds_factory import write_shard
from tests.shard_factory import COLUMNS, NUM, build, keys_of, make_sample, write_shard_set
from tests.waiting import PATIENCE_S, end

pytestmark = pytest.mark.usefixtures("own_names")


@dataclass
class FakeSource:
    """Hands shards out from another folder, and counts them."""

    origin: Path
    local: Path
    withdrawn: Withdrawn = field(default_factory=Withdrawn)
    fetched: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def __post_init__(self) -> None:
        for name in ("index.json", "512/index.json", "manifest.json"):
            (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            (self.local / name).write_bytes((self.origin / name).read_bytes())

    def fetch(self, name: str) -> None:
        if self.failures:
            self.failures -= 1
            raise SourceError(f"{name} is out of reach")
        self.fetched[name] += 1
        target = self.local / name
        target.parent.mkdir(exist_ok=True)
        temporary = target.with_name(f".{target.name}.{threading.get_ident()}")
        temporary.write_bytes((self.origin / name).read_bytes())
        temporary.replace(target)


@pytest.fixture
def source(tmp_path: Path) -> FakeSource:
    write_shard_set(tmp_path / "coco/shards")
    return FakeSource(tmp_path / "coco/shards", tmp_path / "cache")


@pytest.mark.parametrize(("image_size", "num_workers"), [(256, 0), (256, 2), (512, 1)])
def test_shards_are_fetched_once_when_needed(source: FakeSource, image_size: int, num_workers: int) -> None:
    options: dict[str, Any] = {"image_size": image_size, "num_workers": num_workers, "drop_last": False}
    local, fetched = build(source.origin, **options), build(source, **options)
    assert source.fetched == {}
    for _ in range(2):
        assert keys_of(fetched) == keys_of(local)
    names = {f"512/shard.{number:05}.mds" for number in range(2)}
    names |= {f"256/shard.{number:05}.mds" for number in range(3)} if image_size == 256 else set()
    assert source.fetched == dict.fromkeys(names, 1)
    assert keys_of(build(source, **options)) == keys_of(build(source.origin, **options))
    assert source.fetched == dict.fromkeys(names, 1)


def test_shards_are_fetched_ahead_and_not_all_at_once(source: FakeSource) -> None:
    batches = iter(build(source, shuffle=False, predownload=4))
    next(batches)
    assert 1 <= len(source.fetched) < 5


def test_limited_cache_stays_within_its_limit(source: FakeSource, tmp_path: Path) -> None:
    write_shard_set(tmp_path / "textcaps/shards")
    both = [source, FakeSource(tmp_path / "textcaps/shards", tmp_path / "cache2")]
    limit = 4 * max(path.stat().st_size for each in both for path in each.origin.glob("*/*.mds"))  # of 7.4
    with pytest.raises(ParamsError, match=r"cache_limit: Cache limit .* is too low"):
        build(both, cache_limit=limit // 2)
    loader = build(both, cache_limit=limit, drop_last=False, predownload=4, num_workers=1)
    expected = sorted(keys_of(build([each.origin for each in both], drop_last=False)))
    for _ in range(2):
        assert sorted(keys_of(loader)) == expected
        assert sum(path.stat().st_size for each in both for path in each.local.glob("*/*.mds")) <= limit
    assert max(source.fetched.values()) > 1


def read_beside_each_other(loaders: list[Any]) -> list[list[str]]:
    with ThreadPoolExecutor(len(loaders)) as threads:
        return [each.result(PATIENCE_S) for each in [threads.submit(keys_of, loader) for loader in loaders]]


def test_loaders_of_one_cache_fetch_a_shard_once(source: FakeSource) -> None:
    loaders = [build(source, drop_last=False, num_workers=number % 2) for number in range(4)]
    assert [sorted(keys) for keys in read_beside_each_other(loaders)] == [sorted(keys_of(build(source.origin, 37)))] * 4
    assert source.fetched == dict.fromkeys(source.fetched, 1)
    assert [path.name for path in source.local.rglob(".*")] == []


def test_loaders_of_one_cache_stay_within_the_limit_together(source: FakeSource, tmp_path: Path) -> None:
    limit = 4 * max(path.stat().st_size for path in source.origin.glob("*/*.mds"))  # of 4.9
    seen: list[int] = []

    class Watched(FakeSource):
        def fetch(self, name: str) -> None:
            super().fetch(name)
            with contextlib.suppress(FileNotFoundError):  # it goes while it is looked at
                seen.append(sum(path.stat().st_size for path in self.local.glob("*/*shard*")))

    watched = Watched(source.origin, tmp_path / "watched")
    loaders = [build(watched, drop_last=False, cache_limit=limit, predownload=4, num_workers=1) for _ in range(3)]
    expected = sorted(keys_of(build(source.origin, 37)))
    for _ in range(3):
        assert [sorted(keys) for keys in read_beside_each_other(loaders)] == [expected] * 3
    assert 0 < max(seen) <= limit
    assert list(watched.local.glob(".coming*")) == []


def test_a_lost_process_takes_no_room(source: FakeSource) -> None:
    loader = build(source, drop_last=False, cache_limit="1gb")
    name = f".coming-{socket.gethostname()}-{2**22 + 1}-1"  # above the greatest number of a process
    (source.local / name).write_text(f"{2**31}")
    assert len(keys_of(loader)) == NUM
    assert not (source.local / name).exists()


def test_a_cached_shard_that_somebody_removed_is_fetched_again_and_counted_once(source: FakeSource) -> None:
    loader = build(source, drop_last=False, cache_limit="1gb")
    expected = sorted(keys_of(loader))
    for _ in range(2):
        next(source.local.glob("*/*.mds")).unlink()
        assert sorted(keys_of(loader)) == expected
        assert loader.dataset._room.used() == sum(path.stat().st_size for path in source.local.glob("*/*.mds"))
    assert sorted(source.fetched.values())[-1] > 1


def test_resumption_fetches_what_it_needs(source: FakeSource) -> None:
    loader = build(source, shuffle=False, drop_last=False)
    batches = iter(loader)
    for _ in range(8):
        next(batches)
    state, expected = loader.state_dict(), keys_of(batches)
    again = FakeSource(source.origin, source.local.with_name("another"))
    resumed = build(again, shuffle=False, drop_last=False)
    resumed.load_state_dict(state)
    assert keys_of(resumed) == expected
    assert len(again.fetched) < 5


def test_failed_fetch_is_told_and_can_be_tried_again(source: FakeSource) -> None:
    loader = build(source, drop_last=False)
    source.failures = 50
    with pytest.raises(SourceError, match="is out of reach"):
        list(loader)
    source.failures = 0
    assert len(keys_of(loader)) == NUM


@pytest.mark.parametrize("name", ["dvc://data/coco/shards@v1", "release-v1.json", "https://host/r.json?signature=1"])
def test_names_of_remote_sets_are_opened_as_such(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    asked = []

    def open_dvc_source(url: str, cache: Path | None) -> FakeSource:
        asked.append((url, cache))
        return source

    monkeypatch.setattr("microdiff.remote.dvc_url.open_dvc_source", open_dvc_source)
    assert len(keys_of(build(name, drop_last=False, cache=tmp_path))) == NUM
    assert asked == [(name, tmp_path)]


def test_the_only_copy_is_never_limited(source: FakeSource) -> None:
    with pytest.raises(ParamsError, match=r"would let the only copy of shards be removed: .*coco/shards: leave it out"):
        build([source, source.origin], cache_limit="1gb")


def write_compressed(folder: Path, num_samples: int = 30) -> None:
    from streaming import MDSWriter

    with MDSWriter(
        out=str(folder), columns=COLUMNS, compression="zstd:3", size_limit=2**17, hashes=["sha256"]
    ) as writer:
        for number in range(num_samples):
            writer.write(make_sample("z", number, COLUMNS))


def test_compressed_shards_are_decompressed_elsewhere_once(tmp_path: Path) -> None:
    write_compressed(tmp_path / "mds")
    before = sorted(path.name for path in (tmp_path / "mds").iterdir())
    loader = build(tmp_path / "mds", drop_last=False, cache=tmp_path / "cache", num_workers=1)
    batches = list(loader)
    assert sorted(keys_of(batches)) == [f"z{number:03}" for number in range(30)]
    for batch in batches:
        for row, key in enumerate(batch["key"]):
            sample = make_sample("z", int(key[1:]), COLUMNS)
            assert np.array_equal(batch["caption_latents"][row, 0].numpy(), sample["caption_latents"])
    assert sorted(path.name for path in (tmp_path / "mds").iterdir()) == before
    assert {path.suffix for path in (tmp_path / "cache").glob("*/*")} == {".mds"}
    build(tmp_path / "mds", cache=tmp_path / "cache", cache_limit="1gb")


def test_damaged_compressed_shard_is_refused(tmp_path: Path) -> None:
    write_compressed(tmp_path / "mds", 4)
    path = tmp_path / "mds/shard.00000.mds.zstd"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SchemaError, match="not zstd data"):
        list(build(tmp_path / "mds", 2, cache=tmp_path / "cache"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_withdrawn_samples_are_replaced_by_the_next_of_their_shard(tmp_path: Path, num_workers: int) -> None:
    write_shard_set(tmp_path / "coco/shards")
    options: dict[str, Any] = {"drop_last": False, "num_workers": num_workers, "columns": ("key", "caption")}
    before = keys_of(build(tmp_path / "coco/shards", **options))
    gone = {"coco003": "coco005", "coco004": "coco005", "coco009": "coco000", "coco010": "coco010"}  # shards of 10
    write_withdrawn(
        tmp_path / "coco/withdrawn.tsv", Withdrawn({key: Withdrawal(key, "asked") for key in list(gone)[:3]})
    )
    for folder in ("shards", "shards/512"):
        batches = list(build(tmp_path / "coco" / folder, **options))
        assert not set(keys_of(batches)) & set(list(gone)[:3])
        for batch in batches:
            assert batch["caption"] == [f"no. {int(key[4:])}" for key in batch["key"]]
    assert keys_of(build(tmp_path / "coco/shards", **options)) == [gone.get(key, key) for key in before]


def test_shard_without_a_sample_left_is_refused(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    entries = {f"coco{number:03}": Withdrawal(f"coco{number:03}", "asked") for number in range(10)}
    write_withdrawn(tmp_path / "coco/withdrawn.tsv", Withdrawn(entries))
    with pytest.raises(SchemaError, match="all its samples are withdrawn"):
        list(build(tmp_path / "coco/shards"))


def write_typed(folder: Path, columns: dict[str, str], encoders: Any) -> list[dict[str, Any]]:
    kept = {name: encoding for name, encoding in (COLUMNS | columns).items() if encoding}
    samples = [make_sample("t", number, kept) for number in range(12)]
    folder.mkdir(parents=True)
    entry = write_shard(folder / "shard.00000.mds", kept, samples)
    write_json(folder / "index.json", index_document([entry]))
    (folder / "manifest.json").write_text(json.dumps({"encoders": encoders}))
    return samples


TYPED = {
    "caption_latents": "ndarray:uint16:77,64",
    "caption_latents_t5": "ndarray:float32:9,16",
    "caption_mask_t5": "ndarray:uint8:9",
}
TYPED_ENCODERS = {
    "image": {"model": "tiny-vae", "stored_dtype": "float16"},
    "text": {
        "caption_latents": {"model": "clip", "stored_dtype": "bfloat16"},
        "caption_latents_t5": {"model": "t5", "stored_dtype": "float32"},
    },
}


def test_stored_dtypes_and_further_text_columns_come_as_they_are(tmp_path: Path) -> None:
    import torch

    samples = write_typed(tmp_path / "a/shards", TYPED, TYPED_ENCODERS)
    columns = ("key", "caption_latents_t5", "caption_mask_t5", "width")
    batch = next(iter(build(tmp_path / "a/shards", 12, shuffle=False, columns=columns)))
    assert batch["caption_latents"].dtype == torch.bfloat16
    assert batch["caption_latents_t5"].dtype == torch.float32
    assert batch["caption_mask_t5"].dtype == torch.uint8
    assert batch["width"].tolist() == [sample["width"] for sample in samples]
    for name, dtype in (("caption_latents", torch.uint16), ("caption_latents_t5", None), ("caption_mask_t5", None)):
        got = batch[name].view(dtype) if dtype else batch[name]
        assert np.array_equal(got[:, 0].numpy(), np.stack([sample[name] for sample in samples]))


def test_encoders_of_columns_that_are_not_read_may_differ(tmp_path: Path) -> None:
    write_typed(tmp_path / "a/shards", TYPED, TYPED_ENCODERS)
    other = {**TYPED_ENCODERS["text"], "caption_latents_t5": {"model": "another", "stored_dtype": "float32"}}
    write_typed(tmp_path / "b/shards", TYPED, {**TYPED_ENCODERS, "text": other})
    folders = [tmp_path / "a/shards", tmp_path / "b/shards"]
    build(folders)
    with pytest.raises(SchemaError, match=r"text.caption_latents_t5.model is 't5' in the first and 'another'"):
        build(folders, columns=("caption_latents_t5",))


def test_moments_are_drawn_anew_in_each_epoch_from_seed_epoch_and_key(tmp_path: Path) -> None:
    import torch

    moments = {"moments_256": "ndarray:float32:8,32,32", "latents_256": ""}
    encoders = {"image": {"stored_dtype": "float32"}, "text": {"model": "clip"}}
    samples = write_typed(tmp_path / "m/shards", moments, encoders)

    def drawn(batches: Any) -> dict[str, Any]:
        return {key: batch["image_latents"][row] for batch in batches for row, key in enumerate(batch["key"])}

    loader = build(tmp_path / "m/shards", 4)
    first, second = drawn(loader), drawn(loader)
    again = build(tmp_path / "m/shards", 3, shuffle=False, num_workers=2)
    assert all(torch.equal(value, first[key]) for key, value in drawn(again).items())
    assert not any(torch.equal(value, first[key]) for key, value in second.items())
    noise = []
    for sample in samples:
        mean, deviation = np.split(sample["moments_256"], 2)
        noise.append((first[sample["key"]].numpy() - mean) / deviation)
    spread = np.stack(noise)
    assert abs(float(np.median(spread))) < 0.02
    assert np.quantile(spread, 0.841) == pytest.approx(1, abs=0.03)  # of a standard normal distribution
    assert not any(np.allclose(noise[0], other) for other in noise[1:])


def test_flipped_bit_is_noticed_on_request(tmp_path: Path) -> None:
    write_shard_set(tmp_path / "coco/shards")
    assert len(keys_of(build(tmp_path / "coco/shards", validate_hash=True, drop_last=False))) == NUM
    shard = tmp_path / "coco/shards/256/shard.00001.mds"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert len(keys_of(build(tmp_path / "coco/shards", drop_last=False))) == NUM
    with pytest.raises(SchemaError, match=r"256/shard.00001.mds: expected sha256"):
        list(build(tmp_path / "coco/shards", validate_hash=True, num_workers=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_may_be_kept(source: FakeSource, num_workers: int) -> None:
    loader = build(source.origin, drop_last=False, num_workers=num_workers)
    kept = []
    for batch in loader:
        view = batch["caption_latents"][1:, 0].numpy()[..., :3]
        kept.append((batch["key"][1:], view, view.copy()))
        del batch
        gc.collect()
    for _ in loader:
        pass
    assert all(np.array_equal(view, copy) for _, view, copy in kept)


def test_memory_is_used_again_when_a_batch_is_gone(source: FakeSource) -> None:
    addresses = {batch["caption_latents"].data_ptr() for batch in build(source.origin, drop_last=False)}
    assert len(addresses) <= 3 < 10


def test_options_that_would_change_batches_are_refused(source: FakeSource) -> None:
    with pytest.raises(ParamsError, match="collate_fn, sampler cannot be given"):
        build(source.origin, collate_fn=list, sampler=[])


def test_few_files_are_open_at_once_and_none_afterwards(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    from microdiff.loader.read import open_shards

    monkeypatch.setattr(open_shards, "_MAX_OPEN", 2)

    def open_files() -> set[str]:
        return {path for path in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if path.endswith(".mds")}

    before = open_files()  # of other tests' loaders; some may be closed meanwhile, since the limit is the process's
    loader = build(source.origin, 16, drop_last=False)
    assert len(keys_of(loader)) == NUM
    assert 0 < len(open_files() - before) <= 2
    del loader
    gc.collect()
    assert open_files() <= before


LIVE = """
import sys
from tests.loader.own_names import take_own_numbers
from tests.shard_factory import build
take_own_numbers()
loader = build(sys.argv[1], num_workers=1)
batches = iter(loader)
next(batches)
print(loader.dataset._shm_prefix_int, flush=True)
sys.stdin.readline()
print(len(list(batches)), flush=True)
"""


def start_loader(folder: Path, temporary: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LIVE, str(folder)],
        cwd=REPO,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, f"{int(process.stdout.readline()):06}" if process.stdout else ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory to look at")  # noqa: S108
def test_what_a_killed_run_left_goes_and_what_a_live_one_has_stays(source: FakeSource) -> None:
    temporary = Path(tempfile.gettempdir())
    dead, number = start_loader(source.origin, temporary)
    live, live_number = start_loader(source.origin, temporary)
    os.killpg(dead.pid, signal.SIGKILL)
    end(dead)

    def left(of: str) -> set[str]:
        names = [path.name for folder in (Path("/dev/shm"), temporary) for path in folder.iterdir()]  # noqa: S108
        return {name for name in names if name.startswith((f"{of}_", f"microdiff_{of}"))}

    assert len(left(number)) >= 7
    inodes = {path.stat().st_ino for path in Path("/dev/shm").glob(f"{number}_*")}  # noqa: S108
    before = left(live_number)
    loader = build(source.origin)
    assert left(live_number) == before
    assert left(number) == set() or loader.dataset._shm_prefix_int == int(number)  # it may have taken the number
    assert len({path.stat().st_ino for path in Path("/dev/shm").glob(f"{number}_*")} & inodes) == 0  # noqa: S108
    answer, _ = live.communicate("\n", timeout=PATIENCE_S)
    assert (live.returncode, int(answer)) == (0, 8)
    assert left(live_number) == set()
