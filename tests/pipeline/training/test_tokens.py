"""Tokens: pad and end, prompts and responses encoded apart, fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alignpipe.errors import DataError, ModelError
from alignpipe.training import tokens
from alignpipe.training.tokens import (
    PAD,
    RefusedByTemplate,
    check_tokenizer,
    decoder,
    encode_prompt,
    fingerprint,
    fit_length,
    prompt_ids,
    response_ids,
    text_of,
)
from support import tiny_models
from support.tiny_models import bos_tokenizer, bpe, gpt2_tokenizer, llama_tokenizer

MESSAGES = [{"role": "user", "content": "My lamp is broken."}]


def test_a_tokenizer_without_an_end_is_refused_by_name() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe("<pad>"), pad_token="<pad>")
    with pytest.raises(ModelError, match=r"tokenizer of my/model has no end-of-sequence token.*tokenizer_config\.json"):
        check_tokenizer(tokenizer, "my/model")


def test_pad_becomes_a_new_token_where_there_is_nothing_but_the_end() -> None:
    tokenizer = gpt2_tokenizer()
    before = len(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    check_tokenizer(tokenizer, "gpt2")
    assert tokenizer.pad_token == PAD
    assert tokenizer.pad_token_id == before
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_pad_takes_the_unknown_token_before_the_first_one() -> None:
    tokenizer = bos_tokenizer()
    before = len(tokenizer)
    check_tokenizer(tokenizer, "llama")
    assert (tokenizer.pad_token, len(tokenizer)) == ("<unk>", before)


def test_a_sound_pad_token_stays() -> None:
    tokenizer = llama_tokenizer()
    check_tokenizer(tokenizer, "llama")
    assert tokenizer.pad_token == "<pad>"


def test_plain_prompts_begin_as_the_tokenizer_wants_and_responses_do_not() -> None:
    tokenizer = bos_tokenizer()
    prompt = encode_prompt(tokenizer, "My lamp")
    response = response_ids(tokenizer, [" is broken."])[0]
    assert prompt[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in response
    assert response[-1] == tokenizer.eos_token_id
    assert response.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(prompt + response, skip_special_tokens=True) == "My lamp is broken."


def test_an_end_that_the_tokenizer_puts_behind_every_text_is_taken_off_prompts() -> None:
    tokenizer = bos_tokenizer(ends_texts=True)
    assert tokenizer.encode("My lamp")[-1] == tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "My lamp") == tokenizer.encode("My lamp")[:-1]


def test_conversations_go_through_the_template_where_there_is_one() -> None:
    tokenizer = bos_tokenizer()
    plain = encode_prompt(tokenizer, "the prompt", MESSAGES)
    assert plain == tokenizer.encode("the prompt")
    tokenizer.chat_template = "<s>" + tiny_models.CHAT_TEMPLATE
    rendered = encode_prompt(tokenizer, "the prompt", MESSAGES)
    assert tokenizer.decode(rendered, skip_special_tokens=True) == "<user>My lamp is broken.<assistant>"
    assert rendered.count(tokenizer.bos_token_id) == 1  # the template's own; the tokenizer adds no second one
    assert encode_prompt(tokenizer, "the prompt") == plain


def test_a_conversation_that_the_template_cannot_render() -> None:
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = "{{ messages[0] + 1 }}"
    with pytest.raises(RefusedByTemplate, match=r"^the model's chat template cannot render a conversation: TypeError"):
        encode_prompt(tokenizer, "Hi", [{"role": "user", "content": "Hi"}])


def test_many_are_encoded_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_AT_ONCE", 2)
    tokenizer = bos_tokenizer(ends_texts=True)
    tokenizer.chat_template = "<s>" + tiny_models.CHAT_TEMPLATE
    rows = [
        {"prompt": "My lamp", "messages": []},
        {"prompt": "the prompt", "messages": MESSAGES},
        {"prompt": "", "messages": []},
        {"prompt": "My other lamp", "messages": ()},
        {"prompt": "another", "messages": [*MESSAGES, *MESSAGES]},
        {"prompt": "two  words", "messages": []},
    ]

    def alone(row: dict[str, Any]) -> list[int]:
        if not row["messages"]:
            return tokenizer.encode(row["prompt"])[:-1]
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False)

    assert prompt_ids(tokenizer, rows) == [alone(row) for row in rows]
    answers = ["It is broken.", "", " and so on"]
    ended = [[*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id] for answer in answers]
    assert response_ids(tokenizer, answers) == ended
    assert prompt_ids(tokenizer, []) == response_ids(tokenizer, []) == []


def test_fingerprints_survive_saving_and_tell_vocabularies_apart(tmp_path: Path) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == fingerprint(tokenizer)
    other = PreTrainedTokenizerFast(
        tokenizer_object=bpe("<pad>", "<end>", vocabulary=320), eos_token="<end>", pad_token="<pad>"
    )
    assert fingerprint(other) != fingerprint(tokenizer)
    other_end = PreTrainedTokenizerFast(tokenizer_object=bpe("<pad>", "<end>"), eos_token="<pad>", pad_token="<end>")
    assert fingerprint(other_end) != fingerprint(tokenizer)


@pytest.mark.parametrize("text", ["plain words", " two  spaces\nand a line", "žluťoučký 猫 🙂", ""])
def test_decoding_gives_the_text_back_without_special_tokens(text: str) -> None:
    tokenizer = llama_tokenizer()
    assert decoder(tokenizer)(response_ids(tokenizer, [text])[0]) == text


def test_only_the_response_is_cut() -> None:
    assert fit_length([1, 2], [3, 4, 5], 5) == ([1, 2], [3, 4, 5])
    assert fit_length([1, 2], [3, 4, 5], 4) == ([1, 2], [3, 4])
    with pytest.raises(DataError, match=r"prompt of 4 tokens leaves no room.*within 4 tokens"):
        fit_length([1, 2, 3, 4], [5], 4)


def test_text_of_takes_the_columns_row_by_row() -> None:
    assert text_of([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], "a", "b") == ["1", "2", "3", "4"]
