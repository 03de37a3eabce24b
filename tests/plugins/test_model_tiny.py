"""model=tiny: a lossless tokenizer with its own end, seeded weights, a spread that lets it copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignpipe.options import Forward, ModelLinearDtype
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import context_length, save_checkpoint
from alignpipe.training.packed.models import packable
from alignpipe.training.tokens import check_tokenizer, decoder
from alignpipe_plugins.model_tiny.config import TinyConfig
from alignpipe_plugins.model_tiny.source import TinySource
from support.tiny_models import TEXTS

CONFIG = TinyConfig(hidden_size=32, layers=2, heads=2, intermediate_size=48, vocabulary=320, context=64)
SOURCE = TinySource(CONFIG)


def test_the_tokenizer_is_lossless_and_has_a_pad_of_its_own() -> None:
    tokenizer = SOURCE.tokenizer(TEXTS)
    size = len(tokenizer)
    assert size == 320
    check_tokenizer(tokenizer, "tiny")
    assert len(tokenizer) == size  # nothing was missing
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for text in ("plain", " two  spaces\n", "never seen: žluťoučký 猫 🙂"):
        assert decoder(tokenizer)(tokenizer.encode(text)) == text


def test_the_tokenizer_learns_its_text_and_is_the_same_every_time() -> None:
    first, second = SOURCE.tokenizer(TEXTS), SOURCE.tokenizer(TEXTS)
    assert first.get_vocab() == second.get_vocab()
    other = SOURCE.tokenizer(["completely different words everywhere " * 3])
    assert len(first.encode(TEXTS[0])) < len(other.encode(TEXTS[0]))


def test_the_weights_are_the_seeds_and_leave_the_global_stream_alone() -> None:
    tokenizer = SOURCE.tokenizer(TEXTS)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, same, other = SOURCE.base(tokenizer, 1), SOURCE.base(tokenizer, 1), SOURCE.base(tokenizer, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_initial_spread_and_the_size() -> None:
    model = SOURCE.base(SOURCE.tokenizer(TEXTS), 0)
    assert model.model.layers[1].mlp.up_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.05)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert (context_length(model), SOURCE.context_length()) == (64, 64)
    assert len(model.model.layers) == 2


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    tokenizer = SOURCE.tokenizer(TEXTS)
    model = SOURCE.base(tokenizer, 0).eval()
    assert SOURCE.merge(SOURCE.adapt(model)) is model
    save_checkpoint(model, tokenizer, tmp_path)
    ids = torch.tensor([[3, 9, 27]])
    assert torch.allclose(SOURCE.load(tmp_path)(ids).logits, model(ids).logits, atol=1e-6)
    scorer = SOURCE.load_scorer(tmp_path)
    hidden = model.model(ids).last_hidden_state
    assert torch.allclose(scorer.model(ids).last_hidden_state, hidden, atol=1e-6)
    assert scorer.score.out_features == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 30, "heads": 4}, "hidden_size 30 must be a multiple of twice the number of heads, 4"),
        ({"vocabulary": 299}, "vocabulary must be at least 300"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_size": -8}, "hidden_size must be at least 1, got -8"),
    ],
)
def test_impossible_sizes(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TinyConfig(**values)


def test_how_it_is_run_is_chosen_for_the_base_model_and_for_every_checkpoint(tmp_path: Path) -> None:
    general = TinySource(replace(CONFIG, forward=Forward.general))
    coarse = TinySource(replace(CONFIG, linear_dtype=ModelLinearDtype.bfloat16))
    tokenizer = SOURCE.tokenizer(TEXTS)
    save_checkpoint(coarse.base(tokenizer, 0), tokenizer, tmp_path)
    for source, packed, dtype in (
        (SOURCE, True, torch.float32),
        (general, False, torch.float32),
        (coarse, True, torch.bfloat16),
    ):
        for model in (source.base(tokenizer, 0), source.load(tmp_path), source.load_scorer(tmp_path)):
            assert (packable(model, 9) is not None) == packed
            assert linear_dtype_of(model) == dtype
            assert model.dtype == torch.float32
    assert "alignpipe" not in (tmp_path / "config.json").read_text()
