"""Every check of verification, one fault each, on artifacts of a few samples made here: no two values are equal."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.manifest import Manifest, parse_manifest, write_manifest
from microdiff.artifacts.mds import ZSTD, write_encoded
from microdiff.artifacts.mds_index import read_index
from microdiff.artifacts.tables import table_writer
from microdiff.clean.policy import SCHEMA as CAPTIONS_SCHEMA
from microdiff.core.files import digest_bytes, digest_file, md5_of, write_json
from microdiff.core.progress import NullReporter
from microdiff.core.withdrawn import Withdrawal, Withdrawn
from microdiff.download.raw_writer import SCHEMA as RAW_SCHEMA
from microdiff.encode.merge import SCHEMA as LATENTS_SCHEMA
from microdiff.errors import SchemaError
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.artifact import Artifact
from microdiff.verify.compare import compare_rows, compare_values, name_duplicates
from microdiff.verify.counts import check_counts, check_keys, total_of
from microdiff.verify.digests import Multiset, digest_key, digest_rows, digest_values, hashes, is_drawn
from microdiff.verify.files import Expected, check_files
from microdiff.verify.findings import Findings
from microdiff.verify.latents import check_latents
from microdiff.verify.shards import check_shard
from microdiff.verify.tables import check_captions, check_raw

KEYS = ("a", "b", "c", "d")
NOBODY = Withdrawn()
B_IS_WITHDRAWN = Withdrawn({"b": Withdrawal("b", "why")})
Rows = list[dict[str, Any]]


def said(findings: Findings) -> set[tuple[str, str]]:
    return {(each.key, each.what) for each in findings.problems}


def one(findings: Findings, key: str, text: str) -> None:
    """Assert that one thing is wrong, and that it is said of this sample in these words."""
    (problem,) = findings.problems
    assert problem.key == key
    assert text in problem.what


# Raw.


def pictures(*letters: str) -> list[tuple[str, bytes]]:
    return [(f"{letter}.jpg", f"picture {letter}".encode()) for letter in letters]


def raw_rows() -> Rows:
    rows = []
    for number, key in enumerate(KEYS):
        status = "too_small" if key == "c" else "kept"
        sha256 = digest_bytes(f"picture {key}".encode()) if status == "kept" else ""
        sizes = {"width": 300 + number, "height": 400 + number} if sha256 else {"width": 0, "height": 0}
        rows.append({"key": key, "status": status, "captions": [f"caption {key}"], "sha256": sha256, **sizes})
    return rows


def write_table(path: Path, schema: Any, rows: Rows) -> None:
    with table_writer(path, schema) as add_row:
        for row in rows:
            add_row({**dict.fromkeys(schema.names), **row})


def raw_findings(folder: Path, rows: Rows, members: Sequence[tuple[str, bytes]], withdrawn: Withdrawn) -> Findings:
    import io
    import tarfile

    with tarfile.open(folder / "0000.tar", "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    write_table(folder / "0000.parquet", RAW_SCHEMA, rows)
    return check_raw(folder, "0000", {}, withdrawn, "coco", NullReporter())


def changed(rows: Rows, at: int, **values: Any) -> Rows:
    return [{**row, **values} if number == at else row for number, row in enumerate(rows)]


def test_a_whole_raw_partition(tmp_path: Path) -> None:
    found = raw_findings(tmp_path, raw_rows(), pictures("a", "b", "d"), NOBODY)
    assert found.problems == []
    assert found.counts == {"in": 4, "kept": 3, "too_small": 1}
    assert len(set(found.keys.tolist())) == 4
    assert found.num_samples == 4
    kept = [row for row in raw_rows() if row["status"] == "kept"]
    assert found.went_out == digest_rows((row["key"], row["sha256"], row["width"], row["height"]) for row in kept)


@pytest.mark.parametrize(
    ("rows", "key", "text"),
    [
        (changed(raw_rows(), 2, status="blurred"), "c", "unknown status 'blurred'"),
        (changed(raw_rows(), 2, key="a"), "a", "2 rows have this key"),
        (changed(raw_rows(), 2, sha256="0" * 64, width=1, height=1), "c", "status too_small with sha256 '000"),
        (changed(raw_rows(), 0, width=0), "a", "status kept with sha256"),
        (changed(raw_rows(), 0, height=0), "a", "status kept with sha256"),
        (changed(raw_rows(), 2, status="withdrawn"), "c", "it is withdrawn, but its captions are still there"),
    ],
)
def test_a_wrong_row_of_a_raw_table(tmp_path: Path, rows: Rows, key: str, text: str) -> None:
    one(raw_findings(tmp_path, rows, pictures("a", "b", "d"), NOBODY), key, text)


@pytest.mark.parametrize(
    ("members", "key", "text"),
    [
        (pictures("a", "b"), "d", "expected the picture d, found the end"),
        (pictures("a", "b", "d", "e"), "e", "expected nothing, found the member e.jpg"),
        (pictures("b", "a", "d"), "a", "expected the picture a, found the member b.jpg"),
        (pictures("a", "d"), "b", "expected the picture b, found the member d.jpg"),
        ([*pictures("a", "b"), ("d.jpg", b"picture e")], "d", "another sha256 than the table says"),
        ([("a.jpg", b"picture b"), *pictures("b", "d")], "a", "another sha256 than the table says"),
        ([], "a", "expected the picture a, found the end"),
    ],
)
def test_wrong_pictures(tmp_path: Path, members: list[tuple[str, bytes]], key: str, text: str) -> None:
    one(raw_findings(tmp_path, raw_rows(), members, NOBODY), key, text)


def test_a_withdrawn_sample_is_told_of_wherever_it_still_is(tmp_path: Path) -> None:
    gone = changed(raw_rows(), 1, status="withdrawn", captions=[], sha256="", width=0, height=0)
    found = raw_findings(tmp_path, gone, pictures("a", "d"), B_IS_WITHDRAWN)
    assert found.problems == []
    one(raw_findings(tmp_path, changed(gone, 1, status="too_small"), pictures("a", "d"), B_IS_WITHDRAWN), "b", "still")
    texts = {what for _, what in said(raw_findings(tmp_path, gone, pictures("a", "b", "d"), B_IS_WITHDRAWN))}
    assert "it is withdrawn, but its picture is still here" in texts
    texts = {what for _, what in said(raw_findings(tmp_path, raw_rows(), pictures("a", "b", "d"), B_IS_WITHDRAWN))}
    assert "it is withdrawn, but still here as kept" in texts


# Captions.


def test_what_passes_through_captions(tmp_path: Path) -> None:
    """Pictures come in once each, captions go out one by one."""
    rows: Rows = []
    for number, (key, image_key, status) in enumerate(
        [("a#1", "a", "kept"), ("a#2", "a", "empty_caption"), ("b#1", "b", "kept")]
    ):
        picture = {"image_key": image_key, "sha256": image_key * 64, "width": 300, "height": 400}
        rows.append({"key": key, "status": status, "caption": f"cat {number}", **picture})
    write_table(tmp_path / "0000.parquet", CAPTIONS_SCHEMA, rows)
    found = check_captions(tmp_path, "0000", {}, NOBODY, "coco", NullReporter())
    assert found.problems == []
    assert found.counts == {"in": 3, "kept": 2, "empty_caption": 1, "expanded": 1}
    assert found.came_in == digest_rows([("a", "a" * 64, 300, 400), ("b", "b" * 64, 300, 400)])
    assert found.went_out == digest_rows([("a#1", "cat 0", "a", 300, 400), ("b#1", "cat 2", "b", 300, 400)])
    one(check_captions(tmp_path, "0000", {}, Withdrawn({"b": Withdrawal("b", "")}), "coco", NullReporter()), "b#1", "")


# Latents.

ENCODERS: Mapping[str, Any] = {
    "image": {"latents": "sample", "downsampling": 8, "channels": 2, "stored_dtype": "float16"},
    "text": {
        "caption_latents": {"stored_dtype": "float16", "tokens": 3, "width": 2},
        "caption_latents_b": {"stored_dtype": "bfloat16", "tokens": 2, "width": 2, "mask": True},
    },
}


class Latents:
    """One partition; tests change it before it is written. `c` is too small, `d` has not been encoded."""

    def __init__(self) -> None:
        self.rows: Rows = [
            {"key": key, "image_key": key, "caption": f"cat {key}", "width": 300 + n, "height": 400, "status": "kept"}
            for n, key in enumerate(KEYS)
        ]
        self.rows[2]["status"], self.rows[3]["status"] = "too_small", "non_finite"
        self.keys: dict[str, list[str]] = {
            "latents_16": ["a", "b", "d"],
            "latents_32": ["b"],
            "caption_latents": ["a", "b", "c"],
            "caption_latents_b": ["a", "b", "c", "d"],
            "caption_mask_b": ["a", "b", "c", "d"],
        }
        self.rejected: dict[str, dict[str, str]] = {"image": {}, "text": {"d": "non_finite"}, "text_b": {}}
        self.encoders: dict[str, Any] = {"image": ENCODERS["image"], **ENCODERS["text"]}
        shapes = {
            "latents_16": (2, 2, 2),
            "latents_32": (2, 4, 4),
            "caption_latents": (3, 2),
            "caption_latents_b": (2, 2),
            "caption_mask_b": (2,),
        }
        dtypes = {"caption_latents_b": np.uint16, "caption_mask_b": np.uint8}
        self.values: dict[str, Any] = {
            name: np.arange(len(self.keys[name]) * int(np.prod(shape)))
            .reshape(-1, *shape)
            .astype(dtypes.get(name, np.float16))
            for name, shape in shapes.items()
        }

    def check(self, folder: Path, withdrawn: Withdrawn = NOBODY, share: float = 1.0) -> Findings:
        for kind, names, encoder in (
            ("image", [name for name in self.keys if name.startswith(("latents", "moments"))], "image"),
            ("text", ["caption_latents"], "caption_latents"),
            ("text_b", ["caption_latents_b", "caption_mask_b"], "caption_latents_b"),
        ):
            tensors = {}
            for name in names:
                dtype = "bfloat16" if name == "caption_latents_b" else str(self.values[name].dtype)
                spool = Spool(folder / f"{name}.rows", dtype)
                for row in self.values[name]:
                    spool.append(row)
                tensors[name] = TensorToWrite(self.keys[name], spool)
            write_latents(folder / f"0000.{kind}.safetensors", tensors, self.encoders[encoder], self.rejected[kind])
            for tensor in tensors.values():
                tensor.rows.__exit__(None, None, None)
        write_table(folder / "0000.parquet", LATENTS_SCHEMA, self.rows)
        return check_latents(folder, "0000", {}, withdrawn, "coco", ENCODERS, share, True, NullReporter())


def test_a_whole_latents_partition(tmp_path: Path) -> None:
    latents = Latents()
    found = latents.check(tmp_path)
    assert found.problems == []
    counts = {"in": 4, "kept": 2, "too_small": 1, "non_finite": 1, "with_16": 2, "with_32": 1}
    assert found.counts == counts
    assert found.came_in == digest_rows((key, f"cat {key}", key, 300 + n, 400) for n, key in enumerate(KEYS))
    assert (found.samples.number, found.values.number, len(found.locations)) == (2, 2, 2)
    assert found.is_complete
    expected = Multiset()
    for number, key in enumerate(("a", "b")):
        plain = {"key": key.encode(), "caption": f"cat {key}".encode()}
        sizes = {"width": (300 + number).to_bytes(4, "little"), "height": (400).to_bytes(4, "little")}
        tensors = {
            name: latents.values[name][keys.index(key)].tobytes() for name, keys in latents.keys.items() if key in keys
        }
        expected.add(digest_values({**plain, **sizes, **tensors}))
    assert found.values == expected
    assert Latents().check(tmp_path, share=0.0).values.number == 0


def nan(name: str, row: int, value: float = np.nan) -> Callable[[Latents], None]:
    def change(latents: Latents) -> None:
        if name == "caption_latents_b":
            latents.values[name][row, -1, -1] = 0xFF80 if value < 0 else 0x7F80 if value > 0 else 0x7FC0
        else:
            latents.values[name][(row, *(-1 for _ in latents.values[name].shape[1:]))] = value

    return change


def edit(**changes: Any) -> Callable[[Latents], None]:
    """Change what `<what>__<of>` says."""

    def change(latents: Latents) -> None:
        for name, value in changes.items():
            what, _, of = name.partition("__")
            getattr(latents, what)[int(of) if of.isdigit() else of] = value

    return change


def status(at: int, value: str) -> Callable[[Latents], None]:
    def change(latents: Latents) -> None:
        latents.rows[at]["status"] = value

    return change


def without_rows(name: str, *keys: str) -> Callable[[Latents], None]:
    def change(latents: Latents) -> None:
        keep = [number for number, key in enumerate(latents.keys[name]) if key not in keys]
        latents.keys[name] = [latents.keys[name][number] for number in keep]
        latents.values[name] = latents.values[name][keep]

    return change


def both(*changes: Callable[[Latents], None]) -> Callable[[Latents], None]:
    def change(latents: Latents) -> None:
        for each in changes:
            each(latents)

    return change


def as_float32(latents: Latents) -> None:
    latents.values["latents_16"] = latents.values["latents_16"].astype(np.float32)


def other_shape(latents: Latents) -> None:
    latents.values["caption_latents"] = latents.values["caption_latents"].reshape(-1, 2, 3)


def other_tensor(latents: Latents) -> None:
    latents.values["moments_16"], latents.keys["moments_16"] = latents.values["latents_16"], ["a", "b", "d"]


TEXT_B = "kept, but without caption_latents_b"


@pytest.mark.parametrize(
    ("change", "key", "text"),
    [
        (nan("latents_16", 0), "a", "latents_16 holds NaN or infinity"),
        (nan("latents_16", 1, np.inf), "b", "latents_16 holds NaN or infinity"),
        (nan("latents_32", 0, -np.inf), "b", "latents_32 holds NaN or infinity"),
        (nan("caption_latents", 2), "c", "caption_latents holds NaN or infinity"),
        (nan("caption_latents_b", 1), "b", "caption_latents_b holds NaN or infinity"),
        (nan("caption_latents_b", 3, -np.inf), "d", "caption_latents_b holds NaN or infinity"),
        (nan("caption_latents_b", 0, np.inf), "a", "caption_latents_b holds NaN or infinity"),
        (edit(keys__caption_latents=["a", "b", "b"]), "", "3 rows, 3 keys, 2 of them distinct"),
        (edit(encoders__image={**ENCODERS["image"], "seed": 2}), "", "its encoder is not the one in encoders.json"),
        (edit(encoders__caption_latents={}), "", "its encoder is not the one in encoders.json"),
        (as_float32, "", "latents_16 is ('float32', (2, 2, 2)) per sample, expected ('float16', (2, 2, 2))"),
        (other_shape, "", "caption_latents is ('float16', (2, 3)) per sample, expected ('float16', (3, 2))"),
        (other_tensor, "", "moments_16 is ('float16', (2, 2, 2)) per sample, expected no such tensor"),
        (edit(keys__caption_latents=["a", "b", "z"]), "z", "caption_latents holds a sample that the table does not"),
        (without_rows("caption_latents_b", "a"), "a", TEXT_B),
        (without_rows("latents_16", "a"), "a", "kept, but without image latents"),
        (edit(rejected__image={"b": "non_finite"}), "b", "kept, but non_finite"),
        (edit(rejected__text_b={"a": "non_finite"}), "a", "kept, but non_finite"),
        (status(0, "nsfw"), "a", "nsfw, but its latents do not say so"),
        (status(3, "undecodable"), "d", "undecodable, but its latents do not say so"),
        (both(status(3, "kept"), without_rows("latents_16", "none")), "d", "kept, but non_finite"),
        (status(2, "blurred"), "c", "unknown status 'blurred'"),
    ],
)
def test_one_fault_of_a_latents_partition(
    tmp_path: Path, change: Callable[[Latents], None], key: str, text: str
) -> None:
    latents = Latents()
    change(latents)
    found = latents.check(tmp_path)
    told = [each for each in found.problems if text in each.what]
    assert [each.key for each in told] == [key], found.problems
    # What a wrong status is besides is another sample, or none.
    assert {each.key for each in found.problems} <= {key, *(("a",) if "distinct" in text else ())}


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "b", "c", "d"]])
def test_every_row_has_a_key(tmp_path: Path, keys: list[str]) -> None:
    latents = Latents()
    latents.check(tmp_path)
    path = tmp_path / "0000.text.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["keys"] = json.dumps({"caption_latents": keys})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    found = check_latents(tmp_path, "0000", {}, NOBODY, "coco", ENCODERS, 1.0, True, NullReporter())
    one(found, "", f"caption_latents has 3 rows, {len(keys)} keys, {len(keys)} of them distinct")


def test_of_many_bad_rows_a_few_are_named(tmp_path: Path) -> None:
    latents = Latents()
    latents.values["caption_latents_b"][:] = 0x7FC0
    assert [each.key for each in latents.check(tmp_path).problems] == ["a", "b", "c"]


def test_values_are_looked_at_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microdiff.artifacts.finiteness._ROWS_AT_ONCE_BYTES", 20)  # a row or two
    for row, key in enumerate(KEYS):
        latents = Latents()
        latents.values["caption_latents_b"][row, 0, 1] = 0x7F80
        one(latents.check(tmp_path), key, "caption_latents_b holds NaN or infinity")


def test_withdrawn_latents(tmp_path: Path) -> None:
    one(Latents().check(tmp_path, B_IS_WITHDRAWN), "b", "it is withdrawn, but still here as kept")


# Shards.

COLUMNS = {
    "key": "str",
    "caption": "str",
    "width": "int32",
    "height": "int32",
    "latents_16": "ndarray:float16:2,2,2",
    "caption_latents_b": "ndarray:uint16:2,2",
}


def shard_samples() -> list[dict[str, bytes]]:
    return [
        {
            "key": key.encode(),
            "caption": f"cat {key}".encode(),
            "width": (300 + n).to_bytes(4, "little"),
            "height": (400).to_bytes(4, "little"),
            "latents_16": (np.arange(8, dtype=np.float16) + np.float16(n)).tobytes(),
            "caption_latents_b": (np.arange(4, dtype=np.uint16) + np.uint16(n)).tobytes(),
        }
        for n, key in enumerate(KEYS)
    ]


def write_shards(
    folder: Path,
    groups: Mapping[str, Sequence[Mapping[str, bytes]]],
    compression: str | None = None,
    columns: Mapping[str, str] = COLUMNS,
) -> None:
    """Write a shard per group, the index files, and a manifest."""
    every, partitions = [], {}
    indexes = ("index.json", *(f"{group}/index.json" for group in groups))
    for group, samples in groups.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        encoded = []
        for sample in samples:
            texts = [len(sample[name]) for name in sorted(columns) if columns[name] == "str"]
            encoded.append(np.array(texts, "<u4").tobytes() + b"".join(sample[name] for name in sorted(columns)))
        path = folder / group / "shard.00000.mds"
        entry = write_encoded(path, columns, [len(data) for data in encoded], encoded, compression).to_json()
        write_json(folder / group / "index.json", {"version": 2, "shards": [entry]})
        files = {
            name: {**entry[name], "basename": f"{group}/{entry[name]['basename']}"}
            for name in ("raw_data", "zip_data")
            if entry[name]
        }
        every.append({**entry, **files})
        stored = path.with_name((entry["zip_data"] or entry["raw_data"])["basename"])
        facts = {"bytes": stored.stat().st_size, "sha256": digest_file(stored)}
        counts = {"in": len(samples), "kept": len(samples)}
        partitions[f"{group}/shard.00000.mds"] = {
            "fingerprints": [],
            "counts": counts,
            "files": {f"{group}/{stored.name}": facts},
        }
    write_json(folder / "index.json", {"version": 2, "shards": every})
    total = sum(len(samples) for samples in groups.values())
    write_manifest(
        folder,
        {
            "format": 1,
            "step": "shard",
            "source_records": total,
            "counts": {"in": total, "kept": total},
            "columns": {group: dict(columns) for group in groups},
            "encoders": {},
            "partitions": partitions,
            "extra": {name: digest_file(folder / name) for name in indexes},
        },
    )


def shard_findings(folder: Path, withdrawn: Withdrawn = NOBODY, share: float = 1.0) -> Findings:
    (entry,) = read_index(folder / "index.json")
    (path,) = folder.glob("*/*.mds*")
    expected = {path.relative_to(folder).as_posix(): Expected()}
    return check_shard(
        folder, entry, expected, withdrawn, "coco", frozenset(["caption_latents_b"]), share, True, NullReporter()
    )


@pytest.mark.parametrize("compression", [None, ZSTD])
def test_a_whole_shard(tmp_path: Path, compression: str | None) -> None:
    write_shards(tmp_path, {"16": shard_samples()}, compression)
    found = shard_findings(tmp_path)
    assert found.problems == []
    assert (found.num_samples, found.samples.number, found.values.number, len(found.locations)) == (4, 4, 4, 4)
    assert found.is_complete
    expected = Multiset()
    for sample in shard_samples():
        expected.add(digest_values(sample))
    assert found.values == expected
    assert shard_findings(tmp_path, share=0.0).values.number == 0


@pytest.mark.parametrize(
    ("column", "at", "value", "is_told"),
    [
        ("latents_16", 0, np.float16("nan"), True),
        ("latents_16", 3, np.float16("inf"), True),
        ("latents_16", 2, np.float16("-inf"), True),
        ("caption_latents_b", 1, np.uint16(0x7FC0), True),
        ("caption_latents_b", 3, np.uint16(0xFF80), True),
        ("caption_latents_b", 3, np.uint16(0x7C00), False),  # would be infinity as float16
    ],
)
def test_values_of_shards_must_be_finite(tmp_path: Path, column: str, at: int, value: Any, is_told: bool) -> None:
    samples = shard_samples()
    data = samples[at][column]
    samples[at][column] = data[:-2] + value.tobytes()
    write_shards(tmp_path, {"16": samples})
    found = shard_findings(tmp_path)
    if is_told:
        one(found, KEYS[at], f"{column} holds NaN or infinity")
    else:
        assert found.problems == []


def test_a_withdrawn_sample_in_a_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, {"16": shard_samples()})
    one(shard_findings(tmp_path, B_IS_WITHDRAWN), "b", "it is withdrawn, but still here")


@pytest.mark.parametrize("compression", [None, ZSTD])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("samples", 5, "it holds 4 samples, index.json says 5"),
        ("size_limit", 7, "its header is not what index.json says"),
        ("hashes", ["md5"], "its header is not what index.json says"),
        ("column_encodings", ["str", "ndarray:int16:2,2", "int32", "str", "ndarray:float16:2,2,2", "int32"], "header"),
        ("raw_data", {"hashes": {"sha256": "0" * 64}}, "its content has another hash"),
        ("raw_data", {"hashes": {"sha256": ..., "md5": "0" * 32}}, "its content has another hash"),
    ],
)
def test_what_an_index_says_of_a_shard_must_be_so(
    tmp_path: Path, compression: str | None, name: str, value: Any, text: str
) -> None:
    write_shards(tmp_path, {"16": shard_samples()}, compression)
    index = json.loads((tmp_path / "index.json").read_text())
    (entry,) = index["shards"]
    if name == "raw_data":
        hashes = {kind: entry[name]["hashes"][kind] if each is ... else each for kind, each in value["hashes"].items()}
        value = {**entry[name], "hashes": hashes}
    entry[name] = value
    write_json(tmp_path / "index.json", index)
    one(shard_findings(tmp_path), "", text)


def test_values_have_the_size_of_their_type(tmp_path: Path) -> None:
    write_shards(tmp_path, {"16": shard_samples()[:1]})
    honest = read_index(tmp_path / "index.json")
    for name in ("index.json", "16/shard.00000.mds"):
        data = (tmp_path / name).read_bytes()
        assert data.count(b"float16:2,2,2") == 1
        (tmp_path / name).write_bytes(data.replace(b"float16:2,2,2", b"float16:2,2,1"))
    problem = "column 'latents_16' with encoding 'ndarray:float16:2,2,1' and size 16"
    with pytest.raises(SchemaError, match=f"expected shard 0 to be an MDS entry, got {problem}"):
        read_index(tmp_path / "index.json")
    (entry,) = honest
    expected = {"16/shard.00000.mds": Expected(sha256=digest_file(tmp_path / "16/shard.00000.mds"))}
    found = check_shard(tmp_path, entry, expected, NOBODY, "coco", frozenset(), 1.0, False, NullReporter())
    one(found, "", f"not a shard, or damaged ({problem}")


# A shard set as a whole.


def set_findings(folder: Path) -> list[str]:
    return [f"{each.file}: {each.what}" for each in Artifact("coco", "shards", folder, None).finish([]).problems]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the manifest says, and seal it again with what the index files now are."""
    value = json.loads((folder / "manifest.json").read_text())
    del value["digest"]
    value["extra"] = {name: digest_file(folder / name) for name in value["extra"]}
    change(value)
    write_manifest(folder, value)


