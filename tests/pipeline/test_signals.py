"""Ctrl-C, SIGTERM and the scheduler's signal: a clean end that can be resumed."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest

from alignpipe.errors import StageInterrupted
from alignpipe.runner import execute
from alignpipe.runner.signals import StopSignals
from support.fake_run import SftConfig, make_registry, make_run, metrics_of, start, statuses, summary_of


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_says_how_to_go_on_and_is_resumed(tmp_path, capfd, request, number, code):
    if number is signal.SIGHUP:  # ignored where the tests themselves run under nohup
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    before = signal.getsignal(number)
    config = SftConfig(signal_at=2, signal_number=int(number))
    run = make_run(tmp_path, "one", sft=config, overrides=("ppo.lr=0.1",))
    assert execute(run, make_registry()) == code
    assert signal.getsignal(number) is before
    summary = summary_of(run)
    assert summary["status"] == "interrupted"
    assert statuses(run) == {"data": "ran", "sft": "failed", "ppo": "skipped", "eval": "skipped"}
    assert summary["stages"]["sft"]["error"] == "interrupted: state of step 2 saved"
    shown = capfd.readouterr().err
    assert "stopping at the next step" in shown
    assert "give the same command again:\n  alignpipe ppo.lr=0.1\n" in shown
    plain, again = make_run(tmp_path / "plain"), make_run(tmp_path, "two")
    execute(plain, make_registry())
    assert execute(again, make_registry()) == 0
    assert statuses(again)["sft"] == "resumed"
    assert summary_of(again)["attempt"] == 2
    assert metrics_of(again) == metrics_of(plain)


def test_a_stop_while_waiting_for_the_runs_record_is_no_error(tmp_path, monkeypatch, capfd):
    def waiting(*_):
        signal.raise_signal(signal.SIGTERM)
        raise StageInterrupted("stopped while waiting for the record of this run")

    monkeypatch.setattr("alignpipe.store.runs.holding_if_free", waiting)
    assert execute(make_run(tmp_path), make_registry()) == 143
    assert "interrupted (stopped while waiting for the record of this run)" in capfd.readouterr().err


def test_a_stage_that_ends_before_it_looks_is_published_and_the_next_not_begun(tmp_path):
    run = make_run(tmp_path, sft=SftConfig(signal_at=4))
    assert execute(run, make_registry()) == 143
    assert statuses(run) == {"data": "ran", "sft": "ran", "ppo": "skipped", "eval": "skipped"}
    assert summary_of(run)["status"] == "interrupted"


def test_a_job_of_a_sweep_names_the_sweep_not_itself(tmp_path, capfd):
    run = make_run(tmp_path, sft=SftConfig(signal_at=2), overrides=("ppo.lr=0.1",), sweep="s")
    assert execute(run, make_registry()) == 143
    shown = capfd.readouterr().err
    assert "start the same sweep again in the same folder:\n  alignpipe -m ppo.lr=0.1 hydra.sweep.dir=s\n" in shown


def test_a_killed_process_exits_with_the_signals_code(tmp_path):
    process = start(tmp_path, sft={"signal_at": 1})
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "interrupted (state of step 1 saved)" in err


def test_a_stop_saves_though_nobody_reads_what_is_said(tmp_path):
    """As with `2>&1 | tee log`: Ctrl-C ends tee too, and what is written then raises."""
    process = start(tmp_path, sft={"signal_at": 2})
    process.stderr.close()
    assert process.wait(30) == 143
    process.stdout.close()
    run = make_run(tmp_path)
    assert summary_of(run)["status"] == "interrupted"
    assert summary_of(run)["stages"]["sft"]["error"] == "interrupted: state of step 2 saved"


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_at_once_unless_it_is_the_first_once_more(monkeypatch):
    """Schedulers and launchers send one to the process and to its group, milliseconds apart."""
    now = [100.0]
    monkeypatch.setattr("alignpipe.runner.signals.time.monotonic", lambda: now[0])
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.requested()
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.exit_code == 130


def test_of_several_processes_one_that_fails_says_why_though_the_launcher_ends_it():
    """torchrun sends SIGTERM as soon as another process is gone; the error is written a moment later."""
    with pytest.raises(ValueError, match="lost"), StopSignals(lasting=True) as signals:
        raise ValueError("lost")
    os.kill(os.getpid(), signal.SIGTERM)  # would end the tests
    assert signals.requested()
    with StopSignals() as later:  # a further run of the same process
        os.kill(os.getpid(), signal.SIGTERM)
        assert later.requested()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_schedulers_handler_is_called_after_everything_is_saved(tmp_path):
    seen = []
    run = make_run(tmp_path, sft=SftConfig(signal_at=2, signal_number=int(signal.SIGUSR2)))

    def requeue(number, frame):
        seen.append((number, summary_of(run)["status"]))

    before = signal.signal(signal.SIGUSR2, requeue), signal.signal(signal.SIGTERM, lambda *_: seen.append("term"))
    try:
        assert execute(run, make_registry()) == 143
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not signals.requested(), "under a scheduler SIGTERM stays with the scheduler's handler"
    finally:
        signal.signal(signal.SIGUSR2, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert seen == [(signal.SIGUSR2, "interrupted"), "term"]


def test_outside_the_main_thread_nothing_is_touched():
    codes = []

    def work():
        with StopSignals() as signals:
            codes.append((signals.requested(), signals.exit_code))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [(False, 130)]
