"""Measure the input side of the encode step: pictures per CPU-second, and samples per second with threads.

    python bench/input_side.py [--reference PATH] [--photos DIR] [--pictures N] [--rounds N]

Part one: decode, resize and crop for 256 and 512 px (`microdiff.images.crops`), images per CPU-second of one core,
against the published transform (https://github.com/SonyResearch/micro_diffusion, `prepare/*/base.py`: per resolution
torchvision's Resize, bicubic, by Pillow; CenterCrop, ToTensor, Normalize), which is rebuilt here from torchvision as it
is there. The largest difference of our pixels to Pillow's bicubic is said.

Part two: everything before the device, decode, both sizes and tokens, in wall time: ours with its threads against the
published loader, a torch DataLoader with 0, 1 and 2 workers. With `--reference PATH`, a checkout of that code, the
dataset class and the loader are its own, on an MDS set written here; its tokenizer is replaced by the embedded one,
since its own is on the hub, and three packages it imports for training are stood in for where they are missing. Without
it part two is left out.

Turn and turn about, medians; the ratio is the claim, absolute speed is the machine's.
"""

import argparse
import dataclasses
import io
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.encode.malloc import keep_freed_memory

keep_freed_memory()  # as stages/encode.py does, for both sides

import numpy as np
import torch
import yaml
from PIL import Image
from torchvision import transforms
from transformers import CLIPTokenizer

from microdiff.config.settings import ImageEncoderSettings, TextEncoderSettings
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.encode.caption_batches import caption_batches
from microdiff.encode.image_batches import image_batches
from microdiff.images.crops import center_crops, decode_pixels
from microdiff.images.ops import centre_crop
from microdiff.models.text_encoder import text_encoder
from microdiff.pipeline.parsing import parse

REPO = Path(__file__).resolve().parents[1]
RESOLUTIONS = (256, 512)
FORMS: dict[str, tuple[tuple[int, int], dict[str, int]]] = {
    "512x683 q95": ((683, 512), {"quality": 95, "subsampling": 0}),
    "512x683 q75": ((683, 512), {"quality": 75, "subsampling": 2}),
    "640x480 q90": ((640, 480), {"quality": 90, "subsampling": 2}),
}
BATCH = 32


def photographs(folder: Path | None, number: int) -> list[Image.Image]:
    """Return photographs, those of the COCO sample unless a folder is given."""
    if folder is not None:
        found = [Image.open(path) for path in sorted(folder.rglob("*.jpg"))]
    else:
        import zipfile

        with zipfile.ZipFile(REPO / "samples/coco/zips/val2014.zip") as archive:
            names = [info.filename for info in archive.infolist() if info.file_size > 15_000]
            data = [archive.read(name) for name in sorted(names) if name.endswith(".jpg")]
        # Some of the sample are damaged on purpose.
        found = [Image.open(io.BytesIO(each)) for each in data if decode_pixels(each) is not None]
    return [image.convert("RGB") for image in found if min(image.size) >= 256][:number]


