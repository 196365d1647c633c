"""Read pieces of files into memory, hundreds with one system call.

Linux takes many reads at once (`io_submit`), and of most file systems it has made them when the call returns. So a
thread neither gives up the interpreter's lock nor waits for it between two of them, and nobody waits for that thread.
The calls have no wrapper in the C library: they are made by number. Where that cannot be (another kind of processor, a
sandbox that forbids it, too many queues in use), and with MICRODIFF_BATCHED_READS=0, each read is a call of its own.

Memory is given by its address: whoever calls keeps it until the call returns. However that ends, by an error or by
Ctrl-C, the system then writes to that memory no more: what was submitted has been waited for.
"""

import contextlib
import ctypes
import errno
import os
import platform
import sys
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shapes: N reads, P pieces of memory.

_AT_ONCE = 256  # of the 65,536 that a machine has for all its processes (fs.aio-max-nr)
# Of io_setup, io_destroy, io_submit and io_getevents.
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
_PREADV = 7
_NOWAIT = 8  # RWF_NOWAIT of linux/fs.h, which some builds of Python do not know
_REQUEST = np.dtype(  # struct iocb of linux/aio_abi.h, little-endian
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("rw_flags", "<u4"),
        ("opcode", "<u2"),
        ("priority", "<i2"),
        ("descriptor", "<u4"),
        ("pieces", "<u8"),
        ("num_pieces", "<u8"),
        ("position", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("event_descriptor", "<u4"),
    ]
)
_EVENT = np.dtype([("data", "<u8"), ("request", "<u8"), ("result", "<i8"), ("result_2", "<i8")])

_LIBRARY = ctypes.CDLL(None, use_errno=True)
_LIBRARY.syscall.restype = ctypes.c_long
_LIBRARY.preadv.restype = ctypes.c_ssize_t
_LIBRARY.preadv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_long)
_IS_KNOWN = platform.machine() in _NUMBERS and sys.byteorder == "little" and ctypes.sizeof(ctypes.c_void_p) == 8
_SETUP, _DESTROY, _SUBMIT, _GETEVENTS = _NUMBERS[platform.machine()] if _IS_KNOWN else (0, 0, 0, 0)
SWITCH = "MICRODIFF_BATCHED_READS"


@dataclass(frozen=True)
class Reads:
    """What to read.

    Attributes:
        descriptors: uint32 (N,): open files.
        positions: int64 (N,): where to begin in them.
        sizes: int64 (N,): bytes.
        pieces: int64 (N,P,2), contiguous: address and bytes of the memory that receives them, piece after piece; a
            piece of 0 bytes counts for nothing.
    """

    descriptors: NDArray[np.uint32]
    positions: NDArray[np.int64]
    sizes: NDArray[np.int64]
    pieces: NDArray[np.int64]

    def __getitem__(self, chosen: NDArray[np.int64]) -> "Reads":
        return Reads(self.descriptors[chosen], self.positions[chosen], self.sizes[chosen], self.pieces[chosen])


def read_many(reads: Reads) -> NDArray[np.int64]:
    """Read; what is not in the page cache is asked of the disk all at once, for it to choose the order.

    Returns:
        The numbers of those reads that gave less than asked for, or nothing.
    """
    found_N = _read_by_queue(reads, _NOWAIT)
    left = np.flatnonzero(found_N != reads.sizes)
    if len(left):
        _announce(reads[left])
        found_N[left] = _read_by_queue(reads[left], 0)
        left = np.flatnonzero(found_N != reads.sizes)
        found_N[left] = _read_singly(reads[left])
    return np.flatnonzero(found_N != reads.sizes)


_idle: "deque[ctypes.c_ulong]" = deque()  # queues, kept: to close one takes the system milliseconds
os.register_at_fork(after_in_child=_idle.clear)  # they are the parent's


def _queue() -> ctypes.c_ulong | None:
    """Return a queue that nobody else uses, or None if there is none to be had."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return _idle.pop()
    except IndexError:
        pass
    queue = ctypes.c_ulong(0)
    if not _IS_KNOWN or _LIBRARY.syscall(_SETUP, _AT_ONCE, ctypes.byref(queue)) != 0:
        return None
    return queue


def _announce(reads: Reads) -> None:
    for read in zip(reads.descriptors.tolist(), reads.positions.tolist(), reads.sizes.tolist(), strict=True):
        with contextlib.suppress(OSError):  # it is advice
            os.posix_fadvise(*read, os.POSIX_FADV_WILLNEED)


def _read_singly(reads: Reads) -> NDArray[np.int64]:
    """Return the bytes that each read gave, -1 where it failed."""
    begin, step, num_pieces = reads.pieces.ctypes.data, reads.pieces.strides[0], reads.pieces.shape[1]
    calls = zip(reads.descriptors.tolist(), reads.positions.tolist(), strict=True)
    found = [
        _LIBRARY.preadv(descriptor, begin + number * step, num_pieces, position)
        for number, (descriptor, position) in enumerate(calls)
    ]
    return np.array(found, np.int64)


def _read_by_queue(reads: Reads, flags: int) -> NDArray[np.int64]:
    """Return the bytes that each read gave, something negative where it failed or where the system took no more."""
    found_N = np.full(len(reads.sizes), -1)
    queue = _queue()
    if queue is None:
        return found_N
    requests = np.zeros(len(reads.sizes), _REQUEST)
    numbers = np.arange(len(requests))
    requests["data"] = numbers
    requests["rw_flags"] = flags
    requests["opcode"] = _PREADV
    requests["descriptor"] = reads.descriptors
    requests["pieces"] = reads.pieces.ctypes.data + reads.pieces.strides[0] * numbers
    requests["num_pieces"] = reads.pieces.shape[1]
    requests["position"] = reads.positions
    addresses = requests.ctypes.data + requests.itemsize * numbers
    events = np.zeros(_AT_ONCE, _EVENT)
    begin, is_empty = 0, False
    try:
        while begin < len(requests):
            part = addresses[begin : begin + _AT_ONCE]
            taken = _LIBRARY.syscall(_SUBMIT, queue, ctypes.c_long(len(part)), ctypes.c_void_p(part.ctypes.data))
            ended = _collect(queue, taken, events)
            found_N[events["data"][:ended]] = events["result"][:ended]
            if ended < taken:
                return found_N
            if taken <= 0:
                break
            begin += taken
        is_empty = True
    finally:
        if is_empty:
            _idle.append(queue)
        else:
            _LIBRARY.syscall(_DESTROY, queue)  # waits for what it was given, even where that is not known to us
    return found_N


def _collect(queue: ctypes.c_ulong, number: int, events: NDArray[np.void]) -> int:
    """Wait for that many reads, of which the system may write to the memory until then; return how many have ended.

    These are fewer only where the system cannot tell of the others.
    """
    found = 0
    while found < number:
        more = _LIBRARY.syscall(
            _GETEVENTS,
            queue,
            ctypes.c_long(number - found),
            ctypes.c_long(number - found),
            ctypes.c_void_p(events.ctypes.data + found * events.itemsize),
            ctypes.c_void_p(None),
        )
        if more < 0 and ctypes.get_errno() != errno.EINTR:
            break
        found += max(0, more)
    return found
