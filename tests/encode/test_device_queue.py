"""How the encode step feeds its device: batches, retries, memory, order, and what is never computed twice."""

import io
import itertools
import tarfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import sample_preset
from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.raw import read_images
from microdiff.artifacts.tables import table_writer
from microdiff.clean.policy import SCHEMA
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.core.ledger import Result
from microdiff.core.prefetch import num_threads
from microdiff.encode import device_queue, image_latents
from microdiff.encode.caption_latents import write_caption_latents
from microdiff.encode.device_queue import DEPTH, DeviceQueue
from microdiff.encode.image_latents import write_image_latents
from microdiff.errors import StepError
from microdiff.images.crops import center_crops
from microdiff.models import image_encoder, text_encoder
from microdiff.models.text_encoder import Tokens
from microdiff.pipeline.parsing import parse
from tests.reporters import Said
from tests.waiting import PATIENCE_S

ENCODE = sample_preset()["encode"]
CPU = torch.device("cpu")


def image_settings(**changes: Any) -> ImageEncoderSettings:
    settings = parse(ImageEncoderSettings, {**ENCODE["image"], **changes}, "encode.image", [])
    assert settings is not None
    return settings


def text_settings(**changes: Any) -> TextEncoderSettings:
    settings = parse(TextEncoderSettings, {**ENCODE["text"]["caption_latents"], **changes}, "encode.text", [])
    assert settings is not None
    return settings


def ramp(*shape: int) -> Tensor:
    """Return numbers from 0 to below the first side, no two of them equal: nothing can be swapped unseen."""
    numbers = torch.arange(float(np.prod(shape)))
    return numbers.reshape(shape) * shape[0] / len(numbers)


class FakeVae:
    """Notes what it is asked; what it answers depends on the key and the picture, and differs everywhere.

    Args:
        fits: Pictures that its memory has room for.
    """

    description: dict[str, Any] = {"model": "fake"}  # noqa: RUF012 - never changed
    device = CPU

    def __init__(self, fits: int | None = None) -> None:
        self.fits = fits
        self.calls: list[tuple[int, list[str], bool]] = []

    def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        assert images.dtype == torch.uint8
        assert len(images) == len(keys)
        side = images.shape[1]
        self.calls.append((side, list(keys), precise))
        assert len(self.calls) < 100, "it goes on for ever"
        if self.fits is not None and len(keys) > self.fits:
            raise torch.OutOfMemoryError("fake")
        values = [self.value(key, images[place], precise) for place, key in enumerate(keys)]
        return torch.tensor(values)[:, None, None, None] + ramp(4, side // 8, side // 8)

    def value(self, key: str, image: Tensor, precise: bool) -> float:
        odd = {"nan": np.nan, "huge": 1e6, "once": 0.5 if precise else np.nan}
        return odd.get(key, float(image.float().mean()))


class FakeTower:
    """A text encoder whose answer is the length of the caption, and a little more for later tokens."""

    description: dict[str, Any] = {"model": "fake"}  # noqa: RUF012 - never changed
    device = CPU

    def __init__(self, masked: bool = False, fits: int | None = None) -> None:
        self.masked = masked
        self.fits = fits
        self.asked: list[list[int]] = []

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        lengths = torch.tensor([-1 if text == "bad" else len(text) for text in captions])
        mask = (torch.arange(3) < lengths[:, None] - 2).to(torch.uint8)
        return Tokens(lengths[:, None].expand(-1, 3), mask if self.masked else None)

    def encode(self, tokens: Tokens, *, precise: bool = False) -> Tensor:
        self.asked.append(tokens.ids_BT[:, 0].tolist())
        assert tokens.mask_BT is None or tokens.mask_BT.shape == tokens.ids_BT.shape
        if self.fits is not None and len(tokens.ids_BT) > self.fits:
            raise torch.OutOfMemoryError("fake")
        values = tokens.ids_BT[:, :, None] + ramp(3, 2) / 8
        return values.where(values > 0, torch.inf)


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> DeviceQueue:
    """A device of its own for each test: the process's remembers what fitted."""
    fresh = DeviceQueue()
    monkeypatch.setattr(device_queue, "QUEUE", fresh)
    return fresh


@pytest.fixture
def use_vae(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    def use(vae: Any) -> Any:
        monkeypatch.setattr(image_encoder, "image_encoder", lambda settings: vae)
        return vae

    return use


def jpeg(width: int, height: int, blue: int = 7) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, blue)).save(out, "JPEG")
    return out.getvalue()


