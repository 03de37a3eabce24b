"""The W&B tracker: what it sends, what it never does (ask for a login, leak a secret, stop a run)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alignpipe.api import Artifact, RunInfo
from alignpipe.errors import ConfigError
from alignpipe_plugins.tracker_wandb.plugin import Mode, WandbConfig, alignpipe_components
from alignpipe_plugins.tracker_wandb.sender import Sender
from alignpipe_plugins.tracker_wandb.settings import (
    check_key,
    redact,
    redact_override,
    resolve_mode,
    resolve_names,
    run_config,
    settings,
)
from alignpipe_plugins.tracker_wandb.tracker import WandbTracker

pytestmark = pytest.mark.slow

CTX = SimpleNamespace(seed=0, device="cpu")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No W&B setting and no key of the machine's owner may reach a test."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))


def make_info(folder, **facts):
    folder.mkdir(exist_ok=True)
    config = {
        "seed": 1,
        "ppo": {"lr": 0.1, "judge": {"api_key": "sk-123", "url": "https://me:pw@judge.example/x"}},
        "tracker": {"wandb": {"mode": None}},
        "outputs": "/here",
    }
    overrides = ("ppo.lr=0.1", "ppo.judge.api_key=sk-123")
    facts = {"config": config, "overrides": overrides, "stages": ("sft", "ppo"), **facts}
    return RunInfo(run_key="k" * 64, attempt=1, folder=folder, **facts)


ALONE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from alignpipe.api import RunInfo
from alignpipe_plugins.tracker_wandb.plugin import WandbConfig
from alignpipe_plugins.tracker_wandb.tracker import WandbTracker

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
tracker = WandbTracker(WandbConfig(), SimpleNamespace(seed=0, device="cpu"))
tracker.start(RunInfo(run_key="k", attempt=1, folder=folder, config={}, overrides=("seed=1",), sweep="s7"))
for step in range(5):
    tracker.log("sft", {"loss": 1.0}, step)
print(tracker.finish("finished"))
"""


def run_alone(folder, **variables):
    """A run in a process of its own, as wandb reads the environment once a process; gives what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-c", ALONE, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def read_back(folder, *options):
    run = next((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inspect(folder):
    """The run as wandb itself reads it back."""
    return json.loads(read_back(folder, "--summary"))


def records(folder):
    """What the run's file holds, in its order."""
    return [json.loads(line) for line in read_back(folder).splitlines()]


def comes_to_hold(file: Path, text: bytes) -> bool:
    """Whether W&B's own process writes `text` to the file; it may do so a little after `finish` came back."""
    deadline = time.monotonic() + 30
    while text not in file.read_bytes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_component_is_light_and_builds_with_its_defaults():
    component = next(iter(alignpipe_components()))
    assert (component.group, component.name) == ("tracker", "wandb")
    script = "import sys, alignpipe_plugins.tracker_wandb.plugin; print({'wandb', 'omegaconf'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_offline_run(tmp_path):
    tracker = WandbTracker(WandbConfig(tags=["a", "b"], notes="why"), CTX)
    run_id = tracker.start(make_info(tmp_path / "run", sweep="sweep-7"))
    tracker.log("sft", {"loss": 2.0}, 1)
    tracker.log("sft", {"time/step": 0.5}, 1)
    tracker.log("sft", {"loss": 1.0}, 2)
    tracker.log("ppo", {"objective/kl": 0.25}, 1)
    tracker.artifact(Artifact("policy", "ppo", tmp_path, "d" * 64))
    tracker.summary({"eval/gold/win_rate": 0.9})
    line = tracker.finish("finished")
    seen = inspect(tmp_path / "run")
    assert (seen["run_id"], seen["state"], seen["exit_code"]) == (run_id, "finished", 0)
    assert (seen["project"], seen["tags"], seen["notes"]) == ("alignpipe", ["a", "b"], "why")
    assert seen["name"] == "ppo.lr=0.1 ppo.judge.api_key=***"
    assert seen["step"] == 2, "three rows: what belongs to one step goes in one row"
    expected = {
        "sft/loss": 1,
        "sft/time/step": 0.5,
        "sft/step": 2,
        "ppo/objective/kl": 0.25,
        "ppo/step": 1,
        "artifact/ppo": "d" * 64,
        "eval/gold/win_rate": 0.9,
    }
    assert {key: value for key, value in seen["summary"].items() if not key.startswith("_")} == expected
    assert seen["config"]["ppo"]["judge"] == {"api_key": "***", "url": "https://***@judge.example/x"}
    assert seen["config"]["alignpipe"]["overrides"] == ["ppo.lr=0.1", "ppo.judge.api_key=***"]
    run_folder = Path(line.removeprefix("W&B  wandb sync "))
    assert run_folder.parent == tmp_path / "run" / "wandb"
    assert not any(b"sk-123" in path.read_bytes() for path in run_folder.rglob("*") if path.is_file())
    assert float(os.environ["WANDB__TRANSACTION_LOG_FLUSH_INTERVAL"]) <= 0.1, "what a killed run loses"


