"""Whole runs of fake stages: what is computed, reused, resumed, recorded and shown."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import types
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alignpipe.api import Component, Selected, hookimpl
from alignpipe.config.model import RunSettings
from alignpipe.errors import AlignpipeError, ConfigError, FolderInUse, PluginError, StoreError
from alignpipe.plan import Planner, make_plan
from alignpipe.runner import execute
from alignpipe.runner.context import Builder
from alignpipe.runner.payloads import check_payload
from alignpipe.runner.recording import RunFiles, StageLog, logged_values, new_values, read_lines
from alignpipe.runner.summary import Summary
from alignpipe.store import RunRecords, Store
from support import fake_run
from support.fake_run import (
    COMPONENTS,
    ME,
    DataConfig,
    EvalConfig,
    PpoConfig,
    SftConfig,
    TrackerConfig,
    make_registry,
    make_run,
    metrics_of,
    start,
    statuses,
    summary_of,
)


@pytest.fixture
def executions(tmp_path, monkeypatch):
    """The stages that were really executed so far, in all processes."""
    log = tmp_path / "executions"
    monkeypatch.setenv("FAKE_EXECUTIONS", str(log))
    return lambda: log.read_text().split() if log.exists() else []


def test_first_run_then_the_same_again(tmp_path, executions, capsys):
    first, second = make_run(tmp_path, "one"), make_run(tmp_path, "two")
    assert execute(first, make_registry()) == 0
    assert executions() == ["data", "sft", "ppo", "eval"]
    assert execute(second, make_registry()) == 0
    assert executions() == ["data", "sft", "ppo", "eval"]
    assert set(statuses(first).values()) == {"ran"}
    assert set(statuses(second).values()) == {"cached"}
    assert metrics_of(first) == metrics_of(second)
    assert (first.folder / "timings.jsonl").read_text() == (second.folder / "timings.jsonl").read_text()
    assert metrics_of(first)[1] == {"stage": "sft", "step": 1, "sft/loss": 10.0, "sft/group/total": 0.1}
    shown = capsys.readouterr()
    assert "sft      cached: made " in shown.err
    assert "win rate      -  0.81 [0.70, 0.90]" in shown.out
    assert shown.out.count("question 2") == 2
    assert "question 3" not in shown.out


def test_summary(tmp_path):
    run = make_run(tmp_path, stages=["data", "sft", "eval"])
    execute(run, make_registry())
    summary = summary_of(run)
    assert {key: summary[key] for key in ("schema", "status", "attempt")} == {
        "schema": 1,
        "status": "finished",
        "attempt": 1,
    }
    assert len(summary["run_key"]) == 64
    assert summary["metrics"] == {
        "data/rows": 3.0,
        "sft/loss": 1.0,
        "sft/group/total": 1.0,
        "eval/gold/mean": 0.75,
        "eval/kl": 1.5,
    }
    sft = summary["stages"]["sft"]
    assert set(sft) == {"status", "key", "digest", "artifact", "seconds", "error"}
    assert Path(sft["artifact"], "config.json").is_file()
    assert Path(sft["artifact"]).parent.name == sft["digest"]
    assert (run.folder / "config.yaml").read_text().startswith("seed: 0\n")


def test_a_cached_run_imports_nothing_heavy(tmp_path):
    execute(make_run(tmp_path), make_registry())
    script = (
        "import sys; from support.fake_run import *; from alignpipe.runner import execute;"
        f"status = execute(make_run(Path({str(tmp_path)!r}), device='auto', threads=2), make_registry());"
        "print(status, sorted({'torch', 'transformers', 'datasets', 'wandb', 'pyarrow', 'rich'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_changed_upstream_output_reruns_what_depends_on_it(tmp_path, executions):
    execute(make_run(tmp_path), make_registry())
    execute(make_run(tmp_path, sft=SftConfig(lr=0.2)), make_registry())
    assert executions()[4:] == ["sft", "ppo", "eval"], "the data is reused"


def test_the_same_output_under_another_key_is_no_change_downstream(tmp_path, executions):
    execute(make_run(tmp_path, sft=SftConfig(lr=0.2, max_steps=0)), make_registry())
    execute(make_run(tmp_path, sft=SftConfig(lr=0.4, max_steps=0)), make_registry())
    assert executions()[4:] == ["sft"], "sft has another key, made the same bytes, and ppo does not mind"


def test_a_recomputed_different_result_is_not_followed_by_a_stale_hit(tmp_path, executions, monkeypatch):
    """Keys are chained by output digest: a lost result that comes out differently must not meet the old ppo."""

    execute(make_run(tmp_path), make_registry())
    store = Store(tmp_path / "store")
    sft = next(obj for obj in store.objects() if obj.parent.name == "sft")
    (sft / "manifest.json").unlink()
    real = fake_run.Train.run

    def other(self, inputs, ctx):
        real(self, inputs, ctx)
        (ctx.payload / "luck").write_text(ctx.stage)

    monkeypatch.setattr(fake_run.Train, "run", other)
    execute(make_run(tmp_path), make_registry())
    assert executions()[4:] == ["sft", "ppo", "eval"]


def test_a_damaged_object_is_moved_away_and_computed_again(tmp_path, executions, capsys):
    run = make_run(tmp_path)
    execute(run, make_registry())
    (Path(summary_of(run)["stages"]["sft"]["artifact"]) / "weights" / "w.bin").unlink()
    execute(run, make_registry())
    assert executions()[4:] == ["sft"]
    assert "damaged: weights/w.bin is missing" in capsys.readouterr().err
    assert len(list((tmp_path / "store" / "trash").iterdir())) == 1
    assert statuses(run) == {"data": "cached", "sft": "ran", "ppo": "cached", "eval": "cached"}


def test_killed_and_resumed_equals_uninterrupted(tmp_path, executions):
    plain = make_run(tmp_path / "plain")
    execute(plain, make_registry())
    killed = start(tmp_path, sft={"die_at": 3}, folder="one", stages=["data", "sft"])
    killed.communicate(timeout=30)
    assert killed.returncode == -9
    assert not (tmp_path / "store" / "objects" / "sft").exists()
    again = make_run(tmp_path, "two", sft=SftConfig(die_at=-1))
    assert execute(again, make_registry()) == 0
    assert statuses(again) == {"data": "cached", "sft": "resumed", "ppo": "ran", "eval": "ran"}
    assert metrics_of(again) == metrics_of(plain)
    assert (again.folder / "timings.jsonl").read_text() == (plain.folder / "timings.jsonl").read_text()
    digests = [summary_of(run)["stages"]["sft"]["digest"] for run in (again, plain)]
    assert digests[0] == digests[1]
    assert executions().count("sft") == 3


def test_the_same_command_reenters_an_unfinished_run(tmp_path):
    killed = start(tmp_path, sft={"die_at": 3}, folder="one")
    killed.communicate(timeout=30)
    log = tmp_path / "tracker"
    again = make_run(tmp_path, "two", trackers={"wandb": Selected("tracker", "fake", TrackerConfig(str(log)))})
    execute(again, make_registry())
    assert summary_of(again)["attempt"] == 2
    record = json.loads(next((tmp_path / "store" / "runs").iterdir()).read_text())
    assert [attempt["status"] for attempt in record["attempts"]] == ["running", "finished"]
    assert record["tracker_ids"] == {"wandb": "id-1"}


def test_a_folder_that_another_run_is_writing_is_refused(tmp_path):
    process = fake_run.start(tmp_path, folder="same", sft={"pause": 60})
    folder = tmp_path / "runs" / "same"
    try:
        while not read_lines(folder / "metrics.jsonl"):
            assert process.poll() is None
        before = (folder / "metrics.jsonl").read_text()
        with pytest.raises(FolderInUse, match=rf"runs/same: process {process.pid} .*hydra.run.dir, .*hydra.sweep.dir"):
            execute(make_run(tmp_path, "same", seed=2), make_registry())
        assert (folder / "metrics.jsonl").read_text() == before
    finally:
        process.kill()
        process.communicate()
    assert execute(make_run(tmp_path, "same", seed=2), make_registry()) == 0


def test_the_finished_run_of_another_config_keeps_its_folder_from_a_sweep(tmp_path, capsys):
    """A single run was given the folder by name, and says what it does; the same run, or one that failed, may go."""
    first = make_run(tmp_path, "same", stages=["data"])
    for _ in range(2):
        assert execute(first, make_registry()) == 0
    before = summary_of(first)
    capsys.readouterr()
    with pytest.raises(
        FolderInUse, match=r"runs/same holds a finished run of another config .*another hydra\.sweep\.dir"
    ):
        execute(make_run(tmp_path, "same", stages=["data"], seed=2, sweep="grid"), make_registry())
    assert summary_of(first) == before
    assert execute(make_run(tmp_path, "same", stages=["data"], seed=2), make_registry()) == 0
    assert "runs/same holds a finished run of another config, whose summary and figures" in capsys.readouterr().err
    (first.folder / "summary.json").write_text(json.dumps({**before, "status": "failed"}))
    assert execute(make_run(tmp_path, "same", stages=["data"], seed=2, sweep="grid"), make_registry()) == 0


def test_four_processes_compute_a_key_once(tmp_path, executions):
    given = {"stages": ["data", "sft"], "sft": {"pause": 0.05}}
    racing = [start(tmp_path, folder=str(number), seed=0, **given) for number in range(4)]
    for process in racing:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert sorted(executions()) == ["data", "sft"]
    runs = [make_run(tmp_path, str(number)) for number in range(4)]
    assert sorted(statuses(run)["sft"] for run in runs) == ["cached", "cached", "cached", "ran"]


def test_those_who_wait_for_a_failing_stage_fail_with_its_error(tmp_path, executions):
    given = {"stages": ["data", "sft"], "sft": {"pause": 2.0, "fail": "the loss is not finite"}}
    execute(make_run(tmp_path, stages=["data"]), make_registry())
    first = start(tmp_path, folder="one", **given)
    while "sft" not in executions():
        assert first.poll() is None
    second = start(tmp_path, folder="two", **given)
    errors = [process.communicate(timeout=30)[1] for process in (first, second)]
    assert "ValueError: the loss is not finite" in errors[0]
    assert "failed in a process that this one waited for: ValueError: the loss is not finite" in errors[1]
    assert executions().count("sft") == 1


def test_a_stage_that_exits_is_an_error(tmp_path, monkeypatch):
    def leave(self, inputs, ctx):
        sys.exit(0)

    monkeypatch.setattr(fake_run.Train, "run", leave)
    run = make_run(tmp_path)
    with pytest.raises(AlignpipeError, match=r"stage 'sft' called sys.exit\(0\)"):
        execute(run, make_registry())
    assert statuses(run)["sft"] == "failed"


def test_a_failing_stage(tmp_path):
    seen = []

    class Watcher:
        @hookimpl
        def alignpipe_stage_failed(self, stage, error):
            seen.append((stage, str(error)))

        @hookimpl
        def alignpipe_run_finished(self, summary):
            seen.append(summary["status"])

    run = make_run(tmp_path, sft=SftConfig(fail="boom"))
    with pytest.raises(ValueError, match="boom"):
        execute(run, make_registry(Watcher()))
    assert statuses(run) == {"data": "ran", "sft": "failed", "ppo": "skipped", "eval": "skipped"}
    assert summary_of(run)["status"] == "failed"
    assert summary_of(run)["stages"]["sft"]["error"] == "ValueError: boom"
    assert seen == [("sft", "boom"), "failed"]
    key = summary_of(run)["stages"]["sft"]["key"]
    assert "boom" in (tmp_path / "store" / "work" / f"sft-{key}" / "failure.json").read_text()


def test_a_full_disk_inside_a_stage_is_one_sentence(tmp_path, monkeypatch):

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/model.safetensors")

    monkeypatch.setattr(fake_run.Train, "_save", full)
    run = make_run(tmp_path)
    with pytest.raises(StoreError, match=r"no space left on the disk while running a stage \(/somewhere/model"):
        execute(run, make_registry())
    assert statuses(run)["sft"] == "failed"

    def said_in_words(*_):
        raise RuntimeError("write failed: No space left on device (os error 28)")

    monkeypatch.setattr(fake_run.Train, "_save", said_in_words)
    with pytest.raises(StoreError, match="no space left on the disk"):
        execute(run, make_registry())


def test_hooks_see_the_run(tmp_path):
    seen = []

    class Watcher:
        @hookimpl
        def alignpipe_run_started(self, info):
            seen.append(("started", info.attempt, info.stages))

        @hookimpl
        def alignpipe_stage_started(self, stage):
            seen.append(("work", stage))

        @hookimpl
        def alignpipe_metrics_logged(self, stage, metrics, step):
            seen.append((stage, dict(metrics), step))

        @hookimpl
        def alignpipe_stage_finished(self, stage, artifact, cached):
            seen.append(("done", stage, artifact.kind, cached))

    run = make_run(tmp_path, stages=["data"])
    execute(run, make_registry(Watcher()))
    execute(run, make_registry(Watcher()))
    assert seen == [
        ("started", 1, ("data",)),
        ("work", "data"),
        ("data", {"rows": 3}, 0),
        ("done", "data", "dataset", False),
        ("started", 1, ("data",)),
        ("done", "data", "dataset", True),
    ]


def test_an_observer_that_raises_is_reported_once_and_switched_off(tmp_path, capsys):
    class Broken:
        @hookimpl
        def alignpipe_metrics_logged(self):
            raise RuntimeError("oh dear")

        @hookimpl
        def alignpipe_run_finished(self):
            raise AssertionError("it is switched off")

    registry = make_registry()
    registry.manager.register(Broken(), name="acme")
    assert execute(make_run(tmp_path), registry) == 0
    shown = capsys.readouterr().err
    assert shown.count("plugin acme is not told of this run any more") == 1
    assert "its alignpipe_metrics_logged raised RuntimeError: oh dear" in shown


def test_a_run_that_cannot_start_counts_as_an_attempt_that_failed(tmp_path, monkeypatch):
    def refuse(*_):
        raise ConfigError("no such entity")

    monkeypatch.setattr(fake_run.RecordingTracker, "start", refuse)
    trackers, _ = tracked(tmp_path)
    run = make_run(tmp_path, trackers=trackers)
    with pytest.raises(ConfigError, match="no such entity"):
        execute(run, make_registry())
    assert list(run.folder.iterdir()) == []
    record = json.loads(next((tmp_path / "store" / "runs").iterdir()).read_text())
    assert record["attempts"][0]["status"] == "failed"


def test_trackers_are_closed_when_the_run_folder_cannot_be_written(tmp_path):
    trackers, log = tracked(tmp_path)
    run = make_run(tmp_path, trackers=trackers)
    (run.folder / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(StoreError, match="opening the run's metrics: Is a directory; something else"):
        execute(run, make_registry())
    assert json.loads(log.read_text().splitlines()[-1]) == ["finish", "failed"]


def test_trackers_are_closed_whatever_goes_wrong_before_the_first_stage(tmp_path, monkeypatch):
    """In a sweep the process goes on, and the next job's tracker would find this one's run still open."""

    def broken(*_, **__):
        raise RuntimeError("a bug")

    trackers, log = tracked(tmp_path)
    monkeypatch.setattr(sys.modules["alignpipe.runner.execute"], "RunFiles", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        execute(make_run(tmp_path, trackers=trackers), make_registry())
    assert json.loads(log.read_text().splitlines()[-1]) == ["finish", "failed"]


def test_a_text_that_looks_like_an_interpolation_is_written_as_it_is(tmp_path):
    text = "say ${no such} or \\${x} in a shell"
    run = replace(make_run(tmp_path), resolved={"seed": 0, "data": {"prompts": [text]}})
    assert execute(run, make_registry()) == 0
    assert (run.folder / "config.yaml").read_text() == f"seed: 0\ndata:\n  prompts:\n  - {text}\n"


def tracked(tmp_path, fails=""):
    tmp_path.mkdir(exist_ok=True)
    log = tmp_path / "tracker.jsonl"
    return {"first": Selected("tracker", "fake", TrackerConfig(str(log), fails))}, log


def test_trackers_get_a_first_and_a_cached_run_alike(tmp_path):
    trackers, log = tracked(tmp_path)
    execute(make_run(tmp_path, trackers=trackers), make_registry())
    first = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    execute(make_run(tmp_path, trackers=trackers), make_registry())
    cached = [json.loads(line) for line in log.read_text().splitlines()]
    assert first[0] == cached[0] == ["start", 1, {}]
    assert ["log", "sft", {"loss": 10.0, "group/total": 0.1}, 1] in first
    assert first == cached
    assert first[-1] == ["finish", "finished"]
    assert first[-2][0] == "summary"


def told(log):
    """(name, step, value) of everything a tracker was given."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [entry[1:] for entry in entries if entry[0] == "log"]
    return [(f"{stage}/{name}", step, value) for stage, metrics, step in logged for name, value in metrics.items()]


