"""What verification finds: problems, each with the file, the sample and the step, and what a partition adds up to."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from microdiff.artifacts.kinds import KINDS
from microdiff.core.ledger import Counts
from microdiff.verify.digests import Multiset


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        dataset: Whose.
        kind: Which artifact: raw, captions, latents or shards.
        file: Path in the artifact; empty for the artifact as a whole.
        what: What is wrong with it.
        key: The sample concerned, if it is known.
        is_damage: Whether the file's bytes are at fault: they are not those that were recorded. Otherwise what was
            recorded is wrong.
    """

    dataset: str
    kind: str
    file: str
    what: str
    key: str = ""
    is_damage: bool = False

    @property
    def step(self) -> str:
        """The step that made the file."""
        return KINDS[self.kind]

    @property
    def remedy(self) -> str:
        """The command that repairs it."""
        if self.file:
            return f"python -m stages.verify {self.dataset} --repair"
        return f"dvc repro -f -s {self.step}@{self.dataset}"

    def __str__(self) -> str:
        path = f"data/{self.dataset}/{self.kind}/{self.file}".rstrip("/")
        sample = f", sample {self.key}" if self.key else ""
        return f"{path} ({self.step}{sample}): {self.what}"


@dataclass
class Findings:
    """What checking one partition, or one shard, gave.

    Attributes:
        dataset: Whose.
        kind: Which artifact.
        name: The partition or shard.
        problems: What is wrong.
        damaged: Files whose bytes are not the recorded ones.
        md5: Of the files read, by path.
        num_bytes: Read.
        num_samples: Rows or samples read.
        counts: The ledger counted anew; None where the table cannot be read.
        came_in: Digest of the rows as the step before has them, in order.
        went_out: Digest of the rows that the next step is to have, in order.
        keys: Hashes of all keys of a raw partition; uint64.
        is_complete: Whether all its samples could be read, so that one that is not among them is missing.
        samples: Keys of the samples that shards hold, in no order.
        values: Keys and values of some of them.
        locations: With values wanted one by one: uint64 (N, 2), hashes of keys and of values.
    """

    dataset: str
    kind: str
    name: str
    problems: list[Problem] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    md5: dict[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    num_samples: int = 0
    counts: Counts | None = None
    came_in: str = ""
    went_out: str = ""
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    is_complete: bool = False
    samples: Multiset = field(default_factory=Multiset)
    values: Multiset = field(default_factory=Multiset)
    locations: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), np.uint64))

    def add(self, file: str, what: str, key: str = "", *, is_damage: bool = False) -> None:
        """Note a problem."""
        self.problems.append(Problem(self.dataset, self.kind, file, what, key, is_damage))
        if is_damage:
            self.damaged.add(file)
