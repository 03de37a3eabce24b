"""The processes that a run starts itself: what they are told, how they end, and what is left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError, ProcessError
from alignpipe.processes import ALONE, Process, this_process
from alignpipe.runner import launching
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.launching import Helpers, rank_0_of
from support.fake_torch import use_fake_torch

WRITE = (
    "import json, os, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from alignpipe.processes import this_process; here = this_process(); "
    "open(f'rank-{here.rank}', 'w').write(json.dumps([sys.argv[1:], sys.path, here.world_size, here.local_rank])); "
)
"""A helper that notes what it was told, in the folder that both are in."""


@pytest.fixture
def helpers(monkeypatch: Any, tmp_path: Path) -> Any:
    """Helpers of a run of three processes that run a given line of Python, without torch's store."""
    monkeypatch.chdir(tmp_path)
    served: list[socket.socket] = []
    monkeypatch.setattr(Helpers, "_serve", lambda self, listening: served.append(listening))
    made: list[Helpers] = []

    def start(line: str) -> Helpers:
        monkeypatch.setattr(launching, "_ENTER", WRITE + line)
        made.append(Helpers(Process(0, 3, 0, 3), ["seed=1", "reward=a b"], tmp_path))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.end(well=False)
    for listening in served:
        listening.close()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_who_leads() -> None:
    assert rank_0_of(1, ALONE) == ALONE
    assert rank_0_of(1, Process(0, 2, 0, 2)) == Process(0, 2, 0, 2)
    assert rank_0_of(3, ALONE) == Process(0, 3, 0, 3)
    with pytest.raises(ConfigError, match=r"processes=3, and a launcher \(torchrun, .*\) has started 2: leave one"):
        rank_0_of(3, Process(0, 2, 0, 2))


def test_helpers_get_the_command_line_their_rank_and_the_places_of_modules(helpers: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", ["", "beside", *sys.path])
    monkeypatch.setenv("MASTER_PORT", "1")
    before, here = dict(os.environ), os.getcwd()
    monkeypatch.chdir("/")  # hydra.job.chdir=true
    started = helpers("")
    assert this_process() == Process(0, 3, 0, 3)
    started.end(well=True)
    assert dict(os.environ) == before
    for rank in (1, 2):
        words, places, size, local = json.loads(Path(here, f"rank-{rank}").read_text())
        assert words == ["seed=1", "reward=a b"]
        assert places == [f"{here}/", f"{here}/beside", *sys.path[2:]]
        assert (size, local) == (3, rank)


@pytest.mark.parametrize(
    ("line", "how"),
    [("sys.exit(here.rank * 3)", "ended with status 3"), ("os.kill(os.getpid(), 9)", "was ended by signal 9")],
)
def test_a_helper_that_is_gone_is_an_error(helpers: Any, line: str, how: str) -> None:
    started = helpers(line)
    for child in started._children:
        child.wait()
    with pytest.raises(ProcessError, match=rf"^process 1 of 3 {how}, and this run needs it"):
        started.check()


def test_a_helper_that_does_not_end_is_ended(helpers: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(launching, "_TO_END_IN_VAIN", 0.1)
    started = helpers("import time; time.sleep(600)")
    children = list(started._children)
    started.check()
    started.end(well=False)
    assert [child.returncode for child in children] == [-9, -9]


def test_a_helper_does_not_outlive_rank_0(tmp_path: Path) -> None:
    """However rank 0 ends, and whatever the helper is doing; it says so."""
    script = tmp_path / "lead.py"
    script.write_text(
        "import os, sys; from pathlib import Path; from alignpipe.runner import launching\n"
        "from alignpipe.processes import Process\n"
        "launching._ENTER = launching._ENTER.partition('from alignpipe.cli')[0] + 'import time; time.sleep(600)'\n"
        "launching.Helpers._serve = lambda self, listening: None\n"
        "helpers = launching.Helpers(Process(0, 3, 0, 3), [], Path.cwd())\n"
        "helpers.start()\n"
        "print(*[child.pid for child in helpers._children], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + 20
    while time.monotonic() < until and any(map(is_running, pids)):
        time.sleep(0.01)
    assert not any(map(is_running, pids))
    assert done.stderr.count("process 0, which leads the run, has ended") == 1


def test_signals_of_the_terminal_reach_rank_0_only(helpers: Any) -> None:
    """It tells the others: a helper that Ctrl-C ended while it imports would leave rank 0 waiting."""
    started = helpers("import time; time.sleep(600)")
    assert {os.getsid(child.pid) for child in started._children}.isdisjoint({os.getsid(0)})


@pytest.mark.parametrize("notices", [True, False])
def test_who_waits_for_a_dead_helper_ends(helpers: Any, monkeypatch: Any, capfd: Any, notices: bool) -> None:
    """A collective operation on a GPU would wait for half an hour."""
    ended: list[int] = []
    monkeypatch.setattr(launching, "_TO_FAIL", 60.0 if notices else 0.05)
    monkeypatch.setattr(os, "_exit", ended.append)
    started = helpers("sys.exit(1)")
    with started.watched():
        for child in started._children:
            child.wait()
        until = time.monotonic() + 1.5
        while time.monotonic() < until and not ended:
            time.sleep(0.01)
    assert ended[:1] == ([] if notices else [1])
    assert (
        "process 1 of 3 ended with status 1, and this one waits for it in vain" in capfd.readouterr().err
    ) != notices


@pytest.mark.parametrize(("at_work", "expected"), [(1, 6), (2, 3), (4, 1)])
def test_processes_that_share_a_stage_share_the_cores(monkeypatch: Any, at_work: int, expected: int) -> None:
    threads = use_fake_torch(monkeypatch, own_threads=6)
    prepare_device(RunSettings(device="cpu", processes=4), Process(0, 4, 0, 4), at_work)
    prepare_device(RunSettings(device="cpu", processes=4, threads=2), Process(0, 4, 0, 4), at_work)
    prepare_device(RunSettings(device="cpu"), Process(0, 4, 0, 4), at_work)  # torchrun: `OMP_NUM_THREADS` says it
    assert threads == [expected, 2, 6]


def test_torch_serves_the_socket_that_helpers_call_before(tmp_path: Path) -> None:
    """For real, in processes of their own: the helper calls while nobody answers yet."""
    script = tmp_path / "lead.py"
    script.write_text(
        "import sys, time; from alignpipe.runner import launching; from alignpipe.processes import Process\n"
        "from alignpipe.runner.messages import connect\n"
        "launching._ENTER = 'import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); ' \\\n"
        "    'from alignpipe.runner.messages import connect; from alignpipe.processes import this_process; ' \\\n"
        "    'm = connect(this_process()); m.note_here(1); print(m.next(lambda: 20.0)[\"do\"])'\n"
        "from pathlib import Path; helpers = launching.Helpers(Process(0, 2, 0, 2), [], Path.cwd())\n"
        "helpers.start()\n"
        "messages = connect(Process(0, 2, 0, 2))\n"
        "messages.wait_for_all(2, helpers.check)\n"
        "messages.post({'do': 'greet'})\n"
        "helpers.end(well=True)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "greet\n"), done.stderr
