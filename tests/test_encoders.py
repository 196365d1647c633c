"""The encoders against the libraries' own forward passes, and what the encode step does with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import REPO, sample_preset
from microdiff import caption_latents, image_encoder, image_latents, text_encoder
from microdiff.errors import ParamsError
from microdiff.images import store_image
from microdiff.latents import LatentsFile
from microdiff.model_files import located
from microdiff.openclip_text import text_tower
from microdiff.params import parse
from microdiff.pixels import centre_crop, decode
from microdiff.progress import Silent
from microdiff.raw_reader import read_images
from microdiff.settings import DownloadSettings, ImageEncoderSettings, TextEncoderSettings
from microdiff.text_encoder import Tokens

ENCODE = sample_preset()["encode"]
TEXT = ENCODE["text"]["caption_latents"]


def image_settings(**changes: Any) -> ImageEncoderSettings:
    problems: list[str] = []
    settings = parse(ImageEncoderSettings, {**ENCODE["image"], **changes}, "encode.image", problems)
    assert settings is not None, problems
    return settings


def text_settings(**changes: Any) -> TextEncoderSettings:
    problems: list[str] = []
    settings = parse(TextEncoderSettings, {**TEXT, **changes}, "encode.text.caption_latents", problems)
    assert settings is not None, problems
    return settings


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """uint8 (8, 256, 256, 3): pictures of the COCO miniature."""
    import zipfile

    settings = DownloadSettings(min_side_px=256, max_side_px=512, jpeg_quality=95)
    pictures = []
    with zipfile.ZipFile(REPO / "samples/coco/zips/val2014.zip") as archive:
        for name in sorted(archive.namelist()):
            stored = store_image(archive.read(name), settings) if name.endswith(".jpg") else None
            if stored is not None and hasattr(stored, "data"):
                pictures.append(np.asarray(centre_crop(decode(stored.data), 256)))
    return torch.from_numpy(np.stack(pictures[:8]))


@torch.inference_mode()
def test_image_latents_are_the_librarys_times_the_scaling_factor(photographs: Tensor) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(REPO / ENCODE["image"]["model"], low_cpu_mem_usage=False).eval()
    pixels = photographs.permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    found = image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs, [""] * 8)
    assert found.shape == (8, 4, 32, 32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_samples_are_drawn_from_seed_and_key_alone(photographs: Tensor) -> None:
    keys = [f"key{n}" for n in range(8)]
    encoder = image_encoder.ImageEncoder(image_settings())
    together = encoder.encode(photographs, keys)
    alone = [encoder.encode(photographs[n : n + 1], keys[n : n + 1]) for n in reversed(range(8))]
    torch.testing.assert_close(together, torch.cat(alone).flip(0), atol=1e-4, rtol=0)
    other_key = encoder.encode(photographs[:1], ["other"])
    other_seed = image_encoder.ImageEncoder(image_settings(seed=1)).encode(photographs[:1], keys[:1])
    mode = image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs[:1], keys[:1])
    for other in (other_key, other_seed, mode):
        assert (other - together[:1]).abs().max() > 1e-3


def test_noise_is_standard_normal_and_its_own_for_every_key() -> None:
    noise = np.stack([image_encoder.noise_for(1, f"key{n}", (4, 32, 32)) for n in range(50)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    correlation = np.corrcoef(noise.reshape(50, -1)) - np.eye(50)
    assert np.abs(correlation).max() < 0.1


@torch.inference_mode()
def test_decoded_latents_are_the_photographs(photographs: Tensor) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(REPO / ENCODE["image"]["model"], low_cpu_mem_usage=False).eval()
    latents = image_encoder.ImageEncoder(image_settings(latents="mode")).encode(photographs, [""] * 8).half()
    pixels = vae.decode(latents.float() / vae.config.scaling_factor).sample
    decoded = ((pixels.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1)
    error = ((decoded - photographs) ** 2).mean(dim=(1, 2, 3))
    assert (10 * torch.log10(255**2 / error)).mean() > 22


@torch.inference_mode()
def test_caption_latents_are_the_librarys_last_hidden_state() -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = REPO / TEXT["model"]
    captions = ["A bee on a flower.", "", "many words " * 60]
    tokens = CLIPTokenizer.from_pretrained(folder)(captions, padding="max_length", truncation=True, return_tensors="pt")
    expected = CLIPTextModel.from_pretrained(folder).eval()(input_ids=tokens.input_ids).last_hidden_state
    encoder = text_encoder.TextEncoder(text_settings())
    found = encoder.encode(encoder.tokenize(captions))
    assert found.shape == (3, 77, 64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


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
    tower = text_tower(model)
    assert tower is not None
    found = tower(ids)
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
    assert located(settings).revision == ENCODE["image"]["revision"]  # wherever the folder is
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ParamsError, match=r"expected the model sha256:.*found sha256:"):
        located(settings)
    with pytest.raises(ParamsError, match="no model there"):
        located(image_settings(model=str(tmp_path / "none"), revision=None))


class CountingImageEncoder:
    """Stands in for a VAE: notes what it is asked, and gives NaN for pictures whose key says so."""

    description: dict[str, Any] = {"model": "counting"}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str]]] = []

    def encode(self, images: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        assert images.dtype == torch.uint8
        side = images.shape[1]
        self.calls.append((side, list(keys)))
        means = images.float().mean(dim=(1, 2, 3)).tolist()
        values = [{"nan": np.nan, "huge": 1e6}.get(key, mean) for key, mean in zip(keys, means, strict=True)]
        return torch.tensor(values)[:, None, None, None].expand(-1, 4, side // 8, side // 8)


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


@pytest.mark.parametrize("masked", [False, True])
def test_each_distinct_caption_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
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

        def tokenize(self, batch: Sequence[str]) -> Tokens:
            self.asked.append(list(batch))
            lengths = torch.tensor([-1 if text == "bad" else len(text) for text in batch])
            mask = (torch.arange(3) < lengths[:, None] - 2).to(torch.uint8)
            return Tokens(lengths[:, None].expand(-1, 3), mask if masked else None)

        def encode(self, tokens: Tokens, *, precise: bool = False) -> Tensor:
            values = tokens.ids_BT[:, :, None].expand(-1, -1, 2).float()
            return values.where(values > 0, torch.inf)

    monkeypatch.setattr(text_encoder, "text_encoder", lambda settings: Counting())
    settings = dataclasses.replace(text_settings(), batch_size=3)
    column = "caption_latents_other"
    result = caption_latents.write_caption_latents(tmp_path, "0000", column, settings, tmp_path, Silent())
    assert Counting.asked == [["one", "two", "bad"], ["three"]]
    assert result.counts == {"in": 6, "kept": 5, "non_finite": 1}
    file = LatentsFile(tmp_path / "0000.text_other.safetensors")
    assert file.names == [column, "caption_mask_other"][: 1 + masked]
    assert file.keys(column) == ["a", "b", "c", "e", "f"]
    assert file.rows(column)[:, 0, 0].tolist() == [3, 3, 3, 5, 3]
    if masked:
        assert file.keys("caption_mask_other") == file.keys(column)
        assert file.rows("caption_mask_other").tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert file.rejected == {"d": "non_finite"}
