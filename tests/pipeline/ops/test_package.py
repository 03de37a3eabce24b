"""The package as a whole: its examples run, and importing it costs nothing."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import torch

import alignpipe.ops


def test_examples_in_docstrings():
    attempted = 0
    for module in pkgutil.iter_modules(alignpipe.ops.__path__, "alignpipe.ops."):
        result = doctest.testmod(importlib.import_module(module.name), extraglobs={"torch": torch})
        assert result.failed == 0, module.name
        attempted += result.attempted
    assert attempted > 0


def test_text_and_the_package_import_no_torch():
    code = "import sys, alignpipe.ops, alignpipe.ops.text; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
