"""The VAE: load it frozen and encode pictures. Shapes and scaling are read from the model, never from a table."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microdiff.device import device
from microdiff.model_files import hub_revision, model_digest, public_name
from microdiff.publish import digest_json
from microdiff.settings import ImageEncoderSettings

# Shapes: B batch, R resolution in pixels, C latent channels, H and W latent height and width.


class ImageEncoder:
    """A VAE in evaluation mode.

    Attributes:
        description: What a reader of its latents needs to know; JSON values.
        device: Where it computes, and where its latents are.
    """

    def __init__(self, settings: ImageEncoderSettings) -> None:
        self._settings = settings
        self.device = device()
        self._vae = self._load(getattr(torch, settings.dtype))
        self._precise = self._vae if settings.dtype == "float32" else None
        config = self._vae.config
        self._scale = float(config.scaling_factor)
        self._shift = float(getattr(config, "shift_factor", None) or 0.0)
        self.description: dict[str, Any] = {
            "model": public_name(settings.model),
            "subfolder": settings.subfolder,
            "revision": model_digest(settings) or settings.revision,
            "dtype": settings.dtype,
            "stored_dtype": settings.store,
            "latents": settings.latents,
            "seed": settings.seed if settings.latents == "sample" else None,
            "scaling_factor": self._scale,
            "shift_factor": self._shift,
            "channels": int(config.latent_channels),
            "downsampling": 2 ** (len(config.block_out_channels) - 1),
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
        vae = self._float32_vae() if precise else self._vae
        pixels = images_BRR3.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        posterior = vae.encode(pixels.to(vae.dtype, memory_format=torch.channels_last)).latent_dist
        mean_BCHW: Tensor = (posterior.mean.float() - self._shift) * self._scale
        if self._settings.latents == "mode":
            return mean_BCHW
        std_BCHW: Tensor = posterior.std.float() * self._scale
        if self._settings.latents == "moments":
            return torch.cat([mean_BCHW, std_BCHW], dim=1)
        shape = tuple(mean_BCHW.shape[1:])
        noise = np.stack([noise_for(self._settings.seed, key, shape) for key in keys])
        return mean_BCHW + std_BCHW * torch.from_numpy(noise).to(self.device)

    def _load(self, dtype: torch.dtype) -> Any:
        from diffusers import AutoencoderKL

        settings = self._settings
        vae = AutoencoderKL.from_pretrained(
            settings.model,
            revision=hub_revision(settings),
            torch_dtype=dtype,
            low_cpu_mem_usage=False,  # True needs the accelerate package
            **({} if settings.subfolder is None else {"subfolder": settings.subfolder}),
        )
        return vae.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)

    def _float32_vae(self) -> Any:
        if self._precise is None:
            self._precise = self._load(torch.float32)
        return self._precise


def noise_for(seed: int, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal noise that depends on the seed, the sample's key and the shape alone; float32."""
    state = int(digest_json([seed, key, list(shape)])[:32], 16)
    return np.random.Generator(np.random.Philox(key=state)).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=1)
def image_encoder(settings: ImageEncoderSettings) -> ImageEncoder:
    """Return the image encoder, loaded once per process."""
    return ImageEncoder(settings)