@pytest.mark.parametrize("second", ["two", "one"], ids=["another folder", "the same folder"])
@pytest.mark.parametrize("stopped", [{"signal_at": 3}, {"fail": "boom"}], ids=["interrupted", "failed"])
def test_a_run_that_goes_on_tells_a_tracker_nothing_twice(tmp_path, stopped, second):
    trackers, log = tracked(tmp_path)
    run = make_run(tmp_path, "one", sft=SftConfig(**stopped), trackers=trackers)
    with pytest.raises(ValueError, match="boom") if "fail" in stopped else nullcontext():
        execute(run, make_registry())
    resumed = make_run(tmp_path, second, trackers=trackers)
    execute(resumed, make_registry())
    assert statuses(resumed)["sft"] == "resumed"
    plain_trackers, plain_log = tracked(tmp_path / "plain")
    undisturbed = make_run(tmp_path / "plain", trackers=plain_trackers)
    execute(undisturbed, make_registry())
    assert sorted(told(log)) == sorted(told(plain_log))
    assert metrics_of(resumed) == metrics_of(undisturbed), "the files of a run folder are complete, each line once"


def test_a_folder_that_is_entered_several_times_forgets_nothing_that_was_told(tmp_path, monkeypatch):
    """As that of a sweep's job: an attempt that ends early has fewer lines in its files than the one before it."""
    trackers, log = tracked(tmp_path)
    execute(make_run(tmp_path, "one", sft=SftConfig(signal_at=3), trackers=trackers), make_registry())
    with monkeypatch.context() as patch:
        patch.setattr(fake_run.Train, "_resume", lambda *_: ())
        with pytest.raises(ValueError, match="not enough values to unpack"):
            execute(make_run(tmp_path, "one", trackers=trackers), make_registry())
    resumed = make_run(tmp_path, "one", trackers=trackers)
    execute(resumed, make_registry())
    assert statuses(resumed)["sft"] == "resumed"
    plain_trackers, plain_log = tracked(tmp_path / "plain")
    execute(make_run(tmp_path / "plain", trackers=plain_trackers), make_registry())
    assert sorted(told(log)) == sorted(told(plain_log))
    log.unlink()
    execute(make_run(tmp_path, "one", trackers=trackers), make_registry())
    assert sorted(told(log)) == sorted(told(plain_log)), "a finished run is begun anew"


