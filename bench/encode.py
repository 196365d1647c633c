"""Measure the encode step: images a second end to end, against the models alone and against the published loop.

    python bench/encode.py [--config embedded|sdxl] [--reference PATH] [--images N] [--batch N] [--rounds N]

(a) end to end (tar and parquet in, latents files out, two partitions in hand at once) over the ceiling: the same models
    on batches of the same size that are already on the device: 256 px, 512 px and captions, one after another.
(b) against the published precompute loop (https://github.com/SonyResearch/micro_diffusion,
    `prepare/jdb/precompute.py`), for which `--reference` names a checkout. Dataset class, transforms and loader are
    theirs (as in bench/input_side.py, 2 workers). The loop's body is written down here after theirs: both VAE passes,
    the text tower, casts, copies to the CPU, MDSWriter; its autocast is left out, since the models have the dtype asked
    for, and so is `accelerate`. The text tower and its dtype are the same on both sides.
(c) where our time goes: the device's share of the wall time, and its waiting for input.

`embedded` uses the models in samples/ on any device. `sdxl` has the configurations of the SDXL VAE and of OpenCLIP's
ViT-H/14 text tower with random weights, in bfloat16, on CUDA only.
"""

import argparse
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed
sys.path.insert(0, str(Path(__file__).resolve().parent))

from microdiff.encode.malloc import keep_freed_memory

keep_freed_memory()  # as stages/encode.py does

import numpy as np
import torch
from input_side import FORMS, photographs, published_loader, settings
from input_side import encode as encode_jpeg

from microdiff.artifacts.tables import table_writer
from microdiff.clean.policy import SCHEMA
from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.core.progress import NullReporter
from microdiff.encode.caption_latents import write_caption_latents
from microdiff.encode.device_queue import QUEUE
from microdiff.encode.image_latents import write_image_latents
from microdiff.models import image_encoder as image_encoder_module
from microdiff.models import text_encoder as text_encoder_module
from microdiff.models.device import device
from microdiff.models.text_encoder import Tokens

REPO = Path(__file__).resolve().parents[1]
PARTITIONS = 4
IN_HAND = 2


class Times(NullReporter):
    """Adds up the device's time."""

    def __init__(self) -> None:
        self.busy_s = self.idle_s = 0.0
        self._lock = threading.Lock()

    def device(self, busy_s: float, idle_s: float) -> None:
        """Add up the seconds in which the device computed, and in which it had nothing to compute."""
        with self._lock:
            self.busy_s += busy_s
            self.idle_s += idle_s


def use_random_sdxl() -> None:
    """Let encoders have the large configurations with random weights."""
    from diffusers import AutoencoderKL
    from open_clip.model import CLIPTextCfg, _build_text_tower

    if device().type != "cuda":
        sys.exit("--config sdxl needs a CUDA device")
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=1024,
        scaling_factor=0.13025,
    )
    vae = vae.to(device(), torch.bfloat16, memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
    tower = _build_text_tower(1024, CLIPTextCfg(width=1024, heads=16, layers=24), quick_gelu=True)
    tower = tower.to(device(), torch.bfloat16).eval().requires_grad_(requires_grad=False)
    tokenize = text_encoder_module.text_encoder(settings(1)[1]).tokenize

    class Vae:
        device = device()
        description: dict[str, Any] = {}  # noqa: RUF012 - never changed
        library = vae

        @torch.inference_mode()
        def encode(self, images_BRR3: torch.Tensor, keys: Any, *, precise: bool = False) -> torch.Tensor:
            images = images_BRR3.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
            posterior = vae.encode(images.to(torch.bfloat16, memory_format=torch.channels_last)).latent_dist
            shape = tuple(posterior.mean.shape[1:])
            noise = np.stack([image_encoder_module.noise_for(1, key, shape) for key in keys])
            on_device = torch.from_numpy(noise).pin_memory().to(self.device, non_blocking=True)
            latents: torch.Tensor = (posterior.mean.float() + posterior.std.float() * on_device) * 0.13025
            return latents

    class Tower:
        device = device()
        description: dict[str, Any] = {}  # noqa: RUF012 - never changed

        def tokenize(self, captions: Any) -> Tokens:
            return tokenize(captions)

        @torch.inference_mode()
        def encode(self, tokens: Tokens, *, precise: bool = False) -> torch.Tensor:
            ids_BT = tokens.ids_BT.to(self.device, non_blocking=True)
            hidden = tower.token_embedding(ids_BT) + tower.positional_embedding
            states: torch.Tensor = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask.to(hidden.dtype)))
            return states.float()

    image, text = Vae(), Tower()
    image_encoder_module.image_encoder = lambda _: image  # type: ignore[assignment]
    text_encoder_module.text_encoder = lambda _: text  # type: ignore[assignment]