def published_transforms() -> list[Callable[[Image.Image], torch.Tensor]]:
    """Return what the published loader does to a picture, for each resolution."""
    bicubic = transforms.InterpolationMode.BICUBIC
    return [
        transforms.Compose(
            [
                transforms.Resize(px, interpolation=bicubic),
                transforms.CenterCrop(px),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )
        for px in RESOLUTIONS
    ]


def encode(image: Image.Image, size: tuple[int, int], options: dict[str, int]) -> bytes:
    """Return a JPEG."""
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", **options)
    return out.getvalue()


def one_core(pictures: list[Image.Image], rounds: int) -> None:
    """Print part one."""
    published = published_transforms()

    def theirs(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        return [transform(image) for transform in published]

    print(f"decode + resize + crop to {RESOLUTIONS}, one core, {len(pictures)} photographs")
    print(f"  {'':14}{'published/s':>12}{'ours/s':>10}{'ratio':>8}{'largest difference to Pillow':>31}")
    for name, (size, options) in FORMS.items():
        sources = [encode(picture, size, options) for picture in pictures]

        # Below 512 px the published code enlarges; nothing is ever enlarged here. Both do what they do.
        def ours(data: bytes) -> object:
            return center_crops(data, RESOLUTIONS)

        spent: dict[str, list[float]] = {"theirs": [], "ours": []}
        for turn in range(rounds + 1):
            for way, function in (("theirs", theirs), ("ours", ours)):
                start = time.thread_time()
                for data in sources:
                    function(data)
                if turn:  # the first warms up
                    spent[way].append((time.thread_time() - start) / len(sources))
        ratio = median(a / b for a, b in zip(spent["theirs"], spent["ours"], strict=True))
        worst = max(difference(data) for data in sources)
        speeds = f"{1 / median(spent['theirs']):12.1f}{1 / median(spent['ours']):10.1f}"
        print(f"  {name:14}{speeds}{ratio:7.2f}x{worst:>22} of 255")


def difference(data: bytes) -> int:
    """Return how far our pixels are from Pillow's at most."""
    image = Image.open(io.BytesIO(data))
    found = center_crops(data, RESOLUTIONS) or {}
    pairs = [(square.astype(int), np.asarray(centre_crop(image, px))) for px, square in found.items()]
    return max(int(np.abs(ours - pillows).max()) for ours, pillows in pairs)


def settings(batch_size: int) -> tuple[ImageEncoderSettings, TextEncoderSettings]:
    """Return the sample preset's encoders with this batch size."""
    document = yaml.safe_load((REPO / "presets/sample.yaml").read_text(encoding="utf-8"))["encode"]
    image = parse(ImageEncoderSettings, document["image"], "encode.image", [])
    text = parse(TextEncoderSettings, document["text"]["caption_latents"], "encode.text", [])
    if image is None or text is None:
        sys.exit("presets/sample.yaml has no encoders")
    return dataclasses.replace(image, batch_size=batch_size), dataclasses.replace(text, batch_size=batch_size)


def ours_whole(
    samples: list[tuple[bytes, str]], image: ImageEncoderSettings, text: TextEncoderSettings
) -> Iterator[object]:
    """Yield what our encode step gives to the device: uint8 batches of both sizes, and of tokens."""
    pictures = prefetch_map(lambda sample: center_crops(sample[0], image.resolutions), samples, 4 * num_threads())
    keyed = ((f"key{number}", found or {}) for number, found in enumerate(pictures))
    yield from image_batches(keyed, Future(), image)
    yield from caption_batches([caption for _, caption in samples], text_encoder(text), "captions", text.batch_size)


def decoded_per_s(samples: list[tuple[bytes, str]], resolutions: tuple[int, ...], threads: int) -> float:
    """Return samples per second where threads do nothing but decode and resize."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for job in [pool.submit(center_crops, data, resolutions) for data, _ in samples]:
            job.result()
        return len(samples) / (time.perf_counter() - start)


def embedded_tokenizer() -> Callable[[Any], torch.Tensor]:
    """Return a function from captions to token ids, by the embedded CLIP's tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(REPO / "samples/models/clip")

    def tokenize(captions: Any) -> torch.Tensor:
        ids: torch.Tensor = tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return ids

    return tokenize


def published_loader(checkout: Path, mds: Path, workers: int) -> Any:
    """Return the published loader over an MDS set, with the embedded tokenizer instead of one of the hub."""
    for name, attributes in (("einops", ["rearrange"]), ("torchmetrics", ["Metric"])):
        if name not in sys.modules:
            try:
                __import__(name)
            except ImportError:
                sys.modules[name] = types.ModuleType(name)
                for attribute in attributes:
                    setattr(sys.modules[name], attribute, torch.nn.Module)
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    from micro_diffusion.datasets.prepare.jdb import base

    class Tokenizer:
        def __init__(self, name: str) -> None:
            self.tokenize_ids = embedded_tokenizer()

        def tokenize(self, caption: str) -> dict[str, torch.Tensor]:
            return {"input_ids": self.tokenize_ids(caption)}

    base.UniversalTokenizer = Tokenizer
    more = {"prefetch_factor": 2, "persistent_workers": True, "multiprocessing_context": "fork"} if workers else {}
    return base.build_streaming_jdb_precompute_dataloader(
        datadir=[str(mds)],
        batch_size=BATCH,
        resize_sizes=list(RESOLUTIONS),
        shuffle=False,
        caption_key="caption",
        tokenizer_name="embedded",
        num_workers=workers,
        **more,
    )


def whole(checkout: Path, form: str, pictures: list[Image.Image], rounds: int) -> None:
    """Print part two for pictures of one form."""
    from streaming import MDSWriter

    size, options = FORMS[form]
    data = [encode(picture, size, options) for picture in pictures]
    samples = [(data[n % len(data)], f"Photograph {n} of a landscape, with some words about it") for n in range(192)]
    image, text = settings(BATCH)
    print(f"whole input side, {len(samples)} samples of {form}, wall time; ours with {num_threads()} threads")
    for threads in (1, num_threads()):
        alone = median(decoded_per_s(samples, image.resolutions, threads) for _ in range(rounds))
        print(f"  decode and resize alone, {threads} threads: {alone:.1f}/s")
    print(f"  {'their workers':16}{'published/s':>12}{'ours/s':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        with MDSWriter(out=folder, columns={"jpg": "jpeg", "caption": "str"}) as writer:
            for place, (picture, caption) in enumerate(samples):
                path = Path(folder) / f"{place % len(data)}.jpg"  # their writer copies the bytes of a file
                if not path.exists():
                    path.write_bytes(picture)
                writer.write({"jpg": Image.open(path), "caption": caption})
        for workers in (0, 1, 2):
            loader = published_loader(checkout, Path(folder), workers)
            spent: dict[str, list[float]] = {"theirs": [], "ours": []}
            for turn in range(rounds + 1):
                for way, batches in (("theirs", iter(loader)), ("ours", ours_whole(samples, image, text))):
                    start = time.perf_counter()
                    for _ in batches:
                        pass
                    if turn:  # the first starts workers and warms up
                        spent[way].append((time.perf_counter() - start) / len(samples))
            ratio = median(a / b for a, b in zip(spent["theirs"], spent["ours"], strict=True))
            speeds = f"{1 / median(spent['theirs']):12.1f}{1 / median(spent['ours']):10.1f}"
            print(f"  {workers:<16}{speeds}{ratio:7.2f}x")
            del loader


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, metavar="PATH", help="checkout of the published code")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs, searched for *.jpg")
    parser.add_argument("--pictures", type=int, default=10, help="different ones (10)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = photographs(options.photos, options.pictures)
    one_core(pictures, options.rounds)
    if options.reference is not None:
        for form in FORMS:
            whole(options.reference, form, pictures, options.rounds)


if __name__ == "__main__":
    main()