def change_entries(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the group 16's entry in both of the index files that have it."""
    for name in ("index.json", "16/index.json"):
        index = json.loads((folder / name).read_text())
        change(next(each for each in index["shards"] if "32/" not in each["raw_data"]["basename"]))
        write_json(folder / name, index)


def nothing(_: dict[str, Any]) -> None:
    pass


def more_samples(entry: dict[str, Any]) -> None:
    entry["samples"] += 1


def other_size(entry: dict[str, Any]) -> None:
    entry["raw_data"]["bytes"] += 1


def other_hash(entry: dict[str, Any]) -> None:
    entry["raw_data"]["hashes"]["sha256"] = "0" * 64


def other_encoding(entry: dict[str, Any]) -> None:
    entry["column_encodings"][entry["column_names"].index("latents_16")] = "ndarray:int16:2,2,2"


def test_a_whole_shard_set(tmp_path: Path) -> None:
    write_shards(tmp_path, {"32": shard_samples()[:1], "16": shard_samples()[1:]})
    assert set_findings(tmp_path) == []
    rewrite(tmp_path, nothing)
    assert set_findings(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (more_samples, "index.json: its samples add up to another number than 4"),
        (other_size, "index.json: it does not say of 16/shard.00000.mds what manifest.json says"),
        (other_hash, "index.json: it does not say of 16/shard.00000.mds what manifest.json says"),
        (other_encoding, "index.json: the columns of 16/shard.00000.mds are not those in manifest.json"),
    ],
)
def test_an_index_that_does_not_fit_the_manifest(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    write_shards(tmp_path, {"32": shard_samples()[:1], "16": shard_samples()[1:]})
    change_entries(tmp_path, change)
    rewrite(tmp_path, nothing)
    assert set_findings(tmp_path) == [text]


def test_shards_that_the_index_leaves_out_or_groups_tell_otherwise(tmp_path: Path) -> None:
    write_shards(tmp_path, {"32": shard_samples()[:1], "16": shard_samples()[1:]})
    index = json.loads((tmp_path / "index.json").read_text())
    write_json(tmp_path / "index.json", {**index, "shards": index["shards"][1:]})
    rewrite(tmp_path, nothing)
    assert set_findings(tmp_path) == [
        "index.json: it does not list 32/shard.00000.mds",
        "index.json: its samples add up to another number than 4",
    ]
    write_json(tmp_path / "index.json", {**index, "shards": index["shards"][::-1]})
    rewrite(tmp_path, nothing)
    assert set_findings(tmp_path) == []
    write_json(tmp_path / "16/index.json", {"version": 2, "shards": []})
    rewrite(tmp_path, nothing)
    assert set_findings(tmp_path) == ["index.json: it does not list what the groups' index files list"]


def test_files_that_nothing_speaks_of_and_files_that_are_gone(tmp_path: Path) -> None:
    write_shards(tmp_path, {"16": shard_samples()})
    (tmp_path / "16" / "stray.mds").write_text("x")
    assert set_findings(tmp_path) == ["16/stray.mds: listed neither in manifest.json nor by DVC: remove it"]
    (tmp_path / "16" / "stray.mds").unlink()
    (tmp_path / "16" / "shard.00000.mds").unlink()
    assert set_findings(tmp_path) == ["16/shard.00000.mds: it is missing"]


def test_a_manifest_whose_digest_does_not_fit_is_not_believed(tmp_path: Path) -> None:
    write_shards(tmp_path, {"16": shard_samples()})
    value = json.loads((tmp_path / "manifest.json").read_text())
    value["counts"]["kept"] = 5
    write_json(tmp_path / "manifest.json", value)
    artifact = Artifact("coco", "shards", tmp_path, None)
    assert not artifact.trusted
    assert ["its own digest does not fit" in each.what for each in artifact.own.problems] == [True]


@pytest.mark.parametrize(
    ("said", "is_trusted", "text"),
    [
        ({"image": {"a": 1}, "text": {}}, True, None),
        ({"image": {"a": 2}, "text": {}}, True, "it does not say what manifest.json says"),
        ({"image": {"a": 2}, "text": {}}, False, None),  # what it is to say is not known
        ({"image": {"a": 1}}, False, "it does not describe encoders"),
        ([], False, "it cannot be read"),
    ],
)
def test_encoders_are_described(tmp_path: Path, said: Any, is_trusted: bool, text: str | None) -> None:
    write_json(tmp_path / "encoders.json", said)
    extra = {"encoders.json": digest_file(tmp_path / "encoders.json")}
    value = {"format": 1, "source_records": 0, "counts": {"in": 0, "kept": 0}, "partitions": {}, "extra": extra}
    write_manifest(tmp_path, {**value, "encoders": {"image": {"a": 1}, "text": {}}})
    if not is_trusted:
        (tmp_path / "manifest.json").write_text("{")
    problems = Artifact("coco", "latents", tmp_path, None).finish([]).problems
    told = [each.what for each in problems if each.file == "encoders.json"]
    assert [what.partition(" (")[0] for what in told] == ([text] if text else [])


# Counts.


def manifest(folder: Path, kept: Mapping[str, int], **changes: Any) -> Manifest:
    """Return a manifest of partitions that kept so many of six records each."""
    partitions = {
        name: {"fingerprints": [], "files": {}, "counts": {"in": 6, "kept": number, "nsfw": 6 - number}}
        for name, number in kept.items()
    }
    total = sum(kept.values())
    counts = {"in": 6 * len(kept), "kept": total, "nsfw": 6 * len(kept) - total}
    value = {"format": 1, "source_records": 30, "counts": counts, "encoders": {"a": 1}, "partitions": partitions}
    for name, each in changes.items():
        section, path = value, name.split("__")
        for part in path[:-1]:
            section = section[part]  # type: ignore[assignment]
        section[path[-1]] = each
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, value)
    return parse_manifest(folder)