def write_tar(folder: Path, pictures: dict[str, bytes], name: str = "0000") -> None:
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for key, data in pictures.items():
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def encode_keys(
    folder: Path, keys: Sequence[str], report: Said | None = None, **changes: Any
) -> tuple[Result, LatentsFile]:
    """Encode small pictures with these keys."""
    write_tar(folder, {key: jpeg(64, 64, blue=7 + place) for place, key in enumerate(keys)})
    settings = image_settings(**{"resolutions": [64], **changes})
    result = write_image_latents(folder / "0000.tar", "0000", settings, folder, report or Said())
    return result, LatentsFile(folder / "0000.image.safetensors")


# --- batches


def test_pictures_are_encoded_once_in_full_batches_where_they_have_the_resolution(
    tmp_path: Path, use_vae: Callable[[Any], Any]
) -> None:
    sizes = {"a": (640, 512), "b": (300, 256), "c": (512, 512), "nan": (400, 300), "e": (511, 700), "huge": (600, 600)}
    pictures = {key: jpeg(*size) for key, size in sizes.items()}
    pictures["broken"] = pictures["a"][:200]
    write_tar(tmp_path, pictures)
    assert [each.key for each in read_images(tmp_path / "0000.tar")] == list(pictures)
    vae, heard = use_vae(FakeVae()), Said()
    result = write_image_latents(tmp_path / "0000.tar", "0000", image_settings(batch_size=2), tmp_path, heard)

    assert [call[:2] for call in vae.calls if not call[2]] == [
        (256, ["a", "b"]),
        (512, ["a", "c"]),
        (256, ["c", "nan"]),
        (256, ["e", "huge"]),
        (512, ["huge"]),
    ]
    assert sorted(call[:2] for call in vae.calls if call[2]) == [(256, ["huge"]), (256, ["nan"]), (512, ["huge"])]
    assert result.counts == {"in": 7, "kept": 4, "non_finite": 2, "undecodable": 1}
    assert heard.ticks == {"images": 7}
    assert heard.sizes == {"latents_256": 2, "latents_512": 2}
    file = LatentsFile(tmp_path / "0000.image.safetensors")
    assert file.rejected == {"nan": "non_finite", "huge": "non_finite", "broken": "undecodable"}
    assert file.keys("latents_256") == ["a", "b", "c", "e"]
    assert file.keys("latents_512") == ["a", "c"]
    assert file.rows("latents_512").shape == (2, 4, 64, 64)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0000.image.safetensors", "0000.tar"]


def test_a_partition_without_a_readable_picture_is_no_error(tmp_path: Path, use_vae: Callable[[Any], Any]) -> None:
    vae = use_vae(FakeVae())
    write_tar(tmp_path, {"a": b"", "b": b"GIF89a"})
    result = write_image_latents(tmp_path / "0000.tar", "0000", image_settings(), tmp_path, Said())
    assert result.counts == {"in": 2, "kept": 0, "undecodable": 2}
    assert vae.calls == []


# --- numbers


def test_a_sample_that_is_not_finite_is_computed_again_in_float32(
    tmp_path: Path, use_vae: Callable[[Any], Any]
) -> None:
    vae, heard = use_vae(FakeVae()), Said()
    result, file = encode_keys(tmp_path, ["a", "once", "nan", "b"], heard)
    assert vae.calls == [(64, ["a", "once", "nan", "b"], False), (64, ["once", "nan"], True)]
    assert result.counts == {"in": 4, "kept": 3, "non_finite": 1}
    assert file.keys("latents_64") == ["a", "once", "b"]
    assert file.rows("latents_64")[1, 0, 0, 0] == 0.5
    assert heard.messages == ["0000: 2 samples were not finite or did not fit float16; computed again in float32"]


@pytest.mark.parametrize(
    ("store", "rejected", "expected"),
    [
        ("float16", {"huge": "non_finite"}, []),
        ("float32", {}, [1e6]),
        ("bfloat16", {}, [torch.tensor(1e6).bfloat16().item()]),
    ],
)
def test_what_its_dtype_cannot_hold_is_rejected(
    tmp_path: Path, use_vae: Callable[[Any], Any], store: str, rejected: dict[str, str], expected: list[float]
) -> None:
    use_vae(FakeVae())
    _, file = encode_keys(tmp_path, ["a", "huge"], store=store)
    assert file.rejected == rejected
    rows = torch.from_numpy(np.array(file.rows("latents_64")))
    values = rows.view(torch.bfloat16).float() if store == "bfloat16" else rows.float()
    assert values[1:, 0, 0, 0].tolist() == expected
    assert 40 < values[0].mean() < 60


