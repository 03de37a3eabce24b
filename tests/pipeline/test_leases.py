"""Locks on network file systems: one who died is followed, one who lives is not, and one who lost the lock stops."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
import time
from contextlib import ExitStack

import pytest

from alignpipe.errors import StageInterrupted, StoreError
from alignpipe.runner import execute
from alignpipe.store import RunRecords, Store, leases
from alignpipe.store import locks as store_locks
from alignpipe.store.leases import Lease
from alignpipe.store.locks import holder, holding, holding_if_free
from support import fake_run
from support.fake_run import make_registry, make_run

SECONDS = 0.4


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """A store on a network file system, leases that run out soon, and every process on a machine of its own."""
    monkeypatch.setattr(store_locks, "on_network_file_system", lambda folder: True)
    monkeypatch.setattr(store_locks, "_LEASE_SECONDS", SECONDS)
    monkeypatch.setattr(store_locks, "WAIT_NOTICE_SECONDS", 0.02)
    monkeypatch.setattr(Lease, "poll", 0.02)
    monkeypatch.setattr(leases, "_LONGEST_STEP", 0.05)  # a busy machine that stops all of us is no death
    monkeypatch.setattr(leases, "_pid_namespace", lambda: "")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "sft-x.lock"


@pytest.fixture
def held(path):
    """A lease that somebody holds and renews, until the test stops its heart as a kill would."""
    lease = Lease(path.with_suffix(".lease"), SECONDS)
    assert lease.try_once()
    yield lease
    kill(lease)


def kill(lease):
    lease._stopped.set()
    lease._heart.join()


def taken(lease, seconds):
    """Whether a lease can be taken within some seconds, and after how many."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if lease.try_once():
            return time.monotonic() - began
        time.sleep(lease.poll)
    return None


def another(lease):
    return Lease(lease._folder, SECONDS)


def test_one_that_lives_is_waited_for_and_one_that_died_is_not(held):
    waiting = another(held)
    assert taken(waiting, 3 * SECONDS) is None
    assert waiting.holder_lives
    assert not held.lost()
    kill(held)
    assert 0.5 * SECONDS < taken(waiting, 5 * SECONDS) < 3 * SECONDS
    assert held.lost()
    assert not waiting.lost()
    held.release()
    assert not waiting.lost(), "who has lost the lock gives nothing back"
    waiting.release()
    assert taken(another(held), 0.1) is not None


def test_of_many_who_wait_one_gets_it(held):
    kill(held)
    contenders = [another(held) for _ in range(8)]
    got = []
    threads = [
        threading.Thread(target=lambda lease=lease: got.append((taken(lease, 3 * SECONDS), lease)))
        for lease in contenders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [lease for after, lease in got if after is not None]
    assert len(winners) == 1
    winners[0].release()


def test_a_process_that_stood_still_has_seen_nothing_meanwhile(held, monkeypatch):
    kill(held)
    clock = [100.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    waiting = Lease(held._folder, 90.0)
    assert not waiting.try_once()
    monkeypatch.setattr(leases, "_LONGEST_STEP", 5.0)
    clock[0] += 3600
    assert not waiting.try_once(), "an hour in which this machine slept, and the holder's perhaps too"
    for _ in range(16):
        clock[0] += 5
        assert not waiting.try_once()
    clock[0] += 5
    assert waiting.try_once()
    waiting.release()


def test_numbers_never_return_and_old_claims_go(path):
    for number in range(1, 41):
        lease = Lease(path.with_suffix(".lease"), SECONDS)
        assert lease.try_once()
        assert lease._mine == number
        lease.release()
    assert len(list(path.with_suffix(".lease").iterdir())) <= leases._KEPT + 1


def test_who_read_an_old_list_does_not_get_a_second_lock(held, monkeypatch):
    late = another(held)
    held.release()
    following = another(held)
    assert following.try_once()
    newest = Lease._newest
    answers = iter([1])
    monkeypatch.setattr(Lease, "_newest", lambda self: next(answers, None) or newest(self))
    assert not late.try_once(), "the number is taken"
    following._claim(2).rename(following._claim(3))
    answers = iter([1])
    assert not late.try_once(), "the number was free again, but there is a newer one"
    assert not late._claim(2).exists()
    kill(following)


def _hold_and_die(path):
    assert Lease(path, SECONDS).try_once()
    os._exit(9)


def test_a_process_of_this_machine_that_ended_is_not_waited_for(path, monkeypatch):
    monkeypatch.undo()
    process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(path.with_suffix(".lease"),))
    process.start()
    process.join()
    assert process.exitcode == 9
    lease = Lease(path.with_suffix(".lease"), 90.0)
    assert lease.try_once()
    lease.release()


def test_a_claim_cut_short_runs_out_like_any_other(path):
    folder = path.with_suffix(".lease")
    folder.mkdir(parents=True)
    (folder / "00000001").write_text('{"place": "a", "pi')
    lease = Lease(folder, SECONDS)
    assert not lease.try_once()
    assert taken(lease, 3 * SECONDS) > 0.5 * SECONDS
    lease.release()


def test_a_full_disk_leaves_no_claim_behind(path, monkeypatch):
    def full(self, beat):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Lease, "_content", full)
    with pytest.raises(StoreError, match="no space left on the disk while locking the store"), holding(path, "me"):
        pass
    assert list(path.with_suffix(".lease").iterdir()) == []