def count_problems(tmp_path: Path, before: Manifest, after: Manifest, kinds: tuple[str, str]) -> list[str]:
    return [
        each.what for each in check_counts("coco", Workspace(tmp_path), dict(zip(kinds, (before, after), strict=True)))
    ]


RAW = {"0000": 6, "0001": 6}


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, []),
        ({"counts__kept": 10, "counts__nsfw": 2}, ["its counts are"]),
        (
            {"partitions__0001__counts": {"in": 6, "kept": 4, "nsfw": 1}},
            ["the ledger does not add up", "its counts are"],
        ),
        ({"source_records": 29}, ["it speaks of 29 source records, raw 30"]),
        (
            {
                "partitions__0000__counts": {"in": 7, "kept": 7},
                "partitions__0001__counts": {"in": 5, "kept": 5},
                "counts": {"in": 12, "kept": 12},
            },
            ["0000: 7 samples came in, but raw kept 6", "0001: 5 samples came in, but raw kept 6"],
        ),
        (
            {"partitions__0001__counts": {"in": 5, "kept": 5}, "counts": {"in": 11, "kept": 9, "nsfw": 2}},
            ["11 samples came in, but raw kept 12", "0001: 5 samples came in, but raw kept 6"],
        ),
        (
            {
                "partitions__0001__counts": {"in": 9, "kept": 9, "expanded": 3},
                "counts": {"in": 15, "kept": 13, "nsfw": 2, "expanded": 3},
                "source_records": 33,
            },
            [],
        ),
    ],
)
def test_counts_follow_from_the_step_before(tmp_path: Path, changes: dict[str, Any], texts: list[str]) -> None:
    before = manifest(tmp_path / "raw", RAW)
    after = manifest(tmp_path / "captions", {"0000": 4, "0001": 5}, **changes)
    found = count_problems(tmp_path, before, after, ("raw", "captions"))
    assert len(found) == len(texts), found
    assert all(text in what for text, what in zip(texts, found, strict=True))


