"""Measure what a kill costs a download: killed at 90 % and continued, against never killed, and against starting over.

    python bench/fetching.py [--megabytes N] [--rate MB_PER_S] [--rounds N]

One file of random bytes is served over loopback by another process; its SHA-256 is known, and checked after the last
byte. Times are of whole processes, their start included. Loopback is faster than any network: `--rate` limits the
server, since what a kill costs, beside the start of a process, is the time of the bytes it lost.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Queue, get_context
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without being installed

from microdiff.core.files import digest_file

KILL_AT = 0.9
_PIECE_BYTES = 2**18
_FETCH = """
import sys
from pathlib import Path
from microdiff.storage.opening import open_source
source = open_source(sys.argv[1], Path(sys.argv[2]))
source.fetch(source.stat("file.bin", sys.argv[3] or None))
"""


def serve(path: Path, rate: float, addresses: "Queue[str]", sent: Any) -> None:
    """Serve a file, and ranges of it, at `rate` bytes per second (0: no limit); count the bytes in `sent`."""
    num_bytes = path.stat().st_size

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(num_bytes - start))
            self.send_header("Content-Range", f"bytes {start}-{num_bytes - 1}/{num_bytes}")
            self.send_header("ETag", '"one"')
            self.end_headers()
            if self.command == "HEAD":
                return
            began = time.monotonic()
            try:
                for place in range(start, num_bytes, _PIECE_BYTES):
                    sent.value += os.sendfile(self.wfile.fileno(), file.fileno(), place, _PIECE_BYTES)
                    if rate:
                        time.sleep(max(0.0, began + (place - start) / rate - time.monotonic()))
            except (BrokenPipeError, ConnectionResetError):
                pass

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with path.open("rb") as file:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        addresses.put(f"http://127.0.0.1:{server.server_address[1]}")
        server.serve_forever()


@dataclass(frozen=True)
class Download:
    """A download of the file into a folder."""

    url: str
    checksum: str
    num_bytes: int
    work: Path

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin or continue it."""
        arguments = [self.url, str(self.work), self.checksum]
        return subprocess.Popen([sys.executable, "-c", _FETCH, *arguments], cwd=Path(__file__).resolve().parents[1])

    def finish(self) -> None:
        """Run it to its end."""
        if self.start().wait():
            sys.exit("the download failed")

    def kill_at(self, share: float) -> None:
        """Run it until it has a share of the bytes, and kill it."""
        process = self.start()
        while sum(part.stat().st_size for part in self.work.rglob("*.part")) < share * self.num_bytes:
            if process.poll() is not None:
                sys.exit("the download ended before it was killed; use more --megabytes or a --rate")
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def uninterrupted(download: Download) -> None:
    """Fetch the file once."""
    download.finish()


def continued(download: Download) -> None:
    """Fetch 90 %, be killed, fetch the rest."""
    download.kill_at(KILL_AT)
    download.finish()


def started_over(download: Download) -> None:
    """Fetch 90 %, be killed, fetch it all, as clients do that do not keep what they had."""
    download.kill_at(KILL_AT)
    for part in download.work.rglob("*.part*"):
        part.unlink()
    download.finish()


def measure(run: Callable[[Download], None], make: Callable[[Path], Download], sent: Any) -> tuple[float, int]:
    """Return seconds and bytes sent."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        before, start = sent.value, time.perf_counter()
        run(make(Path(folder)))
        return time.perf_counter() - start, sent.value - before


def main() -> None:
    """Print a line for each way to fetch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file (1000)")
    parser.add_argument("--rate", type=float, default=250, help="MB/s of the server, 0 for no limit (250)")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions, of which the median counts (1)")
    options = parser.parse_args()
    num_bytes = options.megabytes * 1_000_000
    os.environ["NO_PROXY"] = "127.0.0.1"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.bin"
        piece = os.urandom(1_000_000)
        with path.open("wb") as out:
            for number in range(options.megabytes):
                out.write(hashlib.sha256(str(number).encode()).digest() + piece[32:])
        sha256 = f"sha256:{digest_file(path)}"
        context = get_context("spawn")
        addresses, sent = context.Queue(), context.Value("q", 0, lock=False)
        server = context.Process(target=serve, args=(path, options.rate * 1e6, addresses, sent), daemon=True)
        server.start()
        url = addresses.get()
        print(f"{options.megabytes} MB at {options.rate or 'unlimited'} MB/s, killed at {KILL_AT:.0%}")
        print(f"{'download':14} {'seconds':>8} {'ratio':>6} {'lost s':>7} {'MB sent':>8} {'of file':>8}")
        make, base = partial(Download, url, sha256, num_bytes), None
        for run in (uninterrupted, continued, started_over):
            runs = [measure(run, make, sent) for _ in range(options.rounds)]
            seconds, received = median(took for took, _ in runs), median(received for _, received in runs)
            base = base or seconds
            print(
                f"{run.__name__.replace('_', ' '):14} {seconds:8.2f} {seconds / base:6.2f} {seconds - base:7.2f} "
                f"{received / 1e6:8.1f} {received / num_bytes:8.1%}"
            )
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
