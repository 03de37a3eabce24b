"""TAB in a real bash, with the console script and the function that Hydra installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.distributions import command_environment

pytestmark = [pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"), pytest.mark.slow]

TAB = """
eval "$(alignpipe -sc install=bash)"
complete -p alignpipe >/dev/null || exit 3
COMP_LINE=$1 COMP_POINT=${2:-${#1}}
COMP_WORDS=($COMP_LINE)
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What readline does at TAB: set the variables, call the function, read COMPREPLY."""


@pytest.fixture
def complete(tmp_path: Path, fake_pipeline: Path):
    """The words that bash offers for a line."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    script = scripts / "alignpipe"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom alignpipe.cli.main import main\nsys.exit(main())\n")
    script.chmod(0o755)

    def run(line: str) -> list[str]:
        environ = command_environment(tmp_path)
        environ["PATH"] = f"{scripts}:{environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-c", TAB, "tab", line], env=environ, capture_output=True, text=True, cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alignpipe pl", ["plan", "plugins"]),
        ("alignpipe model=toy reward=", ["reward=acme", "reward=bradley_terry"]),
        ("alignpipe plan model=toy reward=a", ["reward=acme"]),
        ("alignpipe model=toy reward=acme reward.s", ["reward.scale=", "reward.span."]),
        ("alignpipe plan model=toy reward=acme reward.sc", ["reward.scale="]),
        ("alignpipe -m model=toy se", ["seed="]),
        ("alignpipe model=toy reward=acme reward.mode=", ["reward.mode=fast", "reward.mode=slow"]),
        ("alignpipe plan model=toy reward=acme reward.mode=s", ["reward.mode=slow"]),
        ("alignpipe -m model=toy reward=acme reward.mode=slow,", ["reward.mode=slow,fast"]),
        ("alignpipe score --reward acme model=toy reward.mode=f", ["reward.mode=fast"]),
        (
            "alignpipe model=toy reward=acme +reward@reward.members.a=acme reward.members.a.mode=s",
            ["reward.members.a.mode=slow"],
        ),
        ("alignpipe model=toy +reward@reward_2=acme reward_2.mode=s", ["reward_2.mode=slow"]),
        ("alignpipe model=toy code_change=w", ["code_change=warn"]),
        ("alignpipe model=toy reward=acme reward.scale=", ["reward.scale=1.0"]),
        ("alignpipe model=toy reward=acme reward.na", []),
        ("alignpipe model=toy stages=", []),
        ("alignpipe model=toy reward=acme reward.span=", []),
        ("alignpipe model=toy -m se", ["seed="]),
        ("alignpipe model=toy --cfg job reward=acme reward.sc", ["reward.scale="]),
        ("alignpipe --co", ["--config-path", "--config-name", "--config-dir"]),
        ("alignpipe model=toy --multirun --m", []),
        ("alignpipe model=toy --mul", ["--multirun"]),
        ("alignpipe plan model=toy --mul", []),
        ("alignpipe plan model=toy --c", ["--cfg", "--config-path", "--config-name", "--config-dir"]),
        ("alignpipe --cfg ", ["job", "hydra", "all"]),
        ("alignpipe model=toy --package re", []),
        ("alignpipe -- --c", []),
        ("alignpipe plugins ", ["list", "show", "check", "new"]),
        ("alignpipe plugins show reward/a", ["reward/acme"]),
        ("alignpipe plugins check ", ["reward/acme", "reward/bradley_terry", "fakes"]),
        ("alignpipe plugins check fa", ["fakes"]),
        ("alignpipe plugins check reward/acme reward.sc", ["reward.scale="]),
        ("alignpipe plugins new re", ["reward"]),
        ("alignpipe score ", ["--reward", "--data", "--run", "--out"]),
        ("alignpipe score --reward a", ["acme"]),
        ("alignpipe score --reward acme --data x.jsonl reward.sc", ["reward.scale="]),
        ("alignpipe score --reward=acme model=toy reward.s", ["reward.scale=", "reward.span."]),
        ("alignpipe score --data x.jsonl --reward acme reward.nothing", []),
        ("alignpipe plugins check acme model=toy reward.scale=1 scoring.re", ["scoring.retries="]),
        (
            "alignpipe score --reward acme +reward@reward.members.ab=acme --data x reward.weights.a",
            ["reward.weights.ab="],
        ),
        (
            "alignpipe plugins check reward/acme model=toy +reward@reward.members.a=acme reward.members.a.sc",
            ["reward.members.a.scale="],
        ),
        ("alignpipe store ", ["ls", "verify", "gc", "pin", "unpin"]),
        ("alignpipe store gc --y", ["--yes"]),
        ("alignpipe store pl", []),
        ("alignpipe model=toy pl", []),
        ("alignpipe model=toy reward=acme reward.scal=1 reward.", []),
        ("alignpipe reward=acme +reward@reward.members.a=b", ["+reward@reward.members.a=bradley_terry"]),
        ("alignpipe reward=acme +reward@reward.mem", []),
        ("alignpipe plan +scale/tiny/reward@reward.members.a=", ["+scale/tiny/reward@reward.members.a=bradley_terry"]),
        ("alignpipe reward=acme +reward@reward.members.ab=acme reward.weights.a", ["reward.weights.ab="]),
        ("alignpipe reward=acme +reward@reward.members.ab=acme reward.scale.", []),
        ("alignpipe reward=acme reward.weights.", []),
        ("alignpipe -m model=toy reward=acme,", ["reward=acme,bradley_terry"]),
        ("alignpipe -m model=toy sft=standard reward=acme,x", []),
        ("alignpipe plugins check reward/acme +reward@reward.members.a=ac", ["+reward@reward.members.a=acme"]),
    ],
)
def test_tab(line: str, words: list[str], complete) -> None:
    assert complete(line) == words


def test_an_interactive_shell_does_not_break_words_at_the_at_sign(complete, tmp_path: Path) -> None:
    environ = {**command_environment(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    code = 'COMP_WORDBREAKS=\'@=:\'; eval "$(alignpipe -sc install=bash)"; echo "[$COMP_WORDBREAKS]"'
    done = subprocess.run(["bash", "--norc", "-c", code], env=environ, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "[:]\n"


def test_an_empty_word_offers_subcommands_and_overrides(complete) -> None:
    offered = complete("alignpipe ")
    assert {"plan", "plugins", "score", "store", "reward=", "model="} <= set(offered)
    after = complete("alignpipe plan model=toy ")
    assert {"reward=", "seed="} <= set(after)
    assert {"--cfg", "--info", "--help", "--hydra-help", "--multirun", "--run", "--resolve"} <= set(
        complete("alignpipe -")
    )
    assert not {"plan", "plugins", "score", "store"} & set(after)


def test_experiments_of_ones_own(complete, tmp_path):
    """Of a folder that the line names, however it names it."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 3\n")
    assert complete("alignpipe experiment=ow") == []
    assert complete("alignpipe --config-dir mine experiment=ow") == ["experiment=own"]
    assert complete("alignpipe plan --config-dir=mine experiment=ow") == ["experiment=own"]
