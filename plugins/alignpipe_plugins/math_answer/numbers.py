r"""Finding the final number of a solution, and reading it exactly.

The answer is marked (`#### 42`, `\boxed{42}`), or it is the last number that is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 60
"""Digits and signs of a number that is read; a policy may write thousands, and nobody means them."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_UNSIGNED = rf"(?>(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,2}}(?!\d))?)(?![eE][-+]?\d)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w.)\]}}])[-+])?              # a minus behind a number or a bracket subtracts
    (?:[$€£¥₹]\s?)?
    (?P<inner>(?<=[$€£¥₹])-)?
    (?<![\w.])
    (?:(?P<whole>\d+)\s+(?=\d+/\d))?            # 1 1/2
    (?P<number>{_UNSIGNED})
    (?:\s?/\s?(?P<over>{_UNSIGNED})(?!\s?/))?   # 3/4, but not the first half of 3/4/2024
    (?P<percent>\s?%)?
    """,
    re.VERBOSE,
)
_HASHES = "####"
_BOXED = re.compile(r"\\boxed\s*\{")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)")
_LATEX = ((r"{,}", ","), (r"\,", ""), (r"\!", ""), (r"\;", " "), (r"\ ", " "), (r"\$", "$"), (r"\%", "%"), ("−", "-"))


@dataclass(frozen=True)
class Found:
    """A number as it was written: its value, and whether a percent sign follows it (50% has the value 50)."""

    value: Fraction
    percent: bool = False


def final_number(text: str, *, marked_only: bool = False) -> Found | None:
    r"""The answer of a solution: the first number after the last `####`, else the last one in the last `\boxed{}`.

    Without either mark it is the last number of the text, or None with `marked_only`. A mark without a number behind
    it is an answer without a number: None.
    """
    _, mark, answer = text.rpartition(_HASHES)
    if mark:
        lines = answer.strip().splitlines()
        found = _numbers(lines[0]) if lines else []
        return found[0] if found else None
    boxed = _last_box(text)
    if boxed is not None or not marked_only:
        found = _numbers(text if boxed is None else boxed)
        return found[-1] if found else None
    return None


def equal(found: Found, reference: Found, tolerance: float) -> bool:
    """Whether two numbers are the same, or no further apart than `tolerance`, a share of the reference.

    Where only one of them has a percent sign, it may mean either: 50% is right for 50 and for 0.5.
    """
    pairs = [(found.value, reference.value)]
    if found.percent and not reference.percent:
        pairs.append((found.value / 100, reference.value))
    elif reference.percent and not found.percent:
        pairs.append((found.value, reference.value / 100))
    return any(abs(is_ - should) <= Fraction(tolerance) * abs(should) for is_, should in pairs)


def _numbers(text: str) -> list[Found]:
    """Every number of a text that can be read, in order."""
    found = (_read(match) for match in _NUMBER.finditer(_plain(text)))
    return [number for number in found if number is not None]


def _plain(text: str) -> str:
    """LaTeX's ways to write a number as everybody else's."""
    for latex, plain in _LATEX:
        text = text.replace(latex, plain)
    for fraction in (_FRACTION, _SHORT_FRACTION):
        text = re.sub(rf"(?<=\d)(?={fraction.pattern})", " ", text)  # 1\frac12 is 1 1/2, not 11/2
        text = fraction.sub(r"\1/\2", text)
    return text


def _read(match: re.Match[str]) -> Found | None:
    if len(match[0]) > _LONGEST:
        return None
    value = _fraction(match["number"])
    if match["over"]:
        over = _fraction(match["over"])
        if over == 0:
            return None
        value /= over
    if match["whole"]:
        value += _fraction(match["whole"])
    negative = ((match["sign"] or "").strip() == "-") != bool(match["inner"])
    return Found(-value if negative else value, match["percent"] is not None)


def _fraction(written: str) -> Fraction:
    return Fraction(written.replace(",", ""))


def _last_box(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, braces within it matched; nothing if it never ends, None if there is none."""
    start = max((match.end() for match in _BOXED.finditer(text)), default=None)
    if start is None:
        return None
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return ""
