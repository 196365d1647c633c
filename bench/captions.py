"""Measure the caption cleaners: captions per CPU-second and core, kind by kind.

    python bench/captions.py [--reference CHECKOUT] [--data FILE] [--rounds N]

Without `--data` the captions come from the small sets below; `FILE` is JSON lines with `caption` and `kind`, gzipped or
not. With `--reference`, a checkout of https://github.com/SonyResearch/micro_diffusion, its cleaner is timed in the same
run, turn and turn about, and must give the same captions. The ratio is the claim; absolute speed is the machine's.
"""

import argparse
import gzip
import importlib.util
import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.captions import clean_caption, clean_caption_light

Clean = Callable[[object], str]

SHOP_LINES = [
    "Material: 100% cotton, machine washable",
    '• Size: 10cm x 15cm (4" x 6")',
    "Price: $19.99 / €17,50 - FREE SHIPPING on orders over $50!",
    "★★★★★ “Best gift ever” – a happy customer",
    "Item no. AB1234-XL, SKU#123456789",
    "Dimensions: 120x80x45 cm; weight 2.5 kg",
    "What’s in the box: 1 x lamp, 2 x screws",
    "Visit https://www.shop-example.com/product?id=12345 for more",
    "Colour: Black &amp; White, <b>new</b> 2019 model<br/>",
    "Returns accepted within 30 days… Click on add to cart",
    "Brand™ Original® - fits 6½ to 7¼",
    "PDF manual available for download",
]
SAMPLES = {
    "caption": [
        "A man riding a wave on top of a surfboard.",
        "Two clocks are hung on a wall behind a glass sign.",
        "A woman in a red dress holds an umbrella near a bus",
        "There are many people sitting at a table outdoors.",
        "Sliced pizza on a white plate with a fork and a knife.",
    ],
    "news": [
        "politician with the members on monday",
        "event is wheeled out of the courtroom .",
        "actor attends the premiere , held at theatre",
        "we have the scoop on foods and food product !",
        "property image # apartment with room with furnished balcony - km from the beach",
    ],
    "prompt": [
        "portrait of a beautiful woman, intricate, highly detailed, digital painting, artstation, concept art, "
        "smooth, sharp focus, illustration, 8 k",
        "sensual town in fractal mist, by h. r. giger and gustave dore, oil on canvas, dramatic light, trending",
        "a castle on a hill at dawn; fog, cinematic, 35 mm film photography, volumetric light",
    ],
    "alt text": [
        "1987 GMC Sierra Pickup, S-15 Jimmy, GMC Print Ad",
        "My Dentist: Teeth Doctor Games",
        "Salad Cutter Bowl (4/CS)",
        "Car Dash / Windshield Mount for Escort Passport 9500ix 8500 X50 Radar Detector",
        "Wedding Invitation | Rustic Kraft & Lace - 5x7",
        "Café “Müller” – Straßenansicht 1925",
    ],
    "museum": [
        "Loch Awe from near Dalmally 1831 by Joseph Mallord William Turner, Graphite on paper, support: 116 x 186 mm",
        "Pianist 1979 by Stanley Boxer, Etching, aquatint and drypoint on paper, image: 515 x 565 mm",
    ],
    "chinese": ["一个房子前停放着许多的汽车", "超市的展台上放满了棕色的泰迪熊。"],
    "url": [
        "https://cdn.example.com/s/files/1/0276/products/DickDale_Surfer_sGuitar_480x480.jpg?v=1590692931",
        "Sue Lace Front Ear to Ear by Motown Tress Wigs - lfes-sue_mt_small.jpg",
    ],
    "shop": ["\n".join(SHOP_LINES[first::step]) for first in range(3) for step in (1, 2, 3)],
}


def load_reference(checkout: Path) -> Clean:
    """Import the published cleaner from its file alone."""
    path = checkout / "micro_diffusion" / "datasets" / "captions.py"
    spec = importlib.util.spec_from_file_location("reference_captions", path)
    if spec is None or spec.loader is None or not path.exists():
        sys.exit(f"{path}: no such file; --reference takes a checkout of micro_diffusion")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clean: Clean = module.CaptionProcessor().clean_caption
    return clean


def load_captions(path: Path, most: int) -> dict[str, list[str]]:
    """Read up to `most` captions of each kind, the same ones each time."""
    kinds: dict[str, list[str]] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for row in map(json.loads, lines):
            if isinstance(row["caption"], str) and row["kind"] != "long_adv":
                kinds.setdefault(row["kind"], []).append(row["caption"])
    for captions in kinds.values():
        random.Random(0).shuffle(captions)  # noqa: S311  # the same choice each time
        del captions[most:]
    return kinds


def seconds_each(clean: Clean, captions: list[str], least: float) -> float:
    """Return CPU seconds a caption, over enough repetitions to take `least` seconds."""
    repetitions = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < least or not repetitions:
        for caption in captions:
            clean(caption)
        repetitions += 1
    return spent / repetitions / len(captions)


def _work(captions: list[str]) -> int:
    return sum(len(clean_caption(caption)) for caption in captions)


def workers_speedup(captions: list[str], workers: int) -> float:
    """Return how many times as fast `workers` processes clean the same captions as one, by the clock."""
    with get_context("spawn").Pool(workers) as pool:
        shares = [captions] * workers
        pool.map(_work, shares, chunksize=1)
        together, in_turn = [], []
        for _ in range(5):  # the best of each, as other programs may want the cores
            start = time.perf_counter()
            pool.map(_work, shares, chunksize=1)
            together.append(time.perf_counter() - start)
            start = time.perf_counter()
            for share in shares:
                pool.apply(_work, (share,))
            in_turn.append(time.perf_counter() - start)
        return min(in_turn) / min(together)


def main() -> None:
    """Print one line for each kind of caption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, metavar="CHECKOUT", help="the published code, to compare with")
    parser.add_argument("--data", type=Path, metavar="FILE", help="captions by kind, JSON lines")
    parser.add_argument("--captions", type=int, default=300, help="captions of each kind (300)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each cleaner (5)")
    parser.add_argument("--workers", type=int, default=2, help="processes for the scaling line (2)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Beautiful Soup's, on captions that look like file names
    reference = load_reference(options.reference) if options.reference else None
    kinds = load_captions(options.data, options.captions) if options.data else SAMPLES

    print(f"{'kind':10} {'length':>6} {'ours/s':>9} {'light/s':>9} {'published/s':>11} {'ratio':>7} {'equal':>9}")
    for kind, captions in kinds.items():
        ours, light, published, ratios = [], [], [], []
        for _ in range(options.rounds):
            ours.append(seconds_each(clean_caption, captions, 0.05))
            light.append(seconds_each(clean_caption_light, captions, 0.05))
            if reference:
                published.append(seconds_each(reference, captions, 0.05))
                ratios.append(published[-1] / ours[-1])
        length = sum(map(len, captions)) / len(captions)
        line = f"{kind:10} {length:6.0f} {1 / median(ours):9,.0f} {1 / median(light):9,.0f}"
        if reference:
            equal = sum(clean_caption(caption) == reference(caption) for caption in captions)
            line += f" {1 / median(published):11,.0f} {median(ratios):6.1f}x {equal:4}/{len(captions)}"
        print(line)
    every = [caption for captions in kinds.values() for caption in captions]
    every *= 1 + 50_000 // len(every)
    print(f"{options.workers} workers: {workers_speedup(every, options.workers):.2f} times one")


if __name__ == "__main__":
    main()
