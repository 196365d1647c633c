"""The VAE: load it frozen and encode pictures. Shapes and scaling are read from the model, never from a table."""

from collections.abc import Sequence
from functools import lru_cache

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
    """

    def __init__(self, settings: ImageEncoderSettings) -> None:
        from diffusers import AutoencoderKL

        self._settings = settings
        self._device = device()
        dtype = getattr(torch, settings.dtype)
        vae = AutoencoderKL.from_pretrained(
            settings.model,
            revision=hub_revision(settings),
            torch_dtype=dtype,
            low_cpu_mem_usage=False,  # True needs the accelerate package
            **({} if settings.subfolder is None else {"subfolder": settings.subfolder}),
        )
        self._vae = vae.to(self._device, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self.description = {
            "model": public_name(settings.model),
            "subfolder": settings.subfolder,
            "revision": model_digest(settings) or settings.revision,
            "dtype": settings.dtype,
            "latents": settings.latents,
            "seed": settings.seed if settings.latents == "sample" else None,
            "scaling_factor": self._scale,
            "shift_factor": self._shift,
            "channels": int(vae.config.latent_channels),
            "downsampling": 2 ** (len(vae.config.block_out_channels) - 1),
            "stored_dtype": "float16",
        }

    @torch.inference_mode()
    def encode(self, images_BRR3: NDArray[np.uint8], keys: Sequence[str]) -> NDArray[np.float32]:
        """Encode pictures to scaled latents.

        Args:
            images_BRR3: uint8 RGB.
            keys: Their samples' keys, which the noise of posterior samples is drawn by.

        Returns:
            float32 (B, C, R/8, R/8), less the VAE's shift and multiplied by its scaling factor. Values that the model
            cannot represent come out as NaN or infinity.
        """
        pixels = torch.from_numpy(images_BRR3).to(self._device).permute(0, 3, 1, 2)
        pixels = (pixels.to(torch.float32) / 127.5 - 1.0).to(self._vae.dtype, memory_format=torch.channels_last)
        posterior = self._vae.encode(pixels).latent_dist
        latents_BCHW: Tensor = posterior.mean.float()
        if self._settings.latents == "sample":
            shape = tuple(latents_BCHW.shape[1:])
            noise = np.stack([noise_for(self._settings.seed, key, shape) for key in keys])
            latents_BCHW = latents_BCHW + posterior.std.float() * torch.from_numpy(noise).to(self._device)
        scaled: NDArray[np.float32] = ((latents_BCHW - self._shift) * self._scale).cpu().numpy()
        return scaled


def noise_for(seed: int, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal noise that depends on the seed, the sample's key and the shape alone; float32."""
    state = int(digest_json([seed, key, list(shape)])[:32], 16)
    return np.random.Generator(np.random.Philox(key=state)).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=1)
def image_encoder(settings: ImageEncoderSettings) -> ImageEncoder:
    """Return the image encoder, loaded once per process."""
    return ImageEncoder(settings)
