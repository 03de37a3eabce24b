"""reward=pretrained_classifier: tiny classifiers made here, against transformers' own answer for each text alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from alignpipe.api import Sample
from alignpipe.errors import ConfigError, ModelError
from alignpipe.options import Precision
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.pretrained_classifier.config import Layout, Output, PretrainedClassifierConfig
from alignpipe_plugins.pretrained_classifier.reward import ClassifierReward, build
from support import tiny_models

LABELS = {0: "negative", 1: "neutral", 2: "positive"}
SAMPLES = [
    Sample("Customer: Hi.\nAgent:", " Hello Maria."),
    Sample("Customer: My lamp arrived broken.\nAgent:", " Sorry about the lamp. Here is the manual for it."),
    Sample("x", " y"),
    Sample("Customer: Peter here.\nAgent:", " Hello Peter."),
]
TEXTS = [sample.prompt + sample.response for sample in SAMPLES]


def decoder(folder: Path, *, pad: bool = True, **options) -> Path:
    """A Llama with a head; without a pad token where `pad` is not."""
    tokenizer = tiny_models.llama_tokenizer() if pad else tiny_models.gpt2_tokenizer()
    return tiny_models.save(
        folder, tiny_models.llama_classifier(tokenizer, **(options or {"id2label": LABELS})), tokenizer
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, read at the last token."""
    return decoder(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose tokenizer has no end-of-sequence token and knows pairs."""
    made = tiny_models.bpe("[PAD]", "[CLS]", "[SEP]")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    model = tiny_models.bert_classifier(tokenizer, id2label={0: "bad", 1: "good"})
    return tiny_models.save(tmp_path_factory.mktemp("bert"), model, tokenizer)


def reward(folder: Path, **options) -> ClassifierReward:
    return build(PretrainedClassifierConfig(path=str(folder), **options), SimpleNamespace(device="cpu"))


def logits(folder: Path, *texts: tuple[str, ...], **options) -> torch.Tensor:
    """What transformers says of every text by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(*text, return_tensors="pt", **options)).logits for text in texts])


def test_one_label_of_a_decoder(llama: Path) -> None:
    expected = logits(llama, *((text,) for text in TEXTS))
    assert reward(llama, label="positive").score(SAMPLES).total == pytest.approx(expected[:, 2].tolist(), abs=1e-5)
    assert reward(llama, label="Negative", sign=-1).score(SAMPLES).total == pytest.approx(
        (-expected[:, 0]).tolist(), abs=1e-5
    )
    probabilities = expected.softmax(-1)[:, 1]
    found = reward(llama, label="1", output=Output.probability).score(SAMPLES).total
    assert found == pytest.approx(probabilities.tolist(), abs=1e-5)
    found = reward(llama, label="1", output=Output.log_odds).score(SAMPLES).total
    assert found == pytest.approx(torch.logit(probabilities).tolist(), abs=1e-4)


def test_pairs_for_an_encoder(bert: Path) -> None:
    expected = logits(bert, *((sample.prompt, sample.response) for sample in SAMPLES))[:, 1]
    assert expected.std() > 0.01
    found = reward(bert, label="good", layout=Layout.pair).score(SAMPLES).total
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("layout", [Layout.text, Layout.pair])
def test_neither_batches_nor_order_change_anything(llama: Path, bert: Path, layout: Layout) -> None:
    folder = llama if layout is Layout.text else bert
    one, many = (reward(folder, label="1", layout=layout, batch_size=size) for size in (1, 3))
    found = Judge(many, "classifier").score(SAMPLES).total
    assert found == pytest.approx(one.score(SAMPLES).total, abs=1e-5)
    assert many.score(SAMPLES[::-1]).total[::-1] == pytest.approx(found, abs=1e-5)


def test_the_template_says_what_is_read(llama: Path) -> None:
    expected = logits(llama, *((f"A {{prompt of}} {sample.response} [end]",) for sample in SAMPLES))[:, 0]
    made = reward(llama, label="0", template="A {prompt of} {response} [end]")
    assert made.score(SAMPLES).total == pytest.approx(expected.tolist(), abs=1e-5)
    braces = Sample("{response}", "!")  # what the texts hold is not read as a template
    assert reward(llama, label="0").score([braces]).total == pytest.approx(
        logits(llama, ("{response}!",))[:, 0].tolist(), abs=1e-5
    )


