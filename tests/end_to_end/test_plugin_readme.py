"""The tutorial of plugins/README.md, followed to the letter."""

from __future__ import annotations

import re
import sys

from support.commands import alignpipe, run, succeed, summaries
from support.distributions import ROOT


def test_the_reward_in_two_files(tmp_path):
    text = (ROOT / "plugins" / "README.md").read_text()
    package, site, work = tmp_path / "package", tmp_path / "site", tmp_path / "work"
    package.mkdir()
    for name, language in (("pyproject.toml", "toml"), ("acme_reward.py", "python")):
        block = re.search(rf"^`{re.escape(name)}`:\n\n```{language}\n(.*?)^```", text, re.S | re.M)
        assert block is not None, f"plugins/README.md shows no {name}"
        (package / name).write_text(block[1])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    succeed(run([*pip, "--target", str(site), str(package)], tmp_path))
    found = {"PYTHONPATH": str(site), "ALIGNPIPE_STRICT_PLUGINS": "1"}
    shown = succeed(alignpipe(work, "plugins", "show", "reward/acme", **found)).stdout
    assert "acme-reward 0.1.0" in shown
    assert "the polite word" in shown
    command = ["experiment=smoke", "stages=[data,reward]", "reward=acme", "reward.word=thanks"]
    succeed(alignpipe(work, *command, **found))
    assert summaries(work)[0]["metrics"]["reward/heldout/pairs"] > 0
