"""A small Hugging Face checkpoint, made without alignpipe: GPT-2's architecture, a byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|end|>"


def write_checkpoint(folder: Path, texts: Iterable[str], *, eos: bool = True) -> None:
    """Write model and tokenizer into `folder`; `eos=False` leaves the tokenizer without an end-of-sequence token."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=320, special_tokens=[END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **({"eos_token": END} if eos else {}))
    torch.manual_seed(0)
    end = bpe.token_to_id(END) if eos else None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
