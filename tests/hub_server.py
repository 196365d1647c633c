"""An imitation of the Hugging Face hub on 127.0.0.1: API and small files on one port, large files on another.

with HubServer({"ORG/REPO": {"data/000.tgz": b"..."}}, gated={"ORG/REPO"}) as hub:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    source = open_source(hub.root("ORG/REPO"), tmp_path)            # hf://datasets/ORG/REPO@<commit>
    hub.blobs.on("GET", Fault(drop_after=100))                      # faults of large files' bytes
    hub.on("GET", Fault(status=429, headers={"Retry-After": "1"}))  # faults of the API, and of small files

A file is large (LFS) if its name ends like an archive's. Large files are redirected to signed links that expire.
"""

import hashlib
import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.web_server import Reply, Request, WebServer, etag_of

GRANTED = "hf_grantedGRANTED"  # tokens of an account that has accepted all terms,
STRANGER = "hf_strangerSTRANGER"  # and of one that has not
_LARGE = (".tar", ".tgz", ".gz", ".zip", ".parquet", ".bin")


class HubServer(WebServer):
    """Repositories by name, each files by path; the same ones as datasets and as models.

    Args:
        repos: What `main` of each repository holds.
        gated: Names of those whose bytes (not listings) need an account that has accepted the terms.
        page_size: Entries of one page of a listing.
    """

    def __init__(
        self, repos: Mapping[str, Mapping[str, bytes]], gated: Collection[str] = (), page_size: int = 1000
    ) -> None:
        super().__init__({})
        self.blobs = _Blobs()
        self.page_size = page_size
        self.gated = set(gated)
        self.stale_links = 0  # so many of the next signed links have expired already
        self._commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self._branches: dict[str, dict[str, str]] = {}
        for repo, files in repos.items():
            self.push(repo, files)

    def push(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make a commit that holds `files`, to which a branch moves; return it."""
        document = [repo, {path: _sha256(data) for path, data in sorted(files.items())}]
        commit = hashlib.sha1(json.dumps(document).encode(), usedforsecurity=False).hexdigest()
        self._commits.setdefault(repo, {})[commit] = dict(files)
        self._branches.setdefault(repo, {})[branch] = commit
        self.blobs.files.update({_sha256(data): data for data in files.values()})
        return commit

    def commit(self, repo: str, branch: str = "main") -> str:
        """Return the commit that a branch is at."""
        return self._branches[repo][branch]

    def root(self, repo: str) -> str:
        """Return the source root of a repository, pinned to the commit of its main branch."""
        return f"hf://datasets/{repo}@{self.commit(repo)}"

    def __enter__(self) -> Self:
        self.blobs.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.blobs.__exit__(kind, error, trace)

    def reply(self, request: Request) -> Reply:
        path = urlsplit(request.target).path
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", GRANTED, STRANGER):
            return _error(401, "", "Invalid credentials in Authorization header")
        if found := re.fullmatch(
            r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            repo, question, revision, rest = found[1], found[2] or "revision", unquote(found[3] or "main"), found[4]
        elif found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, question, revision, rest = found[1], "resolve", unquote(found[2]), found[3]
        else:
            return _error(404, "", "Not Found")
        if repo not in self._commits:
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        commit = self._branches[repo].get(revision, revision)
        files = self._commits[repo].get(commit)
        if files is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        rest = unquote(rest or "")
        if question == "revision":
            return _json({"id": repo, "sha": commit, "gated": "auto" if repo in self.gated else False, "siblings": []})
        if question == "tree":
            return self._tree(request, files, rest)
        if question == "paths-info":
            wanted = parse_qs(request.body.decode())["paths"]
            return _json([_entry(name, files[name]) for name in wanted if name in files])
        if repo in self.gated and token != GRANTED:
            return _error(403 if token else 401, "GatedRepo", f"Access to dataset {repo} is restricted")
        if rest not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        return self._resolve(commit, rest, files[rest])

    def _tree(self, request: Request, files: Mapping[str, bytes], folder: str) -> Reply:
        below = {path for path in files if not folder or path.startswith(f"{folder}/")}
        if folder and not below:
            return _error(404, "EntryNotFound", f"{folder} does not exist on this revision")
        folders = {str(parent) for path in below for parent in PurePosixPath(path).parents} - {".", folder}
        entries = {path: _entry(path, files[path]) for path in below}
        entries |= {path: {"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders}
        if request.query.get("recursive", "false").lower() != "true":
            entries = {path: entry for path, entry in entries.items() if path.rpartition("/")[0] == folder}
        start = int(request.query.get("cursor", "0"))
        end = start + min(self.page_size, int(request.query.get("limit", "1000")))
        headers = {}
        if end < len(entries):
            place = f"{self.url}{urlsplit(request.target).path}?{urlencode({**request.query, 'cursor': end})}"
            headers["Link"] = f'<{place}>; rel="next"'
        return _json([entries[path] for path in sorted(entries)[start:end]], headers)

    def _resolve(self, commit: str, path: str, data: bytes) -> Reply:
        entry = _entry(path, data)
        headers: dict[str, str | None] = {"X-Repo-Commit": commit}
        if "lfs" not in entry:
            return Reply(headers={**headers, "ETag": f'"{entry["oid"]}"'}, body=data, ranges=True)
        sha256 = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        end = int(time.time()) + 3600
        if self.stale_links:
            self.stale_links -= 1
            end -= 7200
        return Reply(302, {**headers, "Location": f"{self.blobs.url}/{quote(sha256)}?{_Blobs.sign(sha256, end)}"})


class _Blobs(WebServer):
    """Serves large files by their SHA-256 to those who have a link that is signed and has not expired."""

    def __init__(self) -> None:
        super().__init__({})

    @staticmethod
    def sign(path: str, end: int) -> str:
        signature = hashlib.sha256(f"{path} {end} secret".encode()).hexdigest()
        return urlencode({"Expires": end, "Signature": signature})

    def reply(self, request: Request) -> Reply:
        if "Authorization" in request.headers:
            return Reply(400, body=b"Only one auth mechanism allowed")
        end = int(request.query.get("Expires", 0))
        if end < time.time() or self.sign(request.path, end) != urlsplit(request.target).query:
            return Reply(403, body=b"<Error><Code>AccessDenied</Code></Error>")
        data = self.files[request.path]
        return Reply(headers={"ETag": etag_of(data)}, body=data, ranges=True)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(_LARGE):
        entry |= {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 130}}
    return entry


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(document: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(headers={"Content-Type": "application/json", **(headers or {})}, body=json.dumps(document).encode())


def _error(status: int, code: str, message: str) -> Reply:
    headers = {"X-Error-Code": code or None, "X-Error-Message": message, "Content-Type": "application/json"}
    return Reply(status, headers, json.dumps({"error": message}).encode())
