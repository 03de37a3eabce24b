"""The stage: what it loads, refuses and leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignpipe.api import Artifact, Selected
from alignpipe.dataset import Gold, write_dataset
from alignpipe.errors import ConfigError, DataError, ModelError, RewardError, TrainingError
from alignpipe.options import LinearDtype, ModelLinearDtype
from alignpipe.training import room
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import load_causal, open_policy
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from alignpipe_plugins.model_tiny.config import TinyConfig
from alignpipe_plugins.model_tiny.source import TinySource
from alignpipe_plugins.ppo import stage
from alignpipe_plugins.ppo.config import PPOConfig, Select
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout
from support import ppo, tiny_models
from support.context import FakeContext

CONFIG = replace(ppo.CONFIG, max_steps=1, episodes=8)


def prompt_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Customer: case {row}.\nAgent:", "messages": [], "case": row} for row in range(start, start + count)
    ]


def data(folder: Path, *, heldout: int = 4, gold: bool = False, rows: list[dict[str, Any]] | None = None) -> Artifact:
    tables = {"prompts": {"train": rows or prompt_rows(12), "heldout": prompt_rows(heldout, 100)}}
    write_dataset(folder, tables, Gold("gold", 1, {"offset": 2}) if gold else None)
    return Artifact("dataset", "data", folder, "digest")


def reward(folder: Path, name: str = "counting") -> Artifact:
    folder.mkdir(exist_ok=True)
    (folder / "reward.json").write_text(json.dumps({"name": name, "version": 1, "offered_by": "a test", "config": {}}))
    return Artifact("reward", "reward", folder, "digest")


def context(root: Path, rewards: Mapping[str, Any], source: Any = None) -> FakeContext:
    builders = {f"reward/{name}": (lambda config, made=made: made) for name, made in rewards.items()}
    builders["model/tiny"] = lambda config: source or TinySource(TinyConfig())
    builders["rollout/local"] = lambda config: LocalRollout(LocalRolloutConfig())
    slots = {"model": Selected("model", "tiny", None), "rollout": Selected("rollout", "local", None)}
    return FakeContext(root, stage="ppo", slots=slots, builders=builders)


def policy(folder: Path | None = None) -> Artifact:
    return Artifact("policy", "sft", folder or tiny_models.llama(), "digest")


def run(
    root: Path, config: PPOConfig = CONFIG, made: Any = None, source: Any = None, **inputs: Artifact | None
) -> FakeContext:
    """Run the stage; `inputs` replace ports, None empties one."""
    ctx = context(root, {"counting": made or ppo.Counting(), "gold": ppo.Rule(lambda sample: 2.0)}, source)
    ports = {"dataset": None, "policy": policy(), "reference": policy(), "reward": None, **inputs}
    ports["dataset"] = ports["dataset"] or data(root / "data")
    ports["reward"] = ports["reward"] or reward(root / "reward")
    stage.build(config, ctx).run({name: port for name, port in ports.items() if port is not None}, ctx)
    return ctx


def test_it_leaves_an_ordinary_checkpoint_that_has_learnt(tmp_path: Path) -> None:
    ctx = run(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(ctx.payload)
    start = load_causal(tiny_models.llama())
    assert not ppo.same(saved.state_dict(), start.state_dict())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in ctx.payload.iterdir()}
    assert ctx.metrics()["objective/kl"] == 0
    assert ctx.metrics()["heldout/kl"] != 0


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp"])
def test_without_a_critic_none_is_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "start_critic", lambda *_: pytest.fail("no critic"))
    ctx = run(tmp_path, replace(ppo.CONFIGS[name], max_steps=1, episodes=8))
    saved = AutoModelForCausalLM.from_pretrained(ctx.payload)
    assert not ppo.same(saved.state_dict(), load_causal(tiny_models.llama()).state_dict())
    assert not (ctx.work / "critic_start").exists()


def test_a_training_that_fails_says_what_is_left_and_calls_for_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage.train_ppo

    def fails(*arguments: Any) -> None:
        real(*arguments)
        raise TrainingError("the gradient is not finite")

    monkeypatch.setattr(stage, "train_ppo", fails)
    ctx = context(tmp_path, {"counting": ppo.Counting()})
    inputs = {"dataset": data(tmp_path / "data"), "policy": policy(), "reward": reward(tmp_path / "reward")}
    made = stage.build(replace(CONFIG, max_steps=3, save_every=2), ctx)
    message = (
        r"^the gradient is not finite\. The newest checkpoint, of update 2, stays in .*checkpoints; the same command "
        r"would go on from there and come to the same point$"
    )
    with pytest.raises(TrainingError, match=message):
        made.run(inputs, ctx)
    assert ctx.alerts == [("failed", "the gradient is not finite", "error")]
    assert list(ctx.payload.iterdir()) == []
    with pytest.raises(TrainingError, match=r"^the gradient is not finite$"):
        run(tmp_path / "early", replace(CONFIG, save_every=100))


def test_the_reference_stays_what_was_given_when_its_port_is_emptied(tmp_path: Path) -> None:
    ctx = run(tmp_path, reference=None)
    assert ctx.metrics()["objective/kl"] == 0


def test_another_reference_is_another_checkpoint(tmp_path: Path) -> None:
    other = tiny_models.llama_model(tiny_models.llama_tokenizer(), seed=5)
    folder = tmp_path / "other"
    other.save_pretrained(folder)
    tiny_models.llama_tokenizer().save_pretrained(folder)
    ctx = run(tmp_path, reference=Artifact("policy", "checkpoint", folder, "other"))
    assert ctx.metrics()["objective/kl"] > 1


@pytest.mark.parametrize("family", [tiny_models.llama, tiny_models.gpt2])
def test_under_adapters_policy_and_reference_share_their_weights(family: Any, tmp_path: Path, monkeypatch) -> None:
    adapting = PretrainedSource(PretrainedConfig(path=str(family()), lora_rank=2), seed=0)
    batch = pad_rows([[5, 9, 20], [11]], [[7, 8], [30, 31, 5]], 0, "cpu")

    def look(players: Players, *_: Any) -> None:
        with torch.no_grad():
            for name, parameter in players.network.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(1))
            before = response_logprobs(open_policy(adapting, policy(family()), list, 0).model, batch)[0]
            assert torch.equal(response_logprobs(players.reference, batch)[0], before)
            assert not torch.allclose(response_logprobs(players.network, batch)[0], before, atol=1e-3)
        weights = {parameter.data_ptr() for parameter in players.network.parameters()}
        assert {parameter.data_ptr() for parameter in players.reference.parameters()} == weights
        assert not any(parameter.requires_grad for parameter in players.reference.parameters())
        assert any(parameter.requires_grad for parameter in players.network.parameters())

    monkeypatch.setattr(stage, "train_ppo", look)
    run(tmp_path, source=adapting, policy=policy(family()), reference=policy(family()))


def types_of_players(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What policy, reference and critic multiply in, in place of a training."""
    seen: list[torch.dtype] = []

    def look(players: Players, *_: Any) -> None:
        assert players.critic is not None
        seen.extend(linear_dtype_of(network) for network in (players.network, players.reference, players.critic.model))

    monkeypatch.setattr(stage, "train_ppo", look)
    return seen


