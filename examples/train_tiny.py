"""Train a tiny latent diffusion transformer (rectified flow) on the sample shards: how the loader is used.

python examples/train_tiny.py --steps 300                # data/coco/shards, on the CPU, some minutes
python examples/train_tiny.py --steps 600 --resume       # goes on in the middle of an epoch
python examples/train_tiny.py --datadir data/coco/shards data/cc12m/shards
"""

# Shape suffixes: B batch, C channels, H W latent pixels, N patches, P values of a patch, T caption tokens, D width.
import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from microdiff import build_streaming_latents_dataloader

PATCH = 4


class Block(nn.Module):
    """Attention among patches, attention to the caption, and an MLP, all modulated by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_caption = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x_BND: Tensor, captions_BTD: Tensor, time_B1D: Tensor) -> Tensor:
        """Return the patches after this block."""
        scale, shift = self.modulation(time_B1D).chunk(2, dim=-1)
        normed = self.norms[0](x_BND) * (1 + scale) + shift
        x_BND = x_BND + self.attention(normed, normed, normed, need_weights=False)[0]
        x_BND = x_BND + self.to_caption(self.norms[1](x_BND), captions_BTD, captions_BTD, need_weights=False)[0]
        return x_BND + self.mlp(self.norms[2](x_BND) * (1 + scale) + shift)


class TinyDiT(nn.Module):
    """Predicts the velocity from noise to latents; a few hundred thousand parameters."""

    def __init__(self, channels: int, side: int, caption_width: int, width: int = 96, blocks: int = 3) -> None:
        super().__init__()
        values = channels * PATCH * PATCH
        self.fold = nn.Fold((side, side), PATCH, stride=PATCH)
        self.unfold = nn.Unfold(PATCH, stride=PATCH)
        self.from_patches, self.to_patches = nn.Linear(values, width), nn.Linear(width, values)
        self.positions = nn.Parameter(torch.randn(1, (side // PATCH) ** 2, width) * 0.02)
        self.from_caption = nn.Linear(caption_width, width)
        self.from_time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(blocks))

    def forward(self, x_BCHW: Tensor, time_B: Tensor, captions_BTD: Tensor) -> Tensor:
        """Return the velocity (B,C,H,W) at times in [0, 1], from noise to latents."""
        x_BND = self.from_patches(self.unfold(x_BCHW).transpose(1, 2)) + self.positions
        captions_BTD, time_B1D = self.from_caption(captions_BTD), self.from_time(time_B[:, None, None])
        for block in self.blocks:
            x_BND = block(x_BND, captions_BTD, time_B1D)
        return self.fold(self.to_patches(x_BND).transpose(1, 2))


def flow_loss(model: TinyDiT, batch: dict[str, Any], step: int) -> Tensor:
    """Return the rectified-flow loss; noise and times follow from the step, so that a resumed run has the same."""
    dice = torch.Generator().manual_seed(step)
    latents_BCHW = batch["image_latents"].float()
    keep_B11 = batch["drop_caption_mask"].float()[:, None, None]  # 0 where the model has to do without the caption
    captions_BTD = batch["caption_latents"].float().squeeze(1) * keep_B11
    noise_BCHW = torch.randn(latents_BCHW.shape, generator=dice)
    time_B = torch.rand(len(latents_BCHW), generator=dice)
    at = time_B[:, None, None, None]
    predicted_BCHW = model(at * latents_BCHW + (1 - at) * noise_BCHW, time_B, captions_BTD)
    return nn.functional.mse_loss(predicted_BCHW, latents_BCHW - noise_BCHW)


def train(
    datadir: list[str],
    steps: int,
    checkpoint: Path,
    resume: bool = False,
    batch_size: int = 8,
    image_size: int = 256,
    caption_width: int = 64,
    print_every: int = 20,
) -> list[tuple[float, list[str]]]:
    """Train until so many steps are done, and save; return each step's loss and its samples' keys."""
    loader = build_streaming_latents_dataloader(
        datadir, batch_size, image_size, cap_drop_prob=0.1, columns=["key"], num_workers=0
    )
    torch.manual_seed(0)
    model = TinyDiT(channels=4, side=image_size // 8, caption_width=caption_width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    if resume:
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]
    print(f"{sum(each.numel() for each in model.parameters()):,} parameters, from step {step}")
    seen: list[tuple[float, list[str]]] = []
    while step < steps:
        for batch in loader:  # an epoch, or the rest of one
            loss = flow_loss(model, batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            seen.append((loss.item(), list(batch["key"])))
            if step % print_every == 0 or step == steps:
                recent = [value for value, _ in seen[-print_every:]]
                print(f"step {step:5d}  loss {sum(recent) / len(recent):.4f}")
            if step == steps:
                states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**states, "loader": loader.state_dict(), "step": step}, checkpoint)
                break
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datadir", nargs="+", default=["data/coco/shards"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--checkpoint", type=Path, default=Path("train_tiny.pt"))
    parser.add_argument("--caption-width", type=int, default=64, help="of the text encoder; 64 is the sample's")
    options = parser.parse_args()
    train(options.datadir, options.steps, options.checkpoint, options.resume, caption_width=options.caption_width)
