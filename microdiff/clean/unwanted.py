"""Samples that are rejected for what is elsewhere: in evaluation sets, in other datasets, or earlier in this one."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from microdiff.clean.picture_digests import NO_DIGESTS, Digests, digests_of, is_in, kept_digests, kept_rows
from microdiff.clean.policy import caption_rows
from microdiff.config.settings import CleanSettings
from microdiff.core.ledger import KEPT, Reason
from microdiff.core.verified_files import Input

Reasons = Mapping[str, Reason]
_COLUMNS = ["key", "captions", "meta", "sha256", "width", "height"]


def is_needed(settings: CleanSettings) -> bool:
    """Tell whether any setting needs a look at all pictures before any caption is chosen."""
    return bool(settings.drop_duplicates or settings.duplicates_across or settings.max_captions_per_picture)


def find_pictures(table: Input, digests: Digests) -> set[str]:
    """Return the keys of a raw table's kept pictures whose digest is among some, which are sorted."""
    return {row["key"] for row in kept_rows(table, ["key"], digests)}


def find_unwanted(
    raw: Mapping[str, Input],
    settings: CleanSettings,
    excluded: Mapping[str, Iterable[str]],
    elsewhere: Digests = NO_DIGESTS,
) -> dict[str, Reasons]:
    """Return why samples are rejected, by partition and key; of equal samples the first in source order stays.

    Only pictures whose bytes occur more than once are looked at; for the others eight bytes each are held in memory.

    Args:
        raw: The raw tables of all partitions, in order.
        settings: The policy: samples that it rejects anyway are no duplicates.
        excluded: Keys of pictures that are rejected already, by partition: they are no earlier samples.
        elsewhere: Digests of the pictures of datasets that come first, sorted.
    """
    repeated = _repeated(raw.values())
    limit = settings.max_captions_per_picture
    search = _Search(settings, elsewhere)
    found: dict[str, Reasons] = {}
    wanted = np.union1d(repeated, elsewhere)
    many = limit if settings.caption == "all" else None
    for name, table in raw.items():
        gone = frozenset(excluded.get(name, ()))
        reasons: dict[str, Reason] = {}
        for raw_row in kept_rows(table, _COLUMNS, wanted, many):
            if raw_row["key"] not in gone:
                reasons |= search.judge(raw_row)
        found[name] = reasons
    return found


@dataclass
class _Search:
    """What has been seen so far of pictures that occur more than once."""

    settings: CleanSettings
    elsewhere: Digests
    _samples: set[bytes] = field(default_factory=set)
    _owners: dict[bytes, str] = field(default_factory=dict)
    _captions: Counter[bytes] = field(default_factory=Counter)

    def judge(self, raw_row: Mapping[str, object]) -> dict[str, Reason]:
        """Return which samples of a raw row are rejected."""
        sha256 = str(raw_row["sha256"])
        is_elsewhere = bool(is_in(digests_of([sha256]), self.elsewhere)[0])
        picture = bytes.fromhex(sha256)
        found = {}
        for row in caption_rows(raw_row, self.settings):
            if row["status"] == KEPT:
                reason = Reason.DUPLICATE if is_elsewhere else self._reason(picture, row["caption"], row["image_key"])
                if reason is not None:
                    found[row["key"]] = reason
        return found

    def _reason(self, picture: bytes, caption: str, image_key: str) -> Reason | None:
        if self.settings.drop_duplicates == "picture":
            if self._owners.setdefault(picture, image_key) != image_key:
                return Reason.DUPLICATE
        elif self.settings.drop_duplicates:
            sample = hashlib.sha256(picture + caption.encode()).digest()
            if sample in self._samples:
                return Reason.DUPLICATE
            self._samples.add(sample)
        limit = self.settings.max_captions_per_picture
        if limit is not None:
            if self._captions[picture] >= limit:
                return Reason.REPEATED_PICTURE
            self._captions[picture] += 1
        return None


def _repeated(raw: Iterable[Input]) -> Digests:
    """Return the digest of every picture that occurs more than once, sorted."""
    parts = [digests for table in raw for digests in kept_digests(table)]
    values, counts = np.unique(np.concatenate([NO_DIGESTS, *parts]), return_counts=True)
    repeated: Digests = values[counts > 1]
    return repeated
