"""Loading and checking models: what is refused, what is set to 0, what grows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    Gemma3Config,
    GPT2Config,
    GPT2Model,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from alignpipe.api import Artifact
from alignpipe.errors import ModelError
from alignpipe.training.models import (
    Policy,
    TokenScorer,
    context_length,
    fit_tokenizer,
    limit_length,
    load_causal,
    load_scorer,
    load_tokenizer,
    new_score_head,
    open_policy,
    save_checkpoint,
    without_dropout,
)
from support import tiny_models


class FolderSource:
    """A model source of one checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: list[str] = []

    def tokenizer(self, texts):
        self.texts = list(texts)
        return load_tokenizer(self.folder)

    def base(self, tokenizer, seed):
        return load_causal(self.folder)

    def load(self, folder):
        return load_causal(folder)


def no_texts() -> list[str]:
    raise AssertionError("a checkpoint has its own tokenizer")


@pytest.mark.parametrize("load", [load_causal, load_scorer])
def test_a_folder_that_is_no_checkpoint(load, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no checkpoint folder: it has no config\.json"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=f"no tokenizer can be loaded from {tmp_path}: it holds none of tokenizer.json"
    ):
        load_tokenizer(tmp_path)


def test_an_encoder_is_no_causal_model(tmp_path: Path) -> None:
    """It sees the very token that it is to predict."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=90, initializer_range=0.3, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds a BertLMHeadModel that is not causal: .* set is_decoder in"):
        load_causal(tmp_path)
    BertLMHeadModel(BertConfig(vocab_size=90, is_decoder=True, **sizes)).save_pretrained(tmp_path / "decoder")
    assert not load_causal(tmp_path / "decoder").training


def test_a_family_without_a_classifier(tmp_path: Path) -> None:
    MambaForCausalLM(MambaConfig(vocab_size=90, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no sequence classifier of this kind .* take another reward .* ppo=grpo"):
        load_scorer(tmp_path)


def test_a_checkpoint_without_weights(tmp_path: Path) -> None:
    shutil.copy(tiny_models.llama() / "config.json", tmp_path)
    with pytest.raises(ModelError, match=f"no model can be loaded from {tmp_path}"):
        load_causal(tmp_path)


def test_a_checkpoint_with_broken_weights(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models.llama(), tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="no model can be loaded from"):
        load_causal(folder)


def test_a_checkpoint_with_some_weights_missing(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models.llama(), tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if ".layers.1.mlp" in name]
    save_file({name: value for name, value in weights.items() if name not in gone}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks weights of a LlamaForCausalLM: model\.layers\.1\.mlp"):
        load_causal(folder)


def llama_that_says(folder: Path, **said: int) -> Path:
    """A copy of the tiny Llama whose config.json says something else than its weights."""
    shutil.copytree(tiny_models.llama(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **said}))
    return folder


def test_a_checkpoint_of_more_layers_than_its_config_says(tmp_path: Path) -> None:
    """transformers leaves the other layers out, which is another model."""
    folder = llama_that_says(tmp_path / "deep", num_hidden_layers=1)
    told = r"deep has more layers than its config\.json says: model\.layers\.1\.input_layernorm\.weight, .* more$"
    with pytest.raises(ModelError, match=told):
        load_causal(folder)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    folder = llama_that_says(tmp_path / "further", num_hidden_layers=1, num_nextn_predict_layers=1)
    assert load_causal(folder).config.num_hidden_layers == 1


def test_one_that_was_saved_without_its_head_is_looked_at_too(tmp_path: Path) -> None:
    """Its weights' names lack the model's prefix."""
    config = GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=3, n_head=2)
    GPT2Model(config).save_pretrained(tmp_path)
    load_causal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "n_layer": 2}))
    with pytest.raises(ModelError, match=r"more layers than its config\.json says: h\.2\."):
        load_causal(tmp_path)


def test_a_checkpoint_whose_weights_do_not_fit_its_config(tmp_path: Path) -> None:
    """transformers says which in a report that it logs, and in its error only that there is one."""
    folder = llama_that_says(tmp_path / "other", intermediate_size=64)
    told = r"do not fit its config\.json: .*\.0\.mlp\.down_proj\.weight is \[32, 48\], not \[32, 64\], .* and 3 more$"
    with pytest.raises(ModelError, match=told):
        load_causal(folder)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"hidden_size": "32"}, "Field 'hidden_size' expected int, got str"),
        ({"num_attention_heads": 0}, "integer modulo by zero"),
        ({"num_attention_heads": 3}, "is not a multiple of the number of attention heads"),
        ({"dtype": "floaty"}, "has no attribute 'floaty'"),
        ({"model_type": "superllama"}, "model type `superllama`"),
    ],
    ids=str,
)
def test_a_config_that_transformers_cannot_take(wrong: dict[str, object], told: str, tmp_path: Path) -> None:
    """It raises errors of every kind, some of which are no `ValueError`."""
    folder = shutil.copytree(tiny_models.llama(), tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **wrong}))
    with pytest.raises(ModelError, match=rf"^the config\.json of {folder} cannot be used: .*{re.escape(told)}"):
        load_causal(folder)
    if wrong != {"model_type": "superllama"}:  # with which transformers finds a tokenizer all the same
        with pytest.raises(ModelError, match=rf"^no tokenizer can be loaded from {folder}: .*{re.escape(told)}"):
            load_tokenizer(folder)


def test_a_missing_head_is_made_new_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    model = load_scorer(tiny_models.llama())
    assert model.score.weight.shape == (1, 32)
    assert capfd.readouterr() == ("", "")


def test_all_dropout_is_off_so_that_training_mode_computes_the_same() -> None:
    config = GPT2Config(resid_pdrop=0.3, summary_first_dropout=0.2)
    without_dropout(config)
    assert {key: value for key, value in config.to_dict().items() if "drop" in key and value} == {}
    ids = torch.tensor([[5, 6, 7, 8]])
    noisy = tiny_models.gpt2_model(tiny_models.gpt2_tokenizer()).train()
    assert not torch.equal(noisy(ids).logits, noisy(ids).logits)
    for model in (load_causal(tiny_models.gpt2()).train(), load_scorer(tiny_models.gpt2()).train()):
        hidden = model.transformer
        assert torch.equal(hidden(ids).last_hidden_state, hidden(ids).last_hidden_state)


def test_dropout_of_a_config_within_a_config_is_off_too() -> None:
    config = Gemma3Config(text_config={"attention_dropout": 0.3}, vision_config={"attention_dropout": 1})
    without_dropout(config)
    assert (config.text_config.attention_dropout, config.vision_config.attention_dropout) == (0, 0)


def test_the_embedding_grows_for_a_new_pad_token_always_the_same() -> None:
    tokenizer = load_tokenizer(tiny_models.gpt2())
    first, second = load_causal(tiny_models.gpt2()), load_causal(tiny_models.gpt2())
    rows = first.get_input_embeddings().weight.shape[0]
    torch.manual_seed(1)
    fit_tokenizer(first, tokenizer)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    fit_tokenizer(second, tokenizer)
    grown = first.get_input_embeddings().weight
    assert grown.shape[0] == rows + 1 == len(tokenizer)
    assert torch.equal(grown, second.get_input_embeddings().weight)
    assert first.lm_head.weight is grown
    assert (first.config.pad_token_id, first.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers were touched


def test_a_fitting_embedding_stays_as_it_is() -> None:
    model = load_causal(tiny_models.llama())
    before = model.get_input_embeddings().weight
    fit_tokenizer(model, load_tokenizer(tiny_models.llama()))
    assert model.get_input_embeddings().weight is before


def test_the_base_model_is_built_and_a_checkpoint_is_loaded() -> None:
    source = FolderSource(tiny_models.gpt2())
    for artifact in (None, Artifact("policy", "base", Path(), "base")):
        policy = open_policy(source, artifact, lambda: ["some text"], 0)
        assert source.texts == ["some text"]
        assert policy.model.config.pad_token_id == policy.tokenizer.pad_token_id == len(policy.tokenizer) - 1
    other = Artifact("policy", "sft", tiny_models.llama(), "digest")
    assert open_policy(source, other, no_texts, 0).model.config.model_type == "llama"


def test_a_base_model_without_an_end_is_refused() -> None:
    source = FolderSource(tiny_models.without_eos())
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        open_policy(source, None, list, 0)


def test_context_lengths() -> None:
    model = load_causal(tiny_models.gpt2())
    assert context_length(model) == 128
    assert (limit_length(1000, model), limit_length(100, model)) == (128, 100)


def test_a_classifier_whose_head_cannot_be_read_at_every_token_is_refused() -> None:
    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ModelError, match="BertForSequenceClassification has no head called 'score'"):
        TokenScorer(BertForSequenceClassification(config))


def test_a_new_head_has_the_spread_of_d10() -> None:
    model = nn.Module()
    model.score = nn.Linear(8191, 1)
    new_score_head(model, torch.Generator().manual_seed(0))
    weight = model.score.weight
    assert weight.std().item() == pytest.approx(8192**-0.5, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=4 * 8192**-0.5 / 8191**0.5)
    assert model.score.bias.item() == 0
    again = weight.clone()
    new_score_head(model, torch.Generator().manual_seed(0))
    assert torch.equal(weight, again)
    new_score_head(model, torch.Generator().manual_seed(1))
    assert not torch.equal(weight, again)


def test_checkpoints_name_pad_and_end_for_others(tmp_path: Path) -> None:
    policy = open_policy(FolderSource(tiny_models.gpt2()), None, list, 0)
    save_checkpoint(policy.model, policy.tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pad_token_id"] == policy.tokenizer.pad_token_id == load_tokenizer(tmp_path).pad_token_id
    assert config["vocab_size"] == len(policy.tokenizer)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["pad_token_id"] == policy.tokenizer.pad_token_id


@pytest.mark.parametrize(("ends", "expected"), [(7, 0), ([7, 0], [7, 0]), ([7, 9], [0, 7, 9]), ([0], 0), (None, 0)])
def test_transformers_generates_up_to_the_end_that_was_trained(ends: object, expected: object) -> None:
    """Beside others that the checkpoint names, if it names them in a list: a single one may be a default."""
    model, tokenizer = load_causal(tiny_models.gpt2()), load_tokenizer(tiny_models.gpt2())
    model.generation_config.eos_token_id = ends
    fit_tokenizer(model, tokenizer)
    assert tokenizer.eos_token_id == 0
    assert model.generation_config.eos_token_id == expected
    assert set(Policy(model, tokenizer).eos_ids) == set(expected if isinstance(expected, list) else [expected])
    assert Policy(model, tokenizer).eos_ids[0] == 0


@pytest.mark.parametrize(
    ("behind", "ends", "expected"),
    [
        ("<turn>", [1, 2], "<turn>"),  # as Gemma and Llama 3
        ("<turn>\n<end>", [1, 2], "<turn>"),  # as Phi-3
        ("<turn>", 2, "<turn>"),
        ("<turn>", [1], "<end>"),  # the model does not stop at it
        ("<turn>", None, "<end>"),
        ("", [1, 2], "<end>"),
        ("{{ raise_exception('no') }}", [1, 2], "<end>"),
    ],
)
def test_a_chat_models_end_is_that_of_its_turns(behind: str, ends: object, expected: str, tmp_path: Path) -> None:
    """Its tokenizer may still name the end of the base model, with which it never ends an answer."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_models.bpe("<pad>", "<end>", "<turn>"), eos_token="<end>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}BEHIND{% endfor %}".replace("BEHIND", behind)
    tokenizer.chat_template = template
    model = load_causal(tiny_models.llama())
    model.generation_config.eos_token_id = ends
    save_checkpoint(model, tokenizer, tmp_path)
    if ends is None:
        (tmp_path / "generation_config.json").unlink()
    assert load_tokenizer(tmp_path).eos_token == expected
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    assert load_tokenizer(tmp_path).eos_token == "<end>"
    assert load_tokenizer(tmp_path, chat_template=template).eos_token == expected
    policy = open_policy(FolderSource(tmp_path), None, list, 0)
    if isinstance(ends, list):
        assert set(policy.eos_ids) == {1, *ends}
