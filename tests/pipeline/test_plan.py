"""Ports and their sources, and what the plan says of each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from alignpipe.api import Artifact, Component, Port, Selected
from alignpipe.config.model import CodeChange
from alignpipe.dataset import Gold, write_dataset
from alignpipe.errors import ConfigError
from alignpipe.plan import Planner, make_plan
from alignpipe.plan.differences import differences
from alignpipe.plan.ports import resolve_ports
from alignpipe.plan.specs import stage_specs, with_slots
from alignpipe.runner import execute, show_plan
from alignpipe.runner.decisions import headline
from alignpipe.store import Store
from support.fake_run import (
    COMPONENTS,
    DataConfig,
    EvalConfig,
    ModelConfig,
    PpoConfig,
    SftConfig,
    make_registry,
    make_run,
)

PPO_2 = {"ppo_2": Selected("ppo", "fake", PpoConfig()), "reward_2": Selected("reward", "fake", EvalConfig())}


@dataclass
class StoreOf:
    """A store of these artifacts."""

    artifacts: Sequence[Artifact] = ()

    def find(self, digest: str) -> list[Artifact]:
        return [artifact for artifact in self.artifacts if artifact.digest.startswith(digest)]


def ports(stages, inputs=None, stored=(), **extra):
    run = make_run(Path("/nowhere"), stages=stages, extra={**PPO_2, **extra})
    specs = stage_specs(run, make_registry())
    resolved = resolve_ports(specs, inputs or {}, StoreOf(stored))
    return {spec.name: {port: str(source) for port, source in spec.sources.items()} for spec in resolved}


def test_default_chain():
    assert ports(["data", "sft", "reward", "ppo", "eval"]) == {
        "data": {},
        "sft": {"dataset": "data", "policy": "base"},
        "reward": {"dataset": "data", "policy": "sft"},
        "ppo": {"dataset": "data", "policy": "sft", "reference": "sft", "reward": "reward"},
        "eval": {"dataset": "data", "policy": "ppo", "baseline": "sft", "reward": "reward"},
    }


def test_shortened_run_leaves_optional_ports_empty():
    assert ports(["data", "sft", "eval"])["eval"] == {"dataset": "data", "policy": "sft"}


def test_ppo_on_the_base_model_is_compared_with_the_base_model():
    resolved = ports(["data", "ppo", "eval"])
    assert resolved["ppo"] == {"dataset": "data", "policy": "base", "reference": "base"}
    assert resolved["eval"] == {"dataset": "data", "policy": "ppo", "baseline": "base"}


def test_a_second_sft_is_compared_with_the_first():
    extra = {"sft_2": Selected("sft", "fake", SftConfig())}
    resolved = ports(["data", "sft", "sft_2", "eval"], {"sft_2": {"policy": "sft"}}, **extra)
    assert resolved["eval"] == {"dataset": "data", "policy": "sft_2", "baseline": "sft"}


def test_iterated_run_takes_the_nearest():
    resolved = ports(["data", "sft", "reward", "ppo", "reward_2", "ppo_2", "eval"])
    assert resolved["reward_2"] == {"dataset": "data", "policy": "ppo"}
    assert resolved["ppo_2"] == {"dataset": "data", "policy": "ppo", "reference": "ppo", "reward": "reward_2"}
    assert resolved["eval"] == {"dataset": "data", "policy": "ppo_2", "baseline": "sft", "reward": "reward_2"}


def test_what_one_stage_is_given_serves_those_behind_it_if_no_stage_makes_it():
    stored = [Artifact(kind, kind, Path(), digit * 64) for kind, digit in (("dataset", "a"), ("reward", "b"))]
    inputs = {"sft": {"dataset": "store:a"}, "ppo": {"reward": "store:b"}}

    resolved = ports(["sft", "ppo", "eval"], inputs, stored)

    assert resolved["ppo"]["dataset"] == resolved["eval"]["dataset"] == resolved["sft"]["dataset"]
    assert resolved["eval"]["reward"] == resolved["ppo"]["reward"] == f"store:{'b' * 12}"
    assert resolved["eval"]["baseline"] == "sft"


def test_named_sources(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    stored = Artifact("reward", "reward", tmp_path, "abcd" * 16)
    inputs = {
        "ppo": {"policy": "base", "reference": str(tmp_path), "reward": "store:abcd"},
        "eval": {"policy": "sft", "baseline": "none"},
    }
    resolved = ports(["data", "sft", "ppo", "eval"], inputs, [stored])
    assert resolved["ppo"] == {
        "dataset": "data",
        "policy": "base",
        "reference": str(tmp_path),
        "reward": "store:abcdabcdabcd",
    }
    assert resolved["eval"] == {"dataset": "data", "policy": "sft", "reward": "store:abcdabcdabcd"}


def test_reference_follows_the_policy_that_was_named():
    resolved = ports(["data", "sft", "ppo", "ppo_2"], {"ppo_2": {"policy": "sft"}})
    assert resolved["ppo_2"]["reference"] == "sft"


@pytest.mark.parametrize(
    ("stages", "inputs", "message"),
    [
        (["sft"], {}, "inputs.sft.dataset has no source"),
        (["data", "eval"], {}, "inputs.eval.policy has no source"),
        (["data", "ppo", "sft"], {"ppo": {"policy": "sft"}}, "inputs.ppo.policy=sft.*does not run before 'ppo'"),
        (["data", "ppo"], {"ppo": {"policy": "ppo"}}, "inputs.ppo.policy=ppo.*does not run before"),
        (["data", "sft", "ppo"], {"ppo": {"policy": "sfx"}}, "inputs.ppo.policy=sfx: there is neither a stage"),
        (["data", "ppo"], {"ppo": {"policy": "sft"}}, "neither a stage 'sft' in this run"),
        (["data", "ppo"], {"ppo": {"policy": "~nobody-here/sft"}}, "neither a stage '~nobody-here/sft' in this run"),
        (["data", "sft"], {"sft": {"dataset": "base"}}, "inputs.sft.dataset: the base model is a policy"),
        (["data", "sft", "ppo"], {"ppo": {"policy": "data"}}, "inputs.ppo.policy: stage 'data' is a dataset"),
        (["data", "sft"], {"sft": {"dataset": "none"}}, "inputs.sft.dataset=none: this port is required"),
        (["data", "sft"], {"sft": {"datset": "data"}}, "inputs.sft.datset.*did you mean 'dataset'"),
        (["data", "ppo"], {"pp": {"policy": "base"}}, r"inputs.pp: 'pp' is not in stages=\[data,ppo\].*mean 'ppo'"),
        (["data", "sft"], {"sft": {"dataset": "store:ff"}}, "store:ff: the store has no such object"),
    ],
)
def test_wrong_ports_name_the_key(stages, inputs, message):
    with pytest.raises(ConfigError, match=message):
        ports(stages, inputs)


def test_a_reward_made_of_others_has_what_they_need():
    member = Component(
        "reward", "trained", SftConfig, "x:y", "r", needs={"judge": Port("policy", "base")}, uses=("model",)
    )
    mix = Component("reward", "mixed", PpoConfig, "x:y", "m", uses=("rollout",))
    registry = make_registry(components=(*COMPONENTS, member, mix))
    config = PpoConfig(
        judge={"a": Selected("reward", "trained", SftConfig()), "b": Selected("reward", "fake", EvalConfig())}
    )
    run = make_run(Path("/nowhere"), stages=["data", "reward"], extra={"reward": Selected("reward", "mixed", config)})
    spec = stage_specs(run, registry)[1]
    assert set(spec.needs) == {"dataset", "policy", "judge"}
    assert spec.uses == ("rollout", "model")


def test_what_is_nested_elsewhere_brings_no_ports():
    config = PpoConfig(judge=Selected("eval", "fake", EvalConfig()))
    run = make_run(Path("/nowhere"), stages=["data", "ppo"], ppo=config)
    plain = make_run(Path("/nowhere"), stages=["data", "ppo"])
    assert stage_specs(run, make_registry())[1].needs == stage_specs(plain, make_registry())[1].needs


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"inputs\.ppo\.policy=.*is no checkpoint folder, it holds no config\.json"):
        ports(["data", "ppo"], {"ppo": {"policy": str(tmp_path)}})


def test_an_ambiguous_or_wrong_stored_object():
    one, two = (Artifact("policy", "sft", Path(), f"a{digit}" * 32) for digit in "ab")
    with pytest.raises(ConfigError, match="fits 2 stored objects"):
        ports(["data", "ppo"], {"ppo": {"policy": "store:a"}}, [one, two])
    with pytest.raises(ConfigError, match=r"inputs\.sft\.dataset: the stored object a is a policy"):
        ports(["data", "sft"], {"sft": {"dataset": "store:a"}}, [one])


def decisions(run, registry=None):
    return make_plan(Planner(run, registry or make_registry(), Store(run.outputs / "store")))


def actions(run, registry=None):
    return {decision.spec.name: decision.action for decision in decisions(run, registry)}


def test_plan_before_and_after_a_run(tmp_path):
    assert actions(make_run(tmp_path)) == {"data": "run", "sft": "unknown", "ppo": "unknown", "eval": "unknown"}
    assert not tmp_path.joinpath("store").exists(), "planning writes nothing"
    execute(make_run(tmp_path), make_registry())
    assert set(actions(make_run(tmp_path)).values()) == {"hit"}


def test_plan_says_which_setting_differs(tmp_path):
    execute(make_run(tmp_path), make_registry())
    plan = decisions(make_run(tmp_path, ppo=PpoConfig(kl_coef=0.2), model=ModelConfig(size=8)))
    assert [decision.action for decision in plan] == ["hit", "hit", "run", "unknown"]
    assert plan[2].why[-1] == "ppo.kl_coef: 0.05 -> 0.2"
    assert plan[3].why == ("unknown until there is a result of ppo",)
    by_model = decisions(make_run(tmp_path, model=ModelConfig(size=16)))
    assert by_model[1].why[-1] == "model.size: 8 -> 16"


def test_plan_says_when_the_result_is_gone_or_damaged(tmp_path):
    execute(make_run(tmp_path), make_registry())
    sft = decisions(make_run(tmp_path))[1].artifact
    (sft.folder / "weights" / "w.bin").unlink()
    plan = decisions(make_run(tmp_path))
    assert plan[1].action == "run"
    assert "weights/w.bin is missing" in plan[1].why[0]


def components_of(stage, run, registry, stored):
    store = StoreOf(stored)
    specs = resolve_ports(stage_specs(run, registry), run.settings.inputs, store)
    spec = next(spec for spec in specs if spec.name == stage)
    return {str(entry.component.name) for entry in with_slots(spec, specs, run, registry, store).components}


def test_the_code_of_a_stored_reward_and_its_members_takes_part(tmp_path):
    rewards = [Component("reward", name, EvalConfig, "x:y", "r") for name in ("mixed", "member", "absent")]
    registry = make_registry(components=(*COMPONENTS, *rewards[:2]))
    nested = {"group": "reward", "name": "member", "config": {"by": {"group": "model", "name": "fake", "config": {}}}}
    record = {"name": "mixed", "version": 1, "offered_by": "x", "config": {"members": {"a": nested}}}
    stored = Artifact("reward", "reward", tmp_path, "ab" * 32)
    run = make_run(tmp_path, stages=["data", "sft", "ppo"], inputs={"ppo": {"reward": "store:ab"}})
    for config in (record, {**record, "config": {"members": [nested]}}):
        (tmp_path / "reward.json").write_text(json.dumps(config))
        assert {"mixed", "member"} <= components_of("ppo", run, registry, [stored])
        assert "mixed" not in components_of("sft", run, registry, [stored])
    (tmp_path / "reward.json").write_text(json.dumps({**record, "name": "absent"}))
    with pytest.raises(
        ConfigError, match=r"inputs\.ppo\.reward=store:abababababab cannot be used: reward=absent: there is no"
    ):
        components_of("ppo", run, registry, [stored])


def test_the_code_of_a_stored_datasets_gold_reward_takes_part_in_reports(tmp_path):
    gold = Component("reward", "gold", EvalConfig, "x:y", "r")
    registry = make_registry(components=(*COMPONENTS, gold))
    rows = [{"prompt": "p", "messages": [], "completion": "c"}]
    write_dataset(tmp_path, {"demonstrations": {"train": rows}}, Gold("gold", 1))
    stored = Artifact("dataset", "data", tmp_path, "ab" * 32)
    inputs = {stage: {"dataset": "store:ab"} for stage in ("sft", "eval")}
    run = make_run(tmp_path, stages=["sft", "eval"], inputs=inputs)
    assert "gold" in components_of("eval", run, registry, [stored])
    assert "gold" not in components_of("sft", run, registry, [stored])


def test_an_unfinished_attempt_is_resumed_at_its_checkpoint(tmp_path):
    run = make_run(tmp_path, sft=SftConfig(fail="oh"))
    with pytest.raises(ValueError, match="oh"):
        execute(run, make_registry())
    plan = decisions(make_run(tmp_path))
    assert (plan[1].action, plan[1].step, headline(plan[1])) == ("resume", 1, "resume at step 1")


def test_a_resumed_stage_still_says_what_became_of_its_stored_result(tmp_path):
    execute(make_run(tmp_path), make_registry())
    sft = decisions(make_run(tmp_path))[1].artifact
    (sft.folder / "weights" / "w.bin").unlink()
    with pytest.raises(ValueError, match="oh"):
        execute(make_run(tmp_path, sft=SftConfig(fail="oh")), make_registry())
    decision = decisions(make_run(tmp_path))[1]
    assert decision.action == "resume"
    assert "is no longer in the store" in decision.why[0]
    assert decision.why[1] == "an earlier attempt did not finish"


@pytest.mark.parametrize(
    ("setting", "action"),
    [(CodeChange.auto, "run"), (CodeChange.rerun, "run"), (CodeChange.warn, "hit"), (CodeChange.ignore, "hit")],
)
def test_changed_code_of_an_editable_plugin(tmp_path, setting, action):
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("version = 1\n")
    registry = make_registry(folder=folder)
    execute(make_run(tmp_path), registry)
    (folder / "__init__.py").write_text("version = 2\n")
    # The hashes are remembered for the length of a process; a second process would see the change.
    from alignpipe.plan.code import _hash

    _hash.cache_clear()
    decision = decisions(make_run(tmp_path, code_change=setting), registry)[0]
    assert decision.action == action
    assert (decision.warning is not None) == (setting is CodeChange.warn)
    if action == "run":
        assert "the code of data/fake changed" in decision.why[0]


def test_changed_code_of_a_released_plugin_only_warns(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages" / "plugin"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("version = 1\n")
    registry = make_registry(folder=folder)
    execute(make_run(tmp_path), registry)
    (folder / "__init__.py").write_text("version = 2\n")
    from alignpipe.plan import code

    code._hash.cache_clear()
    monkeypatch.setattr(code.sysconfig, "get_path", lambda name: str(folder.parent))
    decision = decisions(make_run(tmp_path, code_change=CodeChange.auto), registry)[0]
    assert decision.action == "hit"
    assert "its stored result is used all the same" in decision.warning


def test_an_unfinished_attempt_of_other_code_starts_anew(tmp_path):
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("version = 1\n")
    registry = make_registry(folder=folder)
    with pytest.raises(ValueError, match="oh"):
        execute(make_run(tmp_path, sft=SftConfig(fail="oh")), registry)
    (folder / "__init__.py").write_text("version = 2\n")
    from alignpipe.plan.code import _hash

    _hash.cache_clear()
    store = Store(tmp_path / "store")
    careful = Planner(make_run(tmp_path, code_change=CodeChange.rerun), registry, store)
    data = Planner(make_run(tmp_path), registry, store).decide(careful.specs[0], {})

    def decided(setting):
        planner = Planner(make_run(tmp_path, code_change=setting), registry, store)
        return planner.decide(planner.specs[1], {"data": data.artifact})

    decision = decided(CodeChange.rerun)
    assert (decision.action, decision.restart) == ("run", True)
    assert "an unfinished attempt is not resumed: the code of " in decision.why[-1]
    decision = decided(CodeChange.warn)
    assert decision.action == "resume"
    assert "the attempt it goes on with was made by other code of model/fake, sft/fake" in decision.warning
    decision = decided(CodeChange.ignore)
    assert (decision.action, decision.warning) == ("resume", None)


def test_differences_are_told_as_overrides():
    before = {"stage": "ppo", "component": {"config": {"kl_coef": 0.1}}, "inputs": {"policy": "sft " + "a" * 64}}
    now = {"stage": "ppo", "component": {"config": {"kl_coef": 0.2}}, "inputs": {"policy": "sft " + "b" * 64}}
    assert differences(before, now) == [
        "ppo.kl_coef: 0.1 -> 0.2",
        "new result of sft",
    ]
    other = {**now, "inputs": {"policy": "base"}}
    assert differences(before, other)[1] == "inputs.policy: sft aaaaaaaaaaaa -> base"


def test_another_option_is_one_difference():
    def explained(name, **config):
        return {"stage": "reward", "component": {"name": name, "version": "1", "config": config}, "uses": {}}

    before = explained("bradley_terry", lr=0.1, max_steps=3)
    assert differences(before, explained("acme", word="please")) == ["reward: bradley_terry -> acme"]
    file = {"stage": "data", "component": {"revision": {"prompts[0]": "jsonl:1"}}}
    edited = {"stage": "data", "component": {"revision": {"prompts[0]": "jsonl:2"}}}
    assert differences(file, edited) == ["data.prompts[0]: jsonl:1 -> jsonl:2"]
    tiny = {"stage": "sft", "uses": {"model": {"name": "tiny", "config": {"layers": 2}}}}
    large = {"stage": "sft", "uses": {"model": {"name": "pretrained", "config": {"path": "x"}}}}
    assert differences(tiny, large) == ["model: tiny -> pretrained"]


def test_show_plan_prints_every_stage(tmp_path, capsys):
    show_plan(make_run(tmp_path), make_registry())
    shown = capsys.readouterr().out
    assert "data  run" in shown
    assert "nothing is stored for this stage yet" in shown
    assert "eval  unknown" in shown


def test_run_key_changes_with_keyed_settings_and_the_sweep_only(tmp_path):
    def key(**changes):
        return Planner(make_run(tmp_path, **changes), make_registry(), Store(tmp_path / "store")).run_key

    assert key() == key(device="cuda", folder="elsewhere", data=DataConfig(path=""))
    assert len({key(), key(seed=1), key(sweep="s"), key(ppo=PpoConfig(lr=0.2)), key(stages=["data", "sft"])}) == 5


def test_a_port_that_names_a_stage_of_its_own_kind_only(tmp_path):
    merged = Component(
        "merge", "fake", EvalConfig, "support.fake_run:Data", "m", needs={"policy": Port("policy")}, makes="policy"
    )
    run = make_run(tmp_path, stages=["data", "sft", "merge"], extra={"merge": Selected("merge", "fake", EvalConfig())})
    planner = Planner(run, make_registry(components=(*COMPONENTS, merged)), Store(tmp_path / "store"))
    assert str(planner.specs[2].sources["policy"]) == "sft"
