"""What partitions are computed again for: every element of every cache key, changed one at a time, and what is none.

Nothing is computed but the index of the samples of shards: a spy tells which folders of the store a step asks for, and
stands in for latents.
"""

import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff import handlers
from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.manifest import FileRecord, write_manifest
from microdiff.artifacts.tables import table_writer
from microdiff.clean.step import clean
from microdiff.config.settings import (
    CleanSettings,
    DownloadSettings,
    EncodeSettings,
    ImageEncoderSettings,
    ShardSettings,
    TextEncoderSettings,
)
from microdiff.core.code_fingerprint import SourceTree
from microdiff.core.files import digest_file
from microdiff.core.ledger import Result
from microdiff.core.verified_files import InputFile
from microdiff.core.withdrawn import Withdrawal, Withdrawn, write_withdrawn
from microdiff.download.raw_writer import SCHEMA as RAW_SCHEMA
from microdiff.download.step import download
from microdiff.encode.merge import SCHEMA as LATENTS_SCHEMA
from microdiff.encode.step import encode
from microdiff.formats.records import Partition
from microdiff.formats.url_list import Slice
from microdiff.handlers import handler_class
from microdiff.pipeline.params import Dataset, Params
from microdiff.pipeline.parsing import deciding_values
from microdiff.pipeline.run import Run
from microdiff.pipeline.store import Store
from microdiff.pipeline.task import StoredPartition, Task
from microdiff.pipeline.workspace import Workspace
from microdiff.shard.step import shard
from microdiff.storage import SourceFile
from microdiff.storage.model_files import LocatedImageEncoder, LocatedTextEncoder

STEPS = {"download": download, "clean": clean, "encode": encode, "shard": shard}
READ_BY: Mapping[str, Sequence[str]] = {
    "download": (),
    "clean": ("raw",),
    "encode": ("raw", "captions"),
    "shard": ("latents",),
}
STEP_OF = {
    "download": "download",
    "download-annotations": "download",
    "redact": "download",
    "clean": "clean",
    "encode-image": "encode",
    "encode-text": "encode",
    "encode-text_b": "encode",
    "encode-join": "encode",
    "shard-list": "shard",
    "shard": "shard",
}
ELEMENTS = {  # of the cache keys; each is changed by a test below
    "download": {"annotations", "code", "files", "partition", "settings"},
    "download-annotations": {"code", "files", "handler"},
    "redact": {"of", "withdrawn"},
    "clean": {"code", "raw", "settings", "unwanted"},
    "encode-image": {"code", "raw", "settings"},
    "encode-text": {"captions", "code", "settings"},
    "encode-text_b": {"captions", "code", "settings"},
    "encode-join": {"captions", "code", "image", "image_columns", "text"},
    "shard-list": {"code", "latents"},
    "shard": {"code", "columns", "compression", "contents"},
}
ENCODED = ("encode-image", "encode-text", "encode-text_b")
COMMIT = "0123456789" * 4
NAMES = ("0000", "0001")
SHAPES = {"caption_latents": (3, 8), "latents_256": (4, 32, 32)}
Seen = dict[str, dict[str, str]]  # folders of the store, by kind of task and name


class Stop(Exception):
    """All tasks are known."""


@dataclass
class World:
    """All that a run depends on; tests change one thing of it."""

    params: Params
    dataset: str = "coco"
    partitions: Sequence[Partition] = tuple(
        Slice(
            name=name,
            number=number,
            files=("pictures.zip", "more.zip"),
            first_key="a",
            end_key="b",
            num_records=3,
            first_byte=5,
            first_line=7,
        )
        for number, name in enumerate(NAMES)
    )
    identities: dict[str, str] = field(default_factory=dict)  # of source files, where they are not the usual ones
    sizes: dict[str, int] = field(default_factory=dict)
    root: str = "https://host/pictures"
    withdrawn: Mapping[str, str] = field(default_factory=dict)  # partitions by key
    edited: str = ""  # a module
    digests: dict[str, str] = field(default_factory=dict)  # of files of artifacts, where they are not the usual ones
    has_true_digests: bool = False  # as processes need that verify them
    raw_rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        default_factory=lambda: {"0000": [raw_row("a", "1")], "0001": [raw_row("b", "2")]}
    )
    samples: list[dict[str, Any]] = field(default_factory=lambda: [latents_sample(number) for number in range(20)])
    dtypes: dict[str, str] = field(default_factory=dict)
    model_folder: str = "/models"

    def set(self, name: str, value: object) -> None:
        """Change a setting given by its dotted name."""
        self.params = with_value(self.params, name.split("."), value)