class Speckled(FakeVae):
    """Has a single value that is not finite in the latents of one sample."""

    def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        latents = super().encode(images, keys, precise=precise)
        latents[keys.index("speckled"), 2, 3, 1] = np.inf
        return latents


def test_a_single_value_that_is_not_finite_spoils_its_sample(tmp_path: Path, use_vae: Callable[[Any], Any]) -> None:
    vae = use_vae(Speckled())
    _, file = encode_keys(tmp_path, ["a", "speckled", "b"])
    assert [call[1:] for call in vae.calls] == [(["a", "speckled", "b"], False), (["speckled"], True)]
    assert file.rejected == {"speckled": "non_finite"}
    assert file.keys("latents_64") == ["a", "b"]


class FineOnly(FakeVae):
    """Has what is not finite in the finer of two resolutions alone."""

    def value(self, key: str, image: Tensor, precise: bool) -> float:
        return np.inf if key == "fine" and len(image) == 128 else super().value(key, image, precise)


def test_one_resolution_that_is_not_finite_spoils_its_sample(tmp_path: Path, use_vae: Callable[[Any], Any]) -> None:
    use_vae(FineOnly())
    write_tar(tmp_path, {key: jpeg(128, 128) for key in ("a", "fine", "b")})
    settings = image_settings(resolutions=[64, 128])
    result = write_image_latents(tmp_path / "0000.tar", "0000", settings, tmp_path, Said())
    file = LatentsFile(tmp_path / "0000.image.safetensors")
    assert file.rejected == {"fine": "non_finite"}
    assert (file.keys("latents_64"), file.keys("latents_128")) == (["a", "fine", "b"], ["a", "b"])
    assert result.counts == {"in": 3, "kept": 2, "non_finite": 1}


# --- memory


def test_out_of_memory_halves_the_batch_for_good(
    tmp_path: Path, use_vae: Callable[[Any], Any], queue: DeviceQueue
) -> None:
    keys = ["once", *(f"key{n}" for n in range(9))]
    vae, heard = use_vae(FakeVae(fits=3)), Said()
    result, file = encode_keys(tmp_path, keys, heard, batch_size=8)
    tried = [len(keys) for _, keys, precise in vae.calls if not precise]
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert heard.messages[:2] == [
        "latents_64: out of memory with 8 samples at once; going on with 4",
        "latents_64: out of memory with 4 samples at once; going on with 2",
    ]
    assert heard.sizes == {"latents_64": 2}
    assert result.counts == {"in": 10, "kept": 10}
    assert file.keys("latents_64") == keys
    assert queue.batch_size("latents_512", 8) == 8  # another size of pictures is another matter

    use_vae(FakeVae())
    (tmp_path / "other").mkdir()
    _, undisturbed = encode_keys(tmp_path / "other", keys, batch_size=8)
    np.testing.assert_array_equal(file.rows("latents_64"), undisturbed.rows("latents_64"))


class Wide(FakeVae):
    """Has room for one picture at a time where it computes in float32."""

    def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        self.fits = 1 if precise else None
        return super().encode(images, keys, precise=precise)


def test_float32_has_a_batch_size_of_its_own(tmp_path: Path, use_vae: Callable[[Any], Any], queue: DeviceQueue) -> None:
    vae, heard = use_vae(Wide()), Said()
    result, _ = encode_keys(tmp_path, ["nan", "once", "huge", "a", "b"], heard, batch_size=4)
    assert [keys for _, keys, precise in vae.calls if precise] == [["nan", "once", "huge"], ["nan"], ["once"], ["huge"]]
    assert [len(keys) for _, keys, precise in vae.calls if not precise] == [4, 1]
    assert (heard.sizes, queue.batch_size("latents_64", 4)) == ({"latents_64": 4}, 4)
    assert result.counts == {"in": 5, "kept": 3, "non_finite": 2}


def test_captions_are_halved_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, heard = FakeTower(masked=True, fits=2), Said()
    monkeypatch.setattr(text_encoder, "text_encoder", lambda settings: tower)
    write_captions(tmp_path, {f"key{n}": "x" * (n + 2) for n in range(5)})
    write_caption_latents(
        tmp_path / "0000.parquet", "0000", "caption_latents", text_settings(batch_size=5), tmp_path, heard
    )
    assert tower.asked == [[2, 3, 4, 5, 6], [2, 3], [4, 5], [6]]
    assert heard.sizes == {"caption_latents": 2}
    file = LatentsFile(tmp_path / "0000.text.safetensors")
    assert file.rows("caption_latents")[:, 0, 0].tolist() == [2, 3, 4, 5, 6]
    assert file.rows("caption_mask").sum(axis=1).tolist() == [0, 1, 2, 3, 3]


