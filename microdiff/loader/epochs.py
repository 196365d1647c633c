"""Which samples a rank reads in which order, epoch after epoch: mosaicml-streaming's order, and a state of our own.

Streaming keeps the epoch and the state to resume in memory that the ranks of a machine share, and waits there for each
of them. Here every process has its own and computes the order by itself: nobody waits for a rank that is lost, forks
do not count each other's epochs, and who the ranks are is asked when an epoch begins. Importing this module takes some
ten seconds, as streaming does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import Stream, StreamingDataset
from streaming.base.batching import generate_work
from streaming.base.world import World

from microdiff.errors import ParamsError
from microdiff.loader.ranks import Ranks, detect_ranks
from microdiff.loader.shared_memory import hold_shared_memory, made_alone

_TRIES = 200  # to find a number for shared memory that no other process takes first
_STATE = ("epoch", "sample_in_epoch", "num_canonical_nodes", "shuffle_seed")


@dataclass
class Position:
    """Where an iterator is.

    Attributes:
        epoch: From 0; -1 before the first.
        begun_at: How many samples of the epoch all ranks had read when it was begun or resumed.
        num_read: How many this rank has read since.
        world_size: Ranks.
        is_done: Whether it has given its last batch, and was asked for more.
    """

    epoch: int = -1
    begun_at: int = 0
    num_read: int = 0
    world_size: int = 1
    is_done: bool = False


class EpochsDataset(StreamingDataset):  # type: ignore[misc]  # streaming ships without type information
    """Deals out the samples of each epoch to ranks and workers.

    Args:
        make_streams: Makes the streams; called again when another process was faster to take a number.
        **options: For StreamingDataset.

    Attributes:
        position: That of the iterator that gave a batch last or has begun since, or of the state to resume.
    """

    def __init__(self, make_streams: Callable[[], Sequence[Stream]], **options: Any) -> None:
        self.position, self._to_resume = Position(), 0
        for attempt in range(1, 1 + _TRIES):
            try:
                with made_alone():
                    super().__init__(streams=make_streams(), **options)
                break
            except FileExistsError:  # another process has just taken the number
                if attempt == _TRIES:
                    raise
        hold_shared_memory(self)

    def __len__(self) -> int:
        """Return how many samples each rank reads in an epoch.

        Raises:
            ParamsError: The ranks are not clear.
        """
        return self.length_among(detect_ranks())

    def length_among(self, ranks: Ranks) -> int:
        """Return how many samples each of these ranks reads in an epoch."""
        return -(-int(self.epoch_size) // ranks.world_size)

    @property
    def next_epoch(self) -> int:
        """The number of the epoch that begins next."""
        return self._next_epoch_number

    @next_epoch.setter
    def next_epoch(self, number: int) -> None:
        self._next_epoch_number = number

    def begin_epoch(self, num_workers: int, drop_last: bool = True) -> tuple[Position, NDArray[np.int64]]:
        """Start the next epoch, or the one to resume; where nothing of that is left, the one after it.

        Args:
            num_workers: Workers among which the order is dealt out; 0 counts as 1.
            drop_last: Whether a worker leaves out a last batch that is not full.

        Returns:
            Where it begins, and this rank's sample numbers (workers, batches, batch size); -1 for no sample.

        Raises:
            ParamsError: The ranks are not clear, or a state cannot be resumed with as many.
        """
        ranks, num_workers = detect_ranks(), max(num_workers, 1)
        world = World(ranks.num_nodes, ranks.ranks_per_node, num_workers, ranks.rank * num_workers)
        epoch, begun_at = self._next_epoch_number, self._to_resume
        super()._resume(world, epoch)  # settles what was left open: canonical nodes, size of a block
        work = self._order(world, epoch, begun_at)
        if begun_at and not _has_batch(work, drop_last):
            epoch, begun_at = epoch + 1, 0
            work = self._order(world, epoch, begun_at)
        self._next_epoch_number, self._to_resume = epoch + 1, 0
        self.position = Position(epoch, begun_at, 0, ranks.world_size)
        mine = work[world.node, world.rank_of_node]
        return self.position, mine if ranks.world_size == 1 else mine.copy()  # not to keep that of the others

    def _order(self, world: World, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        try:
            work: NDArray[np.int64] = generate_work(self.batching_method, self, world, epoch, sample_in_epoch)
        except ValueError as error:
            raise ParamsError(
                f"no order for {world.num_ranks} ranks on {world.num_nodes} machines, with num_canonical_nodes "
                f"{self.num_canonical_nodes}: {error}: resume with as many machines as before, or a multiple of them"
            ) from error
        return work

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Return what `load_state_dict` takes.

        Args:
            num_samples: Samples read by all ranks.
            from_beginning: Whether since the beginning of the epoch, instead of since it was begun or resumed.
        """
        num_nodes = detect_ranks().num_nodes
        canonical = num_nodes * (64 if self.shuffle_algo in ("py1s", "py2s") else 1)
        first = self.initial_physical_nodes
        begins_next = from_beginning and num_samples == 0 and self.position.is_done  # so Composer asks after an epoch
        return {
            "epoch": self.position.epoch + begins_next,
            "sample_in_epoch": num_samples + (0 if from_beginning else self.position.begun_at),
            "num_canonical_nodes": self.num_canonical_nodes or canonical,
            "shuffle_seed": self.shuffle_seed,
            "initial_physical_nodes": num_nodes if first is None else first,
        }

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Resume when iterated next, whatever was read before; later epochs keep the state's order and dropout, too.

        Args:
            obj: Of `state_dict`, ours or mosaicml-streaming's.

        Raises:
            ParamsError: It is no such state.
        """
        if not isinstance(obj, Mapping) or not all(isinstance(obj.get(name), int) for name in _STATE):
            raise ParamsError(f"expected a loader's state_dict() with {', '.join(_STATE)}, got {str(obj)[:200]}")
        epoch, begun_at = obj["epoch"], obj["sample_in_epoch"]
        if epoch < 0:  # before the first epoch began
            epoch, begun_at, self.position = 0, 0, Position()
        else:
            self.position = Position(epoch, begun_at)
        self._next_epoch_number, self._to_resume = epoch, begun_at
        self.shuffle_seed, self.num_canonical_nodes = obj["shuffle_seed"], obj["num_canonical_nodes"]
        self.initial_physical_nodes, self.shuffle_block_size = obj.get("initial_physical_nodes"), None

    def __getstate__(self) -> dict[str, Any]:
        """Return what of a data set goes into another process; the rest is made there."""
        names = ("position", "_next_epoch_number", "_to_resume", "shuffle_seed", "num_canonical_nodes")
        return {name: getattr(self, name) for name in (*names, "initial_physical_nodes", "shuffle_block_size")}


def _has_batch(work: NDArray[np.int64], drop_last: bool) -> bool:
    """Tell whether any worker of any rank has a batch."""
    if not work.size:
        return False
    most = (work != -1).sum(axis=(-2, -1)).max()
    return bool(most >= (work.shape[-1] if drop_last else 1))