def test_a_tracker_that_opens_another_run_is_told_everything(tmp_path, monkeypatch):
    trackers, log = tracked(tmp_path)
    execute(make_run(tmp_path, sft=SftConfig(signal_at=3), trackers=trackers), make_registry())
    log.unlink()
    monkeypatch.setattr(fake_run.RecordingTracker, "start", lambda *_: "id-2")
    execute(make_run(tmp_path, trackers=trackers), make_registry())
    assert ("data/rows", 0, 3.0) in told(log)
    assert ("sft/group/total", 4, 1.0) in told(log)


def test_what_differs_from_an_earlier_attempt_is_told_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "sft/a": 1.5, "sft/b": "nan"}\n{"stage"')
    known = logged_values([tmp_path, tmp_path / "gone"])
    assert new_values("sft", {"a": 1.5, "b": float("nan"), "c": 1.5}, 1, known) == {"c": 1.5}
    assert new_values("sft", {"a": 2.5, "b": 1.5}, 1, known) == {"a": 2.5, "b": 1.5}
    assert new_values("sft", {"a": 1.5}, 2, known) == {"a": 1.5}


@pytest.mark.parametrize("fails", ["start", "log", "artifact", "summary", "finish"])
def test_a_tracker_that_raises_is_reported_once_and_switched_off(tmp_path, capsys, fails):
    trackers, log = tracked(tmp_path, fails)
    sound = tmp_path / "sound"
    trackers["sound"] = Selected("tracker", "fake", TrackerConfig(str(sound)))
    assert execute(make_run(tmp_path, trackers=trackers), make_registry()) == 0
    shown = capsys.readouterr().err
    assert (
        shown.count("tracker first (tracker/fake (fake-stages 1.0)) is switched off, the run goes on without it") == 1
    )
    assert f"RuntimeError: no {fails} today" in shown
    names = [json.loads(line)[0] for line in log.read_text().splitlines()] if log.exists() else []
    assert fails not in names
    assert json.loads(sound.read_text().splitlines()[-1]) == ["finish", "finished"]


def test_a_tracker_that_finds_its_config_wrong_too_late_ends_no_run(tmp_path, capsys, monkeypatch):

    def refuse(*_):
        raise ConfigError("tracker.first.key: no key")

    monkeypatch.setattr(fake_run.RecordingTracker, "log", refuse)
    trackers, _ = tracked(tmp_path)
    assert execute(make_run(tmp_path, trackers=trackers), make_registry()) == 0
    told = "is switched off, the run goes on without it: ConfigError: tracker.first.key"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"start": lambda *_: Path("here")}, "TypeError: its start returned PosixPath('here'), which is no str"),
        ({"finish": lambda *_: 3}, "TypeError: its finish returned 3, which is no str"),
        ({"log": None}, "TypeError: 'NoneType' object is not callable"),
    ],
)
def test_a_tracker_that_does_not_keep_its_contract_ends_no_run(tmp_path, capsys, monkeypatch, changes, told):
    for name, value in changes.items():
        monkeypatch.setattr(fake_run.RecordingTracker, name, value)
    trackers, _ = tracked(tmp_path)
    run = make_run(tmp_path, trackers=trackers)
    assert execute(run, make_registry()) == 0
    assert f"tracker first (tracker/fake (fake-stages 1.0)) is switched off, the run goes on without it: {told}" in (
        capsys.readouterr().err
    )
    assert summary_of(run)["status"] == "finished"


