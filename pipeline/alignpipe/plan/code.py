"""Code hashes: what a stored result was computed with, and what to do when that is not the code installed now."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import alignpipe
from alignpipe.config.model import CodeChange
from alignpipe.digests import data_digest, file_digest
from alignpipe.registry import Registered

_CORE = ("ops", "training", "rewarding", "conversations.py", "dataset.py", "functions.py", "rows.py")
"""The parts of the core that results depend on; the rest of it only moves them about."""
_CORE_NAME = "alignpipe"
_NOT_CODE = {".pyc", ".md"}


def code_hashes(components: Iterable[Registered]) -> dict[str, str]:
    """The hash of the core's numerical parts and of each component's folder, by name."""
    root = _core_root()
    hashes = {_CORE_NAME: _hash(tuple(root / part for part in _CORE), root)}
    for registered in components:
        component = registered.component
        files = _component_files(registered)
        if files:
            root = Path(os.path.commonpath([file.parent for file in files]))
            hashes[f"{component.group}/{component.name}"] = _hash(files, root)
    return hashes


def compare_code(
    then: Mapping[str, str], now: Mapping[str, str], setting: CodeChange, components: Iterable[Registered]
) -> tuple[str, CodeChange]:
    """The names of the parts whose code is not what it was, and what to do: never `auto`, `ignore` if nothing changed.

    Under `auto` a changed part that is not a released install means `rerun`, any other `warn`.
    """
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if not changed:
        return "", CodeChange.ignore
    if setting is CodeChange.auto:
        folders = {f"{entry.component.group}/{entry.component.name}": entry.folder for entry in components}
        folders[_CORE_NAME] = _core_root()
        released = all(_released(folders.get(name)) for name in changed)
        setting = CodeChange.warn if released else CodeChange.rerun
    return ", ".join(changed), setting


def _released(folder: Path | None) -> bool:
    """Whether a folder is where pip puts released packages; editable installs stay in their source tree."""
    homes = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return folder is None or any(folder.resolve().is_relative_to(Path(home).resolve()) for home in homes)


def _core_root() -> Path:
    return Path(alignpipe.__file__).parent


def _component_files(registered: Registered) -> tuple[Path, ...]:
    """The package folders of the plugin and, below the same top folder, of its config and its factory.

    Of what is no package, the modules it consists of.
    """
    folder = registered.folder
    if folder is None or not folder.is_dir():
        return ()
    modules = {registered.component.config.__module__, registered.component.factory.partition(":")[0]}
    if (folder / "__init__.py").is_file():
        top = _top(folder)
        folders = {folder, *(found for module in modules if (found := _folder_of(module, top)) is not None)}
        return tuple(sorted(each for each in folders if not any(other in each.parents for other in folders)))
    files = {folder / f"{module.rpartition('.')[2]}.py" for module in modules}
    return tuple(sorted(file for file in files if file.is_file()))


def _top(package: Path) -> Path:
    """The folder of the outermost package around a package's folder."""
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    return package


def _folder_of(module: str, top: Path) -> Path | None:
    """The package folder of a module below `top`, by its name: to ask Python imports packages, which may be slow."""
    path = top.parent.joinpath(*module.split("."))
    if not path.is_relative_to(top):
        return None
    return path if path.is_dir() else path.parent if path.with_suffix(".py").is_file() else None


@cache
def _hash(paths: tuple[Path, ...], root: Path) -> str:
    entries = []
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and file.suffix not in _NOT_CODE:
                entries.append([file.relative_to(root).as_posix(), file_digest(file)])
    return data_digest(sorted(entries))
