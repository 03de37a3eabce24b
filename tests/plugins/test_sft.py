"""sft=standard: an ordinary checkpoint comes out, the loss is transformers' own, long prompts are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignpipe.api import Artifact, Selected
from alignpipe.errors import DataError, StageInterrupted
from alignpipe.options import LinearDtype, Precision, Schedule
from alignpipe.training.batches import TokenBatch, pad_rows, response_logprobs
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import Policy, load_causal, load_tokenizer
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from alignpipe_plugins.model_tiny.config import TinyConfig
from alignpipe_plugins.model_tiny.source import TinySource
from alignpipe_plugins.sft import stage
from alignpipe_plugins.sft.config import LossOn, SFTConfig
from alignpipe_plugins.sft.stage import build, tokenise
from support import tiny_data, tiny_models
from support.context import FakeContext

OPTIONS = {
    "max_steps": 8,
    "batch_size": 8,
    "micro_batch_size": 3,
    "lr": 5e-3,
    "schedule": Schedule.constant,
    "eval_every": 4,
    "log_every": 2,
}
TINY = TinyConfig(hidden_size=32, layers=2, heads=2, intermediate_size=48, vocabulary=320, context=64)


def context(root: Path, **options) -> FakeContext:
    return FakeContext(
        root,
        stage="sft",
        slots={"model": Selected("model", "any", None)},
        builders={"model/any": lambda _: options.pop("source", None) or TinySource(TINY)},
        stop_after=options.pop("stop_after", None),
    )


def run(
    root: Path, *, data: Artifact | None = None, stop_after: int | None = None, source=None, **options
) -> FakeContext:
    data = data or tiny_data.write(root / "data")
    ctx = context(root / "sft", stop_after=stop_after, source=source)
    build(SFTConfig(**{**OPTIONS, **options}), ctx).run({"dataset": data}, ctx)
    return ctx


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FakeContext:
    return run(tmp_path_factory.mktemp("sft"))


def test_the_result_is_an_ordinary_checkpoint(trained: FakeContext) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(trained.payload),
        AutoTokenizer.from_pretrained(trained.payload),
    )
    assert (trained.payload / "model.safetensors").is_file()
    ids = torch.tensor([tokenizer.encode("Customer: this is Maria.\nAgent:")])
    assert torch.isfinite(model(ids).logits).all()
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_it_learns_and_logs_what_the_readme_says(trained: FakeContext) -> None:
    losses = trained.series("eval_loss")
    assert losses[-1] < losses[0] < math.log(320) + 1
    assert trained.metrics()["eval_perplexity"] == pytest.approx(math.exp(losses[-1]))
    logged = {name for _, metrics in trained.logged for name in metrics}
    assert logged == {"loss", "grad_norm", "lr", "epoch", "eval_loss", "eval_perplexity"}
    readme = (Path(__file__).parents[2] / "plugins/alignpipe_plugins/sft/README.md").read_text()
    assert all(f"`{name}`" in readme for name in logged | {name for _, each in trained.timings for name in each})


def test_the_evaluation_loss_is_transformers_loss_of_the_saved_model(trained: FakeContext) -> None:
    model, tokenizer = load_causal(trained.payload), load_tokenizer(trained.payload)
    total, tokens = 0.0, 0
    for index in range(1000, 1008):
        prompt = tokenizer.encode(f"Customer: this is {tiny_data.NAMES[index % 4]}, case {index}.\nAgent:")
        answer = [*tokenizer.encode(f" Hello {tiny_data.NAMES[index % 4]}, thank you."), tokenizer.eos_token_id]
        with torch.no_grad():
            loss = model(torch.tensor([prompt + answer]), labels=torch.tensor([[-100] * len(prompt) + answer])).loss
        total, tokens = total + loss.item() * len(answer), tokens + len(answer)
    assert trained.metrics()["eval_loss"] == pytest.approx(total / tokens, abs=1e-4)


@pytest.mark.parametrize("loss_on", list(LossOn))
def test_which_tokens_the_loss_counts(loss_on: LossOn) -> None:
    policy = Policy(load_causal(tiny_models.llama()), load_tokenizer(tiny_models.llama()))
    row = {"prompt": "Customer: hi", "messages": [], "completion": " Hello Maria."}
    (example,) = tokenise([row], policy, 64, loss_on)
    prompt, answer = policy.tokenizer.encode("Customer: hi"), policy.tokenizer.encode(" Hello Maria.")
    whole = [*prompt, *answer, policy.tokenizer.eos_token_id]
    assert example.prompt + example.response == whole
    hidden = 0 if loss_on is LossOn.all else len(prompt)
    with torch.no_grad():
        expected = policy.model(torch.tensor([whole]), labels=torch.tensor([[-100] * hidden + whole[hidden:]])).loss
        logp, _ = response_logprobs(policy.model, pad_rows([example.prompt], [example.response], 0, "cpu"))
    assert -logp.sum().item() / example.weight == pytest.approx(expected.item(), abs=1e-5)


def test_a_demonstration_without_a_prompt_is_learnt_from_its_second_token_on() -> None:
    policy = Policy(load_causal(tiny_models.llama()), load_tokenizer(tiny_models.llama()))
    (example,) = tokenise([{"prompt": "", "messages": [], "completion": "Hello"}], policy, 64, LossOn.completion)
    assert example.prompt == policy.tokenizer.encode("Hello")[:1]
    assert example.prompt + example.response == [*policy.tokenizer.encode("Hello"), policy.tokenizer.eos_token_id]


def test_long_answers_are_cut_and_long_prompts_refused(tmp_path: Path) -> None:
    long_answer = tiny_data.write(tmp_path / "answers", completion=" very long" * 60)
    run(tmp_path / "cut", data=long_answer, max_steps=1)
    long_prompt = tiny_data.write(tmp_path / "prompts", prompt="word " * 200)
    with pytest.raises(DataError, match=r"within 64 tokens \(sft\.max_length, .*; .*data\.max_prompt_tokens"):
        run(tmp_path / "refused", data=long_prompt)
    assert not list((tmp_path / "refused" / "sft" / "payload").iterdir())


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data has no demonstrations in its train split"):
        run(tmp_path, data=tiny_data.write(tmp_path / "data", without=("demonstrations",)))


def test_without_held_out_demonstrations_it_says_so(tmp_path: Path) -> None:
    ctx = run(tmp_path, data=tiny_data.write(tmp_path / "data", heldout=0), max_steps=2)
    assert ctx.said == ["no held-out demonstrations, so no evaluation loss"]
    assert "eval_loss" not in ctx.metrics()


def test_steps_come_from_epochs_where_they_are_not_given(tmp_path: Path) -> None:
    ctx = run(tmp_path, max_steps=None, epochs=0.5)  # of 24 demonstrations in batches of 8
    assert [done for done, *_ in ctx.shown] == [1, 2]


def test_stopped_and_resumed_the_bytes_are_the_same(tmp_path: Path) -> None:
    data = tiny_data.write(tmp_path / "data")
    whole = run(tmp_path / "whole", data=data)
    with pytest.raises(StageInterrupted, match="sft stopped at step 4 of 8"):
        run(tmp_path / "stopped", data=data, stop_after=3)
    resumed = run(tmp_path / "stopped", data=data)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (resumed.payload / name).read_bytes() == (whole.payload / name).read_bytes()


@pytest.mark.parametrize("rank", [0, 4])
def test_on_a_pretrained_model_without_a_pad_token(rank: int, tmp_path: Path) -> None:
    source = PretrainedSource(PretrainedConfig(path=str(tiny_models.gpt2()), lora_rank=rank), 0)
    ctx = run(tmp_path, source=source, max_steps=4)
    model = AutoModelForCausalLM.from_pretrained(ctx.payload)
    base = AutoModelForCausalLM.from_pretrained(tiny_models.gpt2())
    assert model.get_input_embeddings().weight.shape[0] == base.get_input_embeddings().weight.shape[0] + 1
    moved = model.transformer.h[0].attn.c_attn.weight - base.transformer.h[0].attn.c_attn.weight
    assert moved.abs().max().item() > 1e-4


@pytest.mark.parametrize("rank", [0, 4])
def test_it_learns_with_products_in_bfloat16(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def watched(network: torch.nn.Module, tokens: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(linear_dtype_of(network))
        return response_logprobs(network, tokens)

    monkeypatch.setattr(stage, "response_logprobs", watched)
    source = PretrainedSource(PretrainedConfig(path=str(tiny_models.llama()), lora_rank=rank), 0)
    ctx = run(tmp_path, source=source, linear_dtype=LinearDtype.bfloat16)
    assert set(seen) == {torch.bfloat16}
    losses = ctx.series("eval_loss")
    assert losses[-1] < losses[0]
    assert load_causal(ctx.payload).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "rank", "told"), [("bfloat16", 0, True), ("bfloat16", 4, False), ("float32", 0, False)]
)
def test_steps_that_rounding_loses_are_told(dtype: str, rank: int, told: bool, tmp_path: Path) -> None:
    config = PretrainedConfig(path=str(tiny_models.llama()), dtype=Precision[dtype], lora_rank=rank)
    ctx = run(tmp_path, source=PretrainedSource(config, 0), max_steps=1)
    lines = [line for line in ctx.said if line.startswith("weights are trained in bfloat16: steps")]
    assert bool(lines) == told


def test_it_starts_from_the_policy_port_where_that_is_fed(tmp_path: Path, trained: FakeContext) -> None:
    data = tiny_data.write(tmp_path / "data")
    ctx = context(tmp_path / "sft")
    policy = Artifact("policy", "sft", trained.payload, "digest")
    build(SFTConfig(**{**OPTIONS, "max_steps": 1, "lr": 1e-9}), ctx).run({"dataset": data, "policy": policy}, ctx)
    assert ctx.metrics()["eval_loss"] == pytest.approx(trained.metrics()["eval_loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"warmup_share": 1.0}, r"warmup_share must lie in \[0, 1\), got 1"),
        ({"eval_every": 15}, r"eval_every \(15\) must be a multiple of log_every \(10\)"),
    ],
)
def test_values_that_cannot_be(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTConfig(**options)
