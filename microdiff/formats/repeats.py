"""Notice members of one archive that give the same key, where none can wait for those behind it."""

import hashlib

from microdiff.core.ledger import Reason
from microdiff.formats.archives import TarMember

_DIGEST_BYTES = 16


class Repeats:
    """Remembers the keys of an archive, and a digest for each: some 150 bytes a member."""

    def __init__(self) -> None:
        self._digests: dict[str, bytes] = {}

    def problem(self, key: str, member: TarMember) -> Reason | None:
        """Return why a member cannot be a sample, as far as it is known.

        One that says the same as an earlier one of its key is no problem: whoever writes it finds that its key exists.
        One that differs makes the key ambiguous: which of them the caption is of, nobody knows.
        """
        content = str(member.problem).encode() if member.data is None else member.data
        digest = hashlib.sha256(content).digest()[:_DIGEST_BYTES]
        if self._digests.setdefault(key, digest) != digest:
            return Reason.AMBIGUOUS_KEY
        return member.problem
