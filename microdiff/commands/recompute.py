"""Run all steps of all datasets into an empty folder: a program for `python -m stages.code --same-bytes`.

It is run by its path, in a process of its own, with the code that is to be run on PYTHONPATH: that of now or that of an
earlier commit. So it imports nothing of this project but what it is told to run.
"""

import importlib
import json
import platform
import sys
from pathlib import Path

import yaml

_STEPS = ("download", "clean", "encode", "shard")


def main(code: Path, params: Path, root: Path, facts: Path) -> int:
    """Run all steps.

    Args:
        code: The folder whose `microdiff` and `stages` have to be the ones that are imported.
        params: The settings; all their datasets are computed.
        root: Receives `data/` and the rest; has the lists of withdrawn samples and nothing else.
        facts: A JSON file; receives what it was computed by and for which datasets.

    Returns:
        An exit code.
    """
    found = Path(importlib.import_module("stages").__path__[0]).resolve().parent
    if found != code.resolve():
        sys.stderr.write(f"error: the code of {code} was to be run, but Python finds that of {found}\n")
        return 1
    datasets = list(yaml.safe_load(params.read_text(encoding="utf-8"))["datasets"])
    for dataset in datasets:
        for step in _STEPS:
            stage = importlib.import_module(f"stages.{step}")
            if stage.app([dataset, "--params", str(params), "--root", str(root)], standalone_mode=False):
                return 1
    import torch

    made_by = {
        "datasets": datasets,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__.partition("+")[0],
    }
    facts.write_text(json.dumps(made_by), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
