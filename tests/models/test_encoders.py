"""The encoders against the libraries' own forward passes, and what the encode step does with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import REPO, sample_preset
from microdiff.config.settings import DownloadSettings, ImageEncoderSettings, TextEncoderSettings
from microdiff.errors import ParamsError
from microdiff.images.normalize import store_image
from microdiff.images.ops import centre_crop, decode
from microdiff.models import image_encoder, text_encoder
from microdiff.models.openclip_text import text_tower
from microdiff.pipeline.parsing import parse
from microdiff.storage.model_files import located

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
    (found,) = tower(ids)
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
