"""Measure what it takes to find out that nothing has changed.

    python bench/noop_repro.py [--rounds N]

Times `dvc repro` over this checkout, all of whose nodes must be current (make demo), against DVC alone: a project of as
many nodes, each with an empty command, one dependency and one output of a few bytes. Runs alternate; medians and their
ratio are printed, and the time of `python -m stages.code --check`, by which `make coco` begins.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[1]
DVC = [sys.executable, "-m", "dvc"]


def seconds(command: list[str], folder: Path, expected: str = "") -> float:
    """Run a command and return its wall time.

    Raises:
        SystemExit: It failed, or did not say what was expected.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - began
    if done.returncode or expected not in done.stdout + done.stderr:
        sys.exit(f"{' '.join(command)} in {folder}: expected {expected!r}, got\n{done.stdout}{done.stderr}")
    return wall_s


def write_empty_project(folder: Path, num_nodes: int) -> None:
    """Make a DVC project of nodes that do nothing, and run it once."""
    stages = {}
    for number in range(num_nodes):
        for name in ("in", "out"):
            (folder / f"{number}.{name}").write_text(f"{name} {number}\n", encoding="utf-8")
        out = {"persist": True, "cache": False}
        stages[f"node{number}"] = {"cmd": "true", "deps": [f"{number}.in"], "outs": [{f"{number}.out": out}]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    for command in (["git", "init", "--quiet"], [*DVC, "init", "--quiet"], [*DVC, "repro", "--quiet"]):
        seconds(command, folder)


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    num_nodes = len(yaml.safe_load((REPO / "dvc.lock").read_text(encoding="utf-8"))["stages"])
    ours: list[float] = []
    alone: list[float] = []
    check: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_empty_project(Path(scratch), num_nodes)
        for _ in range(rounds):
            ours.append(seconds([*DVC, "repro"], REPO, "up to date"))
            alone.append(seconds([*DVC, "repro"], Path(scratch), "up to date"))
            check.append(seconds([sys.executable, "-m", "stages.code", "--check"], REPO))
    median = statistics.median
    print(f"{num_nodes} nodes, {rounds} rounds, medians")
    print(f"dvc repro, nothing changed     {median(ours):.2f} s")
    print(f"DVC alone, empty commands      {median(alone):.2f} s")
    print(f"ratio                          {median(a / b for a, b in zip(ours, alone, strict=True)):.2f}")
    print(f"python -m stages.code --check  {median(check):.2f} s")


if __name__ == "__main__":
    main()