def with_value(settings: Any, path: Sequence[str], value: object) -> Any:
    if not path:
        return value
    head, *rest = path
    if isinstance(settings, Mapping):
        return {**settings, head: with_value(settings.get(head), rest, value)}
    return replace(settings, **{head: with_value(getattr(settings, head), rest, value)})


def raw_row(key: str, picture: str, caption: str = "a cat") -> dict[str, Any]:
    row = {"key": key, "status": "kept", "captions": [caption], "sha256": picture * 64, "meta": "{}", "source": ""}
    return {**row, "width": 300, "height": 400, "original_width": 300, "original_height": 400}


def latents_sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    values = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in SHAPES.items()}
    return {"key": f"k{number}", "caption": f"cat {number}", "width": 300 + number, "height": 256, **values}


class Listed:
    """A source that says what it has, and has nothing."""

    def __init__(self, world: World, root: str) -> None:
        self._world, self.name = world, root

    def with_reporter(self, _: object) -> "Listed":
        return self

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        size = self._world.sizes.get(path, 100)
        return SourceFile(path, size, self._world.identities.get(path, checksum or f"etag:{path}"))

    def forget(self, _: object) -> None:
        pass


TasksOf = Callable[[World, str], Seen]


@pytest.fixture
def tasks_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TasksOf:
    """Return a function that gives the folders of the store that a step asks for, and checks their keys' elements."""

    def run(world: World, step: str) -> Seen:
        seen: Seen = {}
        find, compute = Store.find, Store.compute

        def spying(store: Store, task: Task) -> StoredPartition | None:
            kind = "redact" if "withdrawn" in task.cache_key else task.step
            seen.setdefault(kind, {})[task.name] = store.folder(task).name
            assert task.cache_key.keys() - {"again"} == ELEMENTS[kind], kind
            return (
                _latents(world, task) if kind in ("encode-image", "encode-text", "encode-text_b") else find(store, task)
            )

        def computing(store: Store, tasks: Sequence[Task], *arguments: Any) -> Any:
            if tasks and tasks[0].step == "download-annotations":
                return iter(())
            if tasks and tasks[0].step != "shard-list":
                raise Stop
            return compute(store, tasks, *arguments)

        def stop(*_: object, **__: object) -> None:
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(Store, "find", spying)
            patch.setattr(Store, "compute", computing)
            patch.setattr(Run, "publish", stop)
            patch.setattr(InputFile, "_compare", lambda *_: None)  # digests are made up
            digest = SourceTree.module_digest
            patch.setattr(
                SourceTree, "module_digest", lambda tree, name: digest(tree, name) + "!" * (name == world.edited)
            )
            patch.setattr("microdiff.encode.step.located", lambda settings, *_: _located(world, settings))
            patch.setattr("microdiff.download.origin.open_source", lambda root, _: Listed(world, root))
            handler = type(world.params.dataset(world.dataset).handler)
            patch.setattr(handler, "partitions", lambda *_: world.partitions)
            workspace = Workspace(tmp_path / f"world {len(list(tmp_path.iterdir()))}")
            patch.setattr(os, "fsync", lambda _: None)  # it takes most of the time, and is another test's matter
            _write(world, workspace, step)
            with pytest.raises(Stop):
                STEPS[step](world.dataset, world.params, workspace)
        return seen

    return run


