"""What a run shows: plain lines without a terminal, bars and framed tables at one; and where it computes."""

from __future__ import annotations

import errno
import io
import re
import sys
from types import SimpleNamespace

import pytest

from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError
from alignpipe.runner import terminal as terminal_module
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.terminal import Terminal, _clock, in_words
from support.fake_torch import use_fake_torch


class Screen(io.StringIO):
    """A terminal that remembers."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    moment = SimpleNamespace(now=0.0)
    monkeypatch.setattr(terminal_module.time, "monotonic", lambda: moment.now)
    return moment


def test_plain_lines_come_every_tenth_or_ten_seconds_and_never_more_than_one_a_second(capsys, clock):
    with Terminal().bar("ppo") as bar:
        for step in range(1, 101):
            clock.now += 0.5
            bar.update(step, 100, {"kl": step / 1000}, "update")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ppo      10/100 updates  5 s  kl 0.01"
    assert len(lines) == 9
    assert bar.figures == "kl 0.1", "the last ones are told when the stage is done"
    with Terminal().bar("sft") as bar:
        for step in range(1, 41):
            clock.now += 3
            bar.update(step, 4000, {}, "step")
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_a_stage_that_is_over_at_once_needs_no_line(capsys, clock):
    with Terminal().bar("data") as bar:
        bar.update(1, 1, {}, "split")
    assert capsys.readouterr().err == ""


class Closed(Screen):
    """A terminal whose window was closed."""

    def write(self, text=""):
        raise OSError(errno.EIO, "Input/output error")

    flush = write


def test_a_terminal_that_was_closed_fails_no_stage(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Screen())
    terminal = Terminal()
    with terminal.bar("sft") as bar:
        bar.update(1, 10, {}, "step")
        monkeypatch.setattr(sys, "stderr", Closed())
        terminal.say("sft      above the bar")
        bar.update(2, 10, {}, "step")
        terminal._progress.refresh()
    terminal.say("below it")


def test_a_bar_and_a_line_above_it(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    assert terminal.interactive
    with terminal.bar("ppo") as bar:
        bar.update(3, 10, {"kl": 0.125}, "update")
        terminal.say("[saved] a checkpoint")
    terminal.say("after it")
    assert "[saved] a checkpoint" in screen.getvalue()
    assert screen.getvalue().endswith("after it\n")


def test_on_a_narrow_terminal_the_last_figures_give_way(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with Terminal().bar("reward") as bar:
        bar.update(900, 1200, {"loss": 0.125, "accuracy": 0.875, "eval_accuracy": 0.75}, "step")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"reward +━{9}─{3} 900/1200 steps  0:00  loss 0.125  acc\w*…", shown), shown


def test_a_clock():
    assert [_clock(None), _clock(61.5), _clock(3723)] == ["0:00", "1:01", "1:02:03"]


def test_figures_in_words():
    assert in_words({"loss": 0.123456, "kl": 12.0}) == "loss 0.1235  kl 12"


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cuda:1", 2, "cuda:1"), ("cpu", 1, "cpu")],
)
def test_devices(monkeypatch, device, gpus, expected):
    use_fake_torch(monkeypatch, gpus=gpus)
    assert prepare_device(RunSettings(device=device)) == expected


def test_a_device_that_is_not_there(monkeypatch):
    use_fake_torch(monkeypatch, gpus=1)
    with pytest.raises(ConfigError, match="device=cuda:1: torch sees 1 CUDA devices"):
        prepare_device(RunSettings(device="cuda:1"))


def test_threads(monkeypatch):
    threads = use_fake_torch(monkeypatch, own_threads=4)
    assert prepare_device(RunSettings(device="cpu", threads=2)) == "cpu"
    assert prepare_device(RunSettings(device="cpu")) == "cpu"  # a sweep's next job
    assert threads == [2, 4]
