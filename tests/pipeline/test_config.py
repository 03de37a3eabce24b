"""From overrides to `RunConfig`, with the options of a fake distribution in place of the built-in ones."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignpipe.api import Selected
from alignpipe.cli.report import message_of
from alignpipe.config.command import as_typed, swept
from alignpipe.config.model import CodeChange, RunConfig, RunSettings
from alignpipe.config.run import run_config
from alignpipe.config.search_path import conf_dir, register
from alignpipe.config.source import OptionError
from alignpipe.errors import ConfigError, PluginError
from alignpipe.registry import registry
from support.distributions import InstallFakePlugin, component_source

pytestmark = pytest.mark.usefixtures("fake_pipeline")


def composed(*overrides: str) -> DictConfig:
    """What Hydra hands to a job, its own node included."""
    register()
    GlobalHydra.instance().clear()
    runtime = ["hydra.runtime.output_dir=/somewhere/run", "hydra.runtime.cwd=/somewhere", "hydra.mode=RUN"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", ["model=toy", *overrides, *runtime], return_hydra_config=True)
    cfg.hydra.runtime.cwd = "/somewhere"
    return cfg


def configured(*overrides: str) -> RunConfig:
    cfg = composed(*overrides)
    hydra = cfg.hydra
    with open_dict(cfg):
        job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    return run_config(job, hydra, registry())


def refused(*overrides: str) -> str:
    """The message that a user gets for these overrides."""
    kinds = (ConfigError, PluginError, ConfigCompositionException, OmegaConfBaseException)
    with pytest.raises((*kinds, AssertionError, AttributeError)) as raised:  # of these message_of tells OmegaConf's own
        configured(*overrides)
    message = message_of(raised.value)
    assert message is not None
    assert "\n" not in message
    return message


def test_the_default_config_is_whole() -> None:
    run = configured()
    assert run.settings == RunSettings()
    assert set(run.selected) == {"data", "sft", "reward", "ppo", "eval", "model", "rollout"}
    assert run.selected["sft"].name == "standard"
    assert run.selected["sft"].config.lr == 1e-5
    assert {name: choice.name for name, choice in run.trackers.items()} == {"wandb": "wandb"}
    assert run.outputs == Path("/somewhere/outputs")
    assert run.folder == Path("/somewhere/run")
    assert run.command.sweep is None


def test_overrides_are_typed_and_recorded() -> None:
    run = configured("sft.lr=3", "seed=7", "code_change=warn", "threads=2", "outputs=/else/../where")
    assert (run.selected["sft"].config.lr, type(run.selected["sft"].config.lr)) == (3.0, float)
    assert (run.settings.seed, run.settings.code_change, run.settings.threads) == (7, CodeChange.warn, 2)
    assert run.outputs == Path("/where")
    assert run.command.overrides == (
        "model=toy",
        "sft.lr=3",
        "seed=7",
        "code_change=warn",
        "threads=2",
        "outputs=/else/../where",
    )
    assert configured("ppo.lr=${sft.lr}").command.overrides == ("model=toy", "ppo.lr=${sft.lr}")


def test_a_selected_config_is_the_real_frozen_dataclass() -> None:
    config = configured("reward=acme", "reward.mode=slow", "reward.span=[3,4]").selected["reward"].config
    assert type(config) is registry().get("reward", "acme").component.config
    assert config.mode.name == "slow"
    assert config.span == (3, 4)
    with pytest.raises(FrozenInstanceError):
        config.scale = 2.0


def test_resolved_is_plain_data() -> None:
    resolved = configured("reward=acme", "ppo.lr=${sft.lr}").resolved
    assert resolved["reward"]["mode"] == "fast"
    assert resolved["reward"]["name"] == "acme"
    assert resolved["ppo"]["lr"] == 1e-5
    assert resolved["code_change"] == "auto"
    assert "hydra" not in resolved


def test_a_composed_config_survives_pickling() -> None:
    cfg = composed("reward=acme")
    again = pickle.loads(pickle.dumps(cfg))
    assert OmegaConf.get_type(again.reward) is OmegaConf.get_type(cfg.reward)


def test_nested_components_become_selected() -> None:
    run = configured(
        "reward=acme",
        "+reward@reward.members.polite=acme",
        "reward.members.polite.scale=4",
        "reward.weights.polite=0.5",
    )
    config = run.selected["reward"].config
    assert config.weights == {"polite": 0.5}
    member = config.members["polite"]
    assert isinstance(member, Selected)
    assert (member.group, member.name, member.config.scale) == ("reward", "acme", 4.0)


def test_a_further_instance_of_a_stage() -> None:
    run = configured("+ppo@ppo_2=ppo", "ppo_2.lr=9", "stages=[data,sft,reward,ppo,ppo_2,eval]")
    assert run.selected["ppo_2"] == Selected("ppo", "ppo", type(run.selected["ppo"].config)(lr=9.0))
    assert run.selected["ppo"].config.lr == 1e-6


def test_a_slot_of_a_third_party() -> None:
    assert configured("+dpo=plain", "stages=[data,sft,dpo]").selected["dpo"].group == "dpo"


def test_several_trackers_and_none() -> None:
    run = configured("tracker=[wandb,files]", "tracker.wandb.project=x", "tracker.files.folder=${oc.env:PWD}")
    assert run.trackers["wandb"].config.project == "x"
    assert list(run.trackers) == ["wandb", "files"]
    assert configured("tracker=[]").trackers == {}


@pytest.mark.parametrize(
    ("folder", "name"), [("/somewhere/sweeps/mine", "mine"), (".", "somewhere"), ("a/..", "somewhere")]
)
def test_a_sweep_has_the_name_of_its_folder(folder: str, name: str) -> None:
    cfg = composed(f"hydra.sweep.dir={folder}")
    cfg.hydra.mode = "MULTIRUN"
    job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    assert run_config(job, cfg.hydra, registry()).command.sweep == name


def job_of(words: list[str], *overrides: str) -> RunConfig:
    """A job with these overrides, of the sweep with this command line."""
    cfg = composed(*overrides, *(word for word in words if word.startswith("hydra.")))
    cfg.hydra.mode = "MULTIRUN"
    cfg.hydra.overrides.task = list(overrides)
    job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    return run_config(job, cfg.hydra, registry(), words)


def test_the_command_that_gives_a_run_again() -> None:
    words = ["-cd", "presets", "model=toy", "hydra.run.dir=here"]
    cfg = composed("hydra.run.dir=here")
    job = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    run = run_config(job, cfg.hydra, registry(), words)
    assert run.command.again == run.command.alone == tuple(words)


def test_the_command_that_gives_a_sweep_again_and_a_job_of_it_alone() -> None:
    words = ["-m", "-cd", "presets", "seed=1,2", "hydra.sweep.dir=a", "hydra.job.chdir=true", "hydra/launcher=basic"]
    run = job_of(words, "model=toy", "seed=2")
    kept = [word for word in words if word != "hydra.sweep.dir=a"]
    assert run.command.again == (*kept, "hydra.sweep.dir=/somewhere/a")
    assert run.command.alone == ("-cd", "presets", "hydra.job.chdir=true", "model=toy", "seed=2")
    folder = "hydra.sweep.dir='a (b)\\'s'"
    assert job_of(["-m", folder], "model=toy").command.again[-1] == "hydra.sweep.dir='/somewhere/a (b)\\'s'"


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        (r"model.path=my.py\:score", "model.path=my.py:score"),
        (r"model.path=a\ b", "model.path=a b"),
        (r"model.path=a\,b", r"model.path=a\,b"),
        (r"model.path=a\(b\)", r"model.path=a\(b\)"),
        (r"model.path='a\\b'", r"model.path='a\\b'"),
        ("seed=1", "seed=1"),
    ],
)
def test_overrides_of_a_sweeps_job_are_shown_as_they_were_typed(recorded: str, typed: str) -> None:
    assert as_typed(recorded) == typed
    assert job_of(["-m"], "model=toy", recorded).command.overrides == ("model=toy", typed)


def test_what_is_swept() -> None:
    words = ["-m", "model=toy", "seed=1,2", "+sft.steps=range(1,3)", "stages=[data,sft]", "outputs=a"]
    overrides = ("model=toy", "+sft.steps=1", "seed=2", "stages=[data,sft]", "outputs=a", "ppo.lr=3")
    assert swept(words, ("ppo.lr",), overrides) == ("+sft.steps=1", "seed=2", "ppo.lr=3")
    assert job_of(["-m", "seed=1,2"], "model=toy", "seed=2").command.swept == ("seed=2",)
    assert configured("seed=2").command.swept == ()


def test_an_experiment_is_an_overlay() -> None:
    assert configured("experiment=smoke", "~scale").settings.stages == RunSettings().stages


def test_an_experiment_that_has_no_sizes_for_the_model() -> None:
    assert "scale=smoke_toy: there is no such overlay" in refused("experiment=smoke")
    # Hydra 1.4 composes this, as 1.3 cannot, and then meets a key that the toy options lack.
    assert re.search("scale follows the model or the experiment|'batch_size' not in", refused("scale=tiny"))


@pytest.mark.parametrize(
    "file", sorted(conf_dir().rglob("*.yaml")), ids=lambda file: file.relative_to(conf_dir()).as_posix()
)
def test_no_yaml_of_ours_names_code_or_an_option_that_hydra_1_4_reads_otherwise(file: Path) -> None:
    text = file.read_text()
    assert "_target_" not in text
    # 1.4 takes `scale: smoke/tiny` for `scale/smoke: tiny`, below which other files are relative.
    assert not re.search(r"^ *- [^#:\n]+: [^#\s]*/", text, re.MULTILINE)


def test_inputs_need_no_plus() -> None:
    assert configured("inputs.ppo.policy=base").settings.inputs == {"ppo": {"policy": "base"}}


def test_a_stage_that_is_left_out_may_be_unfinished() -> None:
    assert "ppo" not in configured("ppo.lr=???", "stages=[data,sft]").selected


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["reward=acm"],
            ["reward=acm: there is no such option (did you mean 'acme'?)", "options: acme, bradley_terry"],
        ),
        (["tracker=[nope]"], ["tracker=nope: there is no such option", "options: files, wandb"]),
        (["rewrad=acme"], ["rewrad: there is no such key (did you mean 'reward'?)"]),
        (
            ["reward=acme", "reward.scal=2"],
            ["reward.scal: there is no such key (did you mean 'scale'?)", "scale, mode"],
        ),
        (
            ["reward=acme", "+reward.scal=2"],
            ["reward.scal: there is no such key (did you mean 'scale'?)", "scale, mode"],
        ),
        (["+judge=strict"], ["judge.path must be given: add judge.path=<value>"]),
        (["foo=1"], ["foo: there is no such key"]),
        (["+foo=1"], ["foo: there is no such key", "keys: seed, stages"]),
        (["+seeed=1"], ["seeed: there is no such key (did you mean 'seed'?)"]),
        (["seed=abc"], ["seed: Value 'abc' of type 'str' could not be converted to Integer"]),
        (["device=gpu"], ["device=gpu: allowed are auto, cpu, cuda and cuda:<n>"]),
        (["device=mps"], ["device=mps: allowed are", "; Apple's GPUs lack float64, which sampling needs"]),
        (["threads=0"], ["threads=0: at least 1"]),
        (["lanes=0"], ["lanes=0: at least 1"]),
        (["stages=sft"], ["stages: a list is wanted: write stages=[<value>,...]"]),
        (["sft.lr=fast"], ["sft.lr: Value 'fast'", "could not be converted to Float", "override sft.lr=fast"]),
        (["code_change=never"], ["code_change: Invalid value 'never', expected one of [auto, warn, rerun, ignore]"]),
        (["reward=acme", "reward.scale=-1"], ["reward (reward=acme): scale must not be negative, got -1.0"]),
        (["stages=[]"], ["stages is empty"]),
        (["stages=[data,sft,sft]"], ["stages names 'sft' twice"]),
        (["stages=[data,sf]"], ["stages names 'sf'", "did you mean 'sft'?"]),
        (["stages=[data,ppo_2]"], ["stages names 'ppo_2'", "+ppo@ppo_2=<ppo>"]),
        (["stages=[data,dpo]"], ["stages names 'dpo'", "+dpo=<plain>"]),
        (["stages=[data,model]"], ["'model', but model/toy (fakes 2.5) is no stage"]),
        (["~sft"], ["stages names 'sft', but no sft is chosen"]),
        (["+ppo@ppo_2=ppo"], ["ppo_2 is configured but not in stages="]),
        (["+dpo=plain"], ["dpo is configured but not in stages="]),
        (["model.path=???", "sft.lr=???"], ["sft.lr, model.path must be given: add sft.lr=<value> model.path=<value>"]),
        (["reward.name=acme"], ["reward.name is set by choosing an option (reward=<option>), not by itself: no "]),
        (["~reward.name"], ["reward.name: Config (DictConfig) does not support deletion"]),
        (["model.path=${oc.env:HOME}"], ["model.path=${oc.env:HOME}", "part of the stage's key"]),
        (["data.size=${now:%Y}"], ["data.size=${now:%Y}", "may change from run to run"]),
        (["ppo.lr=${hydra:job.num}"], ["ppo.lr=${hydra:job.num}"]),
        (["ppo.lr=${sft.rate}"], ["ppo.lr: Interpolation key 'sft.rate' not found"]),
        (["tracker.nope.project=x"], ["tracker.nope: there is no such key", "keys of tracker: wandb"]),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(overrides: list[str], parts: list[str]) -> None:
    message = refused(*overrides)
    for part in parts:
        assert part in message


def test_a_field_that_is_not_keyed_may_depend_on_the_environment() -> None:
    run = configured("reward=acme", "reward.cache=${oc.env:PWD}")
    assert run.selected["reward"].config.cache


NESTED = component_source(
    "reward",
    "strict",
    "@dataclass(frozen=True)\nclass Inner:\n    x: int = 1\n"
    "inner: Inner | None = None\n"
    "limit: float | None = 1.0\n"
    "def __post_init__(self):\n    assert self.limit < 2\n",
)


@pytest.fixture
def more(fake_pipeline: Path, install_fake_plugin: InstallFakePlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Third parties beside the fakes: one offers `reward=acme` too, one is broken, one OmegaConf cannot take."""
    literal = component_source("reward", "odd", "values: complex = 1j")
    install_fake_plugin("dupe", {"dupe": "dupe.plugin"}, {"dupe/plugin.py": component_source("reward", "acme")}, "0.1")
    install_fake_plugin("oops", {"reward.lost": "oops.plugin"}, {"oops/plugin.py": "import not_there"})
    install_fake_plugin("odd", {"odd": "odd.plugin"}, {"odd/plugin.py": literal})
    unknown = component_source("reward", "vague", "values: 'NotThere | None' = None")
    install_fake_plugin("vague", {"vague": "vague.plugin"}, {"vague/plugin.py": unknown})
    install_fake_plugin("strict", {"strict": "strict.plugin"}, {"strict/plugin.py": NESTED})
    monkeypatch.setenv("ALIGNPIPE_PLUGINS", "fakes,dupe,oops,odd,vague,strict")
    registry.cache_clear()


