"""What only a CUDA device can show: its numbers, its memory, compiled models, and pinned batches."""

import tarfile
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPO, sample_preset
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.encode.device_queue import DeviceQueue
from microdiff.encode.image_latents import write_image_latents
from microdiff.models.device import device
from microdiff.models.image_encoder import ImageEncoder
from microdiff.models.text_encoder import TextEncoder
from microdiff.pipeline.parsing import parse
from tests import tiny_models
from tests.reporters import Said
from tests.shard_factory import write_shard_set
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

IMAGES = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
KEYS = ["one", "two"]
CAPTIONS = ["a bee on the flower", "", "the sea at night " * 40, "red"]


def sample_image_settings(**changes: Any) -> ImageEncoderSettings:
    document = {**sample_preset()["encode"]["image"], "model": str(REPO / "samples/models/vae"), **changes}
    settings = parse(ImageEncoderSettings, document, "encode.image", [])
    assert settings is not None
    return settings


def write_pictures(folder: Path, num_pictures: int) -> None:
    dice = np.random.default_rng(3)
    with tarfile.open(folder / "0000.tar", "w") as tar:
        for number in range(num_pictures):
            picture, data = Image.fromarray(dice.integers(0, 256, (16, 16, 3), dtype=np.uint8)), BytesIO()
            picture.resize((288, 256)).save(data, "JPEG")
            member = tarfile.TarInfo(f"key{number}.jpg")
            member.size = len(data.getvalue())
            tar.addfile(member, BytesIO(data.getvalue()))


def written(raw: Path, into: Path, settings: ImageEncoderSettings) -> bytes:
    into.mkdir()
    write_image_latents(raw / "0000.tar", "0000", settings, into, Said())
    return (into / "0000.image.safetensors").read_bytes()


def test_image_latents_are_those_of_the_cpu(tmp_path: Path) -> None:
    vae = tiny_models.save_vae(tmp_path, **tiny_models.FOUR_CHANNELS)
    with torch.inference_mode():
        pixels = IMAGES.permute(0, 3, 1, 2) / 127.5 - 1
        expected = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    found = ImageEncoder(tiny_models.image_settings(tmp_path, latents="mode")).encode(IMAGES, KEYS)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["clip", "t5", "openclip"])
def test_caption_latents_are_those_of_the_cpu(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: TextEncoderSettings = tiny_models.text_settings(tiny_models.save(family, tmp_path))
    encoder = TextEncoder(settings)
    tokens = encoder.tokenize(CAPTIONS)
    found = encoder.encode(tokens)
    assert found.device.type == "cuda"
    monkeypatch.setattr("microdiff.models.frozen.device", lambda: torch.device("cpu"))
    torch.testing.assert_close(found.cpu(), TextEncoder(settings).encode(tokens), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_compiled_models_give_nearly_the_same_batch_after_batch(tmp_path: Path, cuda_graphs: bool) -> None:
    tiny_models.save_vae(tmp_path, **tiny_models.FOUR_CHANNELS)
    plain = ImageEncoder(tiny_models.image_settings(tmp_path, batch_size=2))
    compiled = ImageEncoder(tiny_models.image_settings(tmp_path, batch_size=2, compile=True, cuda_graphs=cuda_graphs))
    batches = [IMAGES, 255 - IMAGES, IMAGES.flip(0), IMAGES[:1]]
    kept = [compiled.encode(batch, KEYS[: len(batch)]) for batch in batches]  # none is written over by the next
    for batch, latents in zip(batches, kept, strict=True):
        torch.testing.assert_close(latents, plain.encode(batch, KEYS[: len(batch)]), atol=1e-3, rtol=0)


def test_a_partition_has_the_same_bytes_alone_and_beside_others(tmp_path: Path) -> None:
    write_pictures(tmp_path, 40)
    settings = sample_image_settings(batch_size=8)
    alone = written(tmp_path, tmp_path / "alone", settings)
    beside: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: beside.append(written(tmp_path, tmp_path / str(n), settings)))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert beside == [alone] * 3


def test_a_batch_too_large_for_the_memory_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path, 64)
    queue = DeviceQueue()
    monkeypatch.setattr("microdiff.encode.device_queue.QUEUE", queue)
    settings, heard = sample_image_settings(batch_size=64, resolutions=[256]), Said()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = written(tmp_path, tmp_path / "whole", settings)
    share = torch.cuda.max_memory_allocated() * 0.6 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        (tmp_path / "less").mkdir()
        result = write_image_latents(tmp_path / "0000.tar", "0000", settings, tmp_path / "less", heard)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.counts == {"in": 64, "kept": 64}
    assert "out of memory with 64 samples at once; going on with 32" in heard.messages[0]
    assert len((tmp_path / "less/0000.image.safetensors").read_bytes()) == len(whole)


def test_rows_come_back_in_pinned_memory_with_their_times(tmp_path: Path) -> None:
    class Batch:
        label = "twice"

        def __init__(self, rows: torch.Tensor) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def part(self, rows: Any) -> "Batch":
            return Batch(self.rows[rows])

        def encode(self, *, precise: bool) -> torch.Tensor:
            return self.rows.to(device(), non_blocking=True) * 2

    queue, heard = DeviceQueue(), Said()
    futures = [queue.submit(Batch(torch.full((4, 3), float(n))), torch.float16, heard) for n in range(50)]
    for number, future in enumerate(futures):
        encoded = future.result(PATIENCE_S)
        assert encoded.rows.is_pinned()
        rows, finite = encoded.wait(heard)
        assert finite.all()
        assert (rows == 2 * number).all()
    assert len(heard.times) == 50
    assert all(busy > 0 and idle >= 0 for busy, idle in heard.times)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_the_loader_are_pinned_and_arrive_whole(tmp_path: Path, num_workers: int) -> None:
    from microdiff import build_streaming_latents_dataloader

    samples = write_shard_set(tmp_path / "coco/shards")
    options: dict[str, Any] = {"columns": ("key",), "drop_last": False, "pin_memory": True}
    loader = build_streaming_latents_dataloader(str(tmp_path / "coco/shards"), 4, num_workers=num_workers, **options)
    for _ in range(3):
        on_device = []
        for batch in loader:
            assert batch["image_latents"].is_pinned()
            assert batch["caption_latents"].is_pinned()
            on_device.append((batch["key"], batch["image_latents"].to("cuda", non_blocking=True)))
        for keys, latents in on_device:
            expected = np.stack([samples[key]["latents_256"] for key in keys])
            assert np.array_equal(latents.cpu().numpy(), expected)
