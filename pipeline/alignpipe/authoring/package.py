"""A package that brings one reward, written from the templates beside this file."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from inspect import Parameter
from pathlib import Path
from typing import Any

import alignpipe
from alignpipe.errors import ConfigError
from alignpipe.functions import check_options, columns_of, style_of
from alignpipe.python_files import Located
from alignpipe.registry import registry
from alignpipe.store.files import storing

_COMMON = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    ".github/workflows/tests.yml": "tests.yml.in",
    ".gitignore": "gitignore.in",
}
_RULE = {"src/@module@/__init__.py": "rule.py.in", "tests/test_@module@.py": "rule_test.py.in"}
_FUNCTION = {"src/@module@/__init__.py": "function.py.in", "tests/test_@module@.py": "function_test.py.in"}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SIMPLE = ("bool", "int", "float", "str", "int | None", "float | None", "str | None")
"""The annotations that become an option's type; for a parameter without one its default says the type."""


def render(name: str, source: Located | None = None) -> dict[str, str]:
    """The files of the package `name`, by path: of a rule to start from, or of the function that `source` holds.

    Raises `ConfigError` for a function that cannot be a reward.
    """
    module = name.replace("-", "_")
    words = {
        "distribution": name,
        "module": module,
        "alignpipe": ".".join(alignpipe.__version__.split(".")[:2]),
        "commands": _commands(module),
    }
    if source is None:
        words["summary"] = "Answers with a polite word that were not cut short"
        words["option_table"] = _option_table(
            [("word", "the word that is looked for", "please"), ("most", "more of them earn no more", "2")]
        )
        return {path.replace("@module@", module): _filled(file, words) for path, file in {**_COMMON, **_RULE}.items()}
    words |= _function_words(source)
    found = {path.replace("@module@", module): _filled(file, words) for path, file in {**_COMMON, **_FUNCTION}.items()}
    return {**found, f"src/{module}/scoring.py": source.source.decode("utf-8")}


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that cannot be a distribution's, a module's and an option's, or that is taken."""
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        hint = f", for example {near!r}" if _NAME.fullmatch(near) else ""
        raise ConfigError(f"plugins new reward {name}: the name must be words of a-z and 0-9 joined by '-'{hint}")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("alignpipe", "alignpipe_plugins"):
        raise ConfigError(
            f"plugins new reward {name}: {module!r} is the name of a Python module; add a word of your own"
        )
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(
            f"plugins new reward {name}: a module {module!r} is installed, and the package would stand in its way; add "
            "a word of your own"
        )
    for offer in registry().offers("reward", module):
        raise ConfigError(f"plugins new reward {name}: reward={module} is there already, from {offer.distribution}")


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write the files.

    Raises `ConfigError` if there is something in the folder already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already, and nothing is overwritten; --folder names another place")
    with storing("writing the package", folder):
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")


def undocumented(source: Located) -> bool:
    """Whether the function has no docstring, which would say what the reward is for."""
    return ast.get_docstring(_definition(source, source.function)) is None


