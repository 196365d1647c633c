import logging
import time

import pytest

from microdiff.core import progress
from microdiff.core.progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return clock


def test_lines_count_samples_and_tell_the_rate_since_work_began(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "microdiff"), Progress("encode coco", 100) as shown:
        clock.now += 60  # loading a model
        shown.tick(1)
        clock.now += 10
        shown.tick(9)
        clock.now += 20
        shown.tick(20)
    assert [record.message for record in caplog.records] == [
        "encode coco: 1 of 100 samples",
        "encode coco: 30 of 100 samples, 1.0/s, 70 s left",
    ]


def test_bytes_are_shown_while_no_sample_is_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "microdiff"), Progress("download coco", None) as shown:
        for _ in range(4):
            shown.tick(num_bytes=50_000_000)
            clock.now += 10
    assert caplog.records[-1].message == "download coco: 0 samples, 150.0 MB received, 7.5 MB/s"


def test_the_bytes_to_come_give_the_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "microdiff"), Progress("download coco", 40, 300_000_000) as shown:
        for _ in range(4):
            clock.now += 10
            shown.tick(num_bytes=50_000_000)
    assert caplog.records[-1].message == (
        "download coco: 0 of 40 samples, 200.0 of 300.0 MB received, 6.7 MB/s, 15 s left"
    )


def test_several_kinds_of_work_are_told_apart(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    totals = {"images": 100, "captions": 50}
    with caplog.at_level(logging.INFO, "microdiff"), Progress("encode coco", totals, devices=2) as shown:
        shown.tick(10, unit="images")
        clock.now += 20
        shown.device(15.0, 1.0)
        shown.device(15.0, 2.0)
        shown.tick(30, unit="images")
        shown.tick(60, unit="images")
        clock.now += 20
        shown.tick(1, unit="captions")
        clock.now += 20
        shown.tick(39, unit="captions")
    assert [record.message for record in caplog.records] == [
        "encode coco: 40 of 100 images, 2.0 images/s, device 75%, 30 s left for images",
        "encode coco: 100 of 100 images, 1 of 50 captions, device 38%",
        "encode coco: 100 of 100 images, 40 of 50 captions, 2.0 captions/s, device 25%, 5 s left for captions",
    ]
    assert shown.rates() == {"images": 5.0, "captions": 2.0}
    assert (shown.done, shown.busy_s, shown.idle_s, shown.seconds) == (140, 30.0, 3.0, 60.0)


def test_the_smallest_batch_counts() -> None:
    with Progress("encode coco", 3) as shown:
        for size in (32, 8, 16):
            shown.batches("latents_512", size)
    assert shown.batch_sizes == {"latents_512": 8}