@pytest.mark.parametrize("wanted", [0, 2])
def test_samples_of_an_evaluation_as_a_table(wanted, tmp_path):
    """Texts leave the machine with a run that is sent, so they are part of it only where that is asked for."""
    report = tmp_path / "report"
    report.mkdir()
    rows = [{"prompt": f"p{n}", "policy": "so", "policy_reward": 0.5 if n else None} for n in range(4)]
    (report / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracker = WandbTracker(WandbConfig(samples=wanted), CTX)
    tracker.start(make_info(tmp_path / "run"))
    tracker.log("eval", {"kl": 1.0}, 0)
    tracker.artifact(Artifact("report", "eval", report, "d" * 64))
    tracker.artifact(Artifact("policy", "ppo", report, "e" * 64))
    tracker.finish("finished")
    tables = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("*.table.json")]
    if wanted:
        assert [(table["columns"], table["data"]) for table in tables] == [
            (["prompt", "policy", "policy_reward"], [["p0", "so", None], ["p1", "so", 0.5]])
        ]
        assert inspect(tmp_path / "run")["summary"]["eval/samples"]["_type"] == "table-file"
    else:
        assert tables == []


def test_an_offline_run_sends_nothing(tmp_path):
    """Not even how long wandb's own calls took, which it reports to the server of the settings, not of the run."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run_alone(tmp_path / "run", WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}", NO_PROXY="127.0.0.1")
        server.shutdown()
    assert inspect(tmp_path / "run")["step"] == 4
    assert asked == []


def test_the_environment_wins_over_our_defaults(tmp_path):
    variables = {
        "WANDB_DIR": str(tmp_path / "elsewhere"),
        "WANDB_ENTITY": "us",
        "WANDB_JOB_TYPE": "nightly",
        "WANDB_NAME": "mine",
        "WANDB_NOTES": "why",
        "WANDB_PROJECT": "p",
        "WANDB_RUN_GROUP": "g",
        "WANDB_RUN_ID": "myid1234",
        "WANDB_TAGS": "a,b",
    }
    printed = run_alone(tmp_path / "run", **variables)
    (seen,) = (record["run"] for record in records(tmp_path / "elsewhere") if record["type"] == "run")
    assert (seen["run_id"], seen["project"], seen["entity"]) == ("myid1234", "p", "us")
    assert (seen["display_name"], seen["notes"], seen["tags"]) == ("mine", "why", ["a", "b"])
    assert (seen["run_group"], seen["job_type"]) == ("g", "nightly")
    assert list((tmp_path / "run").iterdir()) == []
    (first,) = (tmp_path / "elsewhere" / "wandb").glob("offline-run-*")
    assert printed == f"W&B  wandb sync {first}\n"
    again = shlex.split(run_alone(tmp_path / "again", **variables))
    assert again[3] == str(first), "an earlier attempt's part is named wherever it lies"
    assert len(again) == 5


def test_one_id_for_all_jobs_of_a_sweep_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "myid1234")
    info = make_info(tmp_path / "run", sweep="s7", swept=("seed=1",))
    with pytest.raises(ConfigError, match=r"WANDB_RUN_ID=myid1234 is the name of one run, .* unset it"):
        WandbTracker(WandbConfig(), CTX).start(info)


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("interrupted", 130)])
def test_jobs_of_one_process_are_separate_runs_and_a_resumed_one_keeps_its_id(tmp_path, status, code):
    first = WandbTracker(WandbConfig(project="mine"), CTX)
    first_id = first.start(make_info(tmp_path / "one"))
    second = WandbTracker(WandbConfig(), CTX)
    second_id = second.start(make_info(tmp_path / "two", tracker_ids={"wandb": "abc12345"}))
    first.log("sft", {"loss": 1.0}, 1)
    second.log("sft", {"loss": 2.0}, 1)
    first.finish(status)
    second.finish("finished")
    assert second_id == "abc12345" != first_id
    seen = [inspect(tmp_path / name) for name in ("one", "two")]
    assert [entry["run_id"] for entry in seen] == [first_id, second_id]
    assert [entry["exit_code"] for entry in seen] == [code, 0]
    assert [entry["summary"]["sft/loss"] for entry in seen] == [1, 2]
    assert seen[0]["project"] == "mine"


def test_a_run_that_goes_on_names_every_part_that_is_still_to_be_sent(tmp_path):
    folders, ids = [tmp_path / name for name in ("one", "two", "three")], {}
    for number, folder in enumerate(folders):
        tracker = WandbTracker(WandbConfig(), CTX)
        earlier = {"wandb": tuple(folders[:number])}
        ids = {"wandb": tracker.start(make_info(folder, tracker_ids=ids, earlier=earlier))}
        line = tracker.finish("finished")
        if number == 0:  # what `wandb sync` leaves beside what it sent
            (part,) = (folder / "wandb").glob("offline-run-*")
            (part / f"run-{ids['wandb']}.wandb.synced").touch()
    parts = [Path(word) for word in shlex.split(line)[3:]]
    assert [part.parents[1] for part in parts] == [tmp_path / "two", tmp_path / "three"]
    assert {part.name.rpartition("-")[2] for part in parts} == {ids["wandb"]}


@pytest.mark.parametrize(
    ("config", "run_id", "words"),
    [
        (WandbConfig(project="a/b"), "", "Invalid project name 'a/b'"),
        (WandbConfig(), "a/b", "Run ID cannot contain the characters"),
    ],
)
def test_what_wandb_refuses_stops_the_run(tmp_path, monkeypatch, config, run_id, words):
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ConfigError, match=f"tracker wandb: wandb refuses .*{words}"):
        WandbTracker(config, CTX).start(make_info(tmp_path / "run"))


def test_a_setting_that_wandb_refuses_stops_the_run(tmp_path, monkeypatch):
    import wandb

    def refuse(**given):
        raise ValueError("1 validation error\n  Input should be a number\n    For further information visit")

    monkeypatch.setattr(wandb, "Settings", refuse)
    with pytest.raises(ConfigError, match="1 validation error Input should be a number; mend it"):
        WandbTracker(WandbConfig(), CTX).start(make_info(tmp_path / "run"))
    monkeypatch.setattr(wandb, "setup", refuse)
    with pytest.raises(ConfigError, match="Input should be a number; mend it"):
        WandbTracker(WandbConfig(mode=Mode.online), CTX)


def test_a_key_that_is_none_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match="API key must have 40"):
        WandbTracker(WandbConfig(mode=Mode.online), CTX).start(make_info(tmp_path / "run"))


def test_an_empty_variable_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "")
    tracker = WandbTracker(WandbConfig(), CTX)
    tracker.start(make_info(tmp_path / "run"))
    assert "wandb sync" in tracker.finish("finished")


def test_timeouts_are_positive():
    with pytest.raises(ValueError, match="finish_timeout must be a positive number, got 0"):
        WandbConfig(finish_timeout=0)


def test_what_was_logged_is_on_the_disk_a_second_later(tmp_path):
    tracker = WandbTracker(WandbConfig(), CTX)
    tracker.start(make_info(tmp_path / "run"))
    for step in range(20):
        tracker.log("sft", {"loss": 1.0}, step)
    file = next((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    deadline = time.monotonic() + 8
    while file.stat().st_size < 500 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert comes_to_hold(file, b"sft/loss")
    tracker.finish("finished")


def test_figures_that_are_not_finite_arrive(tmp_path):
    tracker = WandbTracker(WandbConfig(), CTX)
    tracker.start(make_info(tmp_path / "run"))
    tracker.log("sft", {"loss": float("nan"), "grad_norm": float("inf"), "time/step": 1.0}, 1)
    tracker.summary({"sft/loss": float("nan"), "sft/grad_norm": float("inf")})
    tracker.finish("failed")
    (row,) = (record["history"]["item"] for record in records(tmp_path / "run") if record["type"] == "history")
    assert (row["sft/loss"], row["sft/grad_norm"], row["sft/step"]) == ("NaN", "Infinity", 1)
    summary = inspect(tmp_path / "run")["summary"]
    assert (summary["sft/loss"], summary["sft/grad_norm"]) == ("NaN", "Infinity")


def test_disabled_does_nothing(tmp_path):
    tracker = WandbTracker(WandbConfig(mode=Mode.disabled), CTX)
    assert tracker.start(make_info(tmp_path / "run")) is None
    tracker.log("sft", {"loss": 1.0}, 1)
    tracker.artifact(Artifact("policy", "ppo", tmp_path, "d"))
    tracker.summary({})
    assert tracker.finish("finished") is None
    assert list((tmp_path / "run").iterdir()) == []


def test_online_without_a_key_is_an_error_before_any_work():
    with pytest.raises(ConfigError, match=r"mode is online, but there is no key for https://.*WANDB_API_KEY"):
        WandbTracker(WandbConfig(mode=Mode.online), CTX)


def test_where_a_key_may_come_from(tmp_path):
    url = "https://wandb.example"
    check_key(url, False, {"WANDB_API_KEY": "x"})
    check_key(url, False, {"WANDB_IDENTITY_TOKEN_FILE": "x"})
    file = tmp_path / "netrc"
    environment = {"NETRC": str(file)}
    file.write_text("machine wandb.example login user password x\n")
    check_key(url, False, environment)
    file.write_text("machine api.wandb.ai login user password x\n")
    check_key(url, True, environment)
    with pytest.raises(ConfigError, match=r"no key for https://wandb\.example"):
        check_key(url, False, environment)
    file.write_text("machine\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_key(url, False, environment)


def test_the_server_may_come_from_the_settings_of_wandb_login(tmp_path, monkeypatch):
    """`wandb login --host=...` notes its own server in a file; another one's key would make wandb ask for one."""
    import wandb

    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.corp.example\n")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    wandb.teardown()  # or this process has read its settings
    try:
        with pytest.raises(ConfigError, match=r"no key for https://wandb\.corp\.example"):
            WandbTracker(WandbConfig(mode=Mode.online), CTX)
        (tmp_path / "netrc").write_text("machine wandb.corp.example login user password x\n")
        WandbTracker(WandbConfig(mode=Mode.online), CTX)
    finally:
        wandb.teardown()


