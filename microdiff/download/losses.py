"""What damaged archives have lost that nobody can count, and whether that is too much.

A salvaged partition has a row for each lost picture that is known by name, at least one. How many more there were its
archive does not tell. The largest partition that is whole does: a salvaged one is taken to have had as many records.
If no partition is whole, all may be lost, and only `max_rejected_share: 1` allows that.
"""

from collections.abc import Mapping, Sequence

from microdiff.core.ledger import KEPT, Reason, add_up, check_rejected_share
from microdiff.errors import RejectionError
from microdiff.pipeline.task import StoredPartition

Losses = Mapping[str, int | None]


def uncounted_losses(stored: Sequence[StoredPartition]) -> Losses:
    """Return how many records salvaged partitions lost besides those counted, by name; None where nothing tells."""
    whole = [item.counts["in"] for item in stored if not _is_salvaged(item)]
    return {
        item.name: max(max(whole) - item.counts["in"], 0) if whole else None for item in stored if _is_salvaged(item)
    }


def check_losses(dataset: str, stored: Sequence[StoredPartition], limit: float) -> Losses:
    """Check the losses that nobody can count, together with those that are counted.

    Args:
        dataset: For the message, and the settings' names.
        stored: All partitions.
        limit: `max_rejected_share`.

    Returns:
        As `uncounted_losses`.

    Raises:
        RejectionError: Too many records are rejected, or they may be more than `limit` of the records.
    """
    losses, counts = uncounted_losses(stored), add_up(item.counts for item in stored)
    withdrawn = counts.get(Reason.WITHDRAWN.value, 0)
    check_rejected_share(dataset, "download", counts["in"], counts, limit, withdrawn)
    if not losses or limit >= 1:
        return losses
    more = sum(number or 0 for number in losses.values())
    records = counts["in"] - withdrawn + more
    share = 1 - counts[KEPT] / records if records else 0.0
    if None not in losses.values() and share <= limit:
        return losses
    names = ", ".join(sorted(losses))
    size = f"about {more}, which makes {share:.2%}" if None not in losses.values() else "perhaps all, as none is whole"
    raise RejectionError(
        f"download {dataset}: the archives of {names} are damaged; how much they lost besides what is counted is "
        f"unknown: {size}, more than max_rejected_share {limit:.2%}.\n{how_to_fetch_again(dataset, losses)} Or, if the "
        f"loss is acceptable, raise datasets.{dataset}.max_rejected_share. Finished partitions are kept."
    )


def how_to_fetch_again(dataset: str, losses: Losses) -> str:
    """Return how salvaged partitions are done again."""
    wanted = ", ".join(f"'{name}': 1" for name in sorted(losses))
    return f"To fetch them anew, set datasets.{dataset}.download.fetch_again: {{{wanted}}} (next time 2) and run again."


def _is_salvaged(item: StoredPartition) -> bool:
    return bool(item.counts.get(Reason.DAMAGED_ARCHIVE.value))
