"""List code that gives the same bytes as earlier code: what `python -m stages.code --same-bytes` does.

A digest is listed if the samples, recomputed from their sources without anybody's finished work, have the bytes that
the earlier code gave, and if every changed statement ran. See docs/decisions/code-identities.md.
"""

import ast
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from microdiff.artifacts.kinds import KINDS
from microdiff.artifacts.manifest import MANIFEST
from microdiff.commands.code_digests import handled_datasets, write_code_files
from microdiff.commands.code_evidence import Evidence, Unseen
from microdiff.commands.recomputation import Commit, Recomputed, contents, recompute_samples, recorded_artifacts
from microdiff.core.code_identity import (
    DECLARED,
    SAME_BYTES,
    CodeIdentities,
    Listing,
    add_listings,
    check_reason,
)
from microdiff.core.deciding_code import DECIDING_CODE, Unit, deciding_modules, units
from microdiff.errors import StepError
from microdiff.remote.git_revision import open_revision

_CODE = ("microdiff", "stages", "code")
_MADE_BY = {"raw": "download", "captions": "clean", "latents": "latents", "shards": "shards"}  # what manifests state
_SHOWN = 12
_LINES = 10
Say = Callable[[str], object]


@dataclass(frozen=True)
class Candidate:
    """A kind of unit whose code has changed.

    Attributes:
        unit: The kind now.
        modules_before: The modules that decided it.
        digest: Of its code now.
        identity: Of its code before.
        declared: Why the code before stands for that, if that was not shown.
    """

    unit: Unit
    modules_before: tuple[str, ...]
    digest: str
    identity: str
    declared: str | None

    def listing(self, reason: str) -> Listing:
        """Return what to list; what was declared of the code before remains so."""
        return Listing(self.identity, reason if self.declared is None else f"{self.declared}; then {reason}")


def list_same_bytes(root: Path, since: str, declared: str | None, say: Say) -> bool:
    """List the digests of changed code that gives the same bytes as that of a commit.

    Args:
        root: The repository; its working tree is the code in question.
        since: The commit to compare with.
        declared: Why code that cannot be shown gives the same bytes; None to list no such code.
        say: Receives lines.

    Returns:
        Whether all code that has changed is listed now.

    Raises:
        ParamsError: The reason is unfit, or coverage.py is not installed.
        SourceError: There is no such commit.
        SchemaError: The list is damaged.
        StepError: The samples could not be recomputed, or the code changed meanwhile.
    """
    if declared is not None:
        check_reason(DECLARED + declared)
    with TemporaryDirectory(prefix="microdiff-") as temporary:
        folder = Path(temporary)
        commit = _checkout(root, since, folder)
        old, new = CodeIdentities(commit.code), CodeIdentities(root)
        candidates = _candidates(old, new)
        for each in candidates:
            say(f"{each.unit.name}: {each.digest[:_SHOWN]} is new, {each.identity[:_SHOWN]} came before")
        if not candidates:
            say(f"nothing to show: all code is that of {since}, or listed in {SAME_BYTES}")
            return True
        recomputed = recompute_samples(commit, root, folder / "now", record_lines=True)
        _check_unchanged(root, candidates)
        differing = _differing(commit, _identities(commit, old), root, recomputed, folder, say)
        evidence = Evidence(old.tree, new.tree, _all_modules(new, root), recomputed.ran)
        shown, is_all = _judge(candidates, commit, evidence, differing, _reason(recomputed, commit), declared, say)
        if shown:
            add_listings(root / SAME_BYTES, shown)
            write_code_files(root)
            say(f"{SAME_BYTES}: {len(shown)} digests listed. Run dvc repro, and commit code/ and dvc.lock.")
    return is_all


def _checkout(root: Path, since: str, folder: Path) -> Commit:
    """Write a commit's files into a folder, code apart."""
    inputs, code = folder / "inputs", folder / "before"
    open_revision(str(root.resolve()), since, folder / "git").extract(inputs)
    code.mkdir()
    for name in _CODE:
        if (inputs / name).exists():
            shutil.move(inputs / name, code / name)
    return Commit(since, code, inputs)


def _candidates(old: CodeIdentities, new: CodeIdentities) -> list[Candidate]:
    """Return the kinds of unit that both have, whose code differs and is not listed."""
    before = _units_before(old)
    found = []
    for unit in units(handled_datasets(new.tree.root)):
        if (earlier := before.get(unit.name)) is None:
            continue
        digest, digest_before = new.digest(unit.modules), old.digest(earlier.modules)
        listings = {**old.same_bytes.listings, **new.same_bytes.listings}
        before_that = listings.get(digest_before)
        identity = new.same_bytes.identity(old.same_bytes.identity(digest_before))
        if digest not in new.same_bytes.listings and digest != identity:
            declared = before_that.reason if before_that is not None and before_that.is_declared else None
            found.append(Candidate(unit, earlier.modules, digest, identity, declared))
    return found


def _units_before(old: CodeIdentities) -> dict[str, Unit]:
    return {unit.name: unit for unit in units(handled_datasets(old.tree.root), _deciding_code(old))}


def _identities(commit: Commit, old: CodeIdentities) -> dict[str, dict[str, str]]:
    """Return what code manifests state, by dataset, by kind of artifact."""
    before = _units_before(old)
    return {
        dataset: {
            kind: old.identity((before.get(f"{unit} {dataset}") or before[unit]).modules)
            for kind, unit in _MADE_BY.items()
        }
        for dataset in commit.datasets
    }