def test_trackers_without_a_method_or_not_made_end_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(fake_run.RecordingTracker, "summary")
    trackers, _ = tracked(tmp_path)
    trackers["none"] = Selected("tracker", "none", TrackerConfig(str(tmp_path / "none")))
    none = Component("tracker", "none", TrackerConfig, f"{ME}:no_tracker", "its factory forgets to return")
    run = make_run(tmp_path, trackers=trackers)
    assert execute(run, make_registry(components=(*COMPONENTS, none))) == 0
    shown = capsys.readouterr().err
    assert "no attribute 'summary'" in shown
    assert "tracker none (tracker/none (fake-stages 1.0)) is switched off" in shown
    assert "its factory returned None in place of a tracker" in shown


def test_trackers_are_closed_where_the_summary_cannot_be_written(tmp_path, monkeypatch, capsys):

    def full(*_):
        raise StoreError("no space left on the disk while writing summary.json")

    monkeypatch.setattr(Summary, "write", full)
    trackers, log = tracked(tmp_path)
    with pytest.raises(StoreError, match="writing summary"):
        execute(make_run(tmp_path, trackers=trackers), make_registry())
    assert json.loads(log.read_text().splitlines()[-1]) == ["finish", "failed"]
    assert "look there" in capsys.readouterr().err


