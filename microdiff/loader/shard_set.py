"""What a folder of latent shards holds, checked before anything streams from it. Imports neither torch nor streaming.

Two kinds of folder are read: ours (typed columns, a `manifest.json` that names the encoders, a sub-folder per
group of resolutions) and what the published micro_diffusion scripts write (`bytes` columns without shapes).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microdiff.artifacts.mds_index import INDEX_NAME, ShardEntry, read_index
from microdiff.artifacts.mds_scan import MdsFile, Values
from microdiff.core.regular_files import check_files_inside
from microdiff.core.withdrawn import Withdrawn
from microdiff.errors import SchemaError
from microdiff.loader.column_types import (
    PUBLISHED_DOWNSAMPLING,
    StoredArray,
    caption_array,
    encoding_of,
    further_array,
    image_array,
)
from microdiff.loader.encoder_metadata import (
    encoders_of,
    first_difference,
    read_encoders,
    stated_downsampling,
    stored_dtype,
)
from microdiff.loader.set_places import manifest_of, withdrawn_beside
from microdiff.loader.shard_cache import FolderSource, fetch_shard, open_shard_source
from microdiff.remote.shard_source import ShardSource

CAPTION_COLUMN = "caption_latents"
KEY_COLUMN = "key"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a caller wants from every shard set.

    Attributes:
        image_size: Pixels; must be a resolution of every sample read.
        cap_seq_size: Tokens per caption the caller expects, None for what the shards have.
        cap_emb_dim: Width of a token the caller expects, None for what the shards have.
        columns: Further columns.
        check_hashes: Whether each shard is to be checked by its hash.
    """

    image_size: int
    cap_seq_size: int | None = None
    cap_emb_dim: int | None = None
    columns: Sequence[str] = ()
    check_hashes: bool = False


@dataclass(frozen=True)
class ShardSet:
    """The shards of one dataset at one resolution.

    Attributes:
        given: The shard set as the user named it, for messages.
        folder: The folder to read from: the set, or the group in it that has the resolution.
        entries: The shards, as its index lists them.
        source: What fetches shards into `folder`, None where they lie there from the start.
        prefix: What precedes a shard's name for the source: empty, or the group's name and a slash.
        encoders: What made the columns that are read, None when nothing says so.
        image: The image latents, or the moments they are drawn from.
        caption: The caption latents.
        further: The further columns asked for; None for text.
        withdrawn: Samples that may not be used.
        num_left_out: How many samples of the set do not have the resolution.
    """

    given: str
    folder: Path
    entries: Sequence[ShardEntry]
    source: ShardSource | None
    prefix: str
    encoders: object
    image: StoredArray
    caption: StoredArray
    further: Mapping[str, StoredArray | None] = field(default_factory=dict)
    withdrawn: Withdrawn = field(default_factory=Withdrawn)
    num_left_out: int = 0

    @property
    def has_moments(self) -> bool:
        """Whether image latents are to be drawn anew in every epoch."""
        return self.image.column.startswith("moments_")

    def left_out(self) -> Iterator[str]:
        """Yield in words what is in the set, but in no batch."""
        given = sum(entry.num_samples for entry in self.entries)
        if self.num_left_out:
            total = given + self.num_left_out
            yield f"{given} of {total} samples have {self.image.column}: the other {self.num_left_out} are left out"
        if self.withdrawn:
            yield f"withdrawn samples: {len(self.withdrawn)}; where shards still hold one, the next takes its place"

    @property
    def has_keys(self) -> bool:
        """Whether samples have keys; those of the published code have none."""
        return all(KEY_COLUMN in entry.header.column_names for entry in self.entries)


def open_shard_set(given: str | Path | ShardSource, wanted: Wanted, cache: Path | None = None) -> ShardSet:
    """Read an index, choose the group that has the resolution, and check that its files are there.

    Args:
        given: Folder with an `index.json`, or a remote shard set: its `dvc://` URL or its source.
        wanted: What it must have.
        cache: Where fetched and decompressed shards are kept, None for a folder of the user's own.

    Raises:
        SchemaError: In words, whatever would keep this set from being streamed at this resolution.
    """
    source = open_shard_source(given, cache)
    top = Path(str(given)).expanduser() if source is None else source.local
    name = str(top) if isinstance(given, Path) or source is None else str(given if isinstance(given, str) else top)
    prefix, column, entries, num_left_out = _choose_group(top, name, wanted.image_size)
    folder = top / prefix
    if not sum(entry.num_samples for entry in entries):
        raise SchemaError(f"{folder}: has no samples with {column}: leave this dataset out at {wanted.image_size} px")
    withdrawn = withdrawn_beside(top) if source is None else source.withdrawn
    if source is None:
        check_files_inside(top, ((prefix + entry.stored.name, entry.stored.num_bytes) for entry in entries))
        if any(entry.zipped for entry in entries):
            source = FolderSource(top, cache)
            source.claim()
            folder = source.local / prefix
    if wanted.check_hashes:
        for entry in entries:
            if entry.raw.known_hash is None:
                raise SchemaError(f"{folder / entry.raw.name}: its index states no hash: leave the check out")
    encodings = {each: encoding_of(folder, entries, each) for each in (column, CAPTION_COLUMN, *wanted.columns)}
    manifest = manifest_of(top)
    encoders = read_encoders(manifest)
    downsampling = stated_downsampling(encoders, manifest) or PUBLISHED_DOWNSAMPLING
    first = _first_sample(folder, entries, source, prefix) if "bytes" in encodings.values() else {}
    shard_set = ShardSet(
        given=name,
        folder=folder,
        entries=entries,
        source=source,
        prefix=prefix,
        encoders=encoders_of(encoders, encodings),
        image=image_array(
            folder,
            column,
            encodings[column],
            stored_dtype(encoders, None),
            wanted.image_size,
            downsampling,
            len(first.get(column, b"")),
        ),
        caption=caption_array(
            folder,
            CAPTION_COLUMN,
            encodings[CAPTION_COLUMN],
            stored_dtype(encoders, CAPTION_COLUMN),
            (wanted.cap_seq_size, wanted.cap_emb_dim),
            len(first.get(CAPTION_COLUMN, b"")),
        ),
        further={
            each: further_array(folder, each, encodings[each], stored_dtype(encoders, each)) for each in wanted.columns
        },
        withdrawn=withdrawn,
        num_left_out=num_left_out,
    )
    _check_room(shard_set)
    if withdrawn and not shard_set.has_keys:
        raise SchemaError(f"{folder}: samples are withdrawn by key, but these have no column {KEY_COLUMN!r}")
    return shard_set


