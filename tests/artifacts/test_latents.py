import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from microdiff.artifacts.latents import LatentsFile, Spool, TensorToWrite, write_latents
from microdiff.errors import SchemaError


def rows(count: int, shape: tuple[int, ...], dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(dtype)


def write(path: Path, rejected: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    small, large = rows(5, (4, 32, 32)), rows(2, (4, 64, 64))
    with Spool(path.with_name("a.rows")) as a, Spool(path.with_name("b.rows")) as b:
        for row in small:
            a.append(row)
        for row in large:
            b.append(row)
        tensors = {"latents_256": TensorToWrite(list("abcde"), a), "latents_512": TensorToWrite(["b", "d"], b)}
        write_latents(path, tensors, {"model": "tiny", "scaling_factor": 0.13}, rejected or {})
    return {"latents_256": small, "latents_512": large}


def test_the_safetensors_library_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "0000.image.safetensors"
    expected = write(path)
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) and found[name].dtype == np.float16 for name in found)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # spools are gone


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0000.image.safetensors"
    expected = write(path, {"c": "non_finite", "ключ": "undecodable"})
    file = LatentsFile(path)
    assert file.names == ["latents_256", "latents_512"]
    assert file.keys("latents_512") == ["b", "d"]
    assert file.keys("latents_1024") == []
    assert np.array_equal(file.rows("latents_512"), expected["latents_512"])
    assert file.encoder == {"model": "tiny", "scaling_factor": 0.13}
    assert file.rejected == {"c": "non_finite", "ключ": "undecodable"}


def test_rows_may_be_repeated_and_reordered(tmp_path: Path) -> None:
    path = tmp_path / "0000.text.safetensors"
    states = rows(3, (7, 8))
    with Spool(tmp_path / "rows") as spool:
        for row in states:
            spool.append(row)
        write_latents(path, {"caption_latents": TensorToWrite(list("wxyz"), spool, [2, 0, 2, 1])}, {}, {})
    assert np.array_equal(LatentsFile(path).rows("caption_latents"), states[[2, 0, 2, 1]])


def test_a_partition_without_samples_is_a_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "0000.image.safetensors"
    with Spool(tmp_path / "rows") as spool:
        write_latents(path, {"latents_256": TensorToWrite([], spool)}, {"model": "tiny"}, {"a": "undecodable"})
    file = LatentsFile(path)
    assert (file.names, file.keys("latents_256"), file.rejected) == ([], [], {"a": "undecodable"})
    assert load_file(path) == {}


@pytest.mark.parametrize(
    ("dtype", "in_torch"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("uint8", "uint8"), ("float16", "float16")],
)
def test_every_dtype_is_what_the_safetensors_library_reads(tmp_path: Path, dtype: str, in_torch: str) -> None:
    import torch
    from safetensors.torch import load_file as load_tensors

    values = torch.arange(24).reshape(3, 8).to(getattr(torch, in_torch))
    path = tmp_path / "0000.text.safetensors"
    with Spool(tmp_path / "rows", dtype) as spool, Spool(tmp_path / "masks", "uint8") as masks:
        for row in values:
            spool.append((row.view(torch.uint16) if dtype == "bfloat16" else row).numpy())
            masks.append(np.array([1, 0], np.uint8))
        write_latents(path, {"x": TensorToWrite(list("abc"), spool), "y": TensorToWrite(list("abc"), masks)}, {}, {})
    assert torch.equal(load_tensors(path)["x"], values)
    file = LatentsFile(path)
    assert (file.dtype("x"), file.dtype("y")) == (dtype, "uint8")
    assert file.rows("x").dtype == ("uint16" if dtype == "bfloat16" else dtype)
    assert file.rows("y").tolist() == [[1, 0]] * 3


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.safetensors")
    assert (tmp_path / "a/x.safetensors").read_bytes() == (tmp_path / "b/x.safetensors").read_bytes()


@pytest.mark.parametrize("row", [rows(1, (4, 32, 33))[0], rows(1, (4, 32, 32), "float32")[0]])
def test_a_row_of_another_form_is_refused(tmp_path: Path, row: np.ndarray) -> None:
    with Spool(tmp_path / "rows") as spool:
        spool.append(rows(1, (4, 32, 32))[0])
        with pytest.raises(ValueError, match=r"expected float16 \(4, 32, 32\)"):
            spool.append(row)


@pytest.mark.parametrize(
    ("cut", "why"),
    [(0, "empty"), (5, "in the length"), (40, "in the header"), (-1, "one byte short"), (-9000, "in data")],
)
def test_a_shortened_file_is_an_error_that_names_it(tmp_path: Path, cut: int, why: str) -> None:
    path = tmp_path / "0000.image.safetensors"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(SchemaError, match=r"0000\.image\.safetensors"):
        LatentsFile(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0000.image.safetensors"
    with pytest.raises(SchemaError, match="no such file"):
        LatentsFile(path)
    path.write_bytes(b"\xff" * 4096)
    with pytest.raises(SchemaError, match="not a latents file"):
        LatentsFile(path)


def test_values_lie_where_any_reader_may_map_them(tmp_path: Path) -> None:
    """Behind a header of a multiple of eight bytes, however long names are."""
    for length in range(9):
        path = tmp_path / str(length)
        with Spool(tmp_path / "rows", "float32") as spool:
            spool.append(np.zeros(2, np.float32))
            write_latents(path, {"x": TensorToWrite(["k" * length or "k"], spool)}, {"model": "m" * length}, {})
        assert LatentsFile(path).offset("x") % 8 == 0


def test_the_order_in_which_things_were_said_changes_no_byte(tmp_path: Path) -> None:
    for name, turn in (("a", list), ("b", lambda items: list(reversed(items)))):
        with Spool(tmp_path / "rows") as spool:
            spool.append(np.zeros(2, np.float16))
            tensors = turn([("x", TensorToWrite(["k"], spool)), ("y", TensorToWrite(["l"], spool))])
            encoder = turn([("model", "m"), ("dtype", "float16")])
            rejected = turn([("a", "non_finite"), ("b", "undecodable")])
            write_latents(tmp_path / name, dict(tensors), dict(encoder), dict(rejected))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("shape", [[5, 4, 32, 31], [4, 4, 32, 32], [6, 4, 32, 32]])
def test_a_header_that_does_not_fit_its_offsets_is_damage(tmp_path: Path, shape: list[int]) -> None:
    path = tmp_path / "0000.image.safetensors"
    write(path)
    data = path.read_bytes()
    assert data.count(b"[5,4,32,32]") == 1
    path.write_bytes(data.replace(b"[5,4,32,32]", json.dumps(shape, separators=(",", ":")).encode()))
    with pytest.raises(SchemaError, match="shorter than its header says"):
        LatentsFile(path)
