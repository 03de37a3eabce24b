"""reward=unit_tests: what assertions expect stays outside, and what code written to cheat gains."""

from __future__ import annotations

import pytest

from alignpipe.api import Sample, Scoring
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.unit_tests.config import UnitTestsConfig
from alignpipe_plugins.unit_tests.isolation import BUILDERS
from alignpipe_plugins.unit_tests.reward import UnitTestsReward
from alignpipe_plugins.unit_tests.withholding import withhold
from support.sandboxes import need

STATE = "__alignpipe_state__"


def totals(responses: list[str], *rows: dict, **options) -> list[float]:
    """The scores of responses to one row, or to a row each."""
    reward = UnitTestsReward(UnitTestsConfig(**options))
    need(reward._sandbox, *BUILDERS)
    each = rows * len(responses) if len(rows) == 1 else rows
    samples = [Sample("p", response, row=row) for response, row in zip(responses, each, strict=True)]
    scored = Judge(reward, "reward unit_tests", Scoring(retries=0)).score(samples)
    assert not scored.failures
    return scored.total


@pytest.mark.parametrize(
    ("test", "code", "right", "wrong"),
    [
        ("assert f(2) == 4, 'not 4'", f"{STATE}(f(2))", "[4]", "[5]"),
        ("assert [1, (2,)] == f()", f"{STATE}(f())", '[[1, {"tuple": [2]}]]', "[[1, [2]]]"),
        ("assert set(f()) == set([1, 2])", f"{STATE}(set(f()))", '[{"set": [2, 1]}]', '[{"set": [1]}]'),
        ("assert f() == {'a': -1.5}", f"{STATE}(f())", '[{"dict": [["a", -1.5]]}]', '[{"dict": []}]'),
        ("assert f() == b'a'", f"{STATE}(f())", '[{"bytes": "61"}]', '[{"bytes": "x"}]'),
        ("assert f() == 0.5", f"{STATE}(f())", '[{"ratio": [1, 2]}]', '[{"ratio": ["1e9999999999", 1]}]'),
        ("assert f() == 1 + 2j", f"{STATE}(f())", '[{"complex": [1, 2]}]', '[{"complex": [1]}]'),
        ("assert f() is None", f"{STATE}(f())", "[null]", "[0]"),
        ("assert f() is True", f"{STATE}(f())", "[true]", "[1]"),
        ("assert abs(f(1) - 2.5) < 0.1", f"{STATE}(f(1))", "[2.55]", '["x"]'),
        ("assert abs(7 - f(1)) <= 1", f"{STATE}(f(1))", "[6]", "[5]"),
        ("import math\nassert math.isclose(f(), 2, rel_tol=0.1)", f"import math\n{STATE}(f())", "[2.1]", "[2.3]"),
        ("x = f()\nassert x == 1\nassert x == 1", f"x = f()\n{STATE}(x)\n{STATE}(x)", "[1, 1]", "[1]"),
        (
            "def check(c):\n    assert c(1) == 7\n    assert c\ncheck(f)",
            f"def check(c):\n    {STATE}(c(1))\n    assert c\ncheck(f)",
            "[7]",
            "[7, 7]",
        ),
        (
            "def test_a():\n    assert f(1) == 7\ndef test_b():\n    assert f(2) == 8\ntest_a()",
            f"def test_a():\n    {STATE}(f(1))\ntest_a()",
            "[7]",
            "[8]",
        ),
        (
            "def t():\n    assert f(1) == 2\nassert f(2) == 3\nt()\nassert f(3) == 4",
            f"def t():\n    {STATE}(f(1))\n{STATE}(f(2))\nt()\n{STATE}(f(3))",
            "[3, 2, 4]",
            "[2, 3, 4]",
        ),
    ],
)
def test_constants_are_taken_out_and_compared_in_the_order_of_the_run(test, code, right, wrong) -> None:
    held = withhold(test)
    assert held.code == code
    assert held.hold(right)
    assert not held.hold(wrong)
    for made_up in ("", "[", "{}", "null", "[]", '[{"a": 1}]', '[{"tuple": 3}]', '[{"set": [[]]}]', "[" * 60_000):
        assert not held.hold(made_up)


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1)",
        "assert f(1) != 2",
        "assert f(1) == g(1)",
        "assert 1 == 1",
        "assert f() is x",
        "assert abs() < 1",
        "assert f() == list(1)",
        "assert math.isclose(f(), x)",
        "for x in (1, 2): assert f(x) == 3",
        "if f(0):\n    assert f(1) == 2",
        "def t():\n    if f(0):\n        return\n    assert f(1) == 2\nt()",
        "def t(x):\n    assert f(x) == 2\nt(1)\nt(2)",
        "def t():\n    assert f(1) == 2\nif f(0):\n    t()",
        "@skip\ndef t():\n    assert f(1) == 2\nt()",
    ],
)
def test_what_is_no_constant_or_may_run_more_or_less_than_once_stays(test) -> None:
    held = withhold(test)
    assert (held.code, held.checks) == (test, ())
    assert held.hold("[]")


