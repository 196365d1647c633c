"""What `python -m stages.verify` does: verify datasets one after the other, tell of them, repair if asked to."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from microdiff.artifacts.kinds import KINDS
from microdiff.errors import ParamsError
from microdiff.pipeline.params import load_params
from microdiff.pipeline.workspace import Workspace
from microdiff.verify.dataset import Verification, verify_dataset

_SHOWN = 50
_ROUNDS = 3  # of repair: what was wrong may have hidden what else is


def run(
    datasets: Sequence[str],
    params: Path,
    workspace: Workspace,
    *,
    deep: bool,
    repair: bool,
    say: Callable[[str], object],
) -> bool:
    """Verify datasets; return whether all is well, after repair if there was one.

    Args:
        datasets: Their names; none means all that have artifacts here.
        params: The settings file; read for deep checks and for repair.
        workspace: Where they are.
        deep: Whether to compare all values, and some with the pictures.
        repair: Whether to rebuild what is damaged.
        say: Receives lines.

    Raises:
        ParamsError: There is nothing to verify.
        MicrodiffError: A list of withdrawn samples or dvc.lock is damaged, or repair failed.
    """
    here = sorted(path.name for path in (workspace.root / "data").glob("*") if _has_artifacts(path.name, workspace))
    nothing = [name for name in datasets or here if name not in here]
    if nothing or not here:
        what = f"no artifacts of {', '.join(nothing)}" if nothing else "no artifacts"
        others = f"; there are those of {', '.join(here)}" if here else ""
        raise ParamsError(
            f"{workspace.root / 'data'}: {what} to verify{others}. "
            "Build a dataset (make NAME) or fetch it (make pull-NAME)."
        )
    is_well = True
    for dataset in datasets or here:
        result = _verify(dataset, params, workspace, deep=deep, say=say)
        for _ in range(_ROUNDS if repair else 0):
            if not result.damaged and not result.wrong:
                break
            from microdiff.verify.repair import repair as rebuild

            rebuild(result, params, workspace)
            say(f"{dataset}: rebuilt what was damaged, and what was made of it; verifying again")
            result = _verify(dataset, params, workspace, deep=deep, say=say)
        is_well &= not result.problems
    return is_well


def _verify(
    dataset: str, params: Path, workspace: Workspace, *, deep: bool, say: Callable[[str], object]
) -> Verification:
    started = time.monotonic()
    result = verify_dataset(dataset, workspace, deep=deep)
    if deep and not result.damaged:
        from microdiff.verify.deep import verify_deep

        deeper = verify_deep(dataset, load_params(params, dataset), workspace)
        result.problems += deeper.findings.problems
        result.notes += [deeper.note] if deeper.note else []
        if deeper.compared:
            lowest = min(deeper.compared, key=lambda each: each.psnr_db - each.floor_db)
            mean = sum(each.psnr_db for each in deeper.compared) / len(deeper.compared)
            say(
                f"{dataset}: {len(deeper.compared)} latents decoded, {mean:.1f} dB on average; nearest to its floor: "
                f"{lowest.key} at {lowest.px} px, {lowest.psnr_db:.1f} dB, floor {lowest.floor_db:.1f} dB"
            )
    for line in _lines(result, time.monotonic() - started):
        say(line)
    return result


def _lines(result: Verification, wall_s: float) -> Iterator[str]:
    for note in result.notes:
        yield f"note: {note}"
    for problem in result.problems[:_SHOWN]:
        yield str(problem)
    if len(result.problems) > _SHOWN:
        yield f"... and {len(result.problems) - _SHOWN} more"
    for remedy in dict.fromkeys(problem.remedy for problem in result.problems):
        yield f"repair it: {remedy}"
    state = f"{len(result.problems)} problems" if result.problems else "all well"
    yield (
        f"{result.dataset}: {state} in {', '.join(result.kinds)}: {result.num_files} files, "
        f"{result.num_bytes / 1e6:.1f} MB, {wall_s:.1f} s"
    )


def _has_artifacts(dataset: str, workspace: Workspace) -> bool:
    return any(workspace.is_here(dataset, kind) for kind in KINDS)