def test_partitions_and_encoders_are_those_of_the_step_before(tmp_path: Path) -> None:
    before = manifest(tmp_path / "raw", {"0000": 6, "0002": 6})
    after = manifest(tmp_path / "captions", {"0000": 4, "0001": 5})
    (what,) = count_problems(tmp_path, before, after, ("raw", "captions"))
    assert what == "its partitions are not those of raw: 0001, 0002"
    before = manifest(tmp_path / "latents", {"0000": 6})
    after = manifest(tmp_path / "shards", {"256/a.mds": 6})
    assert count_problems(tmp_path, before, after, ("latents", "shards")) == []
    after = manifest(tmp_path / "shards", {"256/a.mds": 6}, encoders={"a": 2})
    assert count_problems(tmp_path, before, after, ("latents", "shards")) == [
        "its encoders are not those of the latents"
    ]


# What all of it rests on.


def test_collections_in_any_order() -> None:
    def of(*letters: str) -> Multiset:
        found = Multiset()
        for letter in letters:
            found.add(digest_key(letter))
        return found

    assert of("a", "b", "b") == of("b", "a", "b")
    assert of("a", "b", "b") != of("a", "a", "b")
    zero, none = Multiset(), Multiset()
    zero.add(bytes(16))
    assert zero != none  # a thing whose digest is zero is a thing
    zero.merge(of("a"))
    assert (zero.number, zero.total) == (2, of("a").total)