def write_partitions(folder: Path, pictures: list[bytes], images: int) -> None:
    """Write raw and captions artifacts."""
    for partition in range(PARTITIONS):
        keys = [f"key{number}" for number in range(partition, images, PARTITIONS)]
        with tarfile.open(folder / f"{partition:04d}.tar", "w") as tar:
            for place, key in enumerate(keys):
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(pictures[place % len(pictures)])
                tar.addfile(member, BytesIO(pictures[place % len(pictures)]))
        with table_writer(folder / f"{partition:04d}.parquet", SCHEMA) as add_row:
            for key in keys:
                row = {"key": key, "status": "kept", "caption": f"A photograph, {key}", "captions": [], "original": ""}
                add_row({**row, "width": 683, "height": 512})


def end_to_end(folder: Path, image: ImageEncoderSettings, text: TextEncoderSettings) -> tuple[float, Times]:
    """Encode all partitions as a worker does; return seconds and the device's time."""
    times = Times()
    QUEUE._ended = None  # what was between two turns is no waiting for input
    with tempfile.TemporaryDirectory() as out:
        units: list[Callable[[], object]] = []
        for number in range(PARTITIONS):
            name = f"{number:04d}"
            tar = folder / f"{name}.tar"
            units.append(lambda name=name, tar=tar: write_image_latents(tar, name, image, into(out, name), times))
        for number in range(PARTITIONS):
            name = f"{number:04d}"
            units.append(
                lambda name=name: write_caption_latents(
                    folder / f"{name}.parquet", name, "caption_latents", text, into(out, name), times
                )
            )
        todo, lock = list(reversed(units)), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    unit = todo.pop() if todo else None
                if unit is None:
                    return
                unit()

        threads = [threading.Thread(target=work) for _ in range(IN_HAND)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start, times


def into(out: str, name: str) -> Path:
    """Return a partition's own folder."""
    folder = Path(out) / name
    folder.mkdir(exist_ok=True)
    return folder


def ceiling(image: ImageEncoderSettings, text: TextEncoderSettings, images: int) -> float:
    """Return seconds that the models alone need for that many samples, inputs being there."""
    vae, tower = image_encoder_module.image_encoder(image), text_encoder_module.text_encoder(text)
    dice = np.random.default_rng(0)
    keys = [f"key{number}" for number in range(image.batch_size)]
    resident = [
        torch.from_numpy(dice.integers(0, 256, (image.batch_size, px, px, 3), dtype=np.uint8)).to(vae.device)
        for px in image.resolutions
    ]
    tokens = tower.tokenize([f"A photograph, {key}" for key in keys]).to(tower.device)
    batches = images // image.batch_size
    start = time.perf_counter()
    for _ in range(batches):
        for pixels in resident:
            vae.encode(pixels, keys)
        tower.encode(tokens)
    if vae.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / batches / image.batch_size * images


class Published:
    """The published precompute loop: their loader, and the body of their loop written down here."""

    def __init__(self, checkout: Path, folder: Path, pictures: list[bytes], images: int, model: Any) -> None:
        from PIL import Image
        from streaming import MDSWriter

        self.vae, self.tower = model
        self.scratch = folder
        with MDSWriter(out=str(folder / "mds"), columns={"jpg": "jpeg", "caption": "str"}) as writer:
            for number in range(images):
                path = folder / f"{number % len(pictures)}.jpg"
                path.write_bytes(pictures[number % len(pictures)])
                writer.write({"jpg": Image.open(path), "caption": f"A photograph, key{number}"})
        self.loader = published_loader(checkout, folder / "mds", workers=2)
        self.turns = 0

    @torch.no_grad()
    def run(self) -> float:
        """Return seconds for all samples."""
        from streaming import MDSWriter

        self.turns += 1
        columns = {"caption": "str", "caption_latents": "bytes", "latents_256": "bytes", "latents_512": "bytes"}
        start = time.perf_counter()
        with MDSWriter(out=str(self.scratch / f"out{self.turns}"), columns=columns, size_limit=256 * 2**20) as writer:
            for batch in self.loader:
                latents = []
                for place in range(2):
                    pixels = torch.stack(batch[f"image_{place}"]).to(device(), self.vae.dtype)
                    sample = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
                    latents.append(sample.to(torch.float16).cpu().numpy())
                ids = torch.stack(batch["caption"])
                states = self.tower.encode(Tokens(ids.view(-1, ids.shape[-1]))).to(torch.float16).cpu().numpy()
                for row in range(len(states)):
                    writer.write(
                        {
                            "caption": batch["sample"][row]["caption"],
                            "caption_latents": np.reshape(states[row], -1).tobytes(),
                            "latents_256": latents[0][row].tobytes(),
                            "latents_512": latents[1][row].tobytes(),
                        }
                    )
        return time.perf_counter() - start


def library_vae(config: str, encoder: Any) -> Any:
    """Return the VAE as diffusers gives it, for the published loop."""
    if config == "sdxl":
        return encoder.library
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(REPO / "samples/models/vae", low_cpu_mem_usage=False).to(device()).eval()


def main() -> None:
    """Print the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=("embedded", "sdxl"), default="embedded")
    parser.add_argument("--reference", type=Path, metavar="PATH", help="checkout of the published code")
    parser.add_argument("--images", type=int, default=64, help="samples (64); a multiple of 4 batches is best")
    parser.add_argument("--batch", type=int, default=8, help="samples per batch (8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (3)")
    options = parser.parse_args()
    place = device()
    if options.config == "sdxl":
        use_random_sdxl()
    image, text = settings(options.batch)
    size, quality = FORMS["512x683 q95"]
    pictures = [encode_jpeg(picture, size, quality) for picture in photographs(None, 10)]
    with tempfile.TemporaryDirectory() as folder:
        write_partitions(Path(folder), pictures, options.images)
        published = None
        if options.reference is not None:
            tower = text_encoder_module.text_encoder(text)
            model = library_vae(options.config, image_encoder_module.image_encoder(image)), tower
            (Path(folder) / "published").mkdir()
            published = Published(options.reference, Path(folder) / "published", pictures, options.images, model)
        spent: dict[str, list[float]] = {"ours": [], "ceiling": [], "published": []}
        shares: list[tuple[float, float]] = []
        for turn in range(options.rounds + 1):
            wall_s, times = end_to_end(Path(folder), image, text)
            alone_s = ceiling(image, text, options.images)
            theirs_s = published.run() if published else float("nan")
            if turn:  # the first loads and warms up
                for name, seconds in (("ours", wall_s), ("ceiling", alone_s), ("published", theirs_s)):
                    spent[name].append(seconds)
                shares.append((times.busy_s / wall_s, times.idle_s / wall_s))
    rates = {name: options.images / median(seconds) for name, seconds in spent.items()}
    name = torch.cuda.get_device_name() if place.type == "cuda" else "CPU, one thread for the models"
    print(
        f"{options.config} models on {name}, {options.images} samples in {PARTITIONS} partitions, batch {options.batch}"
    )
    of_ceiling = median(a / b for a, b in zip(spent["ceiling"], spent["ours"], strict=True))
    print(f"(a) end to end {rates['ours']:.2f} images/s, models alone {rates['ceiling']:.2f}: {of_ceiling:.2f} of it")
    if published:
        ratio = median(a / b for a, b in zip(spent["published"], spent["ours"], strict=True))
        print(f"(b) published loop {rates['published']:.2f} images/s: ours is {ratio:.2f}x")
    busy, idle = (median(share[n] for share in shares) for n in (0, 1))
    print(f"(c) device computes {busy:.1%} of the wall time, waits for input {idle:.1%}")


if __name__ == "__main__":
    main()
