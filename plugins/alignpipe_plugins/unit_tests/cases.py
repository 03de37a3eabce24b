"""The tests of a row, in the forms that data sets have them, as cases of one form."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One test.

    Statements that must run without an exception after the response (`test`), or what the response, run as a program,
    must print (`output`) when it reads `input`.
    """

    test: str | None = None
    input: str | None = None
    output: str | None = None
    stated_bytes: int = 0
    """How much the values that `test` hands out may take."""


class BadTests(Exception):
    """The row's tests cannot be used; the text says why."""


def read_cases(tests: Any, entry_point: str | None) -> list[Case]:
    """The cases in one row's column.

    Raises `BadTests` for what is not understood, and for none.
    """
    if isinstance(tests, str) and tests.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):  # code may begin like that, too
            tests = json.loads(tests)
    if isinstance(tests, str):
        cases = _code_cases(tests, entry_point)
    elif isinstance(tests, Mapping):
        cases = _dialogue_cases(tests)
    elif isinstance(tests, Sequence):
        cases = [case for entry in tests for case in _entry_cases(entry, entry_point)]
    else:
        raise BadTests(f"tests must be text or a list, not {type(tests).__name__}")
    if not cases:
        raise BadTests("there are no tests in it")
    if len({case.test is None for case in cases}) > 1:
        raise BadTests("tests of code and tests of input and output are mixed")
    return cases


def _entry_cases(entry: Any, entry_point: str | None) -> list[Case]:
    """A list's entry is one case."""
    if isinstance(entry, str):
        return [Case(test=_with_call(entry, _parsed(entry), entry_point))]
    if isinstance(entry, Mapping) and entry.get("input") is not None and entry.get("output") is not None:
        return [Case(input=_text(entry["input"]), output=_text(entry["output"]))]
    raise BadTests(f"a test must be code, or hold input and output, not {entry!r:.80}")


def _dialogue_cases(tests: Mapping[str, Any]) -> list[Case]:
    inputs, outputs = tests.get("inputs", tests.get("input")), tests.get("outputs", tests.get("output"))
    if tests.get("fn_name"):
        raise BadTests("tests that call a function by fn_name are not supported; write them as assert statements")
    if not _is_list(inputs) or not _is_list(outputs) or len(inputs) != len(outputs):
        raise BadTests(f"a mapping of tests must hold lists of the same length, inputs and outputs; got {tests!r:.80}")
    return [Case(input=_text(given), output=_text(wanted)) for given, wanted in zip(inputs, outputs, strict=True)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if _is_list(value) else str(value)


def _code_cases(text: str, entry_point: str | None) -> list[Case]:
    """Code with `check(candidate)` is one case; else every `test_...` function is one, or every top-level `assert`."""
    tree = _parsed(text)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "check" in functions:
        return [Case(test=_with_call(text, tree, entry_point))]
    tests = [name for name in functions if name.startswith("test")]
    if tests:
        return [Case(test=f"{text}\n{name}()\n") for name in tests]
    cases, before = [], ""
    for node in tree.body:
        source = ast.get_source_segment(text, node) or ""
        if isinstance(node, ast.Assert):
            cases.append(Case(test=f"{before}{source}\n"))
        else:
            before += f"{ast.unparse(node)}\n"
    if tree.body and not cases:
        return [Case(test=text)]
    return cases


def _with_call(text: str, tree: ast.Module, entry_point: str | None) -> str:
    """The text, followed by the call of its `check`, if it defines one and the entry point is known."""
    defines = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    if not defines:
        return text
    if entry_point is None:
        raise BadTests("they define check(candidate): set reward.entry_point to the column with the function's name")
    if not entry_point.isidentifier():
        raise BadTests(f"the entry point is no name of a function: {entry_point!r:.80}")
    return f"{text}\ncheck({entry_point})\n"


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise BadTests(f"they are no Python: {error}") from error


def same_output(printed: str, wanted: str) -> bool:
    """Whether two outputs agree, white space at the ends of lines and of the whole left aside."""
    return _lines(printed) == _lines(wanted)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
