"""The VAE: load it frozen and encode pictures. Shapes and scaling are read from the model, never from a table."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microdiff.config.model_reference import parse_model_reference, public_name
from microdiff.config.settings import ImageEncoderSettings
from microdiff.errors import ParamsError
from microdiff.models.frozen import FrozenModel
from microdiff.models.loading import load_whole, read_config
from microdiff.storage.model_files import LocatedImageEncoder, located

# Shapes: B batch, R resolution in pixels, C latent channels, H and W latent height and width.


class ImageEncoder:
    """A VAE in evaluation mode.

    Attributes:
        description: What a reader of its latents needs to know; JSON values.
        device: Where it computes, and where its latents are.

    Raises:
        ParamsError: Its files are not there, or are not those of a diffusers AutoencoderKL that suits the settings.
    """

    def __init__(self, settings: ImageEncoderSettings) -> None:
        found = located(settings)
        self._settings = settings
        self._model = FrozenModel(partial(_Posterior.load, found), settings)
        self.device = self._model.device
        config = read_config(found.folder, settings.model)
        self._scale, self._shift = float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
        downsampling = 2 ** (len(config["block_out_channels"]) - 1)
        if unfit := [px for px in settings.resolutions if px % downsampling]:
            raise ParamsError(
                f"encode.image.resolutions: expected multiples of {downsampling}, which {public_name(settings.model)} "
                f"reduces by, got {unfit}"
            )
        self.description: dict[str, Any] = {
            "model": public_name(settings.model),
            "subfolder": parse_model_reference(settings.model, settings.subfolder, None).folder or None,
            "revision": found.revision,
            "dtype": settings.dtype,
            "stored_dtype": settings.store,
            "latents": settings.latents,
            "seed": settings.seed if settings.latents == "sample" else None,
            "scaling_factor": self._scale,
            "shift_factor": self._shift,
            "channels": int(config["latent_channels"]),
            "downsampling": downsampling,
        }

    @torch.inference_mode()
    def encode(self, images_BRR3: Tensor, keys: Sequence[str], *, precise: bool = False) -> Tensor:
        """Encode pictures to scaled latents.

        Args:
            images_BRR3: uint8 RGB, here or on the device.
            keys: Their samples' keys, which the noise of posterior samples is drawn by.
            precise: Compute in float32, whatever dtype the settings ask for.

        Returns:
            float32 (B, C, R/8, R/8) on the device, less the VAE's shift and multiplied by its scaling factor; for
            `moments` (B, 2C, R/8, R/8), the posterior's mean treated so, then its standard deviation, scaled. Values
            that the model cannot represent come out as NaN or infinity.
        """
        pixels = images_BRR3.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        if precise:
            with self._model.in_float32() as vae:
                mean_BCHW, std_BCHW = vae(pixels.contiguous(memory_format=torch.channels_last))
        else:
            pixels = pixels.to(self._model.dtype, memory_format=torch.channels_last)
            mean_BCHW, std_BCHW = self._model(len(keys), pixels)
        latents_BCHW: Tensor = (mean_BCHW.float() - self._shift) * self._scale
        if self._settings.latents == "mode":
            return latents_BCHW
        scaled_std_BCHW: Tensor = std_BCHW.float() * self._scale
        if self._settings.latents == "moments":
            return torch.cat([latents_BCHW, scaled_std_BCHW], dim=1)
        return latents_BCHW + scaled_std_BCHW * self._noise(keys, tuple(latents_BCHW.shape[1:]))

    def _noise(self, keys: Sequence[str], shape: tuple[int, ...]) -> Tensor:
        noise = torch.from_numpy(np.stack([noise_for(self._settings.seed, key, shape) for key in keys]))
        if self.device.type == "cuda":
            noise = noise.pin_memory()  # so that its copy does not wait for the model
        return noise.to(self.device, non_blocking=True)


class _Posterior(nn.Module):
    """A VAE's encoder: pixels in [-1, 1] to mean and standard deviation of the posterior."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    @classmethod
    def load(cls, settings: LocatedImageEncoder, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        low_memory = {"low_cpu_mem_usage": False}  # True needs the accelerate package
        vae = load_whole(AutoencoderKL, settings.folder, settings.model, torch_dtype=dtype, **low_memory)
        vae.decoder = vae.post_quant_conv = None
        return cls(vae.to(memory_format=torch.channels_last))

    def forward(self, pixels_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels_B3RR).latent_dist
        return posterior.mean, posterior.std


def noise_for(seed: int, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal noise that depends on the seed, the sample's key and the shape alone; float32."""
    text = json.dumps([seed, key, list(shape)], separators=(",", ":"), ensure_ascii=False)
    state = int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32], 16)
    return np.random.Generator(np.random.Philox(key=state)).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=1)
def image_encoder(settings: ImageEncoderSettings) -> ImageEncoder:
    """Return the image encoder, loaded once per process."""
    return ImageEncoder(settings)