def check_mixable(shard_sets: Sequence[ShardSet]) -> None:
    """Check that shard sets can be trained on together: same encoders (where stated), same dtypes and shapes.

    Raises:
        SchemaError: Naming two of them and the first field in which they differ.
    """
    remedy = "encode both with the same models, or leave one out"
    stated = [each for each in shard_sets if each.encoders is not None]
    if 0 < len(stated) < len(shard_sets):
        silent = ", ".join(each.given for each in shard_sets if each.encoders is None)
        _LOG.warning("not checked, for want of a manifest: that %s was made by the encoders of the rest", silent)
    for other in stated[1:]:
        difference = first_difference(stated[0].encoders, other.encoders, "encoders")
        if difference:
            name, left, right = difference
            raise SchemaError(
                f"{stated[0].given} and {other.given} come from different encoders: {name} is {left!r} in "
                f"the first and {right!r} in the second: {remedy}"
            )
    for other in shard_sets[1:]:
        for left, right in zip(_arrays(shard_sets[0]), _arrays(other), strict=True):
            if left != right:
                raise SchemaError(
                    f"{shard_sets[0].given} and {other.given} do not fit together: {_described(left)} in the "
                    f"first and {_described(right)} in the second: {remedy}"
                )


def _arrays(shard_set: ShardSet) -> list[StoredArray | None]:
    return [shard_set.image, shard_set.caption, *shard_set.further.values()]


def _described(array: StoredArray | None) -> str:
    return "text" if array is None else f"{array.column} is {array}"


def _choose_group(top: Path, name: str, image_size: int) -> tuple[str, str, list[ShardEntry], int]:
    """Return the prefix of the group that has the resolution, its column, its shards, and how many samples lack it."""
    columns = (f"latents_{image_size}", f"moments_{image_size}")
    entries = read_index(top / INDEX_NAME)
    for column in columns:
        if all(column in entry.header.column_names for entry in entries):
            return "", column, entries, 0
    prefix = f"{image_size}/"
    if (top / prefix / INDEX_NAME).is_file():
        group = read_index(top / prefix / INDEX_NAME)
        for column in columns:
            if all(column in entry.header.column_names for entry in group):
                num_left_out = sum(entry.num_samples for entry in entries) - sum(each.num_samples for each in group)
                return prefix, column, group, max(0, num_left_out)
    names = [entry.header.column_names for entry in entries]
    found = {each for every in names for each in every if each.startswith(("latents_", "moments_"))}
    without = sum(not set(columns) & set(each) for each in names)
    raise SchemaError(
        f"{name}: {without} of {len(entries)} shards have no {columns[0]}, only {sorted(found)}: choose another "
        f"image_size, or encode this dataset at {image_size} px"
    )


def _check_room(shard_set: ShardSet) -> None:
    """Check that shards are large enough for the values that their samples are said to have.

    What is remote has not been looked at yet, and the memory for an epoch's order depends on these numbers.
    """
    arrays = {array.column: array.row_bytes for array in _arrays(shard_set) if array is not None}
    for entry in shard_set.entries:
        needed = entry.header.least_bytes(entry.num_samples, arrays)
        if needed > entry.raw.num_bytes:
            raise SchemaError(
                f"{shard_set.folder / entry.raw.name}: expected at least {needed} bytes for {entry.num_samples} "
                f"samples with {', '.join(arrays)}, got {entry.raw.num_bytes} by its index: write or pull it again"
            )


def _first_sample(folder: Path, entries: Sequence[ShardEntry], source: ShardSource | None, prefix: str) -> Values:
    """Return a sample as it is stored: shards of the published code state no shapes."""
    entry = next(entry for entry in entries if entry.num_samples)
    if source is not None:
        fetch_shard(source, prefix, entry)
    return MdsFile(folder, entry.uncompressed()).sample(0)
