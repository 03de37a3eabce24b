"""reward=bradley_terry: a plain classifier comes out, its normalisation is what it says and survives the disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignpipe.api import Artifact, Sample, Selected
from alignpipe.dataset import Dataset, write_dataset
from alignpipe.errors import DataError, RewardError, StageInterrupted
from alignpipe.ops.pairs import bradley_terry_loss
from alignpipe.options import LinearDtype, Schedule
from alignpipe.rewarding.stage import RewardStage
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import TokenScorer, load_causal, load_scorer, load_tokenizer, new_score_head
from alignpipe.training.parallel import Team
from alignpipe.training.schedule import rate
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe.training.tokens import encode_prompt, fingerprint, in_shares, response_ids
from alignpipe_plugins.bradley_terry import reward as bradley_terry
from alignpipe_plugins.bradley_terry.config import BradleyTerryConfig, Normalise
from alignpipe_plugins.bradley_terry.pairs import Pair, layout_mismatch, pair_loss, tokenise
from alignpipe_plugins.bradley_terry.reward import BradleyTerryReward, build
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout
from support import tiny_data, tiny_models
from support.context import FakeContext

CONFIG = BradleyTerryConfig(
    max_steps=12,
    batch_size=8,
    micro_batch_size=3,
    lr=3e-3,
    schedule=Schedule.constant,
    normalise_samples=16,
    sample_tokens=6,
    sample_temperature=1.0,
    eval_every=6,
    log_every=1,
)
POLICY = Artifact("policy", "sft", tiny_models.llama(), "digest")


def context(root: Path, stop_after: int | None = None) -> FakeContext:
    return FakeContext(
        root,
        stage="reward",
        slots={"model": Selected("model", "any", None), "rollout": Selected("rollout", "local", None)},
        stop_after=stop_after,
    )


def run(
    root: Path,
    config: BradleyTerryConfig = CONFIG,
    policy: Artifact | None = POLICY,
    data: Artifact | None = None,
    stop_after: int | None = None,
) -> FakeContext:
    """The whole reward stage; the reward it made is saved in the payload."""
    ctx = context(root / "reward", stop_after)
    ctx.builders = {
        "model/any": lambda _: PretrainedSource(PretrainedConfig(path=str((policy or POLICY).folder)), 0),
        "rollout/local": lambda _: LocalRollout(LocalRolloutConfig()),
        "reward/bradley_terry": lambda _: build(config, ctx),
    }
    inputs = {"dataset": data or tiny_data.write(root / "data"), **({"policy": policy} if policy else {})}
    RewardStage(Selected("reward", "bradley_terry", config), 1, "alignpipe 0.1.0").run(inputs, ctx)
    return ctx


def loaded(ctx: FakeContext) -> BradleyTerryReward:
    reward = build(CONFIG, ctx)
    reward.load(ctx.payload)
    return reward


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FakeContext:
    return run(tmp_path_factory.mktemp("bradley-terry"))


@pytest.fixture(scope="module")
def on_samples(tmp_path_factory: pytest.TempPathFactory) -> FakeContext:
    return run(tmp_path_factory.mktemp("on-samples"), replace(CONFIG, normalise=Normalise.samples))


def texts(data: Dataset, column: str = "completion") -> list[Sample]:
    return [Sample(row["prompt"], row[column]) for row in data.rows("demonstrations", "train")[:16]]


def dataset(ctx: FakeContext) -> Dataset:
    return Dataset(ctx.root.parent / "data")


def normalisation(ctx: FakeContext) -> dict[str, float]:
    return json.loads((ctx.payload / "normalisation.json").read_text())


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> FakeContext:
    seen: set[torch.dtype] = set()

    def watched(scorer: TokenScorer, *words, **options):
        seen.add(linear_dtype_of(scorer))
        return pair_loss(scorer, *words, **options)

    config = replace(CONFIG, normalise=Normalise.samples, linear_dtype=LinearDtype.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bradley_terry, "pair_loss", watched)
        ctx = run(tmp_path_factory.mktemp("in-bfloat16"), config)
    assert seen == {torch.bfloat16}
    return ctx


@pytest.mark.parametrize("which", ["trained", "on_samples", "in_bfloat16"])
def test_the_score_is_gain_times_transformers_pooled_logit_plus_bias(which: str, request) -> None:
    ctx = request.getfixturevalue(which)
    classifier = AutoModelForSequenceClassification.from_pretrained(ctx.payload).eval()
    tokenizer = AutoTokenizer.from_pretrained(ctx.payload)
    norm = normalisation(ctx)
    samples = texts(dataset(ctx))
    for sample, score in zip(samples, loaded(ctx).score(samples), strict=True):
        ids = tokenizer.encode(sample.prompt) + tokenizer.encode(sample.response) + [tokenizer.eos_token_id]
        with torch.no_grad():
            raw = classifier(torch.tensor([ids])).logits
        assert raw.shape == (1, 1)
        assert score == pytest.approx(norm["gain"] * raw.item() + norm["bias"], abs=1e-5)


def test_pooled_logits_of_a_padded_batch_are_the_same(trained: FakeContext) -> None:
    """What others do with the checkpoint: pad a batch on the right with its own tokenizer (D11)."""
    classifier = AutoModelForSequenceClassification.from_pretrained(trained.payload).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.payload, padding_side="right")
    samples = [Sample("Customer: hi\nAgent:", " Hello Maria, and thank you."), Sample("A", " B")]
    written = [sample.prompt + sample.response + tokenizer.eos_token for sample in samples]
    with torch.no_grad():
        pooled = classifier(**tokenizer(written, padding=True, return_tensors="pt")).logits[:, 0]
    norm = normalisation(trained)
    expected = [norm["gain"] * value + norm["bias"] for value in pooled.tolist()]
    assert loaded(trained).score(samples) == pytest.approx(expected, abs=1e-4)


def test_zero_means_as_good_as_the_demonstrations(trained: FakeContext) -> None:
    scores = torch.tensor(loaded(trained).score(texts(dataset(trained))))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)  # D15
    assert scores.std() > 1e-3
    assert normalisation(trained)["gain"] == 1.0  # shift only
    assert normalisation(trained)["bias"] != 0.0


@pytest.mark.parametrize("which", ["on_samples", "in_bfloat16"])
def test_the_starting_policys_samples_have_mean_0_and_spread_1(which: str, request) -> None:
    ctx = request.getfixturevalue(which)
    rows = dataset(ctx).rows("preferences", "train")[:16]
    tokenizer = load_tokenizer(tiny_models.llama())
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    drawn = LocalRollout(LocalRolloutConfig()).sample(
        load_causal(tiny_models.llama()),
        prompts,
        episode_uniforms(stream(0, "normalise"), 16, 6),
        temperature=1.0,
        eos_ids=[tokenizer.eos_token_id],
    )
    samples = [
        Sample(
            row["prompt"],
            tokenizer.decode(response.ids, skip_special_tokens=True),
            prompt_ids=prompt,
            response_ids=response.ids,
            vocabulary=fingerprint(tokenizer),
            ended=response.ended,
        )
        for row, prompt, response in zip(rows, prompts, drawn, strict=True)
    ]
    scores = torch.tensor(loaded(ctx).score(samples))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)  # D16
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert normalisation(ctx)["gain"] != 1.0


def test_it_learns_with_products_in_bfloat16(in_bfloat16: FakeContext) -> None:
    """That the normalisation is of what the stored model scores in float32 is seen above."""
    assert in_bfloat16.series("loss")[-1] < in_bfloat16.series("loss")[0]


def test_the_normalisation_survives_the_disk(on_samples: FakeContext, tmp_path: Path) -> None:
    first = loaded(on_samples)  # D17
    first.save(tmp_path)
    second = build(CONFIG, on_samples)
    second.load(tmp_path)
    samples = texts(dataset(on_samples))
    assert second.score(samples) == first.score(samples)
    assert json.loads((tmp_path / "normalisation.json").read_text()) == normalisation(on_samples)
    assert normalisation(on_samples)["gain"] == on_samples.metrics()["gain"]
    assert normalisation(on_samples)["bias"] == on_samples.metrics()["bias"]


def test_without_normalisation_scores_are_raw(tmp_path: Path) -> None:
    ctx = run(tmp_path, replace(CONFIG, normalise=Normalise.none, max_steps=1))
    assert (normalisation(ctx)["gain"], normalisation(ctx)["bias"]) == (1.0, 0.0)


def odd_ids(tokenizer, text: str) -> list[int]:
    """A spelling of `text` that encoding it would not choose: one token per byte."""
    return [tokenizer.encode(letter)[0] for letter in text]


def test_the_policys_own_ids_are_scored_where_the_tokenizer_is_the_same(trained: FakeContext) -> None:
    reward, tokenizer = loaded(trained), load_tokenizer(trained.payload)
    prompt, answer = "Customer: this is Maria.\nAgent:", " Hello Maria."
    ids = [*odd_ids(tokenizer, answer), tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == answer
    assert ids != response_ids(tokenizer, [answer])[0]

    def score(**given) -> float:
        return reward.score([Sample(prompt, answer, prompt_ids=tokenizer.encode(prompt), response_ids=ids, **given)])[0]

    text = reward.score([Sample(prompt, answer)])[0]
    own = score(vocabulary=fingerprint(tokenizer))
    assert abs(own - text) > 1e-3
    assert score(vocabulary="another tokenizer's") == pytest.approx(text, abs=1e-6)
    assert score(vocabulary=None) == pytest.approx(text, abs=1e-6)
    classifier = AutoModelForSequenceClassification.from_pretrained(trained.payload).eval()
    with torch.no_grad():
        raw = classifier(torch.tensor([tokenizer.encode(prompt) + ids])).logits.item()
    assert own == pytest.approx(raw + normalisation(trained)["bias"], abs=1e-5)


def test_an_answer_that_was_cut_off_is_read_without_an_end(trained: FakeContext) -> None:
    reward, tokenizer = loaded(trained), load_tokenizer(trained.payload)
    classifier = AutoModelForSequenceClassification.from_pretrained(trained.payload).eval()
    ids = tokenizer.encode("A prompt") + tokenizer.encode(" and so")
    with torch.no_grad():
        raw = classifier(torch.tensor([ids])).logits.item()
    cut = reward.score([Sample("A prompt", " and so", ended=False)])[0]
    assert cut == pytest.approx(raw + normalisation(trained)["bias"], abs=1e-5)
    assert cut != pytest.approx(reward.score([Sample("A prompt", " and so")])[0], abs=1e-3)


def test_scores_do_not_depend_on_the_batch(trained: FakeContext) -> None:
    reward = loaded(trained)
    samples = [*texts(dataset(trained)), *(Sample("p" * n, " answer" * (n % 7 + 1)) for n in range(1, 80))]
    together = reward.score(samples)
    alone = [reward.score([sample])[0] for sample in samples]
    assert together == pytest.approx(alone, abs=1e-5)


def test_it_learns_and_logs_what_the_readme_says(trained: FakeContext) -> None:
    metrics = trained.metrics()
    assert metrics["eval_accuracy"] == metrics["heldout/accuracy"] == 1.0
    assert metrics["eval_loss"] < 0.2 < trained.series("loss")[0]
    assert metrics["layout_mismatch"] == 0.0  # D07
    readme = (Path(__file__).parents[2] / "plugins/alignpipe_plugins/bradley_terry/README.md").read_text()
    logged = {name for _, each in trained.logged + trained.timings for name in each}
    assert [name for name in logged if f"`{name}`" not in readme] == []


def test_it_starts_from_the_policy_with_a_new_head(tmp_path: Path) -> None:
    """D09, D10: after a step that moves nothing, the backbone is the policy's and the head is the seed's draw."""
    ctx = run(tmp_path, replace(CONFIG, max_steps=1, lr=1e-12, normalise=Normalise.none))
    made = load_scorer(ctx.payload)
    policy = load_causal(tiny_models.llama())
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(made.model(ids).last_hidden_state, policy.model(ids).last_hidden_state, atol=1e-5)
    fresh = load_scorer(tiny_models.llama())
    new_score_head(fresh, stream(0, "score head"))
    assert torch.allclose(made.score.weight, fresh.score.weight, atol=1e-8)
    assert fresh.score.weight.std().item() == pytest.approx(33**-0.5, rel=0.4)


@pytest.mark.parametrize("stage", ["base", "checkpoint"])
def test_it_starts_from_a_model_without_a_pad_token(stage: str, tmp_path: Path) -> None:
    policy = Artifact("policy", stage, tiny_models.gpt2(), "digest")
    before = sorted(path.name for path in tiny_models.gpt2().iterdir())
    ctx = run(tmp_path, replace(CONFIG, max_steps=2, normalise=Normalise.samples), policy)
    tokenizer, model = load_tokenizer(ctx.payload), load_scorer(ctx.payload)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert sorted(path.name for path in tiny_models.gpt2().iterdir()) == before  # nobody writes into an input


def test_stopped_and_resumed_the_bytes_are_the_same(tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=6, normalise=Normalise.samples)
    data = tiny_data.write(tmp_path / "data")
    whole = run(tmp_path / "whole", config, data=data)
    with pytest.raises(StageInterrupted, match="reward stopped at step 4 of 6"):
        run(tmp_path / "stopped", config, data=data, stop_after=3)
    resumed = run(tmp_path / "stopped", config, data=data)
    for name in ("model.safetensors", "normalisation.json", "reward.json", "report_card.json"):
        assert (resumed.payload / name).read_bytes() == (whole.payload / name).read_bytes()


def test_each_process_encodes_its_share_of_the_pairs() -> None:
    tokenizer, shares = load_tokenizer(tiny_models.llama()), []

    class Half(Team):
        """Process 0 tells its share, process 1 has that of process 0 too."""

        def gather(self, item: Any) -> list[Any]:
            shares.append(item)
            return shares

    rows = [{"prompt": "p" * n, "messages": [], "chosen": " a" * n, "rejected": " b" * n} for n in range(1, 8)]
    with pytest.raises(KeyError):  # the other's share is missing
        tokenise(rows, tokenizer, 128, Half(0, 2))
    assert tokenise(rows, tokenizer, 128, Half(1, 2)) == tokenise(rows, tokenizer, 128)
    assert [len(share) for share in shares] == [4, 3]


def test_what_one_process_cannot_encode_is_an_error_in_all() -> None:
    class Told(Team):
        """Process 0, which hears what process 1 could not encode."""

        def gather(self, item: Any) -> list[Any]:
            (row, _), *_ = item
            return [item, [(1 - row, DataError("no template for it"))]]

    rows = [{"prompt": "p", "messages": [], "chosen": " a", "rejected": " b"}] * 2
    with pytest.raises(DataError, match=r"^no template for it$"):
        tokenise(rows, load_tokenizer(tiny_models.llama()), 128, Told(0, 2))


def test_what_this_process_cannot_encode_is_told_to_the_others() -> None:
    told = []

    class Telling(Team):
        def gather(self, item: Any) -> list[Any]:
            told.extend(item)
            return [item]

    def refuse(rows: list[Any]) -> list[int]:
        raise DataError("no template")

    with pytest.raises(DataError, match=r"^no template$"):
        in_shares(Telling(0, 2), [{}], refuse)
    assert [(row, str(error)) for row, error in told] == [(0, "no template")]


def test_the_pair_loss_is_the_sum_over_pairs_whatever_the_batch() -> None:
    tokenizer = load_tokenizer(tiny_models.llama())
    scorer = TokenScorer(load_scorer(tiny_models.llama())).eval()
    new_score_head(scorer.model, torch.Generator().manual_seed(1))
    rows = [
        {"prompt": "p" * n, "messages": [], "chosen": " a" * n, "rejected": " much longer answer" * (n % 3 + 1)}
        for n in range(1, 6)
    ]
    pairs = tokenise(rows, tokenizer, 128)
    with torch.no_grad():
        whole = pair_loss(scorer, pairs, 0, "cpu")
        raw = [
            [scorer(torch.tensor([pair.prompt + side]))[0, -1] for side in (pair.chosen, pair.rejected)]
            for pair in pairs
        ]
        parts = [pair_loss(scorer, [pair], 0, "cpu") for pair in pairs]
    chosen, rejected = torch.tensor(raw).T
    assert whole.loss.item() == pytest.approx(bradley_terry_loss(chosen, rejected).sum().item(), abs=1e-4)
    assert whole.loss.item() == pytest.approx(sum(part.loss.item() for part in parts), abs=1e-4)
    assert (
        whole.figures["accuracy"] == sum(part.figures["accuracy"] for part in parts) == int((chosen > rejected).sum())
    )
    assert whole.figures["margin"] == pytest.approx((chosen - rejected).sum().item(), abs=1e-4)


def test_layout_mismatch_sees_a_scorer_that_minds_the_padding() -> None:
    scorer = TokenScorer(load_scorer(tiny_models.gpt2())).eval()
    new_score_head(scorer.model, torch.Generator().manual_seed(1))
    pairs = [Pair([5] * n, [7, 8] * n, [9]) for n in range(1, 6)]

    def careless(ids, attention_mask=None, position_ids=None):
        return scorer(ids)  # counts left pads as positions and looks at them

    with torch.no_grad():
        assert layout_mismatch(scorer, pairs, 0, "cpu") == 0.0
        assert layout_mismatch(careless, pairs, 0, "cpu") >= 0.6


def test_long_answers_are_cut_and_long_prompts_refused(tmp_path: Path, trained: FakeContext) -> None:
    reward = loaded(trained)
    assert reward.score([Sample("p", " long" * 500)]) == reward.score([Sample("p", " long" * 700)])
    with pytest.raises(DataError, match="leaves no room for a response within 128 tokens"):
        reward.score([Sample("p " * 500, " a")])
    data = tiny_data.write(tmp_path / "data", prompt="word " * 200)
    with pytest.raises(DataError, match=r"leaves no room.*\(reward\.max_length, .*data\.max_prompt_tokens"):
        run(tmp_path, data=data)


def test_answers_that_all_score_the_same_set_no_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(reward: BradleyTerryReward, samples: list[Sample]) -> list[float]:
        return [1.0] * len(samples)

    monkeypatch.setattr(BradleyTerryReward, "score", alike)
    with pytest.raises(DataError, match=r"reward\.normalise=samples: every sampled answer scores the same"):
        run(tmp_path, replace(CONFIG, max_steps=1, normalise=Normalise.samples))


def test_samples_never_outgrow_the_models_context(tmp_path: Path) -> None:
    rows = [{"prompt": "word " * n, "messages": [], "chosen": " a", "rejected": " b"} for n in (1, 2, 20, 3)]
    write_dataset(tmp_path / "data", {"preferences": {"train": rows, "heldout": rows[:1]}})
    data = Artifact("dataset", "data", tmp_path / "data", "digest")
    config = replace(CONFIG, max_steps=1, normalise=Normalise.samples, sample_tokens=100)
    policy = Artifact("policy", "checkpoint", tiny_models.gpt2(), "digest")  # 128 positions, and not one more
    assert normalisation(run(tmp_path / "fits", config, policy, data))["gain"] > 0
    with pytest.raises(DataError, match=r"no two prompts leave room for reward\.sample_tokens=128 within 128 tokens"):
        run(tmp_path / "tight", replace(config, sample_tokens=128), policy, data)


def test_demonstrations_may_be_missing(tmp_path: Path) -> None:
    data = tiny_data.write(tmp_path / "data", without=("demonstrations",))
    ctx = run(tmp_path, replace(CONFIG, max_steps=1), data=data)
    chosen = [Sample(row["prompt"], row["chosen"]) for row in Dataset(data.folder).rows("preferences", "train")[:16]]
    assert torch.tensor(loaded(ctx).score(chosen)).mean().item() == pytest.approx(0, abs=1e-5)


def test_it_does_not_score_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="reward bradley_terry has not been trained"):
        build(CONFIG, context(tmp_path)).score([Sample("p", "r")])


def test_a_saved_reward_without_its_normalisation_is_refused(tmp_path: Path, trained: FakeContext) -> None:
    folder = shutil.copytree(trained.payload, tmp_path / "copy")
    (folder / "normalisation.json").unlink()
    with pytest.raises(RewardError, match=r"normalisation\.json"):
        build(CONFIG, trained).load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise_samples": 1}, "normalise_samples must be at least 2, got 1"),
        ({"sample_temperature": 0.0}, "sample_temperature must be a positive number"),
        ({"eval_every": 5}, r"eval_every \(5\) must be a multiple of log_every \(10\)"),
    ],
)
def test_values_that_cannot_be(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BradleyTerryConfig(**options)


def test_the_defaults_are_those_of_the_recipe() -> None:
    """One epoch with a rate that goes to 0 (D13); AdamW with eps 1e-5, rate 3e-6, batches of 64 (D14)."""
    config = BradleyTerryConfig()
    assert (config.epochs, config.max_steps, config.steps(6400)) == (1.0, None, 100)
    assert rate(99, 100, round(config.warmup_share * 100), config.schedule) < 1e-3
    assert (config.lr, config.adam_eps, config.batch_size, config.weight_decay) == (3e-6, 1e-5, 64, 0.0)
    assert config.schedule is Schedule.cosine