def test_a_single_sample_that_does_not_fit_is_an_error(tmp_path: Path, use_vae: Callable[[Any], Any]) -> None:
    use_vae(FakeVae(fits=0))
    with pytest.raises(StepError, match=r"latents_64: cpu has not enough memory for a single sample\. Free some of it"):
        encode_keys(tmp_path, ["a", "b", "c"])


class SlowStart(FakeVae):
    """Gives whoever reads ahead without a limit the time to do so, before the first batch."""

    def __init__(self, watch: Callable[[], int]) -> None:
        super().__init__()
        self.watch = watch

    def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        if not self.calls:
            before = -1
            while self.watch() != before:  # until nothing moves any more
                before = self.watch()
                time.sleep(0.2)  # a slower reader is not caught red-handed, but never blamed in vain
        return super().encode(images, keys, precise=precise)


@pytest.mark.parametrize("num_pictures", [60, 150])
def test_pictures_in_memory_do_not_grow_with_the_partition(
    tmp_path: Path, use_vae: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, num_pictures: int
) -> None:
    lock, batch_size = threading.Lock(), 4
    alive = most = read = 0

    def forget() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    def counted(data: bytes, resolutions: Sequence[int]) -> Any:
        nonlocal alive, most, read
        found = center_crops(data, resolutions)
        assert found is not None
        with lock:
            alive, read = alive + 1, read + 1
            most = max(most, alive)
        weakref.finalize(found[64], forget)
        return found

    monkeypatch.setattr(image_latents, "center_crops", counted)
    use_vae(SlowStart(lambda: read))
    result, _ = encode_keys(tmp_path, [f"key{n}" for n in range(num_pictures)], batch_size=batch_size)
    assert result.counts["kept"] == num_pictures
    decoded_ahead = 4 * num_threads()
    assert most <= decoded_ahead + 2
    assert alive == 0


def test_batches_wait_for_the_device(tmp_path: Path, use_vae: Callable[[Any], Any], queue: DeviceQueue) -> None:
    queued = 0
    submit = queue.submit

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal queued
        queued += 1
        return submit(*args, **options)

    queue.submit = counting  # type: ignore[method-assign]
    at_start: list[int] = []

    class Watching(SlowStart):
        def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
            latents = super().encode(images, keys, precise=precise)
            at_start.append(queued)
            return latents

    use_vae(Watching(lambda: queued))
    encode_keys(tmp_path, [f"key{n}" for n in range(40)], batch_size=2)
    assert at_start[0] == DEPTH + 1  # one is computed, the others wait
    assert all(number <= place + 2 + DEPTH for place, number in enumerate(at_start))


# --- one partition after another


