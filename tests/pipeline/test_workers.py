"""Who works on a step's units."""

import os
import sys
from types import SimpleNamespace

import pytest

from microdiff.pipeline import workers as module
from microdiff.pipeline.workers import plan_workers, visible_gpus


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MICRODIFF_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("units", "samples", "asked", "workers", "threads"),
    [
        (9, 100_000, None, 4, "1"),
        (9, None, None, 4, "1"),
        (9, 600, None, 2, "2"),
        (9, 5, None, 1, "4"),
        (9, 5, "3", 3, "1"),
        (2, 100_000, "8", 2, "2"),
        (0, 0, None, 0, None),
    ],
)
def test_processes_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    units: int,
    samples: int | None,
    asked: str | None,
    workers: int,
    threads: str | None,
) -> None:
    monkeypatch.setattr(module, "visible_gpus", list)
    if asked:
        monkeypatch.setenv("MICRODIFF_WORKERS", asked)
    for on_device in (False, True):
        found = plan_workers(units, samples, on_device=on_device)
        assert (found.workers, found.in_hand) == (workers, 1)
        assert list(found.environments) == [{"MICRODIFF_THREADS": threads}] * workers


@pytest.mark.usefixtures("four_cores")
def test_a_worker_for_each_gpu_with_the_next_partition_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "visible_gpus", lambda: ["0", "GPU-5ad3"])
    found = plan_workers(9, 10, on_device=True)
    assert (found.workers, found.in_hand) == (2, 2)
    assert found.environments == (
        {"MICRODIFF_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
        {"MICRODIFF_THREADS": "2", "CUDA_VISIBLE_DEVICES": "GPU-5ad3"},
    )
    assert plan_workers(1, 10, on_device=True).workers == 1
    assert plan_workers(9, 10).workers == 1  # not on the device
    monkeypatch.setenv("MICRODIFF_WORKERS", "3")
    monkeypatch.setenv("MICRODIFF_THREADS", "5")
    asked = plan_workers(9, 10, on_device=True)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in asked.environments] == ["0", "GPU-5ad3", "0"]
    assert {each["MICRODIFF_THREADS"] for each in asked.environments} == {"5"}


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("3, 1", 2, ["3", "1"]),
        ("0,9,1", 1, ["0"]),  # CUDA stops at the first that is not there
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_are_those_that_cuda_shows(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, expected: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count)))
    monkeypatch.setattr(module, "_DRIVERS", ("/dev/null",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == expected
    monkeypatch.setattr(module, "_DRIVERS", ("/dev/no such driver",))
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    assert visible_gpus() == []