def _located(world: World, settings: Any) -> LocatedImageEncoder | LocatedTextEncoder:
    kind = LocatedImageEncoder if isinstance(settings, ImageEncoderSettings) else LocatedTextEncoder
    return kind(**vars(settings), folder=Path(world.model_folder))


def _latents(world: World, task: Task) -> StoredPartition:
    file = f"{task.name}.{task.step.removeprefix('encode-')}.safetensors"
    digest = world.digests.get(file, f"sha256 of {file}")
    return StoredPartition(task.step, task.name, ("",), Result({}), {file: FileRecord(1, digest)}, {file: Path(file)})


def _write(world: World, workspace: Workspace, step: str) -> None:
    """Write the artifacts as far as a step looks at them, and the list of withdrawn samples."""
    folders = {kind: workspace.artifact(world.dataset, kind) for kind in READ_BY[step]}
    for folder in folders.values():
        folder.mkdir(parents=True)
    write_withdrawn(
        workspace.withdrawn(world.dataset),
        Withdrawn({key: Withdrawal(key, "why", partition) for key, partition in world.withdrawn.items()}),
    )
    for name in NAMES:
        for kind, folder in folders.items():
            if kind == "raw":
                (folder / f"{name}.tar").write_text("pictures")
                with table_writer(folder / f"{name}.parquet", RAW_SCHEMA) as add_row:
                    for row in world.raw_rows[name]:
                        add_row(row)
            elif kind == "captions":
                (folder / f"{name}.parquet").write_text("captions")
            else:
                _write_latents(folder, name, world.samples[NAMES.index(name) :: 2], world.dtypes)
    for kind, folder in folders.items():
        partitions = {}
        for name in NAMES:
            kept = len(world.samples[NAMES.index(name) :: 2]) if kind == "latents" else 1
            files = {
                path.name: {
                    "bytes": path.stat().st_size,
                    "sha256": world.digests.get(f"{kind}/{path.name}", usual_digest(world, path)),
                }
                for path in folder.glob(f"{name}.*")
            }
            partitions[name] = {"fingerprints": [], "counts": {"in": kept, "kept": kept}, "files": files}
        total = sum(partition["counts"]["kept"] for partition in partitions.values())
        facts = {"format": 1, "source_records": total, "counts": {"in": total, "kept": total}, "encoders": {}}
        write_manifest(folder, {**facts, "partitions": partitions})


def usual_digest(world: World, path: Path) -> str:
    return digest_file(path) if world.has_true_digests else f"sha256 of {path.name}"


