"""Work on threads: in order, never far ahead."""

import threading
from collections.abc import Iterator

import pytest

from microdiff.core import prefetch as module
from microdiff.core.prefetch import num_threads, prefetch_map
from microdiff.errors import ParamsError
from tests.waiting import PATIENCE_S


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MICRODIFF_THREADS", "3")
    module._threads.cache_clear()
    yield
    module._threads().shutdown()
    module._threads.cache_clear()


@pytest.mark.usefixtures("three_threads")
def test_results_come_in_order_whatever_takes_longest() -> None:
    later = [threading.Event() for _ in range(9)]

    def wait_for_the_next(number: int) -> int:
        if number % 3 < 2:
            assert later[number + 1].wait(PATIENCE_S)
        later[number].set()
        return number * 10

    assert list(prefetch_map(wait_for_the_next, range(9), 3)) == [number * 10 for number in range(9)]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_more_than_the_limit_is_taken_ahead(limit: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield number

    for number in prefetch_map(lambda item: item, items(), limit):
        assert taken <= number + limit
    assert taken == 20


@pytest.mark.usefixtures("three_threads")
def test_an_error_takes_the_place_of_its_result() -> None:
    results = prefetch_map(lambda number: 12 // number, [3, 2, 0, 1], 4)
    assert [next(results), next(results)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.usefixtures("three_threads")
def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    gate, begun = threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        if number:
            assert gate.wait(PATIENCE_S)
        return number

    results = prefetch_map(work, range(100), 50)
    assert next(results) == 0
    results.close()
    gate.set()
    module._threads().shutdown()
    assert len(begun) < 10


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_wrong_number_of_threads_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MICRODIFF_THREADS", text)
    with pytest.raises(ParamsError, match=f"MICRODIFF_THREADS: expected a positive integer, got '{text}'"):
        num_threads()
