"""Where a shard set lies, by whatever path it is named: what counts for it stands beside it, not beside a link."""

from collections.abc import Iterator
from pathlib import Path

from microdiff.artifacts.manifest import MANIFEST
from microdiff.core.withdrawn import WITHDRAWN, Withdrawn, read_withdrawn

_MOST_LINKS = 40  # as many as Linux follows


def withdrawn_beside(top: Path) -> Withdrawn:
    """Return the withdrawn samples of a shard set on this machine.

    The list of the dataset counts wherever one was kept: where the set is named, where its files really are, and at
    each link on the way.

    Raises:
        SchemaError: A list cannot be read.
    """
    lists = dict.fromkeys(_set_folder(place).parent / WITHDRAWN for place in _places(top))
    return Withdrawn({key: entry for path in lists for key, entry in read_withdrawn(path).entries.items()})


def manifest_of(top: Path) -> Path:
    """Return where the manifest of a shard set is, or would be."""
    paths = [_set_folder(place) / MANIFEST for place in _places(top)]
    return next((path for path in paths if path.is_file()), paths[-1])


def _set_folder(place: Path) -> Path:
    """Return the shard set's own folder; a single group (`.../512`) lies in it."""
    return place.parent if place.name.isdigit() and not (place / MANIFEST).is_file() else place


def _places(path: Path) -> Iterator[Path]:
    """Yield a folder's path with `..` worked out, and as it is after each link in it was followed; the last is real."""
    path = Path.cwd() / path
    for _ in range(_MOST_LINKS):
        before, link, rest = _split_at_link(path)
        if link is None:
            yield before
            return
        if ".." not in rest:
            yield Path(before, link, *rest)
        path = Path(before, (before / link).readlink(), *rest)


def _split_at_link(path: Path) -> tuple[Path, str | None, tuple[str, ...]]:
    """Return what stands before the first link in an absolute path, the link's name, and what follows it."""
    before = Path(path.anchor)
    for number, part in enumerate(path.parts[1:], 2):
        if part == "..":
            before = before.parent
        elif (before / part).is_symlink():
            return before, part, path.parts[number:]
        else:
            before /= part
    return before, None, ()
