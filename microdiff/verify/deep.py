"""Decode a drawn sample of image latents and compare with the pictures; encode a few anew and compare with the stored.

What a good reconstruction is differs from model to model and from picture to picture. So the floor of a picture is
taken from the picture itself: what comes out if it is encoded and decoded now, less half a decibel for what storing in
16 bits and another device's rounding may cost; and in any case what an even area of its mean colour gets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.column_names import image_column, text_file
from microdiff.artifacts.latents import LatentsFile
from microdiff.artifacts.raw import read_images
from microdiff.artifacts.tables import read_kept
from microdiff.images.ops import centre_crop, decode
from microdiff.models.loading import load_whole
from microdiff.pipeline.params import Params
from microdiff.pipeline.workspace import Workspace
from microdiff.storage.model_files import LocatedImageEncoder, located
from microdiff.verify.digests import digest_key
from microdiff.verify.findings import Findings
from microdiff.verify.tables import UNREADABLE

if TYPE_CHECKING:
    from torch import Tensor

MARGIN_DB = 0.5
CLOSE = 0.03  # of the stored values' root mean square; bfloat16 on another device differs by up to about 0.01
_PARTITIONS = 2
_SAMPLES = 4  # per partition


@dataclass(frozen=True)
class Compared:
    """One sample at one resolution: peak signal-to-noise ratios in decibels, and the floor for the first."""

    key: str
    px: int
    psnr_db: float
    floor_db: float
    difference: float  # of latents encoded anew, as a share of the stored ones' root mean square


@dataclass(frozen=True)
class Deep:
    """What the deep checks gave: findings, the pictures compared, and why something was left out."""

    findings: Findings
    compared: tuple[Compared, ...] = ()
    note: str = ""


def verify_deep(dataset: str, params: Params, workspace: Workspace) -> Deep:
    """Compare a drawn sample of latents with the pictures and captions that they are of.

    The draw depends on the keys and `encode.image.seed` alone. Damaged partitions should be repaired first.

    Args:
        dataset: Which one.
        params: All settings; its encoders must be those that the latents were made by.
        workspace: Where it is.
    """
    raw, latents = workspace.artifact(dataset, "raw"), workspace.artifact(dataset, "latents")
    findings = Findings(dataset, "latents", "")
    if not all(workspace.is_here(dataset, kind) for kind in ("raw", "latents")):
        return Deep(findings, note=f"data/{dataset}: not decoded: that needs raw and latents here")
    from microdiff.models.image_encoder import image_encoder

    settings = located(params.encode.image, workspace.store().root)
    encoder = image_encoder(settings)
    compared: list[Compared] = []
    for name in _drawn((path.stem for path in latents.glob("*.parquet")), settings.seed, _PARTITIONS):
        file = f"{name}.image.safetensors"
        try:
            stored = LatentsFile(latents / file)
            if stored.encoder != encoder.description:
                note = f"data/{dataset}/latents: not decoded: params.yaml names other encoders than made them"
                return Deep(findings, tuple(compared), note)
            for one in _compare_pictures(raw, name, stored, encoder, settings):
                compared.append(one)
                if one.psnr_db < one.floor_db:
                    what = f"decoded at {one.px} px it has {one.psnr_db:.1f} dB, expected {one.floor_db:.1f} dB or more"
                    findings.add(file, what, one.key)
                if not one.difference <= CLOSE:
                    what = (
                        f"encoded anew at {one.px} px it differs by {one.difference:.1%}, expected {CLOSE:.0%} or less"
                    )
                    findings.add(file, what, one.key)
            _compare_captions(latents, name, params, workspace, findings)
        except UNREADABLE as error:
            findings.add(file, f"it could not be compared ({error})")
    return Deep(findings, tuple(compared))


def _compare_pictures(
    raw: Path, name: str, stored: LatentsFile, encoder: Any, settings: LocatedImageEncoder
) -> Iterator[Compared]:
    """Yield what comparing one partition's drawn pictures gave, a picture at a time."""
    import torch

    columns = {px: image_column(settings.latents, px) for px in settings.resolutions}
    rows = {px: {key: row for row, key in enumerate(stored.keys(column))} for px, column in columns.items()}
    wanted = set(_drawn({key for found in rows.values() for key in found}, settings.seed, _SAMPLES))
    for picture in read_images(raw / f"{name}.tar"):
        for px, column in columns.items():
            if picture.key not in wanted or picture.key not in rows[px]:
                continue
            pixels = np.array(centre_crop(decode(picture.data), px))
            fresh = encoder.encode(torch.from_numpy(pixels)[None], [picture.key]).float().cpu()
            kept = as_float32(stored.rows(column)[rows[px][picture.key]], stored.dtype(column))[None]
            decoded = [_decode(settings, encoder, latents) for latents in (torch.from_numpy(kept), fresh)]
            psnr_db, own_db = (psnr(pixels, each) for each in decoded)
            even = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
            difference = relative_difference(fresh.numpy(), kept)
            yield Compared(picture.key, px, psnr_db, max(own_db - MARGIN_DB, psnr(pixels, even)), difference)


