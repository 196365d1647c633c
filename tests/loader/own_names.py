"""Names in shared memory that no other process takes: streaming numbers its data sets from 0 on every machine."""

import os
import random
from itertools import count

NUMBERS_FROM = "MICRODIFF_TESTS_NUMBERS_FROM"


def choose_numbers() -> str:
    """Return where this process's numbers begin; of six digits, as the loader expects."""
    return str(random.SystemRandom().randrange(100_000, 900_000))


def take_own_numbers() -> None:
    """Have streaming count from what the environment says, in this process; nothing is taken twice."""
    from streaming.base.shared import prefix

    from microdiff.loader.shared_memory import _without_taken

    begin = int(os.environ[NUMBERS_FROM])
    prefix._each_prefix_int = lambda: _without_taken(count(begin))