def _write_latents(folder: Path, name: str, samples: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> None:
    for column, kind in {"caption_latents": "text", "latents_256": "image"}.items():
        dtype = dtypes.get(column, "float16")
        with Spool(folder / "rows", dtype) as spool:
            for sample in samples:
                spool.append(sample[column].view(spool.dtype))
            keys = [sample["key"] for sample in samples]
            write_latents(folder / f"{name}.{kind}.safetensors", {column: TensorToWrite(keys, spool)}, {}, {})
    with table_writer(folder / f"{name}.parquet", LATENTS_SCHEMA) as add_row:
        for sample in samples:
            plain = {field: sample[field] for field in ("key", "caption", "width", "height")}
            add_row({**plain, "status": "kept", "image_key": sample["key"]})


def differing(before: Seen, after: Seen) -> dict[str, set[str]]:
    """Return the names of tasks that are others now, by their kind."""
    found = {
        kind: {
            name
            for name in before.get(kind, {}).keys() | after.get(kind, {}).keys()
            if before.get(kind, {}).get(name) != after.get(kind, {}).get(name)
        }
        for kind in before.keys() | after.keys()
    }
    return {kind: names for kind, names in found.items() if names}


IMAGE = ImageEncoderSettings(
    model="samples/models/vae",
    subfolder=None,
    revision=None,
    dtype="float32",
    latents="sample",
    store="float16",
    resolutions=(256, 512),
    batch_size=8,
    seed=1,
)
TEXT = TextEncoderSettings(
    model="samples/models/clip", subfolder=None, revision=None, dtype="float32", store="float16", batch_size=8
)


def world(dataset: str = "coco", **handler: Any) -> World:
    """Return a world in which every setting has a value that can be changed."""
    kind = handler_class(dataset)
    assert kind is not None
    entry = Dataset(
        name=dataset,
        max_rejected_share=1.0,
        source="https://host/pictures",
        partitions="all",
        handler=kind(**handler),
        clean=CleanSettings(
            cleaner="none",
            caption="first",
            min_chars=1,
            max_scores={},
            missing_scores="keep",
            drop_duplicates=False,
            seed=1,
        ),
    )
    encoders = EncodeSettings(image=IMAGE, text={"caption_latents": TEXT, "caption_latents_b": TEXT})
    return World(
        Params(
            download=DownloadSettings(min_side_px=256, max_side_px=512, jpeg_quality=95),
            encode=encoders,
            shard=ShardSettings(shard_bytes=65536, order="shuffled", seed=1, compression="none"),
            datasets={dataset: entry},
        ),
        dataset,
    )


COCO = {"split": "val2014", "images_per_partition": 10}
SA1B = {"captions_source": "https://host/captions", "captions_file": "captions.tar.gz"}
HANDLERS: Mapping[str, Mapping[str, Any]] = {  # another value of every field
    "coco": {"split": "train2014", "images_per_partition": 11, "sha256": {"pictures.zip": "0" * 64}},
    "cc12m": {
        "form": "url_list",
        "urls_per_partition": 7,
        "max_failed_share": 0.1,
        "timeout_s": 3.0,
        "retries": 4,
        "allow_private_addresses": True,
        "fallback_encoding": "latin-1",
    },
    "diffdb": {},
    "jdb": {"split": "valid"},
    "sa1b": {
        "captions_source": "https://mirror/captions",
        "captions_file": "other.tar.gz",
        "md5": {"a": "0" * 32},
        "fallback_encoding": "latin-1",
    },
    "textcaps": {"form": "zip", "splits": ("train", "val"), "images_per_partition": 7},
}
FIRST: Mapping[str, Mapping[str, Any]] = {
    "coco": COCO,
    "cc12m": {"form": "webdataset"},
    "jdb": {"split": "train"},
    "sa1b": SA1B,
    "textcaps": {"form": "parquet", "splits": ("train",)},
}
CLEAN, VAE, CLIP = "datasets.coco.clean", "encode.image", "encode.text.caption_latents"
SETTINGS: Mapping[str, tuple[Any, set[str]]] = {  # another value, and the kinds of tasks that it decides
    "download.min_side_px": (128, {"download"}),
    "download.max_side_px": (1024, {"download"}),
    "download.jpeg_quality": (90, {"download"}),
    f"{CLEAN}.cleaner": ("light", {"clean"}),
    f"{CLEAN}.caption": ("longest", {"clean"}),
    f"{CLEAN}.min_chars": (2, {"clean"}),
    f"{CLEAN}.max_scores": ({"nsfw": 0.5}, {"clean"}),
    f"{CLEAN}.missing_scores": ("reject", {"clean"}),
    f"{CLEAN}.seed": (2, {"clean"}),
    f"{CLEAN}.strip_parameters": (True, {"clean"}),
    f"{VAE}.model": ("samples/models/other", {"encode-image"}),
    f"{VAE}.subfolder": ("vae", {"encode-image"}),
    f"{VAE}.revision": (COMMIT, {"encode-image"}),
    f"{VAE}.dtype": ("bfloat16", {"encode-image"}),
    f"{VAE}.latents": ("moments", {"encode-image", "encode-join"}),
    f"{VAE}.store": ("float32", {"encode-image"}),
    f"{VAE}.resolutions": ((256,), {"encode-image", "encode-join"}),
    f"{VAE}.batch_size": (4, {"encode-image"}),  # sums of another batch may differ in their last bit
    f"{VAE}.seed": (2, {"encode-image"}),
    f"{VAE}.compile": (True, {"encode-image"}),
    f"{VAE}.cuda_graphs": (True, {"encode-image"}),
    f"{CLIP}.model": ("samples/models/other", {"encode-text"}),
    f"{CLIP}.subfolder": ("text_encoder", {"encode-text"}),
    f"{CLIP}.revision": (COMMIT, {"encode-text"}),
    f"{CLIP}.dtype": ("bfloat16", {"encode-text"}),
    f"{CLIP}.store": ("float32", {"encode-text"}),
    f"{CLIP}.batch_size": (4, {"encode-text"}),
    f"{CLIP}.max_tokens": (7, {"encode-text"}),
    f"{CLIP}.compile": (True, {"encode-text"}),
    f"{CLIP}.cuda_graphs": (True, {"encode-text"}),
    "shard.shard_bytes": (2**17, {"shard"}),
    "shard.order": ("source", {"shard"}),
    "shard.seed": (2, {"shard"}),
    "shard.compression": ("zstd", {"shard"}),
}
DECIDE_BY_WHAT_THEY_REJECT: Mapping[
    str, Any
] = {  # of a partition, for what is in others; see also test_evaluation_sets
    f"{CLEAN}.drop_duplicates": True,
    f"{CLEAN}.max_captions_per_picture": 1,
    f"{CLEAN}.duplicates_across": (),
    f"{CLEAN}.exclude_pictures": (),
    f"{CLEAN}.exclude_distance": 1,
}
DECIDE_NOTHING = {
    "datasets.coco.max_rejected_share": "a limit: a step that exceeds it fails",
    "datasets.coco.source": "files are what their checksums say, wherever they are",
    "datasets.coco.partitions": "which partitions there are, not what is in each",
    "datasets.coco.name": "the folder",
}
SECTIONS: Mapping[str, type] = {
    "download": DownloadSettings,
    CLEAN: CleanSettings,
    VAE: ImageEncoderSettings,
    CLIP: TextEncoderSettings,
    "shard": ShardSettings,
}


def test_every_setting_is_in_a_table() -> None:
    for section, kind in SECTIONS.items():
        names = SETTINGS.keys() | DECIDE_BY_WHAT_THEY_REJECT.keys()
        said = {name.removeprefix(f"{section}.") for name in names if name.rpartition(".")[0] == section}
        assert said == {each.name for each in fields(kind)}, section
    of_dataset = {f"datasets.coco.{each.name}" for each in fields(Dataset)}
    assert of_dataset == DECIDE_NOTHING.keys() | {CLEAN, "datasets.coco.handler", "datasets.coco.fetch_again"}
    assert {each.name for each in fields(Params)} == {"download", "encode", "shard", "datasets", "store_salt"}
    assert {each.name for each in fields(EncodeSettings)} == {"image", "text"}
    assert HANDLERS.keys() == {module.name for module in pkgutil.iter_modules(handlers.__path__)}
    for dataset, others in HANDLERS.items():
        kind = handler_class(dataset)
        assert kind is not None
        assert others.keys() == {each.name for each in fields(kind)}, dataset


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_decides_these_tasks_and_no_others(tasks_of: TasksOf, name: str) -> None:
    value, kinds = SETTINGS[name]
    (step,) = {STEP_OF[kind] for kind in kinds}
    here = world(**COCO)
    before = tasks_of(here, step)
    here.set(name, value)
    found = differing(before, tasks_of(here, step))
    assert found.keys() == kinds
    if step != "shard":
        assert all(names == set(NAMES) for names in found.values())
    elif name == "shard.compression":
        assert found["shard"] == set(before["shard"])


def test_fetching_again_decides_the_partitions_named(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    before = tasks_of(here, "download")
    seen = [before]
    for number in (1, 2):
        here.set("datasets.coco.fetch_again", {"0001": number})
        seen.append(tasks_of(here, "download"))
        assert all(differing(each, seen[-1]) == {"download": {"0001"}} for each in seen[:-1])
    here.set("datasets.coco.fetch_again", {})
    assert tasks_of(here, "download") == before


def test_a_setting_added_later_decides_only_where_it_is_used(tasks_of: TasksOf) -> None:
    here = world("cc12m", form="webdataset")
    before = tasks_of(here, "download")
    here.set("datasets.cc12m.handler.allow_private_addresses", True)
    assert differing(before, tasks_of(here, "download")) == {"download": set(NAMES)}
    assert "allow_private_addresses" not in deciding_values(handler_class("cc12m")(form="webdataset"))  # type: ignore[misc,call-arg]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["datasets.coco.max_rejected_share", "datasets.coco.partitions", "source", "workers"])
def test_limits_places_and_workers_decide_nothing(
    tasks_of: TasksOf, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    here = world(**COCO)
    here.withdrawn = {"a": "0001"}
    here.has_true_digests = True
    before = tasks_of(here, step)
    assert before
    if name == "source":
        here.set("datasets.coco.source", "https://mirror/pictures")
        here.model_folder = "/elsewhere"
    elif name == "workers":
        monkeypatch.setenv("MICRODIFF_WORKERS", "3")
        monkeypatch.setenv("MICRODIFF_THREADS", "5")
    else:
        here.set(name, 0.9 if name.endswith("share") else "0-1")
    assert differing(before, tasks_of(here, step)) == {}


@pytest.mark.parametrize("step", STEPS)
def test_another_salt_disowns_every_task(tasks_of: TasksOf, step: str) -> None:
    here = world(**COCO)
    here.withdrawn = {"a": "0001"}
    before = tasks_of(here, step)
    here.set("store_salt", "2026")
    assert differing(before, tasks_of(here, step)) == {kind: set(names) for kind, names in before.items()}


@pytest.mark.parametrize(("dataset", "name"), [(each, name) for each, others in HANDLERS.items() for name in others])
def test_a_handlers_setting_decides_its_partitions(tasks_of: TasksOf, dataset: str, name: str) -> None:
    here = world(dataset, **FIRST[dataset])
    before = tasks_of(here, "download")
    here.set(f"datasets.{dataset}.handler.{name}", HANDLERS[dataset][name])
    found = differing(before, tasks_of(here, "download"))
    if name == "captions_source":  # says where the captions are; what they are, their checksum says
        assert found == {}
        return
    assert found["download"] == set(NAMES)
    assert ("download-annotations" in found) == (
        "download-annotations" in before or (dataset, name) == ("textcaps", "form")
    )


@pytest.mark.parametrize("name", [each.name for each in fields(Slice)])
def test_a_partitions_every_fact_decides_it(tasks_of: TasksOf, name: str) -> None:
    here = world(**COCO)
    before = tasks_of(here, "download")
    first, second = here.partitions
    old = getattr(second, name)
    other = ("more.zip", "pictures.zip") if name == "files" else old + 1 if isinstance(old, int) else f"{old}2"
    here.partitions = (first, replace(second, **{name: other}))
    assert differing(before, tasks_of(here, "download")) == {
        "download": {"0001", "00012"} if name == "name" else {"0001"}
    }


@pytest.mark.parametrize("path", ["pictures.zip", "more.zip", "captions.tar.gz"])
@pytest.mark.parametrize("fact", ["identity", "size"])
def test_a_source_files_facts_decide_what_is_made_of_it(tasks_of: TasksOf, path: str, fact: str) -> None:
    here = world("sa1b", **SA1B)
    before = tasks_of(here, "download")
    if fact == "identity":
        here.identities[path] = "etag:other"
    else:
        here.sizes[path] = 101
    tables = {"download-annotations": {"sa1b"}} if path == "captions.tar.gz" else {}
    assert differing(before, tasks_of(here, "download")) == {"download": set(NAMES), **tables}


def test_a_withdrawn_sample_decides_its_partition_alone(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    whole = tasks_of(here, "download")
    here.withdrawn = {"a": "0001"}
    one = tasks_of(here, "download")
    assert one["redact"].keys() == {"0001"}
    assert differing({"download": whole["download"]}, {"download": one["download"]}) == {}
    here.withdrawn = {"a": "0001", "b": "0001"}
    assert differing(one, tasks_of(here, "download")) == {"redact": {"0001"}}
    here.withdrawn = {"b": "0001"}
    assert differing(one, tasks_of(here, "download")) == {"redact": {"0001"}}
    here.withdrawn = {"a": "0001"}
    here.set("download.jpeg_quality", 90)
    assert differing(one, tasks_of(here, "download")) == {"redact": {"0001"}, "download": set(NAMES)}


BOTH = set(NAMES)
TEXTS = {"encode-text": {"0001"}, "encode-text_b": {"0001"}}
INPUTS = [
    ("clean", "raw/0001.parquet", {"clean": {"0001"}}),
    ("clean", "raw/0001.tar", {}),
    ("encode", "raw/0001.tar", {"encode-image": {"0001"}}),
    ("encode", "raw/0001.parquet", {}),
    ("encode", "captions/0001.parquet", {**TEXTS, "encode-join": {"0001"}}),
    ("encode", "0001.image.safetensors", {"encode-join": {"0001"}}),
    ("encode", "0001.text.safetensors", {"encode-join": {"0001"}}),
    ("encode", "0001.text_b.safetensors", {"encode-join": {"0001"}}),
    ("shard", "latents/0001.image.safetensors", {"shard-list": {"0001"}}),
    ("shard", "latents/0001.text.safetensors", {"shard-list": {"0001"}}),
    ("shard", "latents/0001.parquet", {"shard-list": {"0001"}}),
]


@pytest.mark.parametrize(
    ("step", "file", "expected"), INPUTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_comes_in_decides_what_is_made_of_it(
    tasks_of: TasksOf, step: str, file: str, expected: dict[str, set[str]]
) -> None:
    here = world(**COCO)
    before = tasks_of(here, step)
    here.digests[file] = "another sha256"
    assert differing(before, tasks_of(here, step)) == expected


def test_latents_of_two_columns_swapped_are_other_latents(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    before = tasks_of(here, "encode")
    names = [f"0000.{kind}.safetensors" for kind in ("text", "text_b")]
    here.digests = {name: f"sha256 of {other}" for name, other in zip(names, reversed(names), strict=True)}
    assert differing(before, tasks_of(here, "encode")) == {"encode-join": {"0000"}}


def test_another_text_column_decides_what_is_joined(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    before = tasks_of(here, "encode")
    here.set("encode.text", {"caption_latents": TEXT})
    assert differing(before, tasks_of(here, "encode")) == {"encode-text_b": BOTH, "encode-join": BOTH}


@pytest.mark.parametrize("name", DECIDE_BY_WHAT_THEY_REJECT)
def test_what_rejects_nothing_decides_nothing(tasks_of: TasksOf, name: str) -> None:
    here = world(**COCO)
    before = tasks_of(here, "clean")
    here.set(name, DECIDE_BY_WHAT_THEY_REJECT[name])
    assert differing(before, tasks_of(here, "clean")) == {}


@pytest.mark.parametrize(
    ("name", "value"), [("drop_duplicates", True), ("drop_duplicates", "picture"), ("max_captions_per_picture", 1)]
)
def test_duplicates_of_an_earlier_partition_decide_a_later_one(tasks_of: TasksOf, name: str, value: object) -> None:
    """What was taken in is the same; what became of another partition is not."""
    here = world(**COCO)
    here.set(f"{CLEAN}.{name}", value)
    before = tasks_of(here, "clean")
    here.raw_rows = {"0000": [raw_row("a", "2")], "0001": [raw_row("b", "2")]}
    assert differing(before, tasks_of(here, "clean")) == {"clean": {"0001"}}


@pytest.mark.parametrize("name", ["key", "caption", "width", "height", *SHAPES])
def test_all_that_a_sample_holds_decides_its_shard(tasks_of: TasksOf, name: str) -> None:
    here = world(**COCO)
    before = tasks_of(here, "shard")
    assert len(before["shard"]) > 2
    old = here.samples[3][name]
    here.samples[3] = {**here.samples[3], name: f"{old}!" if isinstance(old, str) else old + 1}
    found = differing(before, tasks_of(here, "shard"))
    assert found.keys() == {"shard"}
    assert 1 <= len(found["shard"]) <= (1 if name in ("width", "height", *SHAPES) else 4)


def test_the_type_of_equal_bytes_decides_every_shard(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    before = tasks_of(here, "shard")
    here.dtypes["latents_256"] = "bfloat16"
    assert differing(before, tasks_of(here, "shard")) == {"shard": set(before["shard"])}


def test_pictures_are_withdrawn_from_shards_by_their_rows(tasks_of: TasksOf) -> None:
    here = world(**COCO)
    before = tasks_of(here, "shard")
    here.samples = here.samples[:-1]
    found = differing(before, tasks_of(here, "shard"))["shard"]
    assert 0 < len(found) < len(before["shard"])


OF_SHARDS = {"shard-list", "shard"}
EVERY_TEXT = {"encode-text", "encode-text_b"}
TABLES = {"download", "clean", "encode-join"}
CODE: Mapping[str, set[str]] = {  # what an edit of a module recomputes
    "microdiff.handlers.coco": {"download"},
    "microdiff.handlers.sa1b": set(),  # of another dataset
    "microdiff.formats.archives": {"download"},
    "microdiff.download.raw_writer": {"download"},
    "microdiff.images.normalize": {"download"},
    "microdiff.images.bicubic": {"download", "encode-image"},
    "microdiff.images.crops": {"encode-image"},
    "microdiff.clean.policy": {"clean"},
    "microdiff.captions.rules": {"clean"},
    "microdiff.models.image_encoder": {"encode-image"},
    "microdiff.models.text_encoder": EVERY_TEXT,
    "microdiff.encode.image_latents": {"encode-image"},
    "microdiff.encode.image_batches": {"encode-image"},
    "microdiff.encode.caption_latents": EVERY_TEXT,
    "microdiff.encode.device_queue": {"encode-image", *EVERY_TEXT},
    "microdiff.encode.merge": {"encode-join"},
    "microdiff.artifacts.mds": {"shard"},
    "microdiff.artifacts.mds_header": {"shard", "shard-list"},
    "microdiff.artifacts.mds_index": {"shard"},
    "microdiff.core.untrusted": set(),
    "microdiff.shard.sample_index": OF_SHARDS,
    "microdiff.shard.writer": {"shard"},
    "microdiff.shard.packing": set(),  # which samples a shard has is in its key
    "microdiff.core.files": set(),
    "microdiff.config.settings": set(),
    "microdiff.pipeline.store": set(),
}


@pytest.mark.parametrize("module", CODE)
def test_an_edit_decides_what_the_module_computes(tasks_of: TasksOf, module: str) -> None:
    here = world(**COCO)
    for step in STEPS:
        here.edited = ""
        before = tasks_of(here, step)
        here.edited = module
        found = differing(before, tasks_of(here, step))
        assert found.keys() == {kind for kind in CODE[module] if STEP_OF[kind] == step}
        assert all(names == set(before[kind]) for kind, names in found.items())


@pytest.mark.parametrize("module", ["microdiff.handlers.sa1b", "microdiff.formats.annotations"])
def test_an_edit_decides_the_table_of_annotations(tasks_of: TasksOf, module: str) -> None:
    here = world("sa1b", **SA1B)
    before = tasks_of(here, "download")
    here.edited = module
    assert differing(before, tasks_of(here, "download")).keys() == {"download", "download-annotations"}