def neighbours(source: Located) -> list[str]:
    """The modules beside the file that it imports, which a package of it needs too."""
    names = set()
    for node in ast.walk(ast.parse(source.source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    beside = source.file.parent
    return sorted(name for name in names if name and ((beside / f"{name}.py").exists() or (beside / name).is_dir()))


def _filled(file: str, words: Mapping[str, str]) -> str:
    """A template with its words in the places that are marked `@word@`."""
    text = (files(__package__) / "templates" / file).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)


@dataclass(frozen=True)
class _Option:
    """A parameter of a function, as a field of the options."""

    name: str
    type: str
    default: Any


def _function_words(source: Located) -> dict[str, str]:
    """What the templates say of a function."""
    at = f"--from {source.file.name}:{source.function}"
    node = _definition(source, at)
    signature = _signature(node)
    try:
        style = style_of(signature)
        options = _options(signature) if style == "samples" else []
        check_options(signature, style, {option.name: option.default for option in options})
    except ValueError as error:
        raise ConfigError(f"{at} cannot be a reward: {error}") from error
    columns = columns_of(signature) if style == "trl" else ()
    summary = (ast.get_docstring(node) or "").partition("\n")[0].rstrip(". ").replace('"', "'").replace("\\", "/")
    decoration = ", Options" if options else ""
    if columns:
        decoration += f", columns=({', '.join(repr(column) for column in columns)},)".replace("'", '"')
    return {
        "function": source.function,
        "summary": f"{summary[:1].upper()}{summary[1:]}" or f"The function {source.function}",
        "dataclass_import": "from dataclasses import dataclass, field\n" if options else "",
        "options_class": _options_class(options),
        "decoration": decoration,
        "parameter": ", options: Options" if options else "",
        "arguments": "".join(f", {option.name}=options.{option.name}" for option in options),
        "option_table": _option_table([(option.name, "say what it does", str(option.default)) for option in options]),
    }


def _definition(source: Located, at: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for node in ast.parse(source.source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == source.function:
            if any(re.match(r"([\w.]+\.)?reward\(", ast.unparse(decorator)) for decorator in node.decorator_list):
                raise ConfigError(f"{at} is made a reward by a decorator already: name it in an entry point")
            return node
    raise ConfigError(f"{at}: that is no function defined in the file, and only such a one can be packaged")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> inspect.Signature:
    """The signature as it stands in the source, of which nothing is run.

    Annotations are given as text, a default that is no plain value as its syntax tree.
    """
    given = node.args
    by_position = [*given.posonlyargs, *given.args]
    kinds = [Parameter.POSITIONAL_ONLY] * len(given.posonlyargs) + [Parameter.POSITIONAL_OR_KEYWORD] * len(given.args)
    defaults = [None] * (len(by_position) - len(given.defaults)) + given.defaults
    parameters = [_parameter(*entry) for entry in zip(by_position, kinds, defaults, strict=True)]
    if given.vararg is not None:
        parameters.append(_parameter(given.vararg, Parameter.VAR_POSITIONAL))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        parameters.append(_parameter(argument, Parameter.KEYWORD_ONLY, default))
    if given.kwarg is not None:
        parameters.append(_parameter(given.kwarg, Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None = None) -> Parameter:
    annotation = Parameter.empty if argument.annotation is None else ast.unparse(argument.annotation)
    value = Parameter.empty if default is None else _value(default)
    return Parameter(argument.arg, kind, default=value, annotation=annotation)


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node


def _options(signature: inspect.Signature) -> list[_Option]:
    """The parameters after the first as options.

    Raises `ValueError` for one whose type or default is not plain.
    """
    found = []
    for entry in list(signature.parameters.values())[1:]:
        if entry.kind in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD):
            continue
        kind = type(entry.default).__name__ if entry.annotation is entry.empty else entry.annotation
        if entry.default is entry.empty or kind not in _SIMPLE or isinstance(entry.default, ast.AST):
            raise ValueError(
                f"its argument {entry.name!r} becomes an option, so it needs a plain default and one of the types "
                f"{', '.join(_SIMPLE)}"
            )
        found.append(_Option(entry.name, kind, entry.default))
    return found


def _options_class(options: Sequence[_Option]) -> str:
    if not options:
        return ""
    lines = []
    for option in options:
        # In double quotes, as a formatter would have it.
        default = json.dumps(option.default, ensure_ascii=False) if isinstance(option.default, str) else option.default
        metadata = 'metadata={"help": "say what it does"}'
        lines.append(f"    {option.name}: {option.type} = field(default={default!s}, {metadata})")
    head = '@dataclass(frozen=True)\nclass Options:\n    """What can be set: reward.<field>=<value>."""\n'
    return "\n\n" + "\n".join([head, *lines]) + "\n"


def _commands(module: str) -> str:
    """The commands of the README, what they are for in a column of its own."""
    rows = [
        ('pip install -e ".[test]"', "in this folder, while you write it"),
        (f"alignpipe plugins show reward/{module}", "what can be set"),
        (f"alignpipe plugins check reward/{module}", "does it keep the contract?"),
        (f"alignpipe score --reward {module} --data answers.jsonl", "what does it say of your answers?"),
        (f"alignpipe reward={module}", "train a policy on it"),
        ("python -m pytest", "its own tests"),
    ]
    width = max(len(command) for command, _ in rows)
    return "\n".join(f"{command:<{width}}  # {comment}" for command, comment in rows)


def _option_table(rows: Sequence[tuple[str, str, str]]) -> str:
    if not rows:
        return "There are none."
    lines = [f"| `{name}` | {meaning} | `{default}` |" for name, meaning, default in rows]
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *lines])