@pytest.mark.usefixtures("more")
def test_options_of_ambiguous_broken_and_odd_plugins_say_why() -> None:
    assert "dupe 0.1 (plugin 'dupe') and fakes 2.5" in refused("reward=acme")
    assert "plugin 'reward.lost' of oops 1.0 is broken: ModuleNotFoundError" in refused("reward=lost")
    assert "reward/odd (odd 1.0): OmegaConf cannot take its config Config" in refused("reward=odd")
    assert "OmegaConf cannot take its config Config: name 'NotThere'" in refused("reward=vague")
    with pytest.raises(OptionError):
        composed("reward=lost")
    assert configured().selected["reward"].name == "bradley_terry", "the rest goes on working"


@pytest.mark.usefixtures("more")
def test_null_that_a_plugin_did_not_think_of_and_keys_below_null() -> None:
    assert configured("reward=strict", "reward.limit=1.5").selected["reward"].config.limit == 1.5
    told = refused("reward=strict", "reward.limit=null")
    assert told.startswith(
        "reward (reward=strict): Config cannot check these values: TypeError: '<' not supported between"
    )
    for below in ("reward.inner.x=3", "reward.inner={x:3}"):
        assert "sets a key below another that is null by default" in refused("reward=strict", below)


def test_conf_dir_prefers_the_installed_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import alignpipe

    package = tmp_path / "lib" / "alignpipe"
    monkeypatch.setattr(alignpipe, "__file__", str(package / "__init__.py"))
    with pytest.raises(ConfigError, match=r"config\.yaml is neither in"):
        conf_dir()
    for folder in (tmp_path / "conf", package / "conf"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        assert conf_dir() == folder
