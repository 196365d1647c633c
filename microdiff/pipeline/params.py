"""Read params.yaml into frozen dataclasses, reporting every mistake at once and by name.

download, encode, shard          the same for all datasets
store_salt                       another text disowns all that was computed before
datasets.<name>                  max_rejected_share, clean, and download: source, partitions and the handler's fields;
                                 with kind, a layout in place of a handler, all of it but the source has defaults
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from microdiff.config.roots import Root, without_secrets_in
from microdiff.config.settings import CleanSettings, DownloadSettings, EncodeSettings, ShardSettings
from microdiff.errors import ParamsError
from microdiff.handlers import Handler, handler_class
from microdiff.kinds import DEFAULT_CLEAN, DEFAULT_REJECTED_SHARE, KINDS, KindHandler, kind_class
from microdiff.kinds.names import name_problem
from microdiff.kinds.source import split_source
from microdiff.pipeline.parsing import as_mapping, convert, instead_of, parse
from microdiff.pipeline.root_settings import is_recorded, secrets_in
from microdiff.pipeline.selection import parse_selection

_SALT = "store_salt"
_COMMON = ("source", "partitions", "fetch_again")  # settings of all datasets' downloads
log = logging.getLogger("microdiff")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry of `datasets`.

    Attributes:
        name: The dataset's name everywhere.
        max_rejected_share: Largest share of source records that may be lost over all steps, 0 to 1.
        source: Root the handler reads.
        partitions: Which partitions, see `microdiff.pipeline.selection`.
        fetch_again: Partitions whose files are fetched anew, by name, and how often that was asked for: another number
            is another result.
        handler: Knows the source's layout.
        clean: Caption policy.
    """

    name: str
    max_rejected_share: float
    source: Root
    partitions: str
    handler: Handler
    clean: CleanSettings
    fetch_again: Mapping[str, int] = field(default_factory=dict)

    @property
    def handler_module(self) -> str:
        """The module that knows how its source is laid out, empty where it is named after the dataset."""
        return type(self.handler).__module__ if isinstance(self.handler, KindHandler) else ""


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml.

    Attributes:
        download: For all datasets.
        encode: For all datasets.
        shard: For all datasets.
        datasets: By name.
        store_salt: Another one disowns all that was computed before, here and in shared stores.
    """

    download: DownloadSettings
    encode: EncodeSettings
    shard: ShardSettings
    datasets: Mapping[str, Dataset]
    store_salt: str = ""

    def dataset(self, name: str) -> Dataset:
        """Return a dataset's entry.

        Raises:
            ParamsError: There is none of that name.
        """
        if name not in self.datasets:
            raise ParamsError(f"unknown dataset {name!r}{instead_of(name, self.datasets)}")
        return self.datasets[name]


def load_params(path: Path, dataset: str | None = None, *, recorded: bool | None = None) -> Params:
    """Read and check a params file.

    Args:
        path: The file.
        dataset: The only entry of `datasets` that is wanted. The others are not looked at, nor are their handlers
            imported: what is wrong with one dataset does not stop the others. None for all.
        recorded: Whether the settings will be recorded, so that a secret among them is wrong; None for finding out.

    Raises:
        ParamsError: The file is missing or not YAML, or settings are wrong: one line for each.
    """
    document = _read(path)
    problems: list[str] = []
    params = _parse_params(document, dataset, problems)
    secrets = [line for line in secrets_in(document) if _concerns(line, dataset)]
    if is_recorded() if recorded is None else recorded:
        problems += secrets
    else:
        for line in secrets:
            log.warning("warning: %s: %s", path, line)
    if params is None or problems:
        raise _problems_in(path, problems)
    return params


def _problems_in(path: Path, problems: list[str]) -> ParamsError:
    lines = (f"  {without_secrets_in(problem)}" for problem in problems)
    return ParamsError("\n".join([f"{path}: {len(problems)} problem(s)", *lines]))


def dataset_names(path: Path) -> list[str]:
    """Return the names of the datasets in a params file, whatever their settings are.

    Raises:
        ParamsError: The file is missing or not YAML, or has no datasets.
    """
    problems: list[str] = []
    names = list(_entries(as_mapping(_read(path), "", None, problems), problems))
    if not names:
        problems = problems or ["datasets: missing"]
        raise ParamsError("\n".join(f"{path}: {problem}" for problem in problems))
    return names


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file. Copy a preset: make preset PRESET=sample") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}. Check --params.") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.YAMLError as error:  # its own words quote lines, which may hold secrets
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}{where}") from None


def _concerns(line: str, dataset: str | None) -> bool:
    return dataset is None or not line.startswith("datasets.") or line.startswith(f"datasets.{dataset}.")


def _entries(document: Mapping[str, Any], problems: list[str]) -> dict[str, object]:
    """Return the entries of `datasets` by name, as they are."""
    entries = as_mapping(document.get("datasets", {}), "datasets", None, problems)
    if "datasets" in document and not entries:
        problems.append("datasets: expected at least one dataset")
    return {str(name): value for name, value in entries.items()}


def _parse_params(document: object, dataset: str | None, problems: list[str]) -> Params | None:
    sections = {"download": DownloadSettings, "encode": EncodeSettings, "shard": ShardSettings}
    required = [*sections, "datasets"]
    values = as_mapping(document, "", required, problems, known=[*required, _SALT])
    parsed = {name: parse(cls, values[name], name, problems) for name, cls in sections.items() if name in values}
    entries = _entries(values, problems)
    if dataset is not None and dataset not in entries:
        problems.append(f"unknown dataset {dataset!r}{instead_of(dataset, entries)}")
    wanted = entries if dataset is None else {name: entries[name] for name in entries if name == dataset}
    datasets = {name: _parse_dataset(name, value, problems) for name, value in wanted.items()}
    salt = convert(str, values.get(_SALT) or "", _SALT, problems)
    if problems:
        return None
    return Params(datasets=cast("Mapping[str, Dataset]", datasets), store_salt=salt, **cast("Any", parsed))


def _parse_dataset(name: str, value: object, problems: list[str]) -> Dataset | None:
    where = f"datasets.{name}"
    before = len(problems)
    cls: type[Handler] | None
    if isinstance(value, Mapping) and "kind" in value:
        value, cls = _with_defaults(value), _class_of_kind(name, value["kind"], problems)
        entry = as_mapping(value, where, ["kind", "max_rejected_share", "download", "clean"], problems)
    else:
        cls = handler_class(name)
        if cls is None:
            problems.append(
                f"{where}: no such dataset: there is no module microdiff/handlers/{name}.py, and the entry has no kind "
                f"({', '.join(KINDS)})"
            )
            return None
        entry = as_mapping(value, where, ["max_rejected_share", "download", "clean"], problems)
    if cls is None:
        return None
    share = convert(float, entry.get("max_rejected_share", 0.0), f"{where}.max_rejected_share", problems)
    if isinstance(share, float) and not 0 <= share <= 1:
        problems.append(f"{where}.max_rejected_share: expected 0 to 1, got {share}")
    download = entry.get("download", {})
    common, handler_values = {}, download
    if isinstance(download, Mapping):
        common = {key: download[key] for key in _COMMON if key in download}
        handler_values = {key: item for key, item in download.items() if key not in common}
    for key in ("source", "partitions"):
        if key not in common:
            problems.append(f"{where}.download.{key}: missing")
    source = convert(Root, common.get("source", ""), f"{where}.download.source", problems)
    partitions = str(common.get("partitions", "all"))
    again = convert(Mapping[str, int], common.get("fetch_again") or {}, f"{where}.download.fetch_again", problems)
    problems += [
        f"{where}.download.fetch_again.{key}: expected at least 1, got {number}"
        for key, number in again.items()
        if type(number) is int and number < 1
    ]
    try:
        parse_selection(partitions)
    except ValueError as error:
        problems.append(f"{where}.download.partitions: {error}")
    if issubclass(cls, KindHandler) and isinstance(source, str) and isinstance(handler_values, Mapping):
        source, files = split_source(source, str(entry["kind"]))
        handler_values = {**({"files": files} if files else {}), **handler_values}
    handler = parse(cls, handler_values, f"{where}.download", problems, also=_COMMON)
    clean = parse(CleanSettings, entry["clean"], f"{where}.clean", problems) if "clean" in entry else None
    if len(problems) > before or handler is None or clean is None:
        return None
    return Dataset(
        name=name,
        max_rejected_share=share,
        source=source,
        partitions=partitions,
        handler=handler,
        clean=clean,
        fetch_again=again,
    )


def _class_of_kind(name: str, kind: object, problems: list[str]) -> type[Handler] | None:
    """Return the handler of a kind, adding what is wrong with the kind or the dataset's name to `problems`."""
    where, cls = f"datasets.{name}", kind_class(kind)
    if cls is None:
        problems.append(f"{where}.kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if problem := name_problem(name):
        problems.append(f"{where}: {problem}")
        return None
    return cls


def _with_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a dataset that has a kind, with whatever it does not say."""
    complete = {"max_rejected_share": DEFAULT_REJECTED_SHARE, **entry}
    if complete["max_rejected_share"] is None:
        complete["max_rejected_share"] = DEFAULT_REJECTED_SHARE
    if isinstance(clean := entry.get("clean") or {}, Mapping):
        clean = {**DEFAULT_CLEAN, **clean}
    if isinstance(download := entry.get("download"), Mapping):
        complete["download"] = {"partitions": "all", **download}
    return {**complete, "clean": clean}