def test_digests_keep_apart_what_is_apart() -> None:
    assert digest_rows([("a", "bc")]) != digest_rows([("ab", "c")])
    assert digest_rows([("a",), ("b",)]) != digest_rows([("b",), ("a",)])
    assert digest_values({"a": b"12", "b": b"3"}) == digest_values({"b": b"3", "a": b"12"})
    assert digest_values({"a": b"12", "b": b"3"}) != digest_values({"a": b"1", "b": b"23"})
    assert digest_values({"a": b"1", "b": b"2"}) != digest_values({"a": b"2", "b": b"1"})
    assert digest_values({"a": b"1"}) != digest_values({"b": b"1"})
    drawn = sum(is_drawn(digest_key(str(number)), 1 / 16) for number in range(4000))
    assert 150 < drawn < 350
    assert is_drawn(b"\xff" * 16, 1.0)
    assert not is_drawn(bytes(16), 0.0)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (Expected(), None),
        (Expected(3, "sha", "md5"), None),
        (Expected(4, "sha", "md5"), "it has 3 bytes, expected 4"),
        (Expected(None, "0" * 64, "md5"), "sha256"),
        (Expected(3, "sha", "0" * 32), None),  # another version, and whole: said of the artifact as such
        (Expected(3, None, "0" * 32), "md5"),
        (Expected(None, None, "md5"), None),
    ],
)
def test_files_are_what_is_recorded(tmp_path: Path, expected: Expected, text: str | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    sha256 = digest_file(path) if expected.sha256 == "sha" else expected.sha256
    md5 = md5_of(path) if expected.md5 == "md5" else expected.md5
    findings = Findings("coco", "raw", "0000")
    check_files(tmp_path, {"file": Expected(expected.num_bytes, sha256, md5)}, findings)
    assert [text in each.what for each in findings.problems] == ([] if text is None else [True])
    assert findings.damaged == (set() if text is None else {"file"})
    assert (findings.num_bytes, findings.md5) == (3, {"file": md5_of(path)})


# Between artifacts.


def test_keys_of_two_partitions_are_named(tmp_path: Path) -> None:
    found = []
    for name, keys in {"0000": "abcd", "0001": "efgh", "0002": "ibjf"}.items():
        rows = [{**row, "key": key} for row, key in zip(raw_rows(), keys, strict=True)]
        write_table(tmp_path / f"{name}.parquet", RAW_SCHEMA, rows)
        findings = Findings("coco", "raw", name)
        findings.keys = hashes(digest_key(key) for key in keys)
        found.append(findings)
    twice = check_keys(found)
    assert len(twice) == 2
    told = [(each.file, each.key, each.what) for each in name_duplicates(tmp_path, found, twice)]
    assert told == [
        ("0002.parquet", "b", "partition 0000 has the same key"),
        ("0002.parquet", "f", "partition 0001 has the same key"),
    ]
    assert check_keys(found[:2]) == check_keys([]) == set()


def captions_of(rows: Rows, folder: Path) -> Findings:
    write_table(folder / "0000.parquet", CAPTIONS_SCHEMA, rows)
    return check_captions(folder, "0000", {}, NOBODY, "coco", NullReporter())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda rows: rows, None),
        (lambda rows: changed(rows, 1, sha256="0" * 64), "b"),
        (lambda rows: changed(rows, 2, width=1), "d"),
        (lambda rows: changed(rows, 2, height=1), "d"),
        (lambda rows: [rows[1], rows[0], rows[2]], "b"),
        (lambda rows: rows[:2], "d"),
        (lambda rows: [*rows, {**rows[0], "key": "e", "image_key": "e"}], "e"),
        (lambda rows: [*rows[:1], {**rows[0], "key": "a2"}, *rows[1:]], None),  # another caption of the picture
    ],
)
def test_rows_that_went_out_are_those_that_came_in(tmp_path: Path, change: Callable[[Rows], Rows], key: str) -> None:
    folders = {"raw": tmp_path / "raw", "captions": tmp_path / "captions"}
    for folder in folders.values():
        folder.mkdir()
    raw = raw_findings(folders["raw"], raw_rows(), pictures("a", "b", "d"), NOBODY)
    kept = [row for row in raw_rows() if row["status"] == "kept"]
    rows = [{**row, "image_key": row["key"], "caption": f"cat {row['key']}", "status": "nsfw"} for row in kept]
    captions = captions_of([{**row, "captions": []} for row in change(rows)], folders["captions"])
    problems = list(compare_rows(folders, [raw], [captions]))
    assert [(each.kind, each.file, each.key) for each in problems] == (
        [("captions", "0000.parquet", key)] if key else []
    )
    assert all("its rows are not those that raw kept" in each.what for each in problems)


