"""Which commit a source on the hub is at: the one of the first run, until the settings name another.

`@main`, a tag, or no revision at all move on. What they meant when a dataset was first fetched is remembered in the
store and recorded in the manifest, as `revisions`. Manifests, which a team shares, count more; they are looked for
wherever finished partitions are, since DVC removes the one that is here before a step runs.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from microdiff.artifacts.manifest import Manifest
from microdiff.config.roots import public_root
from microdiff.core.files import digest_json, read_json, write_json
from microdiff.core.progress import Reporter
from microdiff.storage import Source

_ROOT = re.compile(r"(hf://[^@\s]+?)/?(?:@([^@\s]+?))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Revisions:
    """The commits of a dataset's roots.

    Args:
        dataset: Its name.
        manifests: Gives those of its raw artifact, the latest first.
        work: The store's folder.

    Attributes:
        used: The commits of roots whose revision is none, by root.
    """

    def __init__(self, dataset: str, manifests: Callable[[], Iterable[Manifest]], work: Path) -> None:
        self._manifests = manifests
        self._kept = work / "listings" / f"{digest_json(['revisions', dataset])}.json"
        self.used: dict[str, str] = {}

    def pinned(self, root: str, report: Reporter) -> str:
        """Return a root at the commit that it was at before, if it names none itself."""
        parts = _movable(root)
        commit = self._known(public_root(root)) if parts else None
        if parts is None or commit is None:
            return root
        report.say(
            f"{public_root(root)}: stays at {commit}, its commit when it was first fetched. "
            f"For a newer one, set it to {parts[1]}@COMMIT."
        )
        return f"{parts[1]}@{commit}"

    def note(self, root: str, source: Source) -> None:
        """Remember the commit that a root was opened at, if it names none itself."""
        commit = source.name.rpartition("@")[2]
        if _movable(root) and _COMMIT.fullmatch(commit):
            self.used[public_root(root)] = commit
            kept = _read(self._kept)
            if kept.get(public_root(root)) != commit:
                write_json(self._kept, {**kept, public_root(root): commit})

    def _known(self, root: str) -> str | None:
        for manifest in self._manifests():
            if commit := _commits(manifest.facts.get("revisions")).get(root):
                return commit
        return _read(self._kept).get(root)


def _movable(root: str) -> "re.Match[str] | None":
    parts = _ROOT.fullmatch(root)
    return None if parts is None or _COMMIT.fullmatch(parts[2] or "") else parts


def _read(kept: Path) -> dict[str, str]:
    return _commits(read_json(kept)) if kept.is_file() else {}


def _commits(value: object) -> dict[str, str]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {root: commit for root, commit in pairs if isinstance(commit, str) and _COMMIT.fullmatch(commit)}