def test_stored_inputs_are_kept_as_long_as_the_run_that_reads_them(tmp_path):
    first = make_run(tmp_path, "first", stages=["data", "sft"])
    execute(first, make_registry())
    digest = summary_of(first)["stages"]["sft"]["digest"]
    shutil.rmtree(first.folder)
    second = make_run(tmp_path, "second", stages=["data", "ppo"], inputs={"ppo": {"policy": f"store:{digest[:10]}"}})
    assert digest not in RunRecords(Store(tmp_path / "store").layout).used_digests()
    execute(second, make_registry())
    assert digest in RunRecords(Store(tmp_path / "store").layout).used_digests()


def test_files_of_an_earlier_attempt_are_no_resumption(tmp_path, capsys):
    execute(make_run(tmp_path, stages=["data"]), make_registry())
    run = make_run(tmp_path, stages=["data", "sft"])
    decision = make_plan(Planner(run, make_registry(), Store(tmp_path / "store")))[1]
    work = Store(tmp_path / "store").work("sft", decision.key)
    work.prepare(decision.code, restart=False)
    (work.state / "notes.txt").write_text("half")
    capsys.readouterr()
    assert execute(run, make_registry()) == 0
    assert "sft      resume: an earlier attempt did not finish" in capsys.readouterr().err
    assert statuses(run) == {"data": "cached", "sft": "ran"}


