"""Finds the function that a path such as `my.py:score` names, without running its file."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path
from symtable import symtable

from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.paths import user_path

_USUAL = "score"
"""The function that is meant when the path names none and the file has several."""


@dataclass(frozen=True)
class Located:
    """A file's source and the name of the function in it."""

    file: Path
    function: str
    source: bytes

    def revision(self) -> dict[str, str]:
        """What the stage key holds: the same function in the same file, wherever it lies, is the same."""
        return {"function": self.function, "sha256": hashlib.sha256(self.source).hexdigest()}


def find_function(path: str, key: str) -> Located:
    """The function of `file.py:function`, or the only one of `file.py` (the one called `score`, if there are more).

    `key` says in messages where the path was given.

    Raises `ConfigError` for a file that cannot be read or is no Python, and for a function that is not in it.
    """
    where, name = split(path)
    file = user_path(where)
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "there is no such file"
        raise ConfigError(f"{key}={path}: {file.absolute()}: {problem}; write file.py:function")
    try:
        source = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot read {file}: {error.strerror}") from error
    return Located(file.absolute(), name_in(source, f"{key}={path}", name), source)


def split(path: str) -> tuple[str, str]:
    """The file and the function's name of `file.py:function`; the name is empty where only the file is given."""
    where, colon, name = path.strip().rpartition(":")
    return (where, name) if colon else (name, "")


def name_in(source: bytes, at: str, name: str = "") -> str:
    """The name of the function that is meant, `name` being the one that is asked for, and `at` where.

    Raises `ConfigError` as `find_function` does.
    """
    try:
        tree = ast.parse(source)
        names = _top_level_names(source)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{at}: this is no Python{line}: {error}") from error
    functions = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    if name:
        if name not in names:
            raise ConfigError(
                f"{at}: the file has no function {name!r}{did_you_mean(name, functions)}; its functions: "
                f"{', '.join(functions) or 'none'}"
            )
        return name
    if _USUAL in functions:
        return _USUAL
    if len(functions) != 1:
        raise ConfigError(
            f"{at}: name the function, as in {at}:{_USUAL}; the file's functions: {', '.join(functions) or 'none'}"
        )
    return functions[0]


def _top_level_names(source: bytes) -> set[str]:
    """Every name that the file binds at its top level: what it defines, assigns or imports."""
    symbols = symtable(decode_source(source), "<file>", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
