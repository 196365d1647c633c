"""Memory of large tensors is used again, also by threads: else half of a CPU's time goes to fresh pages."""

import platform

import pytest

from conftest import REPO
from tests.waiting import run_python

COUNT_FAULTS = """
import ctypes, resource, threading
{first}
import pyarrow.parquet  # starts a thread, as what the step imports does

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
SIZE = 100 << 20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        memory = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(SIZE)))
        libc.memset(memory, 1, ctypes.c_size_t(SIZE))
        libc.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def run():
    counts.append(faults())

counts = []
for _ in range(4):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
print(sum(counts))
"""


def faults(first: str) -> int:
    done = run_python("-c", COUNT_FAULTS.format(first=first), cwd=REPO)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's memory")
def test_the_encode_step_keeps_freed_memory_for_all_its_threads() -> None:
    assert faults("import stages.encode") * 3 < faults("")