def test_a_tracker_that_cannot_be_used_as_configured_stops_the_run_before_any_work(tmp_path, executions, monkeypatch):

    def refuse(*_):
        raise ConfigError("tracker.first.key: no key")

    monkeypatch.setattr(fake_run.RecordingTracker, "__init__", refuse)
    trackers, _ = tracked(tmp_path)
    with pytest.raises(ConfigError, match="no key"):
        execute(make_run(tmp_path, trackers=trackers), make_registry())
    assert executions() == []
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_stages_that_cannot_be_fed_stop_the_run_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"inputs\.sft\.dataset has no source"):
        execute(make_run(tmp_path, stages=["sft"]), make_registry())
    assert list(tmp_path.iterdir()) == []


def test_a_user_file_that_changed_reruns_the_data(tmp_path, executions):
    file = tmp_path / "rows"
    file.write_text("one")
    run = make_run(tmp_path, data=DataConfig(path=str(file)), stages=["data", "sft"])
    execute(run, make_registry())
    file.write_text("two")
    execute(run, make_registry())
    assert executions() == ["data", "sft", "data"], "the same rows came out, so sft is reused"


def test_a_user_file_that_changes_after_the_run_was_planned_is_refused(tmp_path, executions):
    """Its rows would be stored under the key of what it held before."""
    file = tmp_path / "rows"
    file.write_text("one")

    class Editor:
        @hookimpl
        def alignpipe_run_started(self, info):
            file.write_text("two")

    run = make_run(tmp_path, data=DataConfig(path=str(file)), stages=["data", "sft"])
    told = r"^stage 'data' \(data/fake .*\): what its options name has changed .*\(file\)"
    with pytest.raises(ConfigError, match=told):
        execute(run, make_registry(Editor()))
    assert statuses(run) == {"data": "failed", "sft": "skipped"}
    assert executions() == []
    assert execute(run, make_registry()) == 0
    assert executions() == ["data", "sft"]


def test_a_stored_object_and_a_checkpoint_folder_as_inputs(tmp_path, executions):
    first = make_run(tmp_path, stages=["data", "sft"])
    execute(first, make_registry())
    stages = summary_of(first)["stages"]
    inputs = {"ppo": {"dataset": f"store:{stages['data']['digest'][:10]}", "policy": stages["sft"]["artifact"]}}
    second = make_run(tmp_path, "two", stages=["ppo"], inputs=inputs)
    assert execute(second, make_registry()) == 0
    assert execute(second, make_registry()) == 0
    assert executions() == ["data", "sft", "ppo"]
    fed = json.loads(Path(summary_of(second)["stages"]["ppo"]["artifact"], "config.json").read_text())["fed"]
    assert fed["dataset"] == stages["data"]["digest"]
    assert fed["policy"] == stages["sft"]["digest"], "the folder's digest is that of its files"


def test_a_factory_that_makes_no_stage_names_its_plugin(tmp_path):
    broken = Component("data", "broken", EvalConfig, "support.fake_run:NoStage", "b", makes="dataset")
    run = make_run(tmp_path, stages=["data"], extra={"data": Selected("data", "broken", EvalConfig())})
    with pytest.raises(PluginError, match=r"data/broken \(fake-stages 1.0\).*NoStage without run"):
        execute(run, make_registry(components=(*COMPONENTS, broken)))


def test_a_factory_that_makes_no_reward_names_its_plugin():
    """Whoever builds it: the reward stage, a later stage that opens it, a mix, `score`."""
    broken = Component("reward", "broken", EvalConfig, "support.fake_run:NoStage", "b")
    builder = Builder(make_registry(components=(broken,)), RunSettings())
    with pytest.raises(PluginError, match=r"reward/broken \(fake-stages 1.0\).*NoStage without score\(samples\)"):
        builder.build(Selected("reward", "broken", {}))


def test_a_factory_that_exits_is_an_error(monkeypatch):
    """Rewards are built before the first stage works, too, where an exit with 0 would look as if all were well."""
    monkeypatch.setattr(fake_run, "NoStage", lambda *_: sys.exit(0))
    broken = Component("reward", "broken", EvalConfig, "support.fake_run:NoStage", "b")
    builder = Builder(make_registry(components=(broken,)), RunSettings())
    with pytest.raises(PluginError, match=r"reward/broken \(fake-stages 1.0\): its factory called sys.exit\(0\)"):
        builder.build(Selected("reward", "broken", {}))


