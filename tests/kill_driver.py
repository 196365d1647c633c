"""Kill the building of a dataset's shards at random moments, again and again, and compare what comes out in the end.

The whole process group goes: make's program, DVC and the step with its workers. By hand, in a clone of the project:

    python tests/kill_driver.py --kills 200 --seed 1 textcaps
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS = {"raw": "download", "captions": "clean", "latents": "encode", "shards": "shard"}
_LONGEST_S = 900.0  # of one build, on a busy machine
_POLL_S = 0.002


@dataclass
class Kills:
    """What a series of kills did.

    Attributes:
        moments: How many there were, by what was going on.
        signals: How many, by signal.
        builds: How many times all was built to the end.
    """

    moments: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    builds: int = 0

    @property
    def number(self) -> int:
        """How many kills there were."""
        return sum(self.moments.values())


class Project:
    """A clone in which one dataset is built.

    Args:
        root: Of the clone.
        dataset: Its name.
    """

    def __init__(self, root: Path, dataset: str) -> None:
        self.root = root
        self.dataset = dataset
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "HF_HUB_OFFLINE": "1",
        }

    def start(self, log: Path) -> "subprocess.Popen[bytes]":
        """Start a build in a process group of its own."""
        with log.open("wb") as out:
            command = [sys.executable, "-m", "stages.build", self.dataset]
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def forget(self) -> None:
        """Remove all that was built."""
        for kind in STEPS:
            shutil.rmtree(self.root / "data" / self.dataset / kind, ignore_errors=True)
        for name in (".work", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of all artifacts' files, of metrics and of dvc.lock, by path."""
        folders = [self.root / "data" / self.dataset / kind for kind in STEPS]
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        paths += [self.root / "metrics" / step / f"{self.dataset}.json" for step in STEPS.values()]
        paths.append(self.root / "dvc.lock")
        return {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def moment(self, log: Path) -> str:
        """Say what is going on."""
        if any((folder / "partition.json").exists() for folder in self.root.glob(".work/*/tmp-*")):
            return "a partition on its way into the store"
        if any(self.root.glob(f"data/{self.dataset}/.*.partial")):
            return "an artifact being put together"
        text = log.read_text(errors="replace")
        started = [step for step in STEPS.values() if f"stages.{step} " in text]
        if not started:
            return "before the first step"
        step = started[-1]
        if " kept, " in text.rpartition(f"stages.{step} ")[2]:
            return f"DVC after {step}"
        if any(self.root.glob(f".work/{step}*/tmp-*")):
            return f"{step}, computing"
        return f"{step}, starting or ending"


def triggers(rng: random.Random, project: Project, log: Path, whole_s: float) -> Callable[[], bool]:
    """Return what tells when to kill: after some time, some time after a step began or ended, or in a publication."""
    started = time.monotonic()
    if rng.random() < 0.4:
        wait_s = rng.uniform(0.0, whole_s)
        return lambda: time.monotonic() - started >= wait_s
    if rng.random() < 0.3:
        return lambda: "store" in project.moment(log) or "artifact" in project.moment(log)
    mark = rng.choice([f"stages.{step} " for step in STEPS.values()] + [" kept, "] * 4)
    number = rng.randrange(1, 5) if mark == " kept, " else 1
    wait_s = rng.uniform(0.0, 1.5)
    seen: list[float] = []

    def is_time() -> bool:
        if not seen and log.read_text(errors="replace").count(mark) >= number:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= wait_s

    return is_time


def kill_again_and_again(project: Project, kills: int, seed: int, log: Path) -> Kills:
    """Build, kill, and go on, until there were so many kills and the last build has come to its end.

    Raises:
        AssertionError: A build failed by itself, or gave other bytes than one that nobody killed.
    """
    rng = random.Random(seed)
    done = Kills()
    project.forget()
    started = time.monotonic()
    _finish(project.start(log), log)
    whole_s = time.monotonic() - started
    expected = project.digests()
    project.forget()
    while True:
        process = project.start(log)
        is_time = triggers(rng, project, log, whole_s) if done.number < kills else lambda: False
        deadline = time.monotonic() + _LONGEST_S
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline, f"a build did not end: {log.read_text(errors='replace')[-2000:]}"
            time.sleep(_POLL_S)
        if process.poll() is None:
            number = rng.choice(SIGNALS)
            done.moments[project.moment(log)] += 1
            done.signals[number.name] += 1
            _kill(process, number)
            continue
        _finish(process, log)
        found = project.digests()
        assert found == expected, sorted(name for name in expected if found.get(name) != expected[name])
        done.builds += 1
        if done.number >= kills:
            return done
        project.forget()


def _kill(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the whole group, and see that nothing of it is left: what outlives it for long is killed."""
    os.killpg(process.pid, number)
    deadline = time.monotonic() + 20.0
    while _is_there(process.pid) and time.monotonic() < deadline:
        process.poll()
        time.sleep(_POLL_S)
    if _is_there(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_LONGEST_S)
    while _is_there(process.pid):
        time.sleep(_POLL_S)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _finish(process: "subprocess.Popen[bytes]", log: Path) -> None:
    process.wait(_LONGEST_S)
    assert process.returncode == 0, log.read_text(errors="replace")[-4000:]


def make_clone(root: Path) -> None:
    """Copy the files of the working tree that git knows or would take, less what dvc.lock has recorded."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=REPO, capture_output=True, text=True, check=True, timeout=_LONGEST_S)
    names = listed.stdout.split("\0")
    for name in filter(None, names):
        if (REPO / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True, timeout=_LONGEST_S)


def main() -> None:
    """Kill by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="microdiff-kills-") as name:
        make_clone(Path(name))
        project = Project(Path(name), arguments.dataset)
        done = kill_again_and_again(project, arguments.kills, arguments.seed, Path(name) / "build.log")
    sys.stdout.write(f"{done.number} kills, {done.builds} builds to the end, all with the same bytes\n")
    for label, counted in (("moment", done.moments), ("signal", done.signals)):
        for what, number in counted.most_common():
            sys.stdout.write(f"  {label}: {what}: {number}\n")


if __name__ == "__main__":
    main()
