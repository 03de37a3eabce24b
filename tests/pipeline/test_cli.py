"""The command line as a user meets it: in processes of its own, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import alignpipe
from alignpipe.cli import main as cli_main
from alignpipe.cli.commands import COMMANDS
from alignpipe.cli.report import message_of
from alignpipe.errors import DataError
from support.distributions import InstallFakePlugin, RunCommand, component_source

pytestmark = [pytest.mark.usefixtures("fake_pipeline"), pytest.mark.slow]

SHORT = ("model=toy", "stages=[data,sft]", "tracker=[files]")


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def test_version(alignpipe_command: RunCommand) -> None:
    assert alignpipe_command("--version").stdout == f"alignpipe {alignpipe.__version__}\n"


def test_help_lists_subcommands_and_options(alignpipe_command: RunCommand) -> None:
    done = alignpipe_command("model=toy", "--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"alignpipe {command}" in done.stdout
    assert "reward      acme, bradley_terry" in done.stdout
    assert "seed        seeds every random stream" in done.stdout
    assert "scale" not in done.stdout, "what presets are made of is nothing to choose"
    assert "-sc install=bash" in done.stdout


def test_cfg_job_shows_the_composed_config(alignpipe_command: RunCommand) -> None:
    done = alignpipe_command("model=toy", "reward=acme", "reward.scale=2", "--cfg", "job", "--package", "reward")
    assert "scale: 2.0" in done.stdout
    assert "name: acme" in done.stdout
    assert done.stderr == ""


def test_flags_stand_between_overrides(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    shown = alignpipe_command("model=toy", "--cfg", "job", "reward=acme", "--package", "reward", "reward.scale=2")
    assert "scale: 2.0" in shown.stdout, shown.stderr
    swept = alignpipe_command(*SHORT, "-m", "seed=0,1")
    assert "2 of 2 jobs finished" in swept.stdout, swept.stderr


def test_info_shows_the_plugins_source(alignpipe_command: RunCommand) -> None:
    done = alignpipe_command("model=toy", "--info", "searchpath")
    assert "plugins://" in done.stdout


def test_a_run_writes_its_folder_and_no_log_file(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    done = alignpipe_command(*SHORT)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "cwd" / "outputs" / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert not list(folder.glob("*.log"))
    assert "HYDRA" not in done.stdout + done.stderr


def test_a_sweep_runs_every_job_in_a_folder_of_its_own(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    done = alignpipe_command("-m", *SHORT, "seed=0,1")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "cwd" / "outputs" / "sweeps").iterdir()
    assert sorted(folder.name for folder in sweep.iterdir() if folder.is_dir()) == ["0", "1"]
    keys = {json.loads((sweep / job / "summary.json").read_text())["run_key"] for job in "01"}
    assert len(keys) == 2
    assert (
        "2 of 2 jobs finished\njob  overrides  status\n0    seed=0     finished\n1    seed=1     finished\n"
        in done.stdout
    )
    assert [job["job"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]] == ["0", "1"]


def test_a_job_that_fails_does_not_stop_the_sweep(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    done = alignpipe_command("-m", *SHORT, "reward=acme", "reward.scale=-1,1")
    assert done.returncode == 1
    assert "scale must not be negative" in done.stderr
    assert "Traceback" not in done.stderr
    (sweep,) = (tmp_path / "cwd" / "outputs" / "sweeps").iterdir()
    assert (sweep / "1" / "summary.json").exists()
    assert "1 of 2 jobs finished" in done.stdout
    assert ["0", "reward.scale=-1", "failed"] in [line.split() for line in done.stdout.splitlines()]


def test_jobs_of_a_sweep_that_would_share_a_folder(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    done = alignpipe_command("-m", *SHORT, "seed=0,1", "hydra.sweep.dir=s", "hydra.sweep.subdir=same")
    assert done.returncode == 1
    assert "same: job 0 of this sweep has had this run folder; choose another hydra.sweep.dir" in done.stderr
    first, second = json.loads((tmp_path / "cwd" / "s" / "sweep.json").read_text())["jobs"]
    assert (first["status"], second["status"], second["run_key"]) == ("finished", "failed", None)
    summary = json.loads((tmp_path / "cwd" / "s" / "same" / "summary.json").read_text())
    assert summary["run_key"] == first["run_key"]
    done = alignpipe_command("-m", *SHORT, "seed=2", "hydra.sweep.dir=s", "hydra.sweep.subdir=same")
    assert "same holds a finished run of another config" in done.stderr
    assert json.loads((tmp_path / "cwd" / "s" / "same" / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["plugin", "list"],
            "'plugin' is no command (did you mean 'plugins'?); commands: plan, compare, plugins, score, store",
        ),
        (["model=toy", "reward=nope"], "reward=nope: there is no such option; options: acme, bradley_terry"),
        (["model=toy", "+foo=1"], "foo: there is no such key"),
        (["model=toy", "reward.scal=1"], "reward.scal: there is no such key"),
        (["model=toy", "seed=x"], "seed: Value 'x' of type 'str' could not be converted to Integer"),
        (["model=toy", "seed"], "cannot read the override 'seed': an override is written key=value"),
        (["model=toy", "seed = 1"], "'seed = 1': there must be no spaces around the =: write seed=1"),
        (["plan", "model=toy", "reward.scale =1"], "there must be no spaces around the =: write reward.scale=1"),
        (["-m", "model=toy", "ü=1"], "cannot read the override 'ü=1': a key can have no 'ü' in it"),
        (["model=toy", "ppo@x y=ppo"], "a key can have no space in it, and this one is 'ppo@x y'"),
        (["model=toy", "ppo..lr=1"], "'ppo..lr' is no key"),
        (["model=toy", "seed=-1"], "seed=-1: a whole number from 0"),
        (["model=toy", "seed=null"], "seed: null is no value for it (override seed=null)"),
        (["model=toy", "inputs.sft=base"], "inputs.sft: keys of its own are wanted: write inputs.sft.<key>=<value>"),
        (["model=toy", "~tracker"], "~tracker: this cannot be taken away; write tracker=[] for none"),
        (["model=toy", "~foo"], "~foo: there is no such key"),
        (["model=toy", 'outputs="~/here"'], "outputs=~/here: nobody replaced the ~"),
        (["model=toy", "seed=1,2"], "seed has several values: add -m"),
        (["model=toy", "stages=[data,ppo_2]", "ppo_2.lr=1"], "ppo_2: nothing fills it: add +ppo@ppo_2=<ppo>"),
        (["model=toy", "ppo_2=ppo"], "ppo_2: nothing fills it: add +ppo@ppo_2=<ppo>"),
        (["model=toy", "+ppo_2.lr=1"], "ppo_2: nothing fills it: add +ppo@ppo_2=<ppo>"),
        (["model=toy", "ppo_lr=1"], "ppo_lr: there is no such key"),
        (["model=toy", "dpo.beta=1"], "dpo: no dpo is chosen: add +dpo=<plain>"),
        (
            ["model=toy", "+ppo@ppo_2=ppo", "+scale/smoke/ppo@ppo_2=ppo"],
            ": there is no such key; keys of ppo_2=ppo: lr, kl_coef (in conf/scale/smoke/ppo/",
        ),
        (["model=toy", "sft=null"], "Got NoneType; a stage is left out with stages=[...]"),
        (["model=toy", "seed=1", "data.size=a b(1)"], "needs quotes that reach Hydra: 'data.size=\"a b(1)\"'"),
        (["model=toy", "data.size=pairs.jsonl"], "could not be converted to Integer in data=support"),
        (["model=toy", "outputs=/dev/null/here"], "cannot write /dev/null/here/runs/"),
        (["model=toy", "outputs=/proc/here"], "cannot write /proc/here"),
        (["model=toy", "outputs="], "outputs is empty"),
        (["model=toy", "--config-dir", "/nowhere"], "Additional config directory '/nowhere' not found"),
        (["model=toy", "inputs.sft.policy=ppo"], "ppo"),
        (["plan", *SHORT, "seed=1,2"], "seed has several values: add -m to run each of 1,2"),
        (["plan", "model=toy", "+foo=1"], "foo: there is no such key"),
        (["plugins", "show", "reward/acne"], "reward/acne: there is no such option (did you mean 'reward/acme'?)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, alignpipe_command: RunCommand, tmp_path: Path
) -> None:
    done = alignpipe_command(*arguments)
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert line.startswith("alignpipe: error: ")
    assert message in line
    assert done.stdout == ""
    assert list((tmp_path / "cwd").iterdir()) == []
    assert not Path("/runs").exists(), "an empty outputs must not lead to the root of the disk"


@pytest.mark.parametrize("command", [["score", "--reward", "acme", "--data"], ["plugins", "check", "acme", "--data"]])
def test_an_override_that_cannot_be_read_where_no_run_is_made(
    command: list[str], alignpipe_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    done = alignpipe_command(*command, str(tmp_path / "x.jsonl"), "reward.scale = 1")
    assert done.returncode == 1
    assert "there must be no spaces around the =: write reward.scale=1" in only_line(done.stderr)


def test_a_preset_that_is_no_yaml(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "odd.yaml").write_text("seed: 1\nstages: [\n")
    done = alignpipe_command("--config-dir", str(tmp_path / "mine"), "experiment=odd")
    assert done.returncode == 1
    assert "mine/experiment/odd.yaml:3: this is no YAML: " in only_line(done.stderr)


def test_hydra_full_error_shows_the_traceback(alignpipe_command: RunCommand) -> None:
    done = alignpipe_command("model=toy", "+foo=1", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError: foo: there is no such key" in done.stderr


def test_plan_makes_no_run_folder(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    done = alignpipe_command("plan", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "sft" in done.stdout
    assert not (tmp_path / "cwd" / "outputs" / "runs").exists()
    assert not (tmp_path / "cwd" / ".hydra").exists()


def test_plan_makes_no_folder_where_a_config_file_asks_for_a_sweep(
    alignpipe_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "swept.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    done = alignpipe_command("plan", *SHORT, "--config-dir", str(tmp_path / "mine"), "experiment=swept")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []


def test_the_plan_of_a_sweep(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    """A line a job, and how many results there are to compute; it leaves nothing."""
    assert alignpipe_command(*SHORT, "seed=1").returncode == 0
    done = alignpipe_command("plan", *SHORT, "-m", "seed=1,2", "reward=acme,bradley_terry", "hydra/launcher=other")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:4] == [
        ["4", "jobs"],
        ["job", "overrides", "data", "sft"],
        ["0", "seed=1", "reward=acme", "hit", "hit"],
        ["1", "seed=1", "reward=bradley_terry", "hit", "hit"],
    ]
    head, data, sft = lines[7:10]
    assert head == ["stage", "results", "stored", "to", "compute"]
    assert (data, sft) == (["data", "2", "1", "1"], ["sft", "2", "1", "1"])
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["outputs"]
    assert len(list((tmp_path / "cwd" / "outputs" / "runs").iterdir())) == 1
    assert not (tmp_path / "cwd" / "outputs" / "sweeps").exists()


def test_a_file_of_ones_own_is_found_and_told_what_it_lacks(alignpipe_command: RunCommand, tmp_path: Path) -> None:
    folder = tmp_path / "cwd" / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("seed: 4\n")
    done = alignpipe_command(*SHORT, "experiment=mine")
    assert "experiment=mine: there is no such option (conf/experiment/mine.yaml lies here: add --config-dir conf)" in (
        done.stderr
    )
    done = alignpipe_command(*SHORT, "--config-dir", "conf", "experiment=mine")
    assert "a file of conf/experiment needs '# @package _global_' as its first line" in done.stderr
    (folder / "mine.yaml").write_text("# @package _global_\nseed: 4\n")
    shown = alignpipe_command(*SHORT, "--config-dir", "conf", "experiment=mine", "--cfg", "job")
    assert "seed: 4\n" in shown.stdout


def test_experiment_works_with_and_without_a_plus(alignpipe_command: RunCommand) -> None:
    plain = alignpipe_command("model=toy", "experiment=smoke", "--cfg", "job")
    added = alignpipe_command("model=toy", "+experiment=smoke", "--cfg", "job")
    assert plain.returncode == added.returncode == 0
    assert plain.stdout == added.stdout


def test_plugins_list_names_who_brings_what(alignpipe_command: RunCommand) -> None:
    done = alignpipe_command("plugins", "list")
    assert ["reward", "acme", "a", "fake", "reward", "fakes", "2.5"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    assert "\x1b" not in done.stdout, "no colours in a pipe"


def test_plugins_list_shows_broken_and_ambiguous_ones(
    alignpipe_command: RunCommand, install_fake_plugin: InstallFakePlugin
) -> None:
    install_fake_plugin("dupe", {"dupe": "dupe.plugin"}, {"dupe/plugin.py": component_source("reward", "acme")}, "0.1")
    install_fake_plugin("oops", {"reward.lost": "oops.plugin"}, {"oops/plugin.py": "import not_there"})
    allowed = {"ALIGNPIPE_PLUGINS": "fakes,dupe,oops"}
    done = alignpipe_command("plugins", "list", **allowed)
    assert done.returncode == 0
    assert done.stdout.count("AMBIGUOUS: a fake reward") == 2
    assert "oops:reward.lost" in done.stdout
    assert "No module named 'not_there'" in done.stdout
    assert "plugin 'reward.lost' of oops 1.0 is broken and left out" in only_line(done.stderr)

    for name in ("reward/lost", "oops:reward.lost"):
        shown = alignpipe_command("plugins", "show", name, **allowed)
        assert "Traceback" in shown.stdout
        assert "import not_there" in shown.stdout
    assert "is AMBIGUOUS" in alignpipe_command("plugins", "show", "reward/acme", **allowed).stdout

    strict = alignpipe_command("plugins", "list", ALIGNPIPE_STRICT_PLUGINS="1", **allowed)
    assert strict.returncode == 1
    assert "ALIGNPIPE_STRICT_PLUGINS is set" in only_line(strict.stderr)


def test_plugins_show_says_that_a_plugin_only_observes(
    alignpipe_command: RunCommand, install_fake_plugin: InstallFakePlugin
) -> None:
    source = """
        from alignpipe.api import hookimpl
        @hookimpl
        def alignpipe_run_started(info): ...
        """
    install_fake_plugin("watcher", {"watch": "watcher.plugin"}, {"watcher/plugin.py": source}, "0.1")
    shown = alignpipe_command("plugins", "show", "watcher:watch", ALIGNPIPE_PLUGINS="fakes,watcher")
    assert shown.stdout == "plugin 'watch' of watcher 0.1 is loaded and offers no options\n"


def test_plugins_show_tells_the_keys(alignpipe_command: RunCommand) -> None:
    shown = alignpipe_command("plugins", "show", "reward/acme").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["scale", "float", "1.0", "multiplies", "every", "score"] in rows
    assert ["mode", "Mode", "fast", "fast,", "slow"] in rows
    assert ["distribution", "fakes", "2.5"] in rows
    stage = alignpipe_command("plugins", "show", "sft/standard").stdout
    assert ["makes", "policy"] in [line.split() for line in stage.splitlines()]
    assert "policy, from nearest, may be empty" in stage


def test_plugins_show_tells_what_a_nested_part_is_for(
    alignpipe_command: RunCommand, install_fake_plugin: InstallFakePlugin
) -> None:
    source = component_source(
        "reward",
        "deep",
        "@dataclass(frozen=True)\nclass Inner:\n    x: int = 1\n"
        "inner: Inner = field(default_factory=Inner, metadata={'help': 'how it ends'})\n",
    )
    install_fake_plugin("deep", {"deep": "deep.plugin"}, {"deep/plugin.py": source})
    shown = alignpipe_command("plugins", "show", "reward/deep", ALIGNPIPE_PLUGINS="fakes,deep").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["inner", "Inner", "(see", "below)", "how", "it", "ends"] in rows
    assert ["inner.x", "int", "1"] in rows


def test_plugins_list_timings(alignpipe_command: RunCommand) -> None:
    lines = alignpipe_command("plugins", "list", "--timings").stdout.splitlines()
    assert any(line.startswith("fakes:reward.acme") and line.endswith(" ms") for line in lines)


def test_a_bug_keeps_its_traceback_and_hydras_setting_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(argv: list[str]) -> int:
        raise KeyError("a bug")

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(cli_main, "_dispatch", bug)
    with pytest.raises(KeyError):
        cli_main.main([])
    assert "HYDRA_FULL_ERROR" not in __import__("os").environ


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("no rows"), "no rows"),
        (PermissionError(13, "Permission denied", "/x"), "cannot write /x: Permission denied; choose another folder"),
        (OSError(28, "No space left on device"), "cannot write the output folder: No space left on device"),
        (FileNotFoundError(2, "No such file", "/x"), None),
        (ValueError("a bug"), None),
    ],
)
def test_which_errors_are_the_users(error: Exception, message: str | None) -> None:
    told = message_of(error)
    assert told == message if message is None else told is not None and message in told


def test_an_interruption_is_told_and_has_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main, "_dispatch", interrupted)
    assert cli_main.main([]) == 130
    assert capsys.readouterr().err == "alignpipe: interrupted\n"