def test_chat_goes_through_the_tokenizers_template(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward.layout=chat: the tokenizer of .* has no chat template"):
        reward(llama, label="0", layout=Layout.chat)
    folder = shutil.copytree(llama, tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tiny_models.CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "x"},
    ]
    samples = [Sample("ignored", "ok", messages=turns), Sample("plain", "ok")]
    expected = logits(folder, ("<user>Hi<assistant>Yes?<user>x<assistant>ok",), ("<user>plain<assistant>ok",))
    found = reward(folder, label="0", layout=Layout.chat).score(samples).total
    assert found == pytest.approx(expected[:, 0].tolist(), abs=1e-5)


def test_long_texts_lose_their_beginning(llama: Path, bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids = tokenizer(TEXTS[1])["input_ids"]
    kept = tokenizer.decode(ids[-8:])
    expected = logits(llama, (kept,))[:, 2].tolist()
    assert reward(llama, label="2", max_length=8).score([SAMPLES[1]]).total == pytest.approx(expected, abs=1e-5)
    endless = Sample("word " * 500, " end")  # longer than the model's own 64 positions
    assert math.isfinite(reward(bert, label="1").score([endless]).total[0])
    assert math.isfinite(reward(bert, label="1", layout=Layout.pair).score([endless]).total[0])


def test_a_text_without_tokens_is_a_failure(llama: Path) -> None:
    made = reward(llama, label="0", template="{response}")
    scores = made.score([SAMPLES[0], Sample("prompt", ""), SAMPLES[1]])
    assert [(index, failure.kind) for index, failure in scores.failures.items()] == [(1, "refused")]
    assert [scores.total[0], scores.total[2]] == made.score([SAMPLES[0], SAMPLES[1]]).total


def test_a_model_without_a_pad_token_is_read_text_by_text(tmp_path: Path) -> None:
    folder = decoder(tmp_path, pad=False)
    found = reward(folder, label="0").score(SAMPLES).total
    assert found == pytest.approx(logits(folder, *((text,) for text in TEXTS))[:, 0].tolist(), abs=1e-5)


def test_one_output_needs_no_label(tmp_path: Path) -> None:
    folder = decoder(tmp_path, num_labels=1)
    raw = logits(folder, *((text,) for text in TEXTS))[:, 0]
    assert reward(folder).score(SAMPLES).total == pytest.approx(raw.tolist(), abs=1e-5)
    found = reward(folder, output=Output.probability, dtype=Precision.auto).score(SAMPLES).total
    assert found == pytest.approx(torch.sigmoid(raw).tolist(), abs=1e-5)


def test_independent_labels_are_not_measured_against_each_other(tmp_path: Path) -> None:
    folder = decoder(tmp_path, id2label={0: "rude", 1: "long"}, problem_type="multi_label_classification")
    raw = logits(folder, *((text,) for text in TEXTS))[:, 1]
    found = reward(folder, label="long", output=Output.probability).score(SAMPLES).total
    assert found == pytest.approx(torch.sigmoid(raw).tolist(), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"label": "happy"}, {"label": "3"}])
def test_labels_are_listed_where_none_fits(llama: Path, options) -> None:
    with pytest.raises(ConfigError, match=r"reward.label.*; labels of .*: 0: negative, 1: neutral, 2: positive"):
        reward(llama, **options)
    with pytest.raises(ConfigError, match=r"reward.label.*; labels of .*: 0: negative, 1: neutral, 2: positive"):
        PretrainedClassifierConfig(path=str(llama), **options).revision()  # when planning, before any work


def test_a_model_without_a_trained_head_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"reward.path=.*lacks weights of a LlamaForSequenceClassification: score.weight"
    ):
        reward(tiny_models.llama(), label="0")


def test_the_key_knows_what_the_folder_holds(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "copy")
    before = PretrainedClassifierConfig(path=str(folder), label="0").revision()
    assert before["model"].startswith("folder:")
    assert PretrainedClassifierConfig(path=str(llama), label="positive").revision() == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert PretrainedClassifierConfig(path=str(folder), label="0").revision() != before
    with pytest.raises(ModelError, match=r"reward.path=nowhere at all: there is no such folder"):
        PretrainedClassifierConfig(path="nowhere at all").revision()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": " "}, "path is empty"),
        ({"path": "x", "sign": 2}, "sign must be 1 or -1, got 2"),
        ({"path": "x", "template": "{prompt}"}, r"template must hold \{response\}"),
        ({"path": "x", "batch_size": 0}, "batch_size must be at least 1"),
        ({"path": "x", "max_length": 4}, "max_length must be at least 8"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainedClassifierConfig(**options)
