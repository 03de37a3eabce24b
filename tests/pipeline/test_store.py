"""The store: complete or absent, checked, locked, cleaned."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import stat
import time

import pytest

from alignpipe.cli.store import main as store_main
from alignpipe.errors import StageInterrupted, StoreError
from alignpipe.store import RunRecords, Store
from alignpipe.store import files as store_files
from alignpipe.store import locks as store_locks
from alignpipe.store.cleaning import pin, removals, remove, unpin
from alignpipe.store.layout import METRICS
from alignpipe.store.locks import holding, holding_if_free, on_network_file_system
from alignpipe.store.objects import problem_of

KEY, OTHER_KEY = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs" / "store")


def opened(store, stage, key, code, restart=False):
    """The work folder of a key, ready for an attempt."""
    work = store.work(stage, key)
    work.prepare(code, restart)
    return work


def fill(store, key=KEY, files=None, stage="sft"):
    work = opened(store, stage, key, {"alignpipe": "c0de"})
    for name, text in (files or {"model.bin": "weights", "sub/tokenizer.json": "{}"}).items():
        path = work.payload / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (work.path / METRICS).write_text('{"stage": "sft", "step": 1, "sft/loss": 2.0}\n')
    return work


def made(store):
    return {
        "kind": "policy",
        "fingerprint": {"stage": "sft", "seed": 0},
        "code": {"alignpipe": "c0de"},
        "run_key": "r" * 64,
        "folder": store.root.parent,
        "seconds": 1.5,
    }


def publish(store, key=KEY, files=None, stage="sft"):
    return store.publish(fill(store, key, files, stage), **made(store))


def test_published_object(store):
    assert store.lookup("sft", KEY) is None
    artifact = publish(store)
    stored = store.lookup("sft", KEY)
    assert (stored.artifact, stored.problem, stored.code) == (artifact, None, {"alignpipe": "c0de"})
    obj = artifact.folder.parent
    assert {path.name for path in obj.iterdir()} == {"payload", "manifest.json", "records"}
    assert (obj / "records" / KEY / "metrics.jsonl").read_text().startswith('{"stage": "sft"')
    manifest = json.loads((obj / "manifest.json").read_text())
    assert [(entry["path"], entry["size"]) for entry in manifest["files"]] == [
        ("model.bin", 7),
        ("sub/tokenizer.json", 2),
    ]
    assert obj.name == artifact.digest == manifest["digest"]
    for entry in manifest["files"]:
        assert stat.S_IMODE((artifact.folder / entry["path"]).stat().st_mode) == 0o444
    assert not (store.root / "work" / f"sft-{KEY}").exists()
    assert store.find(artifact.digest[:5]) == [artifact]
    assert [fingerprint["seed"] for _, fingerprint in store.fingerprints("sft")] == [0]


def test_the_digest_covers_the_payload_only(store):
    first = publish(store, KEY)
    second = publish(store, OTHER_KEY)
    assert first == second, "the same bytes under another key are the same object"
    records = first.folder.parent / "records"
    assert {path.name for path in records.iterdir()} == {KEY, OTHER_KEY}
    assert store.lookup("sft", KEY).problem is None
    assert store.lookup("sft", OTHER_KEY).problem is None
    assert publish(store, OTHER_KEY, {"model.bin": "other"}).digest != first.digest


def test_publishing_a_key_again_replaces_its_records(store):
    first = publish(store)
    assert publish(store) == first


def test_a_kill_while_the_work_folder_is_removed_leaves_no_half_of_it(store, monkeypatch):
    """A checkpoint that lacks files would end every later attempt, once the result is damaged or collected."""

    def killed(path, **_):
        raise KeyboardInterrupt

    work = fill(store)
    monkeypatch.setattr("alignpipe.store.store.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.publish(work, **made(store))
    assert store.lookup("sft", KEY) is not None
    assert not work.path.exists()


def test_an_empty_payload_or_a_link_is_refused(store, tmp_path):
    work = opened(store, "sft", KEY, {})
    with pytest.raises(StoreError, match="'sft' ended without writing anything"):
        store.publish(work, **made(store))
    work = fill(store)
    (work.payload / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="an artifact must hold real files"):
        store.publish(work, **made(store))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda obj: (obj / "payload" / "model.bin").unlink(), "model.bin is missing"),
        (lambda obj: _write(obj / "payload" / "model.bin", "weigh"), "model.bin has 5 bytes, not 7"),
        (lambda obj: _write(obj / "manifest.json", "{"), "no readable manifest"),
        (lambda obj: (obj / "records" / KEY / "record.json").unlink(), "lost the record of this key"),
    ],
)
def test_the_cheap_check_finds(store, damage, problem):
    damage(publish(store).folder.parent)
    assert problem in store.lookup("sft", KEY).problem


def _write(path, text):
    path.chmod(0o644)
    path.write_text(text)


def test_a_flipped_byte_is_found_by_the_deep_check_only(store, capsys):
    artifact = publish(store)
    assert store_main(["verify", "--outputs", str(store.root.parent)]) == 0
    _write(artifact.folder / "model.bin", "weighTs")
    assert store.lookup("sft", KEY).problem is None
    assert "content of model.bin changed" in problem_of(artifact.folder.parent, deep=True)
    assert store_main(["verify", "--outputs", str(store.root.parent)]) == 1
    assert "1 objects, 1 damaged" in capsys.readouterr().out


def test_an_object_that_only_lost_a_record_is_not_thrown_away(store):
    artifact = publish(store)
    publish(store, OTHER_KEY)
    (artifact.folder.parent / "records" / KEY / "record.json").unlink()
    store.discard_damaged(store.lookup("sft", KEY).artifact)
    assert store.lookup("sft", OTHER_KEY).problem is None
    (artifact.folder / "model.bin").unlink()
    store.discard_damaged(artifact)
    assert not artifact.folder.exists()


def test_a_damaged_object_goes_to_the_trash_when_the_same_is_published(store):
    artifact = publish(store)
    (artifact.folder / "model.bin").unlink()
    assert publish(store) == artifact
    assert problem_of(artifact.folder.parent, deep=True) is None
    assert len(list(store.layout.trash.iterdir())) == 1


@pytest.mark.parametrize("gone", ["state", "state/checkpoints"])
def test_a_work_folder_that_goes_while_a_plan_looks_is_none(store, monkeypatch, gone):
    """As another process publishes: plans take no lock."""
    work = fill(store)
    (work.state / "checkpoints" / "step-1").mkdir(parents=True)
    real = os.scandir

    def scandir(path):
        if str(path) == str(work.path / gone):
            shutil.rmtree(work.path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in scandir(path)])
    assert work.unfinished() is None


def test_a_second_attempt_finds_its_state_but_an_empty_payload(store):
    work = fill(store)
    (work.state / "checkpoints" / "step-00000012").mkdir(parents=True)
    (work.state / "checkpoints" / "step-00000003").mkdir()
    assert store.work("sft", KEY).unfinished().step == 12
    again = opened(store, "sft", KEY, {})
    assert list(again.payload.iterdir()) == []
    assert (again.state / "checkpoints" / "step-00000012").exists()
    fresh = opened(store, "sft", KEY, {}, restart=True)
    assert list(fresh.state.iterdir()) == []
    assert store.work("sft", KEY).unfinished() is None


def test_state_without_numbered_checkpoints_can_be_resumed_too(store):
    work = opened(store, "sft", KEY, {"x": "1"})
    (work.state / "checkpoints").mkdir()
    assert store.work("sft", KEY).unfinished() is None
    (work.state / "progress.txt").write_text("half")
    assert store.work("sft", KEY).unfinished().step is None
    assert store.work("sft", KEY).unfinished().code == {"x": "1"}


@pytest.mark.parametrize("fails", ["sync", "write_json", "rename"])
def test_a_full_disk_publishes_nothing(store, monkeypatch, fails):
    work = fill(store)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store.root))

    from alignpipe.store import objects

    if fails == "rename":
        monkeypatch.setattr("pathlib.Path.rename", full)
    else:
        monkeypatch.setattr(objects, fails, full)
    with pytest.raises(StoreError, match=r"no space left on the disk while publishing the result of stage 'sft'"):
        store.publish(work, **made(store))
    assert list(store.objects()) == []
    assert store.lookup("sft", KEY) is None
    monkeypatch.undo()
    assert publish(store).digest, "with room again it goes through"


def test_a_full_disk_while_the_index_is_written_leaves_no_entry(store, monkeypatch):
    work = fill(store)
    real = os.fsync
    calls = iter(range(1000))

    def full_at_the_end(handle):
        if os.readlink(f"/proc/self/fd/{handle}").startswith(str(store.root / "index")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        next(calls)
        real(handle)

    monkeypatch.setattr(store_files.os, "fsync", full_at_the_end)
    with pytest.raises(StoreError, match="no space left"):
        store.publish(work, **made(store))
    monkeypatch.undo()
    assert store.lookup("sft", KEY) is None
    assert list((store.root / "index" / "sft").iterdir()) == [], "no half-written file either"
    assert publish(store).digest


def test_an_unwritable_store_is_one_sentence(store, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match=r"cannot write the store .* set outputs=<another folder>"):
        store.check_writable()
    monkeypatch.undo()
    store.root.rmdir()
    store.root.write_text("a file in the way")
    with pytest.raises(StoreError, match="while opening the store: File exists; something else lies there: move it"):
        store.check_writable()


def test_other_os_errors_say_what_was_being_done(tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied", "/x")
    assert "cannot write /x while testing" in str(store_files.storage_error(denied, "testing", tmp_path))
    assert "OSError while testing" in str(store_files.storage_error(OSError(errno.EIO, "bad"), "testing", tmp_path))


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    store_files.write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        store_files.write_json(path, {"a": 2})
    assert store_files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


# --- locks ---


def _hold(path, held, release):
    with holding(path, "runs/other"):
        held.set()
        release.wait(20)


@pytest.fixture
def other_holder(tmp_path):
    """Another process that holds a lock until it is killed."""
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    path = tmp_path / "locks" / "sft-x.lock"
    process = context.Process(target=_hold, args=(path, held, release))
    process.start()
    assert held.wait(20)
    yield path, process, release
    process.kill()
    process.join()


def test_waiting_says_who_holds_the_lock_and_a_killed_holder_frees_it(other_holder, monkeypatch):
    path, process, _ = other_holder
    monkeypatch.setattr(store_locks, "WAIT_NOTICE_SECONDS", 0.3)
    lines = []

    def say(line):
        lines.append(line)
        process.kill()

    with holding(path, "runs/me", say, what="stage sft") as lock:
        lock.check()
    assert lines[0].startswith("waiting for stage sft: process ")
    assert f"process {process.pid} on " in lines[0]
    assert "runs/other" in lines[0]


def test_waiting_can_be_interrupted(other_holder, monkeypatch):
    monkeypatch.setattr(store_locks, "WAIT_NOTICE_SECONDS", 0.1)
    waiting = holding(other_holder[0], "me", what="stage sft", stop_requested=lambda: True)
    with pytest.raises(StageInterrupted, match="stopped while waiting for stage sft"), waiting:
        pass


def test_holding_if_free(other_holder, tmp_path):
    path, process, release = other_holder
    with holding_if_free(path, "me") as held:
        assert held is None
    release.set()
    process.join()
    with holding_if_free(path, "me") as held:
        held.check()


def test_network_file_systems_get_a_lease(tmp_path, monkeypatch):
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    assert on_network_file_system(tmp_path / "store", mounts)
    assert not on_network_file_system(tmp_path.parent, mounts)
    assert not on_network_file_system(tmp_path, "")
    monkeypatch.setattr(store_locks, "on_network_file_system", lambda folder: True)
    path = tmp_path / "locks" / "a.lock"
    with holding(path, "me") as lock:
        assert [claim.name for claim in path.with_suffix(".lease").iterdir()] == ["00000001"]
        lock.check()


def test_a_failure_is_left_for_those_who_waited(store):
    before = time.time() - 1
    store.work("sft", KEY).note_failure("ValueError: no")
    assert store.work("sft", KEY).failure_since(before) == "ValueError: no"
    assert store.work("sft", KEY).failure_since(time.time() + 10) is None
    opened(store, "sft", KEY, {})
    assert store.work("sft", KEY).failure_since(before) is None


# --- run records ---


def test_attempts_of_an_unfinished_run_go_on_and_a_finished_one_starts_anew(store, tmp_path):
    records = RunRecords(store.layout)
    with records.attempt("r1", tmp_path) as first:
        first.note_trackers({"wandb": "id1"})
        first.end("interrupted")
    with records.attempt("r1", tmp_path) as second:
        assert (second.attempt, second.tracker_ids) == (2, {"wandb": "id1"})
    with records.attempt("r1", tmp_path) as third:
        assert third.attempt == 3, "one that was killed says nothing at its end"
        third.end("finished")
    with records.attempt("r1", tmp_path) as fresh:
        assert (fresh.attempt, fresh.tracker_ids) == (1, {})
    assert len(json.loads((store.root / "runs" / "r1.json").read_text())["attempts"]) == 4


def test_the_same_run_twice_at_the_same_time(store, tmp_path):
    records = RunRecords(store.layout)
    with records.attempt("r1", tmp_path / "one") as first:
        first.note_trackers({"wandb": "id1"})
        with records.attempt("r1", tmp_path / "two") as second:
            assert (second.attempt, second.tracker_ids) == (1, {})
            second.note_trackers({"wandb": "id2"})
        first.end("finished")
    record = json.loads((store.root / "runs" / "r1.json").read_text())
    assert record["tracker_ids"] == {"wandb": "id1"}


# --- cleaning ---


def age(path, days):
    moment = time.time() - days * 86_400
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (moment, moment))


def test_gc_spares_what_runs_and_pins_need(store, tmp_path):
    run_folder = tmp_path / "outputs" / "runs" / "one"
    run_folder.mkdir(parents=True)
    used, pinned, unused, fresh = (publish(store, name * 64, {"w": name}) for name in "1234")
    with RunRecords(store.layout).attempt("r1", run_folder) as record:
        record.note_stage("sft", used.digest)
        record.end("finished")
    assert pin(store, pinned.digest[:10]) == pinned.digest
    for artifact in (used, pinned, unused):
        age(artifact.folder.parent, 1)
    planned = removals(store, days=7)
    assert [entry.path.name for entry in planned] == [unused.digest]
    assert fresh.folder.exists()
    assert [entry.path.name for entry in remove(store, planned)] == [unused.digest]
    assert not unused.folder.exists()
    assert "is no longer in the store" in store.lookup("sft", "3" * 64).problem, "the index line stays"
    unpin(store, pinned.digest)
    run_folder.rmdir()
    assert {entry.path.name for entry in removals(store, days=7)} == {used.digest, pinned.digest}


def test_gc_keeps_young_work_and_what_is_being_worked_on(store):
    old, young, busy = (fill(store, name * 64).path for name in "123")
    age(old, 8)
    age(busy, 8)
    planned = removals(store, days=7)
    assert {entry.path for entry in planned} == {old, busy}
    with holding(store.layout.lock(busy.name), "me"):
        pass  # the lock file is there now, and free
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(store.layout.lock(busy.name), held, release))
    process.start()
    assert held.wait(20)
    assert [entry.path for entry in remove(store, planned)] == [old]
    release.set()
    process.join()
    assert young.exists()
    assert busy.exists()


def test_gc_spares_an_old_object_that_a_run_comes_to_use(store):
    """By another key with the same bytes: its run notes it only when its trackers have taken note of it."""
    obj = publish(store).folder.parent
    age(obj, 1)
    planned = removals(store, days=7)
    assert [entry.path for entry in planned] == [obj]
    assert publish(store, OTHER_KEY).folder.parent == obj
    assert remove(store, planned) == []
    assert removals(store, days=7) == []
    assert problem_of(obj) is None


def test_gc_does_not_mind_folders_that_go_while_it_looks(store, monkeypatch):
    """What a run that goes on moves, deletes and publishes."""
    work = fill(store).path
    age(work, 8)
    gone = []

    def vanishing(status):
        def look(path, *arguments, **options):
            if str(path).startswith(f"{work}/") and not gone:
                gone.append(path)
                shutil.rmtree(work)
            return status(path, *arguments, **options)

        return look

    monkeypatch.setattr(os, "stat", vanishing(os.stat))
    monkeypatch.setattr(os, "lstat", vanishing(os.lstat))
    planned = removals(store, days=7)
    assert gone
    assert remove(store, planned) == []


def test_gc_and_a_run_that_empty_the_trash_together(store, monkeypatch):
    def twice(path, **options):
        rmtree(path)
        rmtree(path, **options)  # the other was a little later

    rmtree = shutil.rmtree
    work = fill(store)
    monkeypatch.setattr("alignpipe.store.store.shutil.rmtree", twice)
    store.publish(work, **made(store))
    left = store.layout.trash / "work-left"
    left.mkdir()
    assert [entry.path for entry in remove(store, removals(store, days=7))] == [left]


def test_what_ended_an_attempt_is_told_though_it_cannot_be_recorded(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def attempt():
        with RunRecords(store.layout).attempt("k" * 64, store.root):
            monkeypatch.setattr("alignpipe.store.runs.write_json", full)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        attempt()


def test_store_commands(store, capsys):
    outputs = ["--outputs", str(store.root.parent)]
    artifact = publish(store)
    fill(store, OTHER_KEY)
    age(artifact.folder.parent, 1)

    def shown(*argv):
        assert store_main([argv[0], *outputs, *argv[1:]]) == 0
        return capsys.readouterr().out

    for command in ("ls", "verify", "gc"):
        with pytest.raises(StoreError, match=r"there is no store .*elsewhere/store; --outputs names"):
            store_main([command, "--outputs", "elsewhere"])
    listing = shown("ls")
    assert listing.startswith("stage  digest")
    assert f"sft    {artifact.digest[:12]}  policy" in listing
    assert "unfinished" in listing
    assert "1 folders, " in shown("gc")
    assert "within the last hour" not in shown("gc")
    publish(store, "9" * 64, {"w": "young"})
    assert "1 more that no run folder needs were used within the last hour" in shown("gc")
    assert artifact.folder.exists(), "a dry run removes nothing"
    shown("pin", artifact.digest[:8])
    assert "pinned" in shown("ls")
    assert "0 folders" in shown("gc")
    shown("unpin", artifact.digest[:8])
    assert "removed 1 folders" in shown("gc", "--yes")
    assert not artifact.folder.exists()
    assert list(store.layout.trash.iterdir()) == []
    with pytest.raises(StoreError, match="'ffff' fits 0 objects"):
        pin(store, "ffff")
