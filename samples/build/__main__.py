"""Rebuilds the miniatures in `samples/` from free photographs: `python -m samples.build --photos DIR`.

A dataset is one module here with `build(photos, into)`, `uses()` and `counts()`. Rerun with the same
photographs and the same Pillow, it writes the same bytes.
"""

import argparse
from pathlib import Path

from samples.build import cc12m, coco, diffdb, jdb, sa1b, textcaps
from samples.build.licences import write_licences
from samples.build.photos import verify

DATASETS = {"cc12m": cc12m, "diffdb": diffdb, "jdb": jdb, "sa1b": sa1b, "coco": coco, "textcaps": textcaps}
SAMPLES = Path(__file__).parents[1]


def main() -> None:
    """Build the miniatures named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m samples.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder where the packages were unpacked")
    parser.add_argument("--into", type=Path, default=SAMPLES, help="folder to write to (default: samples/)")
    parser.add_argument("datasets", nargs="*", metavar="dataset", help=f"{', '.join(DATASETS)}; default: all")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.datasets) - DATASETS.keys()):
        parser.error(f"unknown dataset {', '.join(unknown)}: expected {', '.join(DATASETS)}")

    verify(chosen.photos)
    for name in chosen.datasets or DATASETS:
        DATASETS[name].build(chosen.photos, chosen.into / name)
        print(name, *(f"{fate}={number}" for fate, number in DATASETS[name].counts().items()))
    write_licences(chosen.into / "LICENSES.md", {name: module.uses() for name, module in DATASETS.items()})


if __name__ == "__main__":
    main()
