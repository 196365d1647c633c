import logging
import time

import pytest

from microdiff import progress
from microdiff.progress import Progress


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
