"""No answer at all: a name that is not resolved, a proxy in the way, and no connection are told apart."""

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from microdiff.errors import SourceError
from microdiff.storage import retry
from microdiff.storage.s3 import S3Storage
from microdiff.storage.web import WebStorage
from tests.web_server import Fault, WebServer

HTTP, HTTPS = "http://files.example/a", "https://files.example/a"
NO_NAME = "no name resolution for files.example"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".example"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return waited


@pytest.fixture
def proxy() -> Iterator[WebServer]:
    with WebServer({}) as server:
        yield server


@pytest.mark.parametrize("root", [HTTP, HTTPS])
def test_a_name_that_is_not_resolved_is_said(root: str) -> None:
    with pytest.raises(SourceError, match=rf"/b\.bin: {NO_NAME}, 5 times in a row\. Check that the host is .*DNS"):
        WebStorage(root=root).stat("b.bin")


@pytest.mark.parametrize("root", [HTTP, HTTPS])
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:1", r"no connection to the proxy, 5 times in a row\. Check the proxy \(http_proxy"),
        ("http://proxy.example:3128", r"the proxy's name cannot be resolved, 5 times in a row\. Check the proxy \("),
        ("http://[::1", r"the proxy's address is no URL|InvalidProxyURL|InvalidURL"),
    ],
)
def test_a_proxy_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, root: str, address: str, message: str
) -> None:
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(SourceError, match=message):
        WebStorage(root=root).stat("b.bin")


@pytest.mark.parametrize(
    ("root", "status", "message", "times"),
    [
        (HTTPS, 407, r"the proxy refuses \(HTTP 407\)\. Check the proxy \(http_proxy", 1),
        (HTTPS, 403, r"the proxy refuses \(HTTP 403\)\. Check the proxy \(http_proxy", 1),
        (HTTPS, 502, r"the proxy answers HTTP 502, 5 times in a row\. Check the proxy \(http_proxy", 5),
        (HTTP, 407, r"the proxy refuses \(HTTP 407\)\. Check the proxy \(http_proxy", 1),
    ],
)
def test_a_proxy_that_refuses_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
    proxy: WebServer,
    waits: list[float],
    root: str,
    status: int,
    message: str,
    times: int,
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("https_proxy", proxy.url)
    for method in ("HEAD", "CONNECT"):
        proxy.always[method] = Fault(status=status)
    with pytest.raises(SourceError, match=rf"files\.example/a/b\.bin: {message}"):
        WebStorage(root=root).stat("b.bin")
    assert len(waits) == times - 1


def test_no_connection_is_still_the_network() -> None:
    with pytest.raises(SourceError, match=r"ConnectionError, 5 times in a row\. Check the network and datasets"):
        WebStorage(root="http://127.0.0.1:1").stat("b.bin")


@pytest.mark.parametrize(
    ("proxied", "message"),
    [
        (False, r"no name resolution for .*http://s3\.example, 5 times in a row\. Check that the host"),
        (True, r"no connection to the proxy at http://s3\.example, 5 times in a row\. Check the proxy"),
    ],
)
def test_the_same_is_said_of_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxied: bool, message: str) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if proxied:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    options = {"endpointurl": "http://s3.example", "access_key_id": f"key{proxied}", "secret_access_key": "b"}
    with pytest.raises(SourceError, match=message):
        S3Storage(bucket="bucket", options=options).stat("b.bin")