@pytest.mark.slow
def test_values_agree_as_in_the_assertion() -> None:
    """The same tests by a plain assertion, and by values that are handed out."""
    code = """
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
class Colour(IntEnum):
    red = 3
class LikeNumpy:
    shape = ()
    def item(self): return 3
    def __eq__(self, other): return other == 3
"""
    pairs = [
        ("True", "1"), ("1.0", "1"), ("Decimal('0.5')", "0.5"), ("Fraction(1, 3)", "0.3"), ("Colour.red", "3"),
        ("namedtuple('P', 'x y')(1, 2)", "(1, 2)"), ("(1, 2)", "[1, 2]"), ("Counter('aab')", "{'a': 2, 'b': 1}"),
        ("OrderedDict(b=1, a=2)", "{'a': 2, 'b': 1}"), ("{1: 2}.keys()", "{1}"), ("frozenset([1])", "{1}"),
        ("range(2)", "[0, 1]"), ("'\\ud800\\u00e9'", "'\\ud800\\u00e9'"), ("10 ** 50", str(10**50)), ("object()", "0"),
        ("float('inf')", "1e999"), ("float('nan')", "0.0"), ("bytearray(b'x')", "b'x'"),
        ("{(1, 2): [None]}", "{(1, 2): [None]}"), ("None", "0"), ("LikeNumpy()", "3"), ("'a'", "b'a'"), ("1 + 0j", "1"),
    ]  # fmt: skip
    plain = [f"same = ({left}) == {right}\nassert same" for left, right in pairs]
    asked = [f"value = {left}\nassert value == {right}" for left, right in pairs]
    assert not any(withhold(test).checks for test in plain)
    assert all(withhold(test).checks for test in asked)
    found = totals([code] * 2 * len(pairs), *({"tests": [test]} for test in (*plain, *asked)))
    assert found[: len(pairs)] == found[len(pairs) :]
    assert {0.0, 1.0} == set(found)


CHEATS = {
    "the token": "import os\nos.write(4, os.read(3, 64))\nos._exit(0)",
    "made-up values": "import os\ndef f(x):\n    os.write(4, os.read(3, 64) + b'[true, 1, 4]')\n    os._exit(0)",
    "equal to all": """
class Same(int):
    __hash__ = int.__hash__
    __eq__ = lambda self, other: True
    __sub__ = __rsub__ = lambda self, other: 0
def f(x): return Same()
""",
    "constants of the caller": """
import sys
def f(x): return max(one for one in sys._getframe(1).f_code.co_consts if isinstance(one, int))
""",
    "all objects there are": """
import gc, re
def f(x):
    texts = [one for held in gc.get_objects() if type(held) is dict for one in held.values() if type(one) is str]
    return int(re.search(r"249\\d7", " ".join(texts))[0])
""",
    "the test in the frames": """
import re, sys
frame, text = sys._getframe(1), ""
while frame:
    text += repr(frame.f_locals)
    frame = frame.f_back
def f(x): return int(re.search(r"249\\d7", text)[0])
""",
    "an empty test": """
import ctypes, sys
frame = sys._getframe(1)
frame.f_locals["checks"] = compile("", "test.py", "exec")
if sys.version_info < (3, 13):
    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), 0)
""",
    "functions": "import builtins\nabs = builtins.abs = lambda x: 0\ndef f(x): return 0",
    "leaving": "import sys\ndef f(x): sys.exit(0)",
    "leaving at once": "import os\ndef f(x): os._exit(0)",
}


@pytest.mark.parametrize(
    "test",
    [
        ["assert f(7) == 24997"],
        "def check(candidate):\n    assert candidate(7) == 24997\n    assert candidate(1) == 3571",
        ["assert abs(f(7) - 24997) < 1e-6"],
    ],
    ids=["equal", "check", "tolerance"],
)
def test_cheating_gains_nothing_where_what_is_expected_stays_outside(test) -> None:
    honest = "def f(x): return 3571 * x"
    found = totals([*CHEATS.values(), honest], {"tests": test, "name": "f"}, entry_point="name")
    assert dict(zip([*CHEATS, "honest"], found, strict=True)) == {**dict.fromkeys(CHEATS, 0.0), "honest": 1.0}


def test_too_many_values_are_cut_and_do_not_pass() -> None:
    code = "def f(x): return [0] * x"
    assert totals([code], {"tests": ["assert f(3) == [0, 0, 0]", "assert f(10 ** 6) == []"]}) == [0.5]