def test_the_next_partition_is_decoded_while_the_device_computes(
    tmp_path: Path, use_vae: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_one_encoding, next_one_decoded = threading.Event(), threading.Event()

    class Waiting(FakeVae):
        def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
            if keys[0].startswith("first"):
                first_one_encoding.set()
                assert next_one_decoded.wait(60)
            return super().encode(images, keys, precise=precise)

    def noticing(data: bytes, resolutions: Sequence[int]) -> Any:
        if data == jpeg(72, 64):
            next_one_decoded.set()
        return center_crops(data, resolutions)

    monkeypatch.setattr(image_latents, "center_crops", noticing)
    vae = use_vae(Waiting())
    write_tar(tmp_path, {f"first{n}": jpeg(64, 64) for n in range(5)}, "0000")
    write_tar(tmp_path, {f"next{n}": jpeg(72, 64) for n in range(5)}, "0001")
    settings = image_settings(resolutions=[64], batch_size=5)
    results: dict[str, Result] = {}

    def unit(name: str) -> None:
        (tmp_path / f"out{name}").mkdir()
        results[name] = write_image_latents(tmp_path / f"{name}.tar", name, settings, tmp_path / f"out{name}", Said())

    first, following = (threading.Thread(target=unit, args=(name,)) for name in ("0000", "0001"))
    first.start()
    assert first_one_encoding.wait(60)  # the device is busy until the next partition has been decoded
    following.start()
    for thread in (first, following):
        thread.join(PATIENCE_S)
    assert {name: result.counts["kept"] for name, result in results.items()} == {"0000": 5, "0001": 5}
    assert len(vae.calls) == 2


def test_pictures_are_decoded_while_the_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = threading.Event()

    def loading(settings: Any) -> FakeVae:
        assert decoded.wait(60)
        return FakeVae()

    def noticing(data: bytes, resolutions: Sequence[int]) -> Any:
        decoded.set()
        return center_crops(data, resolutions)

    monkeypatch.setattr(image_encoder, "image_encoder", loading)
    monkeypatch.setattr(image_latents, "center_crops", noticing)
    assert encode_keys(tmp_path, ["a", "b"])[0].counts["kept"] == 2


def test_a_model_is_loaded_once_and_again_only_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    def loading(settings: Any) -> FakeVae:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StepError("the hub does not answer")
        return FakeVae()

    monkeypatch.setattr(image_encoder, "image_encoder", loading)
    with pytest.raises(StepError, match="does not answer"):
        encode_keys(tmp_path, ["a"])
    for name in ("second", "third"):
        (tmp_path / name).mkdir()
        assert encode_keys(tmp_path / name, ["a", "b"])[0].counts["kept"] == 2
    assert attempts == 2


def test_an_error_on_the_device_belongs_to_who_queued_the_batch(tmp_path: Path, use_vae: Callable[[Any], Any]) -> None:
    class Failing(FakeVae):
        def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
            if "bad" in keys:
                raise ValueError("a defect")
            return super().encode(images, keys, precise=precise)

    use_vae(Failing())
    with pytest.raises(ValueError, match="a defect"):
        encode_keys(tmp_path, ["a", "b", "bad", "d", "e"], batch_size=1)
    (tmp_path / "other").mkdir()
    assert encode_keys(tmp_path / "other", ["a", "b"])[0].counts["kept"] == 2


def test_times_of_the_device_add_up(monkeypatch: pytest.MonkeyPatch, queue: DeviceQueue) -> None:
    clock = iter(float(2**n) for n in itertools.count())
    monkeypatch.setattr(device_queue, "_mark", lambda: next(clock))

    class Batch:
        label = "latents_64"

        def __len__(self) -> int:
            return 1

        def part(self, rows: Any) -> "Batch":
            return self

        def encode(self, *, precise: bool) -> Tensor:
            return torch.zeros(1, 1)

    heard = Said()
    queue.load(lambda settings: None, "first").result(PATIENCE_S)  # ends at 1
    for _ in range(2):
        queue.submit(Batch(), torch.float32, heard).result(PATIENCE_S).wait(heard)
    queue.load(lambda settings: None, "second").result(PATIENCE_S)
    queue.submit(Batch(), torch.float32, heard).result(PATIENCE_S).wait(heard)
    #       1  idle  2  4  busy  8  idle  16  32  busy  64  idle  128  256 (loading)  idle  512  1024  busy  2048
    assert heard.times == [(8.0 - 4, 2.0 - 1), (64.0 - 32, 16.0 - 8), (2048.0 - 1024, 128.0 - 64 + 512 - 256)]


# --- captions


def write_captions(folder: Path, captions: dict[str, str], status: str = "kept") -> None:
    with table_writer(folder / "0000.parquet", SCHEMA) as add_row:
        for key, caption in captions.items():
            row = {"key": key, "status": "kept", "caption": caption, "captions": [], "original": ""}
            add_row({**row, "width": 1, "height": 1})
        row = {"key": "dropped", "status": "empty_caption", "caption": "", "captions": [], "original": ""}
        add_row({**row, "width": 1, "height": 1})


@pytest.mark.parametrize("masked", [False, True])
def test_each_distinct_caption_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    write_captions(tmp_path, {"a": "one", "b": "twos", "c": "one", "d": "bad", "e": "three", "f": "twos"})
    tower, heard = FakeTower(masked), Said()
    monkeypatch.setattr(text_encoder, "text_encoder", lambda settings: tower)
    column = "caption_latents_other"
    result = write_caption_latents(
        tmp_path / "0000.parquet", "0000", column, text_settings(batch_size=3), tmp_path, heard
    )
    assert tower.asked[:2] == [[3, 4, -1], [5]]
    assert tower.asked[2:] == [[-1]]  # again, in float32
    assert result.counts == {"in": 6, "kept": 5, "non_finite": 1}
    assert heard.ticks == {"captions": 6}
    file = LatentsFile(tmp_path / "0000.text_other.safetensors")
    assert file.names == [column, "caption_mask_other"][: 1 + masked]
    assert file.keys(column) == ["a", "b", "c", "e", "f"]
    assert file.rows(column)[:, 0, 0].tolist() == [3, 4, 3, 5, 4]
    if masked:
        assert file.keys("caption_mask_other") == file.keys(column)
        assert file.rows("caption_mask_other").tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert file.rejected == {"d": "non_finite"}
