"""Cut a dataset that is one large archive into partitions."""

from collections.abc import Sequence

from microdiff.handlers import Partition


def cut(keys: Sequence[str], size: int, files: tuple[str, ...]) -> list[Partition]:
    """Cut keys into slices, numbered from 0; the first one also takes whatever sorts before its keys.

    Args:
        keys: Distinct, sorted.
        size: Keys per slice; the last one has the rest.
        files: What each slice is read from.
    """
    starts = keys[::size]
    digits = max(4, len(str(len(starts) - 1)))
    return [
        Partition(
            name=f"{number:0{digits}d}",
            number=number,
            files=files,
            first_key=start if number else None,
            end_key=starts[number + 1] if number + 1 < len(starts) else None,
            num_records=min(size, len(keys) - number * size),
        )
        for number, start in enumerate(starts)
    ]
