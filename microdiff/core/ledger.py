"""The ledger: every record that enters a step leaves it kept or rejected with one reason, and the sums are checked.

Counts are flat mappings: `in`, `kept`, and one entry per reason that occurred. A step's `in` is the `kept` of the
step before it, partition by partition.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from microdiff.errors import RejectionError, SourceError, StepError

Counts = dict[str, int]


class Reason(StrEnum):
    """Why a record was not kept. The value is what artifacts and metrics hold."""

    TOO_SMALL = "too_small"  # short side below min_side_px
    TOO_LARGE = "too_large"  # more bytes or pixels than a picture may have
    UNDECODABLE = "undecodable"  # not a picture, a damaged one, or one whose pixel data are incomplete
    UNSUPPORTED_PICTURE = "unsupported_picture"  # whole, but in a form whose colours we would have to guess
    UNSUPPORTED_MEMBER = "unsupported_member"  # encrypted, or compressed in a way that cannot be read
    MISSING_IMAGE = "missing_image"  # captions without a picture
    MISSING_CAPTION = "missing_caption"  # a picture without captions
    BAD_CAPTION = "bad_caption"  # not text: another type, or bytes in no known encoding
    EMPTY_CAPTION = "empty_caption"  # nothing to read in any caption, or in the one chosen
    NO_WORDS = "no_words"  # nothing but URLs, file names, domains, addresses, markup or parameters in any caption
    NSFW = "nsfw"  # above the dataset's thresholds
    UNSAFE_MEMBER = "unsafe_member"  # a link, a device, or a path that leads out of its archive
    DAMAGED_ARCHIVE = "damaged_archive"  # stands for what could not be read behind the damage
    FAILED_DOWNLOAD = "failed_download"  # the source lists it and did not deliver it
    DUPLICATE_KEY = "duplicate_key"  # an earlier record has the same key
    AMBIGUOUS_KEY = "ambiguous_key"  # members that cannot be told apart: which caption is whose is unknown
    DUPLICATE = "duplicate"  # same picture, or same picture and caption, as an earlier sample
    REPEATED_PICTURE = "repeated_picture"  # its picture has more captions than max_captions_per_picture
    IN_EVALUATION_SET = "in_evaluation_set"  # its picture is one of exclude_pictures
    WITHDRAWN = "withdrawn"  # taken out on request, see microdiff.core.withdrawn
    NON_FINITE = "non_finite"  # its latents hold NaN or infinity, or exceed float16


KEPT = "kept"
OTHER_MEMBERS = "other_members"  # counts members of source archives that are known to be no records
EXPANDED = "expanded"  # counts samples that a step made out of others: all captions of a picture instead of one
_REASONS = tuple(reason.value for reason in Reason)


@dataclass(frozen=True)
class Result:
    """What the computation of a partition says about the files it wrote.

    Attributes:
        counts: The partition's ledger.
        facts: Anything else the step wants back; JSON values.
        digests: SHA-256 of files whose bytes were hashed on their way to the disk, by path.
    """

    counts: Counts
    facts: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """Counts one partition's records as they pass."""

    def __init__(self) -> None:
        self._in = 0
        self._out: Counter[str] = Counter()

    def enter(self) -> None:
        """Count a record on its way in."""
        self._in += 1

    def leave(self, status: str) -> None:
        """Count a record's one outcome: `kept`, or a `Reason`."""
        self._out[status] += 1

    def counts(self) -> Counts:
        """Return `in`, `kept` and each reason that occurred, reasons sorted by name."""
        reasons = {name: self._out[name] for name in sorted(self._out) if name != KEPT}
        return {"in": self._in, "kept": self._out[KEPT], **reasons}


def add_up(parts: Iterable[Mapping[str, int]]) -> Counts:
    """Sum counts key by key; `in` and `kept` come first and are always present."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    rest = {name: total[name] for name in sorted(total) if name not in ("in", KEPT)}
    return {"in": total["in"], KEPT: total[KEPT], **rest}


def rejections(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the non-zero rejection counts by reason."""
    return {name: counts[name] for name in _REASONS if counts.get(name)}


def check_balance(counts: Mapping[str, int], expected_in: int | None, where: str) -> None:
    """Check that records in equal kept plus rejected, and equal what the step before kept.

    Args:
        counts: A partition's or a step's counts; those it `expanded` did not come from the step before.
        expected_in: What the step before kept, or None where there is no step before.
        where: Names the step, dataset and partition in the message.

    Raises:
        StepError: The numbers do not add up.
    """
    rejected = sum(rejections(counts).values())
    if counts["in"] != counts[KEPT] + rejected:
        raise StepError(
            f"{where}: the ledger does not add up: {counts['in']} in, but {counts[KEPT]} kept + {rejected} "
            f"rejected = {counts[KEPT] + rejected}. This is a defect in the step; its output was not published."
        )
    came_in = counts["in"] - counts.get(EXPANDED, 0)
    if expected_in is not None and came_in != expected_in:
        raise StepError(
            f"{where}: {came_in} records came in, but the step before kept {expected_in}. "
            "Rebuild the step before (dvc repro), its output does not fit its manifest."
        )


def check_rejected_share(
    dataset: str, step: str, source_records: int, counts: Mapping[str, int], limit: float, withdrawn: int = 0
) -> None:
    """Check the share of the dataset's source records lost so far, this step included.

    Withdrawn samples are not lost: somebody decided on them, one by one, and the list is in git. They neither use up
    what the limit allows nor hide that a source got worse.

    Args:
        dataset: Dataset name, for the message and the setting's name.
        step: Step name, for the message.
        source_records: Number of records the source holds in the selected partitions.
        counts: This step's counts.
        limit: `max_rejected_share`, 0 to 1.
        withdrawn: How many of the source records are withdrawn.

    Raises:
        SourceError: The source has no records.
        RejectionError: More than `limit` of the source records are gone, or none is left.
    """
    if not source_records:
        raise SourceError(f"{step} {dataset}: the source holds no records. Check datasets.{dataset}.download.")
    lost = source_records - withdrawn - counts[KEPT]
    share = lost / source_records
    reasons = ", ".join(f"{name} {n}" for name, n in rejections(counts).items()) or "none in this step"
    if source_records > withdrawn and not counts[KEPT]:
        raise RejectionError(f"{step} {dataset}: nothing is left of {source_records} records ({reasons}).")
    if share > limit:
        raise RejectionError(
            f"{step} {dataset}: {lost} of {source_records} source records are rejected so far "
            f"({share:.2%}; {reasons}), more than max_rejected_share {limit:.2%}.\n"
            f"Look at the status column of data/{dataset}; if this loss is expected, raise "
            f"datasets.{dataset}.max_rejected_share. Finished partitions are kept."
        )


def metrics(counts: Mapping[str, int]) -> dict[str, int | float]:
    """Return flat metrics with the same keys for every dataset and step, zeros included."""
    rejected = rejections(counts)
    total = sum(rejected.values())
    extras = {name: n for name, n in counts.items() if name not in ("in", KEPT, *_REASONS)}
    return {
        "in": counts["in"],
        "kept": counts[KEPT],
        "rejected": total,
        "rejected_share": round(total / counts["in"], 6) if counts["in"] else 0.0,
        **{f"rejected_{name}": rejected.get(name, 0) for name in _REASONS},
        **extras,
    }
