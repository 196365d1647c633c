"""Train the small image VAE of the sample preset, on photographs from Debian packages.

It stands in for SDXL's VAE where neither a network nor a GPU is at hand, and the same code loads it
(`AutoencoderKL.from_pretrained`). What it decodes is recognisable but soft: never train on its latents for real.

The photographs of the committed weights, 259 in all, come from Debian 12; `vae_pictures.tsv` has the author and the
licence of each, `README.md` what follows for the weights:

    gcompris-qt-data 3.1-2: 235 in six .rcc files
    mate-backgrounds 1.26.0-1: 12 in nature/
    plasma-workspace-wallpapers 4:5.27.5-2: 10
    python3-sklearn 1.2.1+dfsg-1: china.jpg and flower.jpg

Held out, so that no scene is shared: another .rcc file, all of lomiri-wallpapers-16.04 and four photographs of
scikit-image. The smoke test's samples show the last two, and the two of scikit-learn. Packages, then training:

    apt-get download gcompris-qt-data mate-backgrounds plasma-workspace-wallpapers python3-sklearn \
        lomiri-wallpapers-16.04
    for file in *.deb; do dpkg-deb -x $file photos/${file%%_*}; done
    pip install scikit-image
    python samples/models/train_vae.py --photos photos --out samples/models/vae --minutes 13

That took about 2,700 steps on two cores of an AMD EPYC, shared with other work, in bfloat16, and reached:

    held out               256 px: mean, min (photographs)   512 px: mean, min (photographs)
    gcompris farm animals  25.79, 23.13 dB (9)               25.92, 22.36 dB (9)
    lomiri                 27.13, 20.17 dB (14)              28.40, 20.89 dB (14)
    scikit-image           26.64, 22.84 dB (4)               25.60 dB (1)

measured in float32 from the saved float16 weights; latents that pass through float16 give the same to 0.01 dB.
The seed fixes crops and noise, but with --minutes the machine's speed decides the number of steps.
"""

import argparse
import copy
import io
import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.data
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

GCOMPRIS = "erase clickgame categorization explore_monuments explore_world_animals explore_world_music"
PLASMA = "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path"
TRAINING = (
    *(f"**/{name}.rcc" for name in GCOMPRIS.split()),
    *(f"**/wallpapers/{name}/contents/images/*.jpg" for name in PLASMA.split()),
    "**/mate/nature/*.jpg",
    "**/sklearn/datasets/images/*.jpg",
)
HELD_OUT = {
    "gcompris": ("**/explore_farm_animals.rcc",),
    "lomiri": ("**/backgrounds/[!u]*_by_*.jpg",),  # umang_by_* is a drawn gradient
    "scikit-image": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"),
}
SIDES_PX = (256, 384, 512)  # short sides at which training sees each photograph; none is enlarged
MIN_SIDE_PX = 200  # what is smaller in the .rcc files are thumbnails
PHASES = ((0.0, 64, 8), (0.5, 128, 3), (0.85, 256, 1))  # from this share of the run on: crop in px, batch size
PEAK_LR, WARMUP_STEPS, EMA_DECAY = 1.5e-3, 50, 0.99
KL_WEIGHT, COLOUR_WEIGHT = 1e-6, 0.5
SAVE_EVERY_S = 300