def test_context(tmp_path, capsys):
    curious = Component("data", "curious", EvalConfig, f"{ME}:Curious", "c", makes="dataset", uses=("model",))
    quiet = Component("tracker", "quiet", TrackerConfig, f"{ME}:QuietTracker", "has no alert")
    trackers, log = tracked(tmp_path)
    second = tmp_path / "quiet.jsonl"
    trackers["quiet"] = Selected("tracker", "quiet", TrackerConfig(str(second)))
    extra = {"data": Selected("data", "curious", EvalConfig())}
    run = make_run(tmp_path, stages=["data"], extra=extra, trackers=trackers, seed=4)
    execute(run, make_registry(components=(*COMPONENTS, curious, quiet)))
    shown = capsys.readouterr().err
    assert "data     9 rows on cpu with seed 4" in shown
    assert "data     alarm: odd: look at it" in shown
    assert "it fails" not in shown, "the stage's own error says it"
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in told if line[0] == "alert"] == [
        ["alert", "data: odd", "look at it", "warn"],
        ["alert", "data: broken", "it fails", "error"],
    ]
    assert json.loads(second.read_text().splitlines()[-1]) == ["finish", "finished"]
    assert metrics_of(run) == [{"stage": "data", "step": 5, "data/a": 1}, {"stage": "data", "step": 5, "data/b": "nan"}]
    assert Path(summary_of(run)["stages"]["data"]["artifact"], "slots").read_text() == "model"


def held():
    """The check of a lock that nobody takes away."""


def test_what_is_logged_becomes_numbers_of_pythons_own(tmp_path):
    seen = []
    (tmp_path / "work").mkdir()
    (tmp_path / "run").mkdir()
    observe = lambda *facts: seen.append(facts)  # noqa: E731
    log = StageLog("s", tmp_path / "work", held, RunFiles(tmp_path / "run"), lambda *facts: None, observe)
    log.metrics({"a": np.float32(1.5), "b": 2, "c": True}, np.int64(3))
    assert seen == [("s", {"a": 1.5, "b": 2, "c": 1.0}, 3)]
    assert [type(value) for value in seen[0][1].values()] == [float, int, float]
    for metrics, step, told in (
        ({"name": "hello"}, 4, "stage 's' logs name='hello', which is no number"),
        ({"a": 1.0}, "one", "stage 's' logs at the step 'one', which is no whole number"),
        ({"a": 1.0}, 1.5, "stage 's' logs at the step 1.5, which is no whole number"),
    ):
        with pytest.raises(ValueError, match=told):
            log.metrics(metrics, step)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "name", "content", "told"),
    [
        ("dataset", "other.json", "{}", "it has no dataset.json; alignpipe.dataset.write_dataset writes one"),
        ("dataset", "dataset.json", "{}", "is no description of a dataset: KeyError: 'tables'"),
        ("report", "report.json", "{", "its report.json is no JSON"),
        ("report", "report.json", "[]", "its report.json holds no object"),
        ("report", "report.json", '{"columns": [], "rows": []}', "its report.json has no columns"),
        ("report", "report.json", '{"columns": ["a"], "rows": [["x"]]}', "a label and 1 values"),
        (
            "report",
            "report.json",
            '{"columns": ["a"], "rows": [], "samples": [{}]}',
            "samples as objects with a prompt",
        ),
    ],
)
def test_what_later_stages_or_the_table_could_not_read_is_not_published(tmp_path, kind, name, content, told):
    spec = next(spec for spec in Planner(make_run(tmp_path), make_registry(), Store(tmp_path / "store")).specs)
    (tmp_path / name).write_text(content)
    with pytest.raises(PluginError, match=rf"^what .*fake-stages 1\.0.* made in stage .* cannot be used: .*{told}"):
        check_payload(replace(spec, makes=kind), tmp_path)


def test_an_unexpected_error_says_in_which_stage_of_which_plugin_it_was_raised(tmp_path):
    with pytest.raises(ValueError, match="odd") as raised:
        execute(make_run(tmp_path, sft=SftConfig(fail="odd")), make_registry())
    assert raised.value.__notes__ == ["raised in stage 'sft' (sft/fake (fake-stages 1.0))"]


def test_what_was_logged_is_forced_to_the_disk_when_a_checkpoint_asks_for_it(tmp_path, monkeypatch):
    synced = []
    work, folder = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    log = StageLog("s", work, held, RunFiles(folder), lambda *facts: None, lambda *facts: None)
    log.sync()
    assert synced == [], "nothing was logged"
    log.metrics({"a": 1}, 1)
    log.timings({"b": 1}, 1)
    synced.clear()
    log.sync()
    assert synced == [str(work / "metrics.jsonl"), str(work / "timings.jsonl")]


def test_a_lost_tail_and_a_second_rewind(tmp_path):
    work, folder = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    folder.mkdir()
    (work / "metrics.jsonl").write_text('{"stage": "s", "step": 1, "s/a": 1}\n{"stage": "s", "step": 2, "s/a"')
    told = []
    files = RunFiles(folder)
    log = StageLog("s", work, held, files, lambda *facts: told.append(facts), lambda *facts: None)
    log.rewind(1)
    assert told == [("s", {"a": 1.0}, 1)]
    log.metrics({"a": 2}, 2)
    log.metrics({"a": 3}, 3)
    log.rewind(2)
    log.metrics({"b": 9}, None)
    for path in (work, folder):
        assert [(line["step"], line.get("s/a")) for line in read_lines(path / "metrics.jsonl")] == [
            (1, 1),
            (2, 2),
            (2, None),
        ]