@pytest.mark.parametrize(
    ("wanted", "of_the_model", "able", "dtype"),
    [
        ("model", ModelLinearDtype.bfloat16, False, torch.bfloat16),
        ("float32", ModelLinearDtype.bfloat16, True, torch.float32),
        ("auto", None, True, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_all_that_learn_together_multiply_in_one_type(
    wanted: str,
    of_the_model: ModelLinearDtype | None,
    able: bool,
    dtype: torch.dtype,
    same: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = types_of_players(monkeypatch)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    source = PretrainedSource(PretrainedConfig(path="x", linear_dtype=of_the_model, lora_rank=2 if same else 0), seed=0)
    ctx = run(tmp_path, replace(CONFIG, linear_dtype=LinearDtype(wanted)), source=source)
    assert seen == [dtype] * 3
    assert len([line for line in ctx.said if "multiply" in line]) == (wanted == "auto")


def test_a_reference_with_other_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"inputs\.ppo\.reference has another tokenizer than the policy"):
        run(tmp_path, reference=Artifact("policy", "checkpoint", tiny_models.with_bos(), "other"))


def test_gold_is_asked_only_where_the_data_names_it(tmp_path: Path) -> None:
    ctx = run(tmp_path / "with", dataset=data(tmp_path / "gold", gold=True))
    assert ctx.metrics()["heldout/gold"] == 2
    assert Selected("reward", "gold", {"offset": 2}) in ctx.built
    ctx = run(tmp_path / "without")
    assert "heldout/gold" not in ctx.metrics()
    assert not any(selected.name == "gold" for selected in ctx.built)


def test_the_held_out_prompts_are_cut_to_the_number_wanted(tmp_path: Path) -> None:
    rule = ppo.Rule(lambda sample: float(sample.row["case"] >= 100) * sample.row["case"])
    ctx = run(tmp_path, replace(CONFIG, eval_prompts=3), rule)
    assert ctx.metrics()["heldout/reward"] == 101


def test_without_held_out_prompts(tmp_path: Path) -> None:
    ctx = run(tmp_path / "last", dataset=data(tmp_path / "data", heldout=0))
    assert "no held-out prompts, so no evaluation on the way" in ctx.said
    with pytest.raises(ConfigError, match=r"ppo\.select=best needs held-out prompts"):
        run(tmp_path / "best", replace(CONFIG, select=Select.best), dataset=data(tmp_path / "data2", heldout=0))


def test_the_temperature_reaches_the_sampling(tmp_path: Path) -> None:
    warm, cold = (
        run(tmp_path / str(temperature), replace(CONFIG, temperature=temperature)).metrics()["policy/entropy_avg"]
        for temperature in (0.7, 0.1)
    )
    assert cold < 0.9 * warm


def test_scores_are_shaped_in_training_and_on_held_out_prompts(tmp_path: Path) -> None:
    rule = ppo.Rule(lambda sample: 9.0)
    clipped = run(tmp_path / "clipped", replace(CONFIG, score_clip=4.0), rule).metrics()
    assert clipped["objective/scores"] == clipped["heldout/reward"] == 4
    cut = run(tmp_path / "cut", replace(CONFIG, missing_eos_score=-4.0), rule).metrics()
    for score, ended in (
        ("objective/scores", 1 - cut["response_length/truncated_frac"]),
        ("heldout/reward", cut["heldout/eos_rate"]),
    ):
        assert ended < 1
        assert cut[score] == pytest.approx(9 * ended - 4 * (1 - ended))


@pytest.mark.parametrize("table", ["train", "heldout"])
def test_a_prompt_that_leaves_no_room_is_refused_before_any_work(table: str, tmp_path: Path) -> None:
    rows = prompt_rows(3)
    rows[1]["prompt"] = "long " * 60
    dataset = data(tmp_path / "data", rows=rows) if table == "train" else None
    if dataset is None:
        write_dataset(tmp_path / "data", {"prompts": {"train": prompt_rows(3), "heldout": rows}})
        dataset = Artifact("dataset", "data", tmp_path / "data", "digest")
    rule = ppo.Rule(lambda sample: pytest.fail("no work before"))
    message = r"a prompt of \d+ tokens and ppo\.max_response_tokens=6 do not fit into the model's 128 tokens; lower"
    with pytest.raises(DataError, match=message):
        run(tmp_path / "run", made=rule, dataset=dataset)


def look(root: Path, config: PPOConfig, dataset: Artifact, source: Any = None, **inputs: Artifact) -> None:
    """What the stage says before there is a reward."""
    ctx = context(root, {}, source)
    stage.build(config, ctx).check_ahead({"dataset": dataset, **inputs}, ctx)


@pytest.mark.parametrize("table", ["train", "heldout"])
def test_a_prompt_that_leaves_no_room_is_seen_before_there_is_a_policy(table: str, tmp_path: Path) -> None:
    tables = {"train": prompt_rows(3), "heldout": prompt_rows(3)}
    tables[table][1]["prompt"] = "long " * 60
    write_dataset(tmp_path / "data", {"prompts": tables})
    dataset = Artifact("dataset", "data", tmp_path / "data", "digest")
    message = r"a prompt of \d+ tokens and ppo\.max_response_tokens=6 do not fit into the model's 128 tokens; lower"
    with pytest.raises(DataError, match=message):
        look(tmp_path, CONFIG, dataset, policy=policy())
    pretrained = PretrainedSource(PretrainedConfig(path=str(tiny_models.llama())), 0)
    for based in ({}, {"policy": Artifact("policy", "base", Path(), "base")}):
        with pytest.raises(DataError, match=message):
            look(tmp_path, CONFIG, dataset, pretrained, **based)

    look(tmp_path, CONFIG, dataset)  # a tokenizer that is to be trained may make fewer tokens of it
    look(tmp_path, CONFIG, data(tmp_path / "short"), pretrained)


def test_only_the_longest_prompts_are_encoded_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LONGEST", 2)
    seen: list[list[str]] = []
    monkeypatch.setattr(room, "encode_prompts", lambda tokenizer, rows, *_: seen.append([row["case"] for row in rows]))
    rows = [{"prompt": "a" * length, "messages": [], "case": length} for length in (3, 9, 1, 7)]
    look(tmp_path, CONFIG, data(tmp_path / "data", rows=rows, heldout=0), policy=policy())
    assert seen == [[9, 7]]


def test_answers_as_long_as_the_context_are_seen_before_a_tokenizer_is_trained(tmp_path: Path) -> None:
    source = TinySource(TinyConfig(context=64))
    with pytest.raises(DataError, match=r"ppo\.max_response_tokens=64 leaves no room for a prompt in the model's"):
        look(tmp_path, replace(CONFIG, max_response_tokens=64), data(tmp_path / "data"), source)
    look(tmp_path, replace(CONFIG, max_response_tokens=63), data(tmp_path / "data"), source)


def test_a_reference_with_other_tokens_is_seen_beforehand(tmp_path: Path) -> None:
    dataset, other = data(tmp_path / "data"), policy(tiny_models.with_bos())
    with pytest.raises(ModelError, match=r"inputs\.ppo\.reference has another tokenizer than the policy"):
        look(tmp_path, CONFIG, dataset, policy=policy(), reference=other)
    look(tmp_path, CONFIG, dataset, policy=policy(), reference=policy())
    look(tmp_path, CONFIG, dataset, reference=other)  # beside a policy whose tokens are not known yet


def test_the_best_policy_without_held_out_prompts_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ppo\.select=best needs held-out prompts, and the data has none; use last"):
        look(tmp_path, replace(CONFIG, select=Select.best), data(tmp_path / "data", heldout=0))


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty prompt cannot be answered"):
        run(tmp_path, dataset=data(tmp_path / "data", rows=[{"prompt": "", "messages": [], "case": 1}]))


def test_a_reward_that_gives_no_number_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"reward counting .*failed on .*\(nan: "):
        run(tmp_path, made=ppo.Rule(lambda sample: float("nan")))
    assert list((tmp_path / "payload").iterdir()) == []


class Adapted(TinySource):
    """Puts peft's adapters around the model, with a dropout that must be switched off."""

    def __init__(self) -> None:
        super().__init__(TinyConfig())
        config = PretrainedConfig(path="unused", lora_rank=4, lora_dropout=0.5)
        self._adapters = PretrainedSource(config, seed=0)

    def adapt(self, model: Any) -> Any:
        network = self._adapters.adapt(model)
        self.dropouts = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
        return network

    def merge(self, model: Any) -> Any:
        return self._adapters.merge(model)


@pytest.mark.parametrize(("lacking", "what"), [("train", "training prompts"), ("heldout", "held-out prompts")])
def test_prompts_without_a_column_that_the_reward_reads_are_refused_before_any_work(
    lacking: str, what: str, tmp_path: Path
) -> None:
    class Reading(ppo.Counting):
        columns = ("answer",)

    tables: Any = {"prompts": {"train": prompt_rows(6), "heldout": prompt_rows(6, 100)}}
    for split, rows in tables["prompts"].items():
        for row in rows if split != lacking else ():
            row["answer"] = "4"
    write_dataset(tmp_path / "data", tables, None)
    dataset = Artifact("dataset", "data", tmp_path / "data", "digest")
    with pytest.raises(DataError, match=rf"reads the column 'answer', which 6 of 6 {what} do not have"):
        run(tmp_path, made=Reading(), dataset=dataset)
    assert not list((tmp_path / "payload").rglob("*.safetensors"))


def test_adapters_are_trained_and_folded_in(tmp_path: Path) -> None:
    """No reward model: the critic starts from the policy's weights, which must be saved before adapters are in them."""
    pytest.importorskip("peft")
    config = replace(CONFIG, max_steps=2, eval_every=1, select=Select.best)
    source = Adapted()
    ctx = run(tmp_path, config, source=source)
    assert source.dropouts
    assert all(module.p == 0 for module in source.dropouts)  # D64 cannot see it: new adapters add nothing yet
    assert ctx.series("objective/kl")[0] == 0
    start, saved = load_causal(tiny_models.llama()), AutoModelForCausalLM.from_pretrained(ctx.payload)
    before, after = start.state_dict(), saved.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)  # linear layers only: embeddings and norms carry no adapters
