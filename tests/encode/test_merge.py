"""What becomes of every sample when pictures' and captions' latents meet; no two samples are equal in anything."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from microdiff.artifacts.latents import Spool, TensorToWrite, write_latents
from microdiff.artifacts.tables import table_writer
from microdiff.clean.policy import SCHEMA
from microdiff.core.progress import NullReporter
from microdiff.encode.merge import write_merged


def write_file(path: Path, columns: dict[str, list[str]], rejected: dict[str, str]) -> Path:
    tensors = {}
    for column, keys in columns.items():
        spool = Spool(path.with_name(f"{column}.rows"))
        for _ in keys:
            spool.append(np.zeros(2, np.float16))
        tensors[column] = TensorToWrite(keys, spool)
    write_latents(path, tensors, {"model": path.name}, rejected)
    for tensor in tensors.values():
        tensor.rows.__exit__(None, None, None)
    return path


def test_every_sample_and_why(tmp_path: Path) -> None:
    samples = {  # status in the captions, and what is expected of it
        "p#1": ("kept", "kept"),
        "p#2": ("kept", "kept"),
        "q#1": ("kept", "kept"),  # without the larger resolution
        "r#1": ("kept", "too_small"),  # has neither
        "s#1": ("kept", "undecodable"),  # the picture's reason, though the caption has another
        "t#1": ("kept", "non_finite"),  # of the first encoder that refused it
        "t#2": ("kept", "damaged"),  # of the second one alone
        "u#1": ("nsfw", None),
        "v#1": ("kept", "non_finite"),  # the picture's at the larger resolution only
    }
    with table_writer(tmp_path / "0000.parquet", SCHEMA) as add_row:
        for number, (key, (status, _)) in enumerate(samples.items()):
            row = {"key": key, "status": status, "caption": f"cat {number}", "captions": [], "original": ""}
            add_row({**row, "image_key": key[0], "sha256": "", "width": 300 + number, "height": 400 + number})
    image = write_file(
        tmp_path / "image",
        {"latents_512": ["t", "p", "u", "s"], "latents_256": ["u", "t", "q", "p", "s", "v"]},
        {"s": "undecodable", "v": "non_finite"},
    )
    texts = {
        "caption_latents_z": write_file(
            tmp_path / "z", {"caption_latents_z": ["p#1"]}, {"t#1": "non_finite", "s#1": "non_finite"}
        ),
        "caption_latents": write_file(
            tmp_path / "first", {"caption_latents": ["p#1"]}, {"t#1": "damaged", "t#2": "damaged"}
        ),
    }
    (tmp_path / "out").mkdir()
    columns = {512: "latents_512", 256: "latents_256"}
    result = write_merged(tmp_path / "0000.parquet", "0000", image, texts, columns, tmp_path / "out", NullReporter())
    assert pq.read_table(tmp_path / "out/0000.parquet").to_pylist() == [
        {
            "key": key,
            "status": expected,
            "caption": f"cat {number}",
            "image_key": key[0],
            "width": 300 + number,
            "height": 400 + number,
        }
        for number, (key, (_, expected)) in enumerate(samples.items())
        if expected is not None
    ]
    rejected = {"damaged": 1, "non_finite": 2, "too_small": 1, "undecodable": 1}
    assert result.counts == {"in": 8, "kept": 3, **rejected, "with_512": 2, "with_256": 3}
    assert result.facts["encoders"] == {
        "image": {"model": "image"},
        "text": {"caption_latents_z": {"model": "z"}, "caption_latents": {"model": "first"}},
    }