class Pair:
    """A partition of latents, and a shard of its kept samples; tests change one of them."""

    def __init__(self, root: Path) -> None:
        self.folders = {"latents": root / "latents", "shards": root / "shards"}
        for folder in self.folders.values():
            folder.mkdir(parents=True)
        self.latents = Latents()
        without_rows("latents_32", "b")(self.latents)
        self.samples = [
            {
                "key": key.encode(),
                "caption": f"cat {key}".encode(),
                "width": (300 + n).to_bytes(4, "little"),
                "height": (400).to_bytes(4, "little"),
                **{
                    name: self.latents.values[name][keys.index(key)].tobytes()
                    for name, keys in self.latents.keys.items()
                    if keys
                },
            }
            for n, key in enumerate(("a", "b"))
        ]

    def compare(self, change: Callable[[Findings, Findings], None] | None = None) -> list[tuple[str, str, str]]:
        columns = {
            **{name: COLUMNS[name] for name in ("key", "caption", "width", "height", "latents_16")},
            "caption_latents": "ndarray:float16:3,2",
            "caption_latents_b": "ndarray:uint16:2,2",
            "caption_mask_b": "ndarray:uint8:2",
        }
        write_shards(self.folders["shards"], {"16": self.samples}, columns=columns)
        latents, shards = self.latents.check(self.folders["latents"]), shard_findings(self.folders["shards"])
        if change is not None:
            change(latents, shards)
        same = [total_of([latents], what) == total_of([shards], what) for what in ("samples", "values")]
        problems = [(each.kind, each.key, each.what) for each in compare_values(self.folders, [latents], [shards])]
        assert all(same) == (not problems) or change is not None
        return problems


