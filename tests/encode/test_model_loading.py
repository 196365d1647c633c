"""Models are loaded once, whoever asks for them first."""

import threading

from microdiff.encode.device_queue import DeviceQueue

DEADLINE_S = 60
OVERLAP_S = 0.5  # that one who does not wait for the lock has to come in; waited for in vain where the lock holds


class Slow:
    """Settings that take their time to be looked up, until somebody else looks them up."""

    def __init__(self) -> None:
        self.looking = 0
        self.second_looks = threading.Event()

    def __hash__(self) -> int:
        self.looking += 1
        if self.looking == 1:
            self.second_looks.wait(OVERLAP_S)
        elif self.looking == 2:
            self.second_looks.set()
        return 1


def test_partitions_that_ask_at_once_share_one_model() -> None:
    queue, settings = DeviceQueue(), Slow()
    loaded: list[Slow] = []

    def load(of: Slow) -> int:
        loaded.append(of)
        return len(loaded)

    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(queue.load(load, settings).result(DEADLINE_S)), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (found, len(loaded)) == ([1, 1], 1)
