import pytest

from microdiff.core.ledger import Ledger, Reason, add_up, check_balance, check_rejected_share, metrics, rejections
from microdiff.errors import RejectionError, SourceError, StepError


def test_counts_name_every_reason_that_occurred() -> None:
    ledger = Ledger()
    for status in ("kept", Reason.TOO_SMALL, "kept", Reason.UNDECODABLE, Reason.TOO_SMALL):
        ledger.enter()
        ledger.leave(status)
    assert ledger.counts() == {"in": 5, "kept": 2, "too_small": 2, "undecodable": 1}


def test_adding_up_keeps_every_count() -> None:
    parts = [{"in": 3, "kept": 1, "nsfw": 2}, {"in": 2, "kept": 2, "with_512": 1}, {"in": 0, "kept": 0}]
    assert add_up(parts) == {"in": 5, "kept": 3, "nsfw": 2, "with_512": 1}
    assert add_up([]) == {"in": 0, "kept": 0}


@pytest.mark.parametrize(
    ("counts", "before", "numbers"),
    [
        ({"in": 5, "kept": 3, "nsfw": 1}, None, ["5 in", "3 kept", "1 rejected", "= 4"]),
        ({"in": 5, "kept": 5, "nsfw": 1}, None, ["5 in", "5 kept", "= 6"]),
        ({"in": 5, "kept": 4, "nsfw": 1}, 6, ["5 records came in", "kept 6"]),
    ],
)
def test_a_mismatch_is_an_error_that_names_the_numbers(
    counts: dict[str, int], before: int | None, numbers: list[str]
) -> None:
    with pytest.raises(StepError) as error:
        check_balance(counts, before, "clean coco")
    assert all(number in str(error.value) for number in ["clean coco", *numbers])


def test_balanced_counts_pass() -> None:
    check_balance({"in": 5, "kept": 4, "nsfw": 1, "with_512": 3}, 5, "encode coco")


def test_loss_is_measured_against_the_source_over_all_steps() -> None:
    counts = {"in": 80, "kept": 70, "empty_caption": 10}  # 20 of 100 were lost in steps before
    check_rejected_share("coco", "clean", 100, counts, 0.3)
    with pytest.raises(RejectionError, match=r"30 of 100 .*30.00%.*empty_caption 10.*29.00%"):
        check_rejected_share("coco", "clean", 100, counts, 0.29)


def test_losing_everything_is_an_error_whatever_the_limit() -> None:
    with pytest.raises(RejectionError, match="nothing is left of 7"):
        check_rejected_share("coco", "download", 7, {"in": 7, "kept": 0, "too_small": 7}, 1.0)


def test_metrics_have_the_same_flat_keys_everywhere() -> None:
    few, many = metrics({"in": 2, "kept": 2}), metrics({"in": 4, "kept": 1, "nsfw": 2, "too_small": 1})
    assert few.keys() == many.keys()
    assert {f"rejected_{reason}" for reason in Reason} < few.keys()
    assert (many["rejected"], many["rejected_share"], many["rejected_nsfw"]) == (3, 0.75, 2)
    assert metrics({"in": 0, "kept": 0})["rejected_share"] == 0.0


def test_loss_up_to_the_limit_is_allowed_and_counts_every_step() -> None:
    counts = {"in": 80, "kept": 75, "nsfw": 5}
    check_rejected_share("coco", "clean", 100, counts, 0.25)
    with pytest.raises(RejectionError, match="25 of 100"):
        check_rejected_share("coco", "clean", 100, counts, 0.2499)


def test_withdrawn_samples_neither_use_up_the_limit_nor_empty_a_dataset() -> None:
    check_rejected_share("coco", "download", 100, {"in": 100, "kept": 80, "withdrawn": 15, "nsfw": 5}, 0.05, 15)
    check_rejected_share("coco", "download", 3, {"in": 3, "kept": 0, "withdrawn": 3}, 0.0, 3)
    with pytest.raises(RejectionError, match="nothing is left of 3"):
        check_rejected_share("coco", "download", 3, {"in": 3, "kept": 0, "withdrawn": 2, "nsfw": 1}, 1.0, 2)


def test_a_source_without_records_is_an_error() -> None:
    with pytest.raises(SourceError, match="download coco: the source holds no records"):
        check_rejected_share("coco", "download", 0, {"in": 0, "kept": 0}, 1.0)


def test_samples_made_of_others_did_not_come_from_the_step_before() -> None:
    check_balance({"in": 7, "kept": 6, "nsfw": 1, "expanded": 3}, 4, "clean coco")
    with pytest.raises(StepError, match="4 records came in, but the step before kept 7"):
        check_balance({"in": 7, "kept": 6, "nsfw": 1, "expanded": 3}, 7, "clean coco")


def test_counts_are_in_one_order_whatever_occurred_first() -> None:
    """Their order is that of bytes in manifests, metrics and messages."""
    ledger = Ledger()
    for status in (Reason.UNDECODABLE, Reason.NSFW, "kept", Reason.TOO_SMALL):
        ledger.enter()
        ledger.leave(status)
    assert list(ledger.counts()) == ["in", "kept", "nsfw", "too_small", "undecodable"]
    assert list(add_up([{"with_512": 1, "nsfw": 1, "kept": 2, "in": 3}])) == ["in", "kept", "nsfw", "with_512"]
    assert list(rejections({"in": 3, "withdrawn": 1, "nsfw": 1, "too_small": 1, "too_large": 0})) == [
        "too_small",
        "nsfw",
        "withdrawn",
    ]


def test_shares_are_exact_to_a_millionth() -> None:
    assert metrics({"in": 3_000_000, "kept": 2_999_999, "nsfw": 1})["rejected_share"] == 0.0
    assert metrics({"in": 700, "kept": 600, "nsfw": 100})["rejected_share"] == 0.142857
    assert metrics({"in": 5, "kept": 3, "nsfw": 2, "expanded": 4, "with_512": 1})["expanded"] == 4