def test_shards_hold_what_the_latents_say(tmp_path: Path) -> None:
    assert Pair(tmp_path / "same").compare() == []
    for name in ("caption", "width", "height", "latents_16", "caption_latents", "caption_latents_b", "caption_mask_b"):
        pair = Pair(tmp_path / name)
        data = pair.samples[1][name]
        pair.samples[1][name] = data[:-1] + bytes([data[-1] ^ 1])
        assert pair.compare() == [("shards", "b", "its values are not those of the latents")], name


def test_shards_hold_all_samples_of_the_latents_and_no_others(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "fewer")
    del pair.samples[0]
    assert pair.compare() == [("shards", "a", "no shard has this sample")]
    pair = Pair(tmp_path / "more")
    pair.samples.append({**pair.samples[0], "key": b"e"})
    assert pair.compare() == [("shards", "e", "the latents have no such sample")]
    pair = Pair(tmp_path / "renamed")
    pair.samples[1] = {**pair.samples[1], "key": b"z"}
    assert sorted(pair.compare()) == [
        ("shards", "b", "no shard has this sample"),
        ("shards", "z", "the latents have no such sample"),
    ]


def test_what_could_not_be_read_is_not_missed(tmp_path: Path) -> None:
    def latents_unread(latents: Findings, _: Findings) -> None:
        latents.is_complete = False

    def shards_unread(_: Findings, shards: Findings) -> None:
        shards.is_complete = False

    pair = Pair(tmp_path / "more")
    pair.samples.append({**pair.samples[0], "key": b"e"})
    assert pair.compare(latents_unread) == []
    pair = Pair(tmp_path / "fewer")
    del pair.samples[0]
    assert pair.compare(shards_unread) == []


def test_damaged_latents_are_blamed_for_values_that_differ(tmp_path: Path) -> None:
    def latents_damaged(latents: Findings, _: Findings) -> None:
        latents.damaged.add("0000.text.safetensors")

    def shard_damaged(_: Findings, shards: Findings) -> None:
        shards.damaged.add("16/shard.00000.mds")

    for number, (change, blamed) in enumerate([(latents_damaged, "latents"), (shard_damaged, "shards")]):
        pair = Pair(tmp_path / str(number))
        pair.samples[1]["caption_latents"] = bytes(12)
        ((kind, key, what),) = pair.compare(change)
        assert (kind, key) == (blamed, "b")
        assert what == f"its values are not those {'in the shards' if blamed == 'latents' else 'of the latents'}"