def _deciding_code(code: CodeIdentities) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return which modules decided kinds of unit, as the code of a commit says it; as ours does if that does not."""
    name = deciding_modules.__module__
    if not code.tree.import_closure([name]):
        return DECIDING_CODE
    for statement in code.tree.syntax_tree(name)[1].body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == "DECIDING_CODE"
            and statement.value is not None
        ):
            table: Mapping[str, Mapping[str, tuple[str, ...]]] = ast.literal_eval(statement.value)
            return table
    return DECIDING_CODE


def _check_unchanged(root: Path, candidates: Sequence[Candidate]) -> None:
    code = CodeIdentities(root)
    for each in candidates:
        if code.digest(each.unit.modules) != each.digest:
            raise StepError(f"the code of {each.unit.name} has changed while it ran. Run it again.")


def _all_modules(code: CodeIdentities, root: Path) -> list[str]:
    """Return all modules that a step can run."""
    handlers = [f"microdiff.handlers.{dataset}" for dataset in handled_datasets(root)]
    deciding = [name for unit in units(handled_datasets(root)) for name in unit.modules]
    return code.tree.import_closure([*(f"stages.{step}" for step in KINDS.values()), *handlers, *deciding])


Differing = Mapping[tuple[str, str], list[str]]


def _differing(
    commit: Commit,
    identities: Mapping[str, Mapping[str, str]],
    root: Path,
    recomputed: Recomputed,
    folder: Path,
    say: Say,
) -> Differing:
    """Return which files of each dataset's artifacts differ from those that the earlier code gives.

    Those are the artifacts here, if they are the commit's and agree; else the earlier code computes them, too: what it
    gives on this kind of machine may differ from what was recorded on another one.
    """
    unfit = recorded_artifacts(commit, root, identities)
    if unfit is None:
        differing = _compare(commit, root, recomputed.root)
        if not differing:
            return differing
        unfit = "some bytes differ from those in data/"
    say(f"{unfit}: recomputing the samples with the code of {commit.name}, too")
    before = recompute_samples(commit, commit.code, folder / "then", record_lines=False)
    return _compare(commit, before.root, recomputed.root)


def _compare(commit: Commit, before: Path, now: Path) -> Differing:
    found = {}
    for dataset in commit.datasets:
        for kind in KINDS:
            files = [contents(root, dataset, kind) for root in (before, now)]
            names = sorted(
                name for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name)
            )
            if names:
                found[dataset, kind] = names
    return found


def _judge(
    candidates: Sequence[Candidate],
    commit: Commit,
    evidence: Evidence,
    differing: Differing,
    reason: str,
    declared: str | None,
    say: Say,
) -> tuple[dict[str, Listing], bool]:
    """Return what may be listed, and whether that is all."""
    shown: dict[str, Listing] = {}
    refused: set[str] = set()
    for each in candidates:
        other_bytes = _other_bytes(each.unit, commit, differing)
        unseen = evidence.unseen(each.modules_before, each.unit.modules)
        if other_bytes:
            say(f"{each.unit.name}: gives other bytes, or is given other input: {', '.join(other_bytes[:_LINES])}")
            refused.add(each.digest)
        elif unseen and declared is None:
            say(f"{each.unit.name}: not shown to give the same bytes")
            _say_unseen(unseen, say)
            refused.add(each.digest)
        elif unseen:
            say(f"{each.unit.name}: listed, since it was declared: {declared}")
            _say_unseen(unseen, say)
            shown[each.digest] = each.listing(f"{DECLARED}{declared}")
        else:
            say(f"{each.unit.name}: gives the same bytes")
            shown.setdefault(each.digest, each.listing(reason))
    if refused and declared is None:
        say("What was not shown is computed again, unless you know better: --declare 'why the bytes are the same'")
    return {digest: listing for digest, listing in shown.items() if digest not in refused}, not refused


def _say_unseen(unseen: Sequence[Unseen], say: Say) -> None:
    for each in unseen[:_LINES]:
        say(f"  {each}")
    if len(unseen) > _LINES:
        say(f"  ... and {len(unseen) - _LINES} more")


def _other_bytes(unit: Unit, commit: Commit, differing: Differing) -> list[str]:
    """Return the files that say that a kind of unit gives other bytes, or that it was not given the same input."""
    steps = list(KINDS.values())
    kinds = [kind for kind, step in KINDS.items() if steps.index(step) <= steps.index(unit.step)]
    datasets = commit.datasets if unit.dataset is None else [unit.dataset]
    if unit.dataset is not None and unit.dataset not in commit.datasets:
        return [f"no sample of {unit.dataset}"]
    return [
        f"data/{dataset}/{kind}/{name}"
        for dataset in datasets
        for kind in kinds
        for name in differing.get((dataset, kind), ())
    ]


def _reason(recomputed: Recomputed, commit: Commit) -> str:
    """Return what was recomputed, and by what: no host, no path, no time."""
    files = [
        name
        for dataset in commit.datasets
        for kind in KINDS
        for name in contents(recomputed.root, dataset, kind)
        if name != MANIFEST
    ]
    return (
        f"recomputed {len(commit.datasets)} datasets, {len(files)} files: "
        f"{recomputed.platform}, {recomputed.device}, torch {recomputed.torch}"
    )
