"""The encoders against the libraries' own forward passes, and what the encode step does with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import REPO, sample_preset
from microdiff import caption_latents, image_encoder, image_latents, text_encoder
from microdiff.errors import ParamsError
from microdiff.images import store_image
from microdiff.latents import LatentsFile
from microdiff.model_files import model_digest
from microdiff.params import parse
from microdiff.pixels import centre_crop, decode
from microdiff.progress import Silent
from microdiff.raw_reader import read_images
from microdiff.settings import DownloadSettings, ImageEncoderSettings, TextEncoderSettings

ENCODE = sample_preset()["encode"]


def image_settings(**changes: Any) -> ImageEncoderSettings:
    problems: list[str] = []
    settings = parse(ImageEncoderSettings, {**ENCODE["image"], **changes}, "encode.image", problems)
    assert settings is not None, problems
    return settings


def text_settings(**changes: Any) -> TextEncoderSettings:
    problems: list[str] = []
    settings = parse(TextEncoderSettings, {**ENCODE["text"], **changes}, "encode.text", problems)
    assert settings is not None, problems
    return settings


@pytest.fixture(scope="module")
def photographs() -> NDArray[np.uint8]:
    """uint8 (8, 256, 256, 3): pictures of the COCO miniature."""
    import zipfile

    settings = DownloadSettings(min_side_px=256, max_side_px=512, jpeg_quality=95)
    pictures = []
    with zipfile.ZipFile(REPO / "samples/coco/zips/val2014.zip") as archive:
        for name in sorted(archive.namelist()):
            stored = store_image(archive.read(name), settings) if name.endswith(".jpg") else None
            if stored is not None and hasattr(stored, "data"):
                pictures.append(np.asarray(centre_crop(decode(stored.data), 256)))
    return np.stack(pictures[:8])


@torch.inference_mode()
def test_image_latents_are_the_librarys_times_the_scaling_factor(photographs: NDArray[np.uint8]) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(REPO / ENCODE["image"]["model"], low_cpu_mem_usage=False).eval()
    pixels = torch.from_numpy(photographs).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = (vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor).numpy()
    found = image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs, [""] * 8)
    assert found.dtype == np.float32
    assert found.shape == (8, 4, 32, 32)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_samples_are_drawn_from_seed_and_key_alone(photographs: NDArray[np.uint8]) -> None:
    keys = [f"key{n}" for n in range(8)]
    encoder = image_encoder.ImageEncoder(image_settings())
    together = encoder.encode(photographs, keys)
    alone = np.concatenate([encoder.encode(photographs[n : n + 1], keys[n : n + 1]) for n in reversed(range(8))])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    other_key = encoder.encode(photographs[:1], ["other"])
    other_seed = image_encoder.ImageEncoder(image_settings(seed=1)).encode(photographs[:1], keys[:1])
    mode = image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs[:1], keys[:1])
    for other in (other_key, other_seed, mode):
        assert np.abs(other - together[:1]).max() > 1e-3


def test_noise_is_standard_normal_and_its_own_for_every_key() -> None:
    noise = np.stack([image_encoder.noise_for(1, f"key{n}", (4, 32, 32)) for n in range(50)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    correlation = np.corrcoef(noise.reshape(50, -1)) - np.eye(50)
    assert np.abs(correlation).max() < 0.1


@torch.inference_mode()
def test_decoded_latents_are_the_photographs(photographs: NDArray[np.uint8]) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(REPO / ENCODE["image"]["model"], low_cpu_mem_usage=False).eval()
    latents = (
        image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs, [""] * 8).astype(np.float16)
    )
    pixels = vae.decode(torch.from_numpy(latents).float() / vae.config.scaling_factor).sample
    decoded = ((pixels.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    error = ((decoded - photographs) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / error)).mean() > 22


@torch.inference_mode()
def test_caption_latents_are_the_librarys_last_hidden_state() -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = REPO / ENCODE["text"]["model"]
    captions = ["A bee on a flower.", "", "many words " * 60]
    tokens = CLIPTokenizer.from_pretrained(folder)(captions, padding="max_length", truncation=True, return_tensors="pt")
    expected = CLIPTextModel.from_pretrained(folder).eval()(input_ids=tokens.input_ids).last_hidden_state.numpy()
    found = text_encoder.TextEncoder(text_settings()).encode(captions)
    assert found.shape == (3, 77, 64)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@torch.inference_mode()
def test_an_open_clip_tower_gives_its_states_after_ln_final() -> None:
    from open_clip import CLIP

    text = {"context_length": 77, "vocab_size": 512, "width": 32, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    model = CLIP(32, {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}, text).eval()
    ids = torch.randint(1, 500, (3, 77))
    ids[:, 9:] = 0
    ids[:, 8] = 511
    states: list[torch.Tensor] = []
    hook = model.ln_final.register_forward_hook(lambda module, inputs, output: states.append(output))
    model.encode_text(ids)
    hook.remove()
    found = text_encoder.open_clip_text_tower(model, torch.float32)(ids)
    assert found.shape == (3, 77, 32)
    torch.testing.assert_close(found, states[0])


def test_descriptions_say_what_a_reader_needs() -> None:
    image = image_encoder.ImageEncoder(image_settings()).description
    text = text_encoder.TextEncoder(text_settings()).description
    assert image["revision"] == ENCODE["image"]["revision"]
    assert (image["channels"], image["downsampling"], image["stored_dtype"]) == (4, 8, "float16")
    assert image["scaling_factor"] > 0
    assert (text["tokens"], text["width"], text["tokenizer"]) == (77, 64, "CLIPTokenizer")


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "vae"
    shutil.copytree(REPO / ENCODE["image"]["model"], folder)
    settings = image_settings(model=str(folder))
    assert model_digest(settings) == ENCODE["image"]["revision"]  # wherever the folder is
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ParamsError, match=r"expected the model sha256:.*found sha256:"):
        model_digest(settings)
    with pytest.raises(ParamsError, match="no model there"):
        model_digest(image_settings(model=str(tmp_path / "none"), revision=None))


class CountingImageEncoder:
    """Stands in for a VAE: notes what it is asked, and gives NaN for pictures whose key says so."""

    description: dict[str, Any] = {"model": "counting"}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str]]] = []

    def encode(self, images: NDArray[np.uint8], keys: Sequence[str]) -> NDArray[np.float32]:
        assert images.dtype == np.uint8
        self.calls.append((images.shape[1], list(keys)))
        latents = np.stack(
            [np.full((4, images.shape[1] // 8, images.shape[1] // 8), images[n].mean()) for n in range(len(keys))]
        )
        for row, key in zip(latents, keys, strict=True):
            row[...] = {"nan": np.nan, "huge": 1e6}.get(key, row[0, 0, 0])
        return latents.astype(np.float32)


def write_tar(folder: Path, pictures: dict[str, bytes]) -> None:
    import io
    import tarfile

    with tarfile.open(folder / "0000.tar", "w") as tar:
        for key, data in pictures.items():
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def jpeg(width: int, height: int) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 7)).save(out, "JPEG")
    return out.getvalue()


def test_pictures_are_encoded_once_in_full_batches_where_they_have_the_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"a": (640, 512), "b": (300, 256), "c": (512, 512), "nan": (400, 300), "e": (511, 700), "huge": (600, 600)}
    pictures = {key: jpeg(*size) for key, size in sizes.items()}
    pictures["broken"] = pictures["a"][:200]
    write_tar(tmp_path, pictures)
    assert [each.key for each in read_images(tmp_path, "0000")] == list(pictures)
    encoder = CountingImageEncoder()
    monkeypatch.setattr(image_encoder, "image_encoder", lambda settings: encoder)
    settings = dataclasses.replace(image_settings(), batch_size=2)
    result = image_latents.write_image_latents(tmp_path, "0000", settings, tmp_path, Silent())

    assert encoder.calls == [
        (256, ["a", "b"]),
        (512, ["a", "c"]),
        (256, ["c", "nan"]),
        (256, ["e", "huge"]),
        (512, ["huge"]),
    ]
    assert result.counts == {"in": 7, "kept": 4, "non_finite": 2, "undecodable": 1}
    file = LatentsFile(tmp_path / "0000.image.safetensors")
    assert file.rejected == {"nan": "non_finite", "huge": "non_finite", "broken": "undecodable"}
    assert file.keys("latents_256") == ["a", "b", "c", "e"]
    assert file.keys("latents_512") == ["a", "c"]
    assert file.rows("latents_512").shape == (2, 4, 64, 64)


def test_each_distinct_caption_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microdiff.choose import SCHEMA
    from microdiff.rows import new_table

    captions = {"a": "one", "b": "two", "c": "one", "d": "bad", "e": "three", "f": "two"}
    with new_table(tmp_path / "0000.parquet", SCHEMA) as add_row:
        for key, caption in captions.items():
            add_row(
                {
                    "key": key,
                    "status": "kept",
                    "caption": caption,
                    "captions": [],
                    "original": "",
                    "width": 1,
                    "height": 1,
                }
            )
        add_row(
            {
                "key": "g",
                "status": "empty_caption",
                "caption": "",
                "captions": [],
                "original": "",
                "width": 1,
                "height": 1,
            }
        )

    class Counting:
        description: dict[str, Any] = {}  # noqa: RUF012 - never changed
        asked: list[list[str]] = []  # noqa: RUF012 - one test, one class

        def encode(self, batch: Sequence[str]) -> NDArray[np.float32]:
            self.asked.append(list(batch))
            return np.stack([np.full((3, 2), np.inf if text == "bad" else len(text)) for text in batch]).astype(
                np.float32
            )

    monkeypatch.setattr(text_encoder, "text_encoder", lambda settings: Counting())
    settings = dataclasses.replace(text_settings(), batch_size=3)
    result = caption_latents.write_caption_latents(tmp_path, "0000", settings, tmp_path, Silent())
    assert Counting.asked == [["one", "two", "bad"], ["three"]]
    assert result.counts == {"in": 6, "kept": 5, "non_finite": 1}
    file = LatentsFile(tmp_path / "0000.text.safetensors")
    assert file.keys("caption_latents") == ["a", "b", "c", "e", "f"]
    assert file.rows("caption_latents")[:, 0, 0].tolist() == [3, 3, 3, 5, 3]
    assert file.rejected == {"d": "non_finite"}
