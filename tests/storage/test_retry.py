"""How often a request is repeated, and how long is waited between."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from microdiff.errors import SourceError
from microdiff.storage import TryAgain, retry
from microdiff.storage.local import LocalStorage
from microdiff.storage.retry import ATTEMPTS, FEW_ATTEMPTS, RetryBudget, read_whole, retried
from tests.reporters import Said


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def storage(tmp_path: Path, said: Said) -> LocalStorage:
    return LocalStorage(root=tmp_path, report=said, setting="the setting")


class Busy:
    """A request that succeeds after so many failures."""

    def __init__(self, failures: int, wait_s: float = 0.0) -> None:
        self.failures, self.wait_s, self.asked = failures, wait_s, 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise TryAgain("busy", self.wait_s)
        return "done"


def test_first_contact_is_given_up_sooner_than_a_transfer(storage: LocalStorage, waits: list[float]) -> None:
    request = Busy(FEW_ATTEMPTS - 1)
    assert retried(storage, "a", request) == "done"
    assert request.asked == FEW_ATTEMPTS
    with pytest.raises(
        SourceError, match=rf"/a: busy, {FEW_ATTEMPTS} times in a row\. .*the setting, or run again later\.$"
    ):
        retried(storage, "a", Busy(FEW_ATTEMPTS))
    assert FEW_ATTEMPTS < ATTEMPTS
    assert retried(storage, "a", Busy(ATTEMPTS - 1), ATTEMPTS) == "done"


def test_each_wait_is_said_with_its_reason(storage: LocalStorage, said: Said, waits: list[float]) -> None:
    retried(storage, "a", Busy(2))
    assert said.messages == [f"{storage.root}/a: busy, trying again in {wait:.1f} s" for wait in waits]


def test_waits_double_up_to_a_minute(
    storage: LocalStorage, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "random", SimpleNamespace(uniform=lambda least, most: least))
    retried(storage, "a", Busy(9), ATTEMPTS)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_waits_differ_between_those_who_were_refused_together(storage: LocalStorage, waits: list[float]) -> None:
    for _ in range(200):
        retried(storage, "a", Busy(1))
    assert len(set(waits)) > 100
    assert 0.5 <= min(waits) < 0.55
    assert 0.7 < max(waits) <= 0.75


def test_who_asks_for_time_gets_it(storage: LocalStorage, waits: list[float]) -> None:
    retried(storage, "a", Busy(1, wait_s=7.0))
    retried(storage, "a", Busy(1, wait_s=0.1))
    assert 7.0 <= waits[0] <= 10.5
    assert 0.5 <= waits[1] <= 0.75


def test_a_renewed_budget_begins_anew(storage: LocalStorage, waits: list[float]) -> None:
    budget = RetryBudget(storage, "a", attempts=3)
    for _ in range(4):
        budget.failed("broken")
        budget.failed("broken")
        budget.renew()
    assert len(waits) == 8
    assert max(waits) <= 1.5
    budget.failed("broken")
    budget.failed("broken")
    with pytest.raises(SourceError, match="broken, 3 times in a row"):
        budget.failed("broken")


def test_a_small_file_is_read_whole_or_not_at_all(storage: LocalStorage, waits: list[float]) -> None:
    (storage.root / "a").write_bytes(b"some bytes")
    assert read_whole(storage, "a") == b"some bytes"
    with pytest.raises(SourceError, match="b: no such file"):
        read_whole(storage, "b")
    assert not waits
