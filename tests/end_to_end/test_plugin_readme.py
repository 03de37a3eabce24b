"""The rewards that plugins/README.md writes by hand, followed to the letter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from support.commands import alignpipe, run, statuses, succeed, summaries
from support.distributions import ROOT

FILES = (("pyproject.toml", "toml"), ("acme_reward.py", "python"), ("acme_words.py", "python"))
PAIRS = ("experiment=smoke", "stages=[data,reward]")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the package of the README is installed."""
    text = (ROOT / "plugins" / "README.md").read_text()
    package, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    for name, language in FILES:
        block = re.search(rf"^`{re.escape(name)}`[^\n]*:\n\n```{language}\n(.*?)^```", text, re.S | re.M)
        assert block is not None, f"plugins/README.md shows no {name}"
        (package / name).write_text(block[1])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    succeed(run([*pip, "--target", str(site), str(package)], package))
    return {"PYTHONPATH": str(site), "ALIGNPIPE_STRICT_PLUGINS": "1"}


def test_the_rule(found: dict[str, str], tmp_path: Path) -> None:
    shown = succeed(alignpipe(tmp_path, "plugins", "show", "reward/acme", **found)).stdout
    assert "acme-reward 0.1.0" in shown
    assert "the polite word" in shown
    succeed(alignpipe(tmp_path, *PAIRS, "reward=acme", "reward.word=thanks", **found))
    assert summaries(tmp_path)[0]["metrics"]["reward/heldout/pairs"] > 0


def test_the_trained_one(found: dict[str, str], tmp_path: Path) -> None:
    checked = succeed(alignpipe(tmp_path, "plugins", "check", "reward/acme_words", **found)).stdout
    assert "trained, saved and loaded" in checked
    succeed(alignpipe(tmp_path, *PAIRS, "reward=acme_words", **found))
    (summary,) = summaries(tmp_path)
    assert summary["metrics"]["reward/heldout/accuracy"] > 0.5
    (tmp_path / "a.csv").write_text("prompt,response\nHello,I am sorry\n")
    stored = f"store:{summary['stages']['reward']['digest'][:12]}"
    scored = succeed(alignpipe(tmp_path, "score", "--reward", stored, "--data", "a.csv", **found)).stdout
    assert "reward acme_words (acme-reward 0.1.0) on a.csv: 1 samples" in scored


def test_both_in_a_mix(found: dict[str, str], tmp_path: Path) -> None:
    text = (ROOT / "plugins" / "README.md").read_text()
    (line,) = re.findall(r"^alignpipe (reward=mix .*)$", text, re.M)
    succeed(alignpipe(tmp_path, *PAIRS, *line.split(), **found))
    assert statuses(summaries(tmp_path)[0]) == {"data": "ran", "reward": "ran"}