def _compare_captions(latents: Path, name: str, params: Params, workspace: Workspace, findings: Findings) -> None:
    """Encode a partition's drawn captions anew with every text encoder."""
    from microdiff.models.text_encoder import text_encoder

    captions = {row["key"]: row["caption"] for row in read_kept(latents / f"{name}.parquet", ["key", "caption"])}
    keys = _drawn(captions, params.encode.image.seed, _SAMPLES)
    for column, settings in params.encode.text.items():
        file = LatentsFile(latents / text_file(name, column))
        encoder = text_encoder(located(settings, workspace.store().root, f"encode.text.{column}"))
        if file.encoder != encoder.description:
            findings.add(text_file(name, column), f"{column} was made by another encoder than params.yaml names")
            continue
        fresh = encoder.encode(encoder.tokenize([captions[key] for key in keys])).float().cpu().numpy()
        row_of = {key: row for row, key in enumerate(file.keys(column))}
        for key, row in zip(keys, fresh, strict=True):
            kept = as_float32(file.rows(column)[row_of[key]], file.dtype(column))
            difference = relative_difference(row, kept)
            if not difference <= CLOSE:
                what = f"{column} encoded anew differs by {difference:.1%}, expected {CLOSE:.0%} or less"
                findings.add(text_file(name, column), what, key)


def _drawn(names: Iterable[str], seed: int, number: int) -> list[str]:
    """Return a few names, the same ones every time."""
    return sorted(names, key=lambda name: digest_key(f"{seed} {name}"))[:number]


def as_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return stored values as float32; bfloat16, stored as uint16, is the upper half of a float32."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def relative_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the root mean square of the difference over that of the expected values."""
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(found.astype(np.float64) - expected)))) / max(scale, 1e-12)


def psnr(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio of 8-bit pictures, in decibels."""
    error = float(np.mean(np.square(expected.astype(np.float64) - found)))
    return 10 * float(np.log10(255**2 / max(error, 1e-12)))


_DECODERS: dict[Path, Any] = {}


def _decode(settings: LocatedImageEncoder, encoder: Any, latents_BCHW: "Tensor") -> NDArray[np.float64]:
    """Decode one picture's latents (1, C, H, W), or moments (1, 2C, H, W), to float (R, R, 3) in 0 to 255."""
    import torch
    from diffusers import AutoencoderKL

    if settings.folder not in _DECODERS:
        vae = load_whole(AutoencoderKL, settings.folder, settings.model, low_cpu_mem_usage=False)
        _DECODERS[settings.folder] = vae.to(encoder.device).float().eval()
    says = encoder.description
    with torch.inference_mode():
        mean_BCHW = latents_BCHW[:, : says["channels"]].to(encoder.device)
        pixels = _DECODERS[settings.folder].decode(mean_BCHW / says["scaling_factor"] + says["shift_factor"]).sample
    picture = ((pixels[0].float().cpu().clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    rounded: NDArray[np.float64] = np.round(picture.astype(np.float64))
    return rounded
