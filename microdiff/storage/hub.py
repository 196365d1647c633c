"""A repository of a dataset or a model on the Hugging Face hub, at one commit.

The hub says for every file what its bytes hash to: SHA-256 for large (LFS) files, the git blob's SHA-1 for others. So
each file is verified, which the hub's own client does not do, and a download continues after a kill, which newer
versions of that client do not do. Bytes come by plain HTTP: the hub redirects to a signed link on another server, and
is asked for a new one whenever a request is repeated.

HF_ENDPOINT names another hub. HF_TOKEN (or HUGGING_FACE_HUB_TOKEN) is read from the environment for each request, sent
to the hub alone, and never stored.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urljoin, urlsplit

import requests
from requests.auth import AuthBase

from microdiff.core.files import digest_json, locked_folder, read_json, write_json
from microdiff.core.progress import Reporter
from microdiff.errors import SourceError
from microdiff.storage import SETTING, Entry, NotFound, SourceFile
from microdiff.storage.fetched_source import FetchedSource
from microdiff.storage.http import HttpStorage, NoCredentials
from microdiff.storage.urls import same_origin, without_secrets

_ENDPOINT = "https://huggingface.co"
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_REPO = r"([\w.-]+/[\w.-]+?)(?:@([^@\s]+))?/?"
_FOLDERS = {"dataset": "datasets/", "model": ""}  # what the hub puts before a repository's name
_COMMIT = re.compile(r"[0-9a-f]{40}")


def open_hub(
    root: str, work: Path, report: Reporter, setting: str = SETTING, kind: Literal["dataset", "model"] = "dataset"
) -> FetchedSource:
    """Return the source at `hf://datasets/ORG/REPO@REVISION`, at the commit that the revision is now.

    Args:
        root: The root.
        work: The store's folder.
        report: Hears of retries, and of a revision that is not a commit.
        setting: Where the root is set in params.yaml, for messages.
        kind: Of the repository; the root of a model's has no `datasets/`.

    Raises:
        SourceError: The root is not of this form, or the hub cannot say which commit is meant.
    """
    parts = re.fullmatch(f"hf://{_FOLDERS[kind]}{_REPO}", root)
    if parts is None:
        raise SourceError(f"{without_secrets(root)}: expected hf://{_FOLDERS[kind]}ORG/REPO@REVISION")
    endpoint = (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise SourceError(f"HF_ENDPOINT: expected the URL of a hub, such as {_ENDPOINT}")
    storage = HubStorage(
        endpoint=endpoint,
        kind=kind,
        repo=parts[1],
        revision=parts[2] or "main",
        listings=work / "listings",
        report=report,
        setting=setting,
    )
    if not _COMMIT.fullmatch(storage.revision):
        storage = storage.pinned()
    return FetchedSource(storage=storage, fetched=work / "fetch")


@dataclass(frozen=True, kw_only=True)
class HubStorage(HttpStorage):
    """A repository at one commit.

    Attributes:
        endpoint: The hub's URL.
        kind: Whether it is a dataset's or a model's.
        repo: `ORG/REPO`.
        revision: A commit, 40 hexadecimal digits; anything else only until `pinned`.
        listings: Holds the contents of folders, which never change at a commit.
    """

    endpoint: str = field(repr=False)
    kind: Literal["dataset", "model"] = "dataset"
    repo: str
    revision: str
    listings: Path

    @property
    def name(self) -> str:
        """The repository and its commit."""
        return f"hf://{_FOLDERS[self.kind]}{self.repo}@{self.revision}"

    def url(self, path: str) -> str:
        """Return where a file is, or where the hub redirects from to it."""
        repo = f"{self.endpoint}/{_FOLDERS[self.kind]}{self.repo}"
        return f"{repo}/resolve/{quote(self.revision, safe='')}/{quote(path)}"

    def auth(self, url: str) -> AuthBase:
        """Return the token from the environment, for the hub alone."""
        return _Bearer() if same_origin(self.endpoint, url) and _token() else NoCredentials()

    def is_transient(self, answer: requests.Response) -> bool:
        """Tell whether asking again may help: also where a signed link has expired."""
        expired = answer.status_code == 403 and not same_origin(self.endpoint, answer.url)
        return expired or super().is_transient(answer)

    def refusal(self, answer: requests.Response, where: str) -> SourceError:
        """Return the error that an answer means: the repository, the revision, the file, or permission is missing."""
        error = NotFound if answer.headers.get("X-Error-Code") == "EntryNotFound" else SourceError
        return error(f"{where}: {self._what_is_missing(answer)}")

    def _what_is_missing(self, answer: requests.Response) -> str:
        code, status = answer.headers.get("X-Error-Code", ""), answer.status_code
        if not same_origin(self.endpoint, answer.url):
            return f"HTTP {status} {answer.reason} from {urlsplit(answer.url).hostname}. Run again later."
        hub = without_secrets(self.endpoint)
        page = f"{hub}/{_FOLDERS[self.kind]}{self.repo}"
        if status in (401, 403) and _token() is None:
            if code == "GatedRepo":
                return f"gated. Accept the terms at {page}, then set HF_TOKEN to a token of that account."
            return f"no such {self.kind}, or a private one. Check {self.setting}, or set HF_TOKEN."
        if status == 401:
            return f"HF_TOKEN is not valid. Correct it, or make a new one at {hub}/settings/tokens."
        if status == 403:
            return (
                f"HF_TOKEN gives no access. Accept the terms at {page}, with a token that may read gated {self.kind}s."
            )
        what = {
            "RepoNotFound": f"no {self.kind} {self.repo}, or no permission to see it",
            "RevisionNotFound": f"no revision {self.revision}",
            "EntryNotFound": "no such file",
        }.get(code, f"HTTP {status} {answer.reason}")
        return f"{what}. Check {self.setting}; see {page}."

    def list(self, folder: str) -> Sequence[str]:
        """Return a folder's files, sorted."""
        return sorted(self._files(folder.strip("/")))

    def all_files(self, *, follow_links: bool = False) -> Iterator[Entry]:
        """Yield all files of the repository, page by page."""
        page: str | None = self._api(f"tree/{quote(self.revision, safe='')}?recursive=true&expand=false")
        while page is not None:
            found, page = self.ask("GET", "", self._read_page, url=page, expected=(200, 404))
            yield from map(Entry, found)

    def stat(self, path: str, checksum: str | None = None) -> SourceFile:
        """Describe a file as its folder's listing does; asks nothing if that is known."""
        file = self._files(path.rpartition("/")[0]).get(path)
        if file is None:
            raise NotFound(f"{self.name}/{path}: no such file. Check {self.setting}.")
        if checksum is None or checksum == file.identity:
            return file
        if checksum.partition(":")[0] == file.kind:
            raise SourceError(f"{self.name}/{path}: expected {checksum}, but the hub has {file.identity}.")
        return SourceFile(path, file.num_bytes, checksum)

    def pinned(self) -> "HubStorage":
        """Return this storage at the commit that its revision is now."""
        commit = self.ask("GET", "", _read_commit, url=self._api(f"revision/{quote(self.revision, safe='')}"))
        if commit is None:
            raise SourceError(f"{self.name}: no commit in the hub's answer. Check HF_ENDPOINT.")
        pinned = replace(self, revision=commit)
        self.report.say(f"{self.name} may change; pin it as {pinned.name}")
        return pinned

    def _files(self, folder: str) -> Mapping[str, SourceFile]:
        """Return a folder's files by path, asking the hub once per commit."""
        what = ["hub", self.kind, self.repo, self.revision, folder]
        remembered = self.listings / digest_json(what)  # 64 digits: prune leaves it
        listing = remembered / "files.json"
        if not listing.is_file():
            with locked_folder(remembered):
                if not listing.is_file():
                    write_json(listing, self._ask_for_files(folder))
        return _read_listing(listing)

    def _ask_for_files(self, folder: str) -> dict[str, tuple[int, str]]:
        """Return size and identity of a folder's files by path, page after page; none if there is no such folder."""
        files: dict[str, tuple[int, str]] = {}
        where = f"tree/{quote(self.revision, safe='')}/{quote(folder)}".rstrip("/")
        page: str | None = self._api(f"{where}?recursive=false&expand=false")
        while page is not None:
            found, page = self.ask("GET", folder, self._read_page, url=page, expected=(200, 404))
            files |= found
        return files

    def _read_page(self, answer: requests.Response) -> tuple[dict[str, tuple[int, str]], str | None]:
        """Return the files of one page of a listing, and where the next one is."""
        if answer.status_code == 404:
            if answer.headers.get("X-Error-Code") == "EntryNotFound":
                return {}, None
            raise self.refusal(answer, self.name)
        try:
            files = {entry["path"]: _size_and_identity(entry) for entry in answer.json() if entry["type"] == "file"}
        except (LookupError, TypeError) as error:
            raise SourceError(f"{self.name}: not a hub's listing ({error!r}). Check HF_ENDPOINT.") from error
        following = answer.links.get("next")
        return files, urljoin(answer.url, following["url"]) if following else None

    def _api(self, question: str) -> str:
        return f"{self.endpoint}/api/{self.kind}s/{self.repo}/{question}"


class _Bearer(AuthBase):
    """Adds the token to a request; holds nothing."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {_token()}"
        return request


def _token() -> str | None:
    """Return the token from the environment."""
    for name in _TOKENS:
        if token := os.environ.get(name, "").strip():
            if not re.fullmatch(r"[!-~]+", token):
                raise SourceError(f"{name}: holds characters that no token has. Set it again.")
            return token
    return None


def _read_commit(answer: requests.Response) -> str | None:
    document = answer.json()
    commit = document.get("sha") if isinstance(document, dict) else None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def _size_and_identity(entry: Mapping[str, Any]) -> tuple[int, str]:
    lfs = entry.get("lfs")
    return (int(lfs["size"]), f"sha256:{lfs['oid']}") if lfs else (int(entry["size"]), f"git:{entry['oid']}")


@lru_cache(maxsize=64)
def _read_listing(listing: Path) -> Mapping[str, SourceFile]:
    return {path: SourceFile(path, size, identity) for path, (size, identity) in read_json(listing).items()}