def test_a_lock_that_was_lost_is_told(path):
    lost = ExitStack()
    lock = lost.enter_context(holding(path, "runs/me"))
    lock.check()
    kill(lock._lock)
    with holding(path, "runs/other") as other:
        told = r"was lost: .* process \d+ on .* \(runs/other, .* nothing more is written"
        with pytest.raises(StoreError, match=told):
            lock.check()
        lost.close()
        assert "(runs/other, since" in holder(path), "who lost the lock leaves the other's note alone"
        other.check()
    assert not path.with_suffix(".holder").exists()


def test_while_it_waits_it_says_what_it_knows_and_can_be_stopped(path, held):
    said = []
    waiting = holding(path, "me", said.append, lambda: len(said) > 3, "stage sft")
    with pytest.raises(StageInterrupted, match="stopped while waiting for stage sft"), waiting:
        pass
    assert "another process has it and may have been killed; its lock runs out if it is not renewed" in said[0]
    assert "another process is at work on it" in said[-1]


def test_gc_takes_what_a_killed_run_left_and_nothing_else(path, held):
    with holding_if_free(path, "gc") as free:
        assert free is None
    kill(held)
    with holding_if_free(path, "gc") as free:
        assert free is not None


@pytest.mark.parametrize("at", ["log", "log_timings", "stop_requested"])
def test_a_stage_whose_lock_another_has_taken_writes_nothing_more(tmp_path, monkeypatch, at):
    """No metrics, no checkpoints (loops ask first whether to stop), no failure: the folder is another's."""
    run = make_run(tmp_path, stages=["data", "sft"])
    store, written = Store(tmp_path / "store"), []
    with ExitStack() as other:

        def interrupted_for_long(stage, inputs, ctx):
            ctx.log({"loss": 2.0}, 1)
            kill(ctx._lock._lock)
            other.enter_context(store.lock("sft", ctx.work.parent.name.removeprefix("sft-"), "other", print, bool))
            written.append(snapshot(ctx.work.parent))
            if at == "stop_requested":
                ctx.stop_requested()
            else:
                getattr(ctx, at)({"loss": 1.0}, 2)
            written.append("goes on")

        monkeypatch.setattr(fake_run.Train, "run", interrupted_for_long)
        with pytest.raises(StoreError, match="was lost"):
            execute(run, make_registry())
        assert written == [snapshot(next((tmp_path / "store" / "work").glob("sft-*")))]


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- run records ---


@pytest.fixture
def attempt(tmp_path):
    """Begins an attempt at one run; what is said comes along."""
    records = RunRecords(Store(tmp_path / "store").layout)
    with ExitStack() as stack:

        def begin(folder):
            said = []
            return stack.enter_context(records.attempt("r1", tmp_path / folder, said.append)), said

        yield begin


def test_a_run_killed_on_another_machine_goes_on(attempt):
    first, _ = attempt("one")
    first.note_trackers({"wandb": "id1"})
    kill(first._lock._lock)
    second, said = attempt("two")
    assert (second.attempt, second.tracker_ids) == (2, {"wandb": "id1"})
    assert "waiting for the record of this run: process" in said[0]
    with pytest.raises(StoreError, match=r"run-r1\.lock was lost"):
        first.note_stage("sft", "d1")
    second.note_stage("sft", "d2")
    second.end("finished")
    attempts = json.loads(second.path.read_text())["attempts"]
    assert [entry["stages"] for entry in attempts] == [{}, {"sft": "d2"}], "one process writes the record"


def test_a_run_at_work_on_another_machine_keeps_its_record(attempt):
    first, _ = attempt("one")
    first.note_trackers({"wandb": "id1"})
    second, said = attempt("two")
    assert (second.attempt, second.tracker_ids) == (1, {})
    assert said[-1].endswith("is at work on the same run: this one is a run of its own, without a record here")
    first.end("finished")
    assert len(json.loads(first.path.read_text())["attempts"]) == 1
