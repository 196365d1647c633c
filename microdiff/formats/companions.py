"""Members of an archive that tell of others: SA-1B has masks for each picture, which name it where it is lost."""

from collections.abc import Callable, Sequence

from microdiff.formats.members import stem


class Companions:
    """The members of an archive as they go by: which are there without the one that they belong to.

    Args:
        is_companion: Tells by its name whether a member belongs to another one of the same stem.
    """

    def __init__(self, is_companion: Callable[[str], bool]) -> None:
        self._is_companion = is_companion
        self._wanted: set[str] = set()
        self._named: set[str] = set()

    def watching(self, is_wanted: Callable[[str], bool]) -> Callable[[str], bool]:
        """Return what tells by its name whether a member is wanted, and notes it."""

        def noted(name: str) -> bool:
            wanted = is_wanted(name)
            if wanted:
                self._wanted.add(stem(name))
            elif self._is_companion(name):
                self._named.add(stem(name))
            return wanted

        return noted

    @property
    def lost(self) -> Sequence[str]:
        """The stems of companions that are alone, sorted."""
        return sorted(self._named - self._wanted)
