"""Switch params.yaml to a preset: entries of one's own stay, and nothing that was edited is lost unsaid."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from microdiff.commands.own import PARAMS
from microdiff.core.files import write_text
from microdiff.errors import ParamsError
from microdiff.pipeline.params_text import blocks, with_lines, without_entry

_PRESETS = "presets"
_SHOWN = 8


def switch(preset: str, root: Path, say: Callable[[str], None]) -> None:
    """Write a preset to params.yaml, with the entries of datasets that it does not have.

    Args:
        preset: Its name.
        root: The repository.
        say: Receives what is to be shown.

    Raises:
        ParamsError: There is no such preset, or params.yaml is so broken that its own entries cannot be found.
    """
    presets = {path.stem: path.read_text(encoding="utf-8") for path in sorted((root / _PRESETS).glob("*.yaml"))}
    if preset not in presets:
        raise ParamsError(f"make preset PRESET={'|'.join(presets)}; got {preset!r}")
    path, new = root / PARAMS, presets[preset]
    if not path.is_file():
        write_text(path, new)
        say(f"{PARAMS}: as {_PRESETS}/{preset}.yaml")
        return
    text = path.read_text(encoding="utf-8")
    shipped = {block.name for each in presets.values() for block in blocks(each)}
    own = [block for block in blocks(text) if block.name not in shipped]
    rest = text
    for block in own:
        rest = without_entry(rest, block.name)
    lines = text.splitlines()
    for block in own:
        new = with_lines(new, lines[block.start : block.end])
    if rest.rstrip("\n") not in {each.rstrip("\n") for each in presets.values()}:
        changed = min((_differences(yaml.safe_load(each), yaml.safe_load(rest)) for each in presets.values()), key=len)
        backup = _free_name(path)
        write_text(backup, text)
        what = ", ".join(changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        say(f"{PARAMS} was edited ({what or 'comments or layout'}): it is kept as {backup.name}")
    if new != text:
        write_text(path, new)
    kept = f", with {', '.join(block.name for block in own)} as before" if own else ""
    say(f"{PARAMS}: as {_PRESETS}/{preset}.yaml{kept}")


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return the names of settings that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        dot = f"{where}." if where else ""
        return [line for name in names for line in _differences(old.get(name), new.get(name), f"{dot}{name}")]
    return [] if old == new else [where]


def _free_name(path: Path) -> Path:
    """Return a name beside a file that nothing has."""
    number = 1
    while (backup := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    return backup