def test_what_comes_again_behind_the_checkpoint_of_the_last_step_is_written_once(tmp_path):
    """Closing figures are logged at the last step, whose checkpoint says nothing of them."""
    work, folder = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    folder.mkdir()
    told, observed = [], []

    def attempt(begin):
        files = RunFiles(folder)
        tell, observe = (lambda *facts: told.append(facts)), (lambda *facts: observed.append(facts))
        log = StageLog("s", work, held, files, tell, observe)
        begin(log)
        log.metrics({"closing": 3, "odd": float("nan")})
        return files

    attempt(lambda log: [log.metrics({"a": step}, step) for step in (1, 2)])
    (work / "timings.jsonl").write_text('{"stage": "s", "step": 2, "s/time/save": 1.0}\n')
    once = [(work / "metrics.jsonl").read_bytes(), (work / "timings.jsonl").read_bytes()]
    told.clear(), observed.clear()
    files = attempt(lambda log: log.rewind(2))
    for path in (work, folder):
        assert [(path / name).read_bytes() for name in ("metrics.jsonl", "timings.jsonl")] == once
    assert [(name, step) for _, values, step in told for name in values] == [
        ("a", 1),
        ("a", 2),
        ("closing", 2),
        ("odd", 2),
        ("time/save", 2),
    ]
    assert len(observed) == 1, "observers are shown what the present attempt logs"
    assert files.last["s/closing"] == 3
    attempt(lambda log: [log.rewind(2), log.metrics({"closing": 4})])
    assert len(read_lines(work / "metrics.jsonl")) == 4, "another value is another line"


@pytest.mark.parametrize(("steps", "resumed"), [([], False), ([0, 5], False), ([5], True), ([5, 0], True)])
def test_a_stage_has_resumed_if_it_began_at_a_step(tmp_path, steps, resumed):
    """A mix rewinds for each of its members: the later ones begin where the ones before ended."""
    log = StageLog("s", tmp_path, held, RunFiles(tmp_path), lambda *facts: None, lambda *facts: None)
    for step in steps:
        log.rewind(step)
    assert log.resumed is resumed


def test_a_stage_that_starts_anew_drops_what_an_earlier_attempt_logged(tmp_path):
    work, folder = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    folder.mkdir()
    (work / "metrics.jsonl").write_text('{"stage": "s", "step": 7, "s/a": 1}\n')
    log = StageLog("s", work, held, RunFiles(folder), lambda *facts: None, lambda *facts: None)
    log.drop_earlier_if_begun_anew()
    assert read_lines(work / "metrics.jsonl") == []


class FakeRewardStage:
    def __init__(self, selected, version, offered_by):
        self.made_from = (selected.name, version, offered_by)

    def run(self, inputs, ctx):
        (ctx.payload / "reward.json").write_text(json.dumps([*self.made_from, *sorted(inputs), *ctx.slots]))


def test_rewards_are_run_by_the_reward_stage(tmp_path, monkeypatch):
    """Only that it is asked; the real one imports torch."""
    stage = types.ModuleType("alignpipe.rewarding.stage")
    stage.RewardStage = FakeRewardStage
    monkeypatch.setitem(sys.modules, "alignpipe.rewarding.stage", stage)
    run = make_run(tmp_path, stages=["data", "reward"])
    execute(run, make_registry())
    reward = Path(summary_of(run)["stages"]["reward"]["artifact"], "reward.json")
    assert json.loads(reward.read_text()) == ["fake", 1, "fake-stages 1.0", "dataset", "policy", "model"]


def test_next_command_is_the_same_with_another_seed(tmp_path, capsys):
    execute(make_run(tmp_path, seed=3, overrides=("seed=3", "ppo.lr=0.1"), ppo=PpoConfig(lr=0.1)), make_registry())
    assert "alignpipe ppo.lr=0.1 seed=4" in capsys.readouterr().out


def test_a_component_that_needs_a_gpu_is_refused_before_any_work(tmp_path):
    greedy = tuple(
        replace(component, requires=("gpu",)) if component.group == "ppo" else component for component in COMPONENTS
    )
    run = make_run(tmp_path)
    with pytest.raises(ConfigError, match=r"ppo/fake \(fake-stages 1\.0\) needs a GPU, and .* on cpu \(device=cpu\)"):
        execute(run, make_registry(components=greedy))
    assert not list(tmp_path.glob("**/objects")), "nothing was computed"
    shorter = make_run(tmp_path, stages=["data", "sft"])
    assert execute(shorter, make_registry(components=greedy)) == 0
    execute(make_run(tmp_path, "elsewhere"), make_registry())
    assert execute(make_run(tmp_path, "shown"), make_registry(components=greedy)) == 0, "all is stored"


def test_other_requirements_are_told_and_unknown_ones_refused():
    with pytest.raises(ValueError, match="ppo/fake requires 'gpus'; what can be required: gpu, network, sandbox"):
        replace(next(entry for entry in COMPONENTS if entry.group == "ppo"), requires=("gpus",))
