"""Checkpoint folders of models with two layers and a width of 32, made once per process; nobody writes there."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TEXTS = (
    "Customer: Hi, this is Maria. My blue lamp arrived broken.\nAgent: Hello Maria. Sorry about the lamp.",
    "Customer: Peter here. How do I set up the red kettle?\nAgent: Hello Peter. Here is the manual.",
    "The quick brown fox jumps over the lazy dog, and the dog thanks the fox.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@cache
def _root() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="alignpipe-tiny-models-")


def _folder(name: str) -> Path:
    folder = Path(_root().name) / name
    folder.mkdir()
    return folder


def bpe(*special: str, vocabulary: int = 330) -> Tokenizer:
    """A byte-level BPE trained on `TEXTS`, with these special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def llama_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=bpe("<pad>", "<end>"), eos_token="<end>", pad_token="<pad>")


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """One special token for everything and no pad, as GPT-2 has it."""
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=bpe(end), eos_token=end, bos_token=end, unk_token=end)


def bos_tokenizer(*, ends_texts: bool = False) -> PreTrainedTokenizerFast:
    """Begins every text with BOS, as Llama does; `ends_texts` puts EOS behind it too, as T5 does."""
    made = bpe("<s>", "</s>", "<unk>")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends_texts else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _llama_config(tokenizer: PreTrainedTokenizerFast, **options) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def llama_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, *, tied: bool = True) -> LlamaForCausalLM:
    return _seeded(lambda: LlamaForCausalLM(_llama_config(tokenizer, tie_word_embeddings=tied)), seed)


def llama_classifier(tokenizer: PreTrainedTokenizerFast, **options) -> LlamaForSequenceClassification:
    """`options` are those of the config: `id2label`, `num_labels`, `problem_type`."""
    return _seeded(lambda: LlamaForSequenceClassification(_llama_config(tokenizer, **options)), 0)


def bert_classifier(tokenizer: PreTrainedTokenizerFast, **options) -> BertForSequenceClassification:
    """An encoder with 64 positions; `options` as for `llama_classifier`."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return _seeded(lambda: BertForSequenceClassification(config), 0)


def gpt2_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=128,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return _seeded(lambda: GPT2LMHeadModel(config), seed)


def _seeded(make, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _saved(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save(_folder(name), model, tokenizer)


@cache
def llama() -> Path:
    """Tied embeddings, pad distinct from EOS, no BOS."""
    tokenizer = llama_tokenizer()
    return _saved("llama", llama_model(tokenizer), tokenizer)


@cache
def gpt2() -> Path:
    """Absolute positions, dropout 0.1, no pad token and no embedding row to spare for one."""
    tokenizer = gpt2_tokenizer()
    return _saved("gpt2", gpt2_model(tokenizer), tokenizer)


@cache
def with_bos() -> Path:
    """Untied, every text begins with BOS, no pad token but an unknown one."""
    tokenizer = bos_tokenizer()
    return _saved("bos", llama_model(tokenizer, tied=False), tokenizer)


@cache
def without_eos() -> Path:
    """A model whose tokenizer cannot end a response."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe("<pad>", "<end>"), pad_token="<pad>")
    return _saved("no-eos", llama_model(tokenizer), tokenizer)
