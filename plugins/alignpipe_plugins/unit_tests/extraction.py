"""The code in a response."""

from __future__ import annotations

import re

from alignpipe_plugins.unit_tests.config import Extract

_FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = ("", "py", "python", "python3")


def find_code(response: str, extract: Extract) -> str | None:
    """The code to run; None if there is none.

    Of several fenced blocks it is the last one that says it is Python or says nothing; a block that is not closed goes
    to the end.
    """
    blocks = [] if extract is Extract.whole else _blocks(response)
    if blocks:
        return blocks[-1]
    if extract is Extract.fenced or not response.strip():
        return None
    return response


def _blocks(text: str) -> list[str]:
    found, position = [], 0
    while opening := _FENCE.search(text, position):
        fence, language = opening[1], opening[2].lower()
        closing = re.compile(rf"^[ ]{{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        code = text[opening.end() + 1 : end.start() if end else len(text)]
        if language in _PYTHON and code.strip():
            found.append(code)
        if end is None:
            break
        position = end.end()
    return found