@pytest.mark.parametrize(
    ("configured", "environment", "mode"),
    [
        (None, {}, Mode.offline),
        (None, {"WANDB_MODE": "online"}, Mode.online),
        (None, {"WANDB_MODE": "dryrun"}, Mode.offline),
        (None, {"WANDB_MODE": "run"}, Mode.online),
        (None, {"WANDB_MODE": "Disabled"}, Mode.disabled),
        (Mode.offline, {"WANDB_MODE": "online"}, Mode.offline),
    ],
)
def test_mode(configured, environment, mode):
    assert resolve_mode(WandbConfig(mode=configured), environment) is mode


def test_an_unknown_mode():
    with pytest.raises(ConfigError, match="WANDB_MODE=shared: allowed are offline, online, disabled"):
        resolve_mode(WandbConfig(), {"WANDB_MODE": "shared"})


def test_names_config_then_environment_then_run(tmp_path):
    info = make_info(tmp_path / "run", overrides=("seed=1",), sweep="s7")
    names = resolve_names(WandbConfig(), info, {})
    assert (names.project, names.group, names.name, names.tags) == ("alignpipe", "s7", "seed=1", None)
    environment = {"WANDB_PROJECT": "p", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n"}
    names = resolve_names(WandbConfig(), info, environment)
    assert (names.project, names.group, names.name) == (None, None, None), "wandb reads the environment itself"
    names = resolve_names(WandbConfig(project="q", group="h", run_name="m", tags=["t"]), info, environment)
    assert (names.project, names.group, names.name, names.tags) == ("q", "h", "m", ("t",))
    assert resolve_names(WandbConfig(), info, {"WANDB_SWEEP_ID": "x"}).project is None
    assert resolve_names(WandbConfig(), make_info(tmp_path / "run", overrides=()), {}).name == "run"


def test_jobs_of_a_sweep_have_names_of_their_own(tmp_path):
    shared = ("experiment=smoke", "reward=mix", *(f"+reward@reward.members.{name}=rules" for name in "abc"))

    def name(folder, *overrides, swept=(), sweep="s"):
        info = make_info(tmp_path / folder, overrides=(*shared, *overrides), swept=swept, sweep=sweep)
        made = resolve_names(WandbConfig(), info, {}).name
        assert len(made) <= 80
        return made

    assert name("0", "ppo.lr=1", "seed=2", swept=("ppo.lr=1", "seed=2")).startswith(
        "ppo.lr=1 seed=2 experiment=smoke re"
    )
    long = "ppo.lr=" + "1" * 100
    for swept in ((), (long,)):  # a launcher's process that does not know, and what is too long for a name
        assert name("0", long, swept=swept).endswith("... 0")
        assert name("1", long, swept=swept) != name("0", long, swept=swept) == name("0", long, swept=swept)
    assert name("0", "seed=1", sweep=None) == "... +reward@reward.members.b=rules +reward@reward.members.c=rules seed=1"
    assert name("0", "seed=2", sweep=None) != name("0", "seed=1", sweep=None)
    assert name("0", long, sweep=None) == f"... {'1' * 76}"
    assert name("0", "judge.api_key=k", swept=("judge.api_key=k",)).startswith("judge.api_key=*** experiment=smoke")


def test_settings_config_then_environment_then_ours():
    ours = {"init_timeout": 90.0, "finish_timeout": 60.0, "silent": True, "console": "off"}
    assert settings(WandbConfig(), {}) == ours
    environment = {"WANDB_FINISH_TIMEOUT": "3", "WANDB_CONSOLE": "wrap", "WANDB_SILENT": "false"}
    assert settings(WandbConfig(init_timeout=5), environment) == {"init_timeout": 5}


def test_redaction():
    plain = {"hf_token": "x", "max_tokens": 5, "eos": "</s>", "Password": "y", "list": [{"secret": "z"}], "api_key": ""}
    assert redact(plain) == {
        "hf_token": "***",
        "max_tokens": 5,
        "eos": "</s>",
        "Password": "***",
        "list": [{"secret": "***"}],
        "api_key": "",
    }
    assert redact_override("+a.b.token=x=y") == "+a.b.token=***"
    assert redact_override("~tracker") == "~tracker"


def test_the_config_is_pruned(tmp_path):
    config = run_config(make_info(tmp_path / "run"))
    assert set(config) == {"seed", "ppo", "alignpipe"}
    assert config["alignpipe"]["stages"] == ["sft", "ppo"]


class Unwilling:
    """A W&B run of which some calls fail."""

    def __init__(self, failing, finishes=True):
        self.failing = failing
        self.finishes = finishes
        self.calls = []
        self.settings = SimpleNamespace(sync_dir="somewhere")

    def define_metric(self, name, **_):
        pass

    def comes_to(self, calls):
        """Whether these are the calls; they are made by another thread."""
        deadline = time.monotonic() + 30
        while self.calls != calls and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.calls == calls

    def alert(self, **facts):
        self.calls.append(facts)

    def log(self, row):
        self.calls.append(row)
        if row["s/step"] in self.failing:
            raise RuntimeError("the server is away")

    def finish(self, exit_code):
        self.calls.append(exit_code)
        if not self.finishes:
            raise RuntimeError("no space left")


@pytest.mark.parametrize(("failing", "logged"), [({1}, 6), ({1, 3, 5}, 6), ({1, 2, 3}, 3)])
def test_failures_cost_a_row_and_several_in_a_row_the_tracker(failing, logged, capsys):
    tracker = WandbTracker(WandbConfig(), CTX)
    run = Unwilling(failing)
    tracker._sender = Sender(run)
    for step in range(1, 7):
        tracker.log("s", {"loss": 1.0}, step)
    assert tracker.finish("finished") == "W&B  wandb sync somewhere", "what was logged before can be sent"
    assert run.calls[-1] == 0, "a run that is not closed looks crashed"
    rows = [call for call in run.calls if isinstance(call, dict)]
    assert len(rows) == logged
    shown = capsys.readouterr().err
    assert "metrics.jsonl has everything" in shown
    assert ("left alone" in shown) == (logged == 3)


def test_training_waits_for_no_call_of_wandb():
    """Each takes a millisecond and more where all cores are at work, and as long as it likes where wandb is stuck."""
    free = threading.Event()

    class Slow(Unwilling):
        def log(self, row):
            free.wait(5)
            super().log(row)

    tracker = WandbTracker(WandbConfig(), CTX)
    run = Slow(set())
    tracker._sender = Sender(run)
    value = np.ones(())
    for step in range(3):
        tracker.log("s", {"loss": value, "time/step": 0.5}, step)
    assert run.calls == []
    value += 1  # as an optimiser does with what it has in place
    free.set()
    tracker.finish("finished")
    assert run.calls == [*({"s/loss": 1.0, "s/time/step": 0.5, "s/step": step} for step in range(3)), 0]


def test_a_row_is_sent_with_its_timings_and_not_only_with_the_next_row():
    """Or what is watched online is a row behind, W&B's clock too, and a killed run has lost its last row."""
    tracker = WandbTracker(WandbConfig(), CTX)
    run = Unwilling(set())
    tracker._sender = Sender(run)
    tracker.log("s", {"loss": 1.0}, 1)
    tracker.log("s", {"time/step": 0.5, "perf/tokens_per_second": 9.0}, 1)
    tracker.log("s", {"member/time/save": 2.0}, 1)
    rows = [
        {"s/loss": 1.0, "s/time/step": 0.5, "s/perf/tokens_per_second": 9.0, "s/step": 1},
        {"s/member/time/save": 2.0, "s/step": 1},
    ]
    assert run.comes_to(rows)
    tracker.finish("finished")
    assert run.calls[2:] == [0]


def test_a_run_that_cannot_be_closed_still_says_how_to_send_it(capsys):
    tracker = WandbTracker(WandbConfig(), CTX)
    tracker._sender = Sender(Unwilling(set(), finishes=False))
    assert tracker.finish("finished") == "W&B  wandb sync somewhere"
    assert "W&B could not close the run (RuntimeError: no space left)" in capsys.readouterr().err


def test_after_wandb_has_died_the_next_run_is_logged(tmp_path, capfd):
    """As the next job of a sweep: it must not meet the connection that was lost."""
    from wandb.sdk import wandb_setup

    first = WandbTracker(WandbConfig(), CTX)
    first.start(make_info(tmp_path / "one"))
    process = wandb_setup.singleton()._connection._proc._process
    process.kill()
    process.wait()
    for step in range(9):
        first.log("sft", {"loss": 1.0}, step)
    assert "wandb sync" in first.finish("failed")
    assert "left alone from here on" in capfd.readouterr().err
    second = WandbTracker(WandbConfig(), CTX)
    second.start(make_info(tmp_path / "two"))
    second.log("sft", {"loss": 2.0}, 1)
    second.finish("finished")
    assert inspect(tmp_path / "two")["summary"]["sft/loss"] == 2


def test_an_alert_goes_to_wandb_and_cannot_break_the_run(tmp_path):
    from wandb import AlertLevel

    tracker = WandbTracker(WandbConfig(), CTX)
    run = Unwilling(set())
    tracker._sender = Sender(run)
    tracker.alert("ppo: negative KL", "look", "warn")
    tracker.finish("finished")
    assert run.calls == [{"title": "ppo: negative KL", "text": "look", "level": AlertLevel.WARN.value}, 0]
    real = WandbTracker(WandbConfig(), CTX)
    real.start(make_info(tmp_path / "run"))
    real.alert("ppo failed", "it broke", "error")
    real.finish("failed")
    file = next((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert comes_to_hold(file, b"it broke")
    real.alert("after the end", "nobody hears it", "warn")


def test_a_server_that_cannot_be_reached_means_offline(tmp_path, monkeypatch, capsys):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    real, modes = wandb.init, []

    def init(mode, **kwargs):
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route")
        return real(mode=mode, **kwargs)

    monkeypatch.setattr(wandb, "init", init)
    tracker = WandbTracker(WandbConfig(mode=Mode.online), CTX)
    run_id = tracker.start(make_info(tmp_path / "run"))
    tracker.log("sft", {"loss": 1.0}, 1)
    assert "wandb sync" in tracker.finish("finished")
    assert modes == ["online", "offline"]
    assert "W&B cannot be reached (CommError: no route); the run is logged offline" in capsys.readouterr().err
    assert inspect(tmp_path / "run")["run_id"] == run_id


def test_the_sync_command_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    tracker = WandbTracker(WandbConfig(mode=Mode.offline), CTX)
    tracker.start(make_info(tmp_path / "my runs"))
    line = tracker.finish("finished")
    assert Path(shlex.split(line)[-1]).is_relative_to(tmp_path / "my runs")