def make_vae() -> AutoencoderKL:
    """Build SDXL's layout (8 times smaller, 4 channels), but narrow and without attention."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=256,
    )
    start_from_means(vae)
    return vae


def carry(conv: torch.nn.Conv2d, mixing: Tensor, kernel: Tensor | None = None) -> None:
    """Make a convolution's first outputs a mixture of its first inputs, filtered by a kernel (or not)."""
    (outputs, inputs), side = mixing.shape, conv.kernel_size[0]
    if kernel is None:
        kernel = torch.zeros(side, side)
        kernel[side // 2, side // 2] = 1
    conv.weight[:outputs], conv.bias[:outputs] = 0, 0
    conv.weight[:outputs, :inputs] = mixing[:, :, None, None] * kernel


@torch.no_grad()
def start_from_means(vae: AutoencoderKL) -> None:
    """Set the weights so that three latents begin as the mean colour of their 8x8 pixels.

    A run from random weights (8 groups, no colour loss) took 1,700 steps, not 300, to 22 dB on its crops, and
    gave up red against green for detail. Six channels carry (R, G, B, -R, -G, -B) past the blocks, which add
    nothing yet. A group norm before the last convolution would remove brightness and contrast, so two strong
    constants join its channels; and silu(x) - silu(-x) = x undoes the activation.
    """
    pairs, same = torch.cat([torch.eye(3), -torch.eye(3)]), torch.eye(6)
    mean_2x2 = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 4
    smooth = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            block.conv2.weight.zero_()
            if block.conv_shortcut is not None:
                carry(block.conv_shortcut, same)
        elif isinstance(block, Downsample2D):
            carry(block.conv, same, mean_2x2)
        elif isinstance(block, Upsample2D):
            carry(block.conv, same, smooth)
    for half, last_block in (
        (vae.encoder, vae.encoder.mid_block.resnets[-1]),
        (vae.decoder, vae.decoder.up_blocks[-1].resnets[-1]),
    ):
        carry(half.conv_in, pairs)
        last_block.conv2.bias[:8] = torch.tensor([0.0] * 6 + [2, -2])
        carry(half.conv_out, pairs.T)
    carry(vae.quant_conv, torch.eye(8))
    carry(vae.post_quant_conv, torch.eye(4))
    vae.encoder.conv_out.weight[4:], vae.encoder.conv_out.bias[4:] = 0, -6  # the latents' log variance


def read_photos(root: Path, patterns: tuple[str, ...]) -> Iterator[Image.Image]:
    """Decode each different photograph once; a Qt resource file (.rcc) holds many, stored as they are."""
    seen = set()
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        data = path.read_bytes()
        webp = [match.start() for match in re.finditer(rb"RIFF....WEBP", data, re.DOTALL)]
        for start in webp if path.suffix == ".rcc" else [0]:
            image = Image.open(io.BytesIO(data[start:]))
            image.draft("RGB", (1024, 1024))  # a JPEG 5,000 px wide: decode no more than needed
            image = image.convert("RGB")
            if min(image.size) >= MIN_SIDE_PX and image.tobytes() not in seen:
                seen.add(image.tobytes())
                yield image


def resize(image: Image.Image, side_px: int) -> np.ndarray:
    """Resize to a short side: uint8 (height, width, 3)."""
    scale = side_px / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def sizes(photo: Image.Image) -> list[np.ndarray]:
    """Give a photograph at every training size that does not enlarge it, or else as it is."""
    return [resize(photo, side) for side in SIDES_PX if side <= min(photo.size)] or [np.asarray(photo)]


def cut(image: np.ndarray, side_px: int, down: float = 0.5, right: float = 0.5) -> np.ndarray:
    """Cut a square; (0.5, 0.5) takes the centre."""
    top, left = (int(down * (image.shape[0] - side_px)), int(right * (image.shape[1] - side_px)))
    return image[top : top + side_px, left : left + side_px]


def to_model(images: list[np.ndarray]) -> Tensor:
    """Stack images of one size: float32 (B, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def random_crops(images: list[np.ndarray], side_px: int, count: int, rng: np.random.Generator) -> Tensor:
    """Cut squares from random places of random images, half of them mirrored."""
    crops = [cut(images[i], side_px, *rng.random(2)) for i in rng.integers(len(images), size=count)]
    return to_model([crop[:, ::-1] if rng.random() < 0.5 else crop for crop in crops])


def train(vae: AutoencoderKL, images: list[np.ndarray], args: argparse.Namespace) -> AutoencoderKL:
    """Train until the minutes or steps are used up; return the moving average of the weights."""
    average = AveragedModel(vae, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    # Muon for the convolutions needs a third of AdamW's steps. It takes matrices: views of the same weights.
    convolutions = [weight for weight in vae.parameters() if weight.ndim == 4]
    matrices = [torch.nn.Parameter(weight.data.flatten(1)) for weight in convolutions]
    muon = torch.optim.Muon(matrices, momentum=0.95, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam([weight for weight in vae.parameters() if weight.ndim < 4], betas=(0.9, 0.99))
    rng = np.random.default_rng(args.seed)
    start, saved, step, done, losses = time.monotonic(), 0.0, 0, 0.0, []
    while done < 1:
        _, side_px, count = [phase for phase in PHASES if phase[0] <= done][-1]
        images_B3RR = random_crops([i for i in images if min(i.shape[:2]) >= side_px], side_px, count, rng)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images_B3RR).latent_dist
            decoded_B3RR = vae.decode(posterior.sample()).sample
        errors_B3RR = decoded_B3RR.float() - images_B3RR
        mse_B = errors_B3RR.square().mean((1, 2, 3))
        # Of each latent's 8x8 pixels the mean: without it one of two colour axes gives way to detail.
        colour_mse_B = avg_pool2d(errors_B3RR, 8).square().mean((1, 2, 3))
        # The logarithm weighs crops as PSNR does: a sky counts as much as foliage.
        loss = ((mse_B + 1e-3).log() + COLOUR_WEIGHT * (colour_mse_B + 1e-3).log()).mean()
        loss += KL_WEIGHT * posterior.kl().mean()
        vae.zero_grad()
        loss.backward()
        for matrix, weight in zip(matrices, convolutions, strict=True):
            matrix.grad = weight.grad.flatten(1)
        for optimizer in (muon, adam):
            warmup, decay = min((step + 1) / WARMUP_STEPS, 1), 0.5 + 0.5 * math.cos(math.pi * done)
            optimizer.param_groups[0]["lr"] = PEAK_LR * warmup * decay
            optimizer.step()
        average.update_parameters(vae)
        losses.append(mse_B.mean().item())
        step, elapsed = step + 1, time.monotonic() - start
        done = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if step % 100 == 0:
            psnr = -10 * math.log10(np.mean(losses[-100:]) / 4)
            print(f"step {step}, {elapsed:.0f} s, {done:.0%}, {side_px} px: {psnr:.2f} dB", flush=True)
        if elapsed - saved > SAVE_EVERY_S:
            saved = elapsed
            save(average.module, images, args.out)
    return average.module


@torch.no_grad()
def save(vae: AutoencoderKL, images: list[np.ndarray], out: Path) -> None:
    """Write float16 weights and the scaling factor that gives the training latents unit variance."""
    tiles = [cut(image, side) for image in images for side in [min(image.shape[:2]) // 8 * 8] if side >= 256]
    latents = [vae.encode(to_model([tile])).latent_dist.mode().flatten() for tile in tiles[:: len(tiles) // 24]]
    vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        copy.deepcopy(vae).half().save_pretrained(folder)
        for path in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            path.chmod(0o644)  # safetensors makes its file private
            path.replace(out / path.name)


@torch.no_grad()
def psnr_db(vae: AutoencoderKL, image: np.ndarray, *, half: bool) -> float:
    """Measure one image decoded from its latents: the posterior's mode, scaled, perhaps through float16."""
    image_13RR = to_model([image])
    latents_14RR = vae.encode(image_13RR).latent_dist.mode() * vae.config.scaling_factor
    latents_14RR = latents_14RR.half().float() if half else latents_14RR
    decoded_13RR = vae.decode(latents_14RR / vae.config.scaling_factor).sample.clamp(-1, 1)
    return -10 * math.log10((decoded_13RR - image_13RR).square().mean().item() / 4)


def report(folder: Path, photos: Path) -> None:
    """Print the PSNR of what was saved, on photographs that training never saw."""
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    for name, patterns in HELD_OUT.items():
        root = Path(skimage.data.__file__).parent if name == "scikit-image" else photos
        held_out = list(read_photos(root, patterns))
        for side_px in (256, 512):
            images = [cut(resize(p, side_px), side_px) for p in held_out if min(p.size) >= side_px]
            direct = [psnr_db(vae, image, half=False) for image in images]
            stored = [psnr_db(vae, image, half=True) for image in images]
            print(
                f"{name}, {len(images)} at {side_px} px: mean {np.mean(direct):.2f} dB, min {min(direct):.2f} dB; "
                f"latents through float16: {np.mean(stored):.2f}, {min(stored):.2f}"
            )


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("vae"))
    parser.add_argument("--minutes", type=float, default=38)
    parser.add_argument("--steps", type=int, help="in place of --minutes: independent of the machine's speed")
    parser.add_argument("--seed", type=int, default=2024)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    photos = list(read_photos(args.photos, TRAINING))
    images = [image for photo in photos for image in sizes(photo)]
    vae = make_vae()
    print(f"{len(photos)} photographs, {len(images)} images, {vae.num_parameters():,} weights", flush=True)
    save(train(vae, images, args), images, args.out)
    report(args.out, args.photos)


if __name__ == "__main__":
    main()
