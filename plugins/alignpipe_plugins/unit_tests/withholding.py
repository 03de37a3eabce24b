"""Tests without their answers: what an assertion expects stays outside the sandbox, where the code cannot look.

`assert f(2) == 4` becomes a statement that hands out the value of `f(2)`; the comparison with 4 is made here. Code that
leaves early, reads the test or overloads `==` gains nothing by it: it would have to know the value.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Check = Callable[[Any], bool]
"""Whether a value is what the test expects."""

_STATE = "__alignpipe_state__"
"""The function of the harness that hands out a value."""
_COLLECTIONS: Mapping[str, Callable[[Any], Any]] = {
    "set": set, "frozenset": frozenset, "list": list, "tuple": tuple, "sorted": sorted, "dict": dict,
}  # fmt: skip
_SINGLE = (None, True, False)
_UNLIKE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What comparing raises when the value is of another kind, or when what was handed out is made up."""


class _NoLiteral(Exception):
    """The expression is not a constant."""


@dataclass(frozen=True)
class Withheld:
    """A test's code, and a check for each value it hands out, in order; `most` bytes are enough for right values."""

    code: str
    checks: tuple[Check, ...]
    most: int

    def hold(self, stated: str) -> bool:
        """Whether the values handed out, as the harness writes them, are as many as expected and as expected."""
        if not self.checks:
            return True
        try:
            values = [_value(entry) for entry in json.loads(stated)]
            return len(values) == len(self.checks) and all(
                bool(check(value)) for check, value in zip(self.checks, values, strict=True)
            )
        except _UNLIKE:
            return False


def withhold(test: str) -> Withheld:
    """Take out of a test what it expects, wherever that is a constant in a statement that runs exactly once."""
    tree = ast.parse(test)
    calls = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    # The other tests of the same text are not called here, and show what they expect.
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test") and node.name not in calls)
    ]
    checks: list[Check] = []
    for body, position in _straight(tree, calls):
        node = body[position]
        found = _check(node.test) if isinstance(node, ast.Assert) else None
        if found is not None:
            body[position] = ast.Expr(ast.Call(ast.Name(_STATE, ast.Load()), [found[0]], []))
            checks.append(found[1])
    code = ast.unparse(ast.fix_missing_locations(tree)) if checks else test
    return Withheld(code, tuple(checks), 4096 + 16 * len(test.encode()))


def _straight(tree: ast.Module, calls: list[str]) -> Iterator[tuple[list[ast.stmt], int]]:
    """The positions of statements that run exactly once, or the test fails; in the order in which they run."""
    functions: dict[str, ast.FunctionDef] = {}
    for position, node in enumerate(tree.body):
        yield tree.body, position
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        name = _called(node)
        if name in functions and calls.count(name) == 1 and _runs_through(functions[name]):
            body = functions[name].body
            yield from ((body, inner) for inner in range(len(body)))


def _called(node: ast.stmt) -> str:
    """The function that a statement calls and does nothing else with."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
        return node.value.func.id
    return ""


def _runs_through(function: ast.FunctionDef) -> bool:
    early = (ast.Return, ast.Yield, ast.YieldFrom)
    return not function.decorator_list and not any(isinstance(node, early) for node in ast.walk(function))


def _check(test: ast.expr) -> tuple[ast.expr, Check] | None:
    """The expression whose value is to be handed out, and what it must be; None if the test is of another form."""
    try:
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return _compared(test.left, test.ops[0], test.comparators[0])
        if isinstance(test, ast.Call) and ast.unparse(test.func) == "math.isclose" and len(test.args) == 2:
            given, wanted = _sides(*test.args)
            more = {word.arg or "": _constant(word.value) for word in test.keywords}
            return given, lambda value: math.isclose(value, wanted, **more)
    except _NoLiteral:
        return None
    return None


def _compared(left: ast.expr, how: ast.cmpop, right: ast.expr) -> tuple[ast.expr, Check] | None:
    if isinstance(how, ast.Eq):
        given, wanted = _sides(left, right)
        return given, lambda value: value == wanted
    if isinstance(how, ast.Is):
        given, wanted = _sides(left, right)
        return (given, lambda value: value is wanted) if any(wanted is one for one in _SINGLE) else None
    if isinstance(how, ast.Lt | ast.LtE) and isinstance(left, ast.Call) and ast.unparse(left.func) == "abs":
        difference = left.args[0] if len(left.args) == 1 else None
        if isinstance(difference, ast.BinOp) and isinstance(difference.op, ast.Sub):
            given, wanted = _sides(difference.left, difference.right)
            most, strict = _constant(right), isinstance(how, ast.Lt)
            return given, lambda value: abs(value - wanted) < most if strict else abs(value - wanted) <= most
    return None


def _sides(left: ast.expr, right: ast.expr) -> tuple[ast.expr, Any]:
    """Of two expressions the one that is no constant, and the value of the other.

    Raises `_NoLiteral` if both or none are.
    """
    try:
        wanted, given = _constant(right), left
    except _NoLiteral:
        return right, _constant(left)
    try:
        _constant(given)
    except _NoLiteral:
        return given, wanted
    raise _NoLiteral


def _constant(node: ast.expr) -> Any:
    """The value of a literal, or of a built-in collection made of one."""
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _COLLECTIONS:
            if node.keywords or len(node.args) != 1:
                raise _NoLiteral
            return _COLLECTIONS[node.func.id](ast.literal_eval(node.args[0]))
        return ast.literal_eval(node)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise _NoLiteral from error


def _value(entry: Any) -> Any:
    """What the harness's `_plain` wrote."""
    if isinstance(entry, list):
        return [_value(one) for one in entry]
    if not isinstance(entry, dict):
        return entry
    ((kind, content),) = entry.items()
    if kind == "bytes":
        return bytes.fromhex(content)
    parts = [_value(one) for one in content]
    if kind == "ratio":
        above, below = map(int.__index__, parts)
        return Fraction(above, below)
    makers: Mapping[str, Callable[[Any], Any]] = {
        "tuple": tuple, "set": set, "dict": dict, "complex": lambda two: complex(*two)
    }  # fmt: skip
    return makers[kind](parts)
