"""model=pretrained: folders and hub names, precision, chat templates, LoRA, one clear sentence for what is wrong."""

from __future__ import annotations

import builtins
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from alignpipe.errors import AlignpipeError, ConfigError, ModelError
from alignpipe.options import Forward, ModelLinearDtype, Precision
from alignpipe.training import location
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.checkpoint import Checkpoints
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import Policy, open_policy, save_checkpoint
from alignpipe.training.packed.models import packable
from alignpipe.training.parallel import ALONE
from alignpipe.training.tokens import encode_prompt
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource, build
from support import tiny_models
from support.context import FakeContext

FAMILIES = {"llama": tiny_models.llama, "gpt2": tiny_models.gpt2, "bos": tiny_models.with_bos}
BATCH = pad_rows([[5, 6, 7], [8], [9, 9]], [[9, 10], [11, 12, 13], [20]], 0, "cpu")


def source(path: object, seed: int = 0, **options) -> PretrainedSource:
    return PretrainedSource(PretrainedConfig(path=str(path), **options), seed)


def opened(made: PretrainedSource) -> Policy:
    return open_policy(made, None, list, 0)


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return response_logprobs(model.eval(), BATCH)[0]


def one_step(model) -> torch.optim.Optimizer:
    """A step of training that moves every output."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    for _ in range(2):  # the first one moves LoRA's B alone, which starts at 0
        optimizer.zero_grad()
        (-response_logprobs(model, BATCH)[0].sum()).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_opens_with_a_pad_that_is_not_its_end(family: str) -> None:
    policy = opened(source(FAMILIES[family]()))
    model, tokenizer = policy.model, policy.tokenizer
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.pad_token_id < model.get_input_embeddings().weight.shape[0]
    assert model.config.pad_token_id == tokenizer.pad_token_id
    plain = AutoModelForCausalLM.from_pretrained(FAMILIES[family]())
    rows = plain.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(model.eval()(ids).logits[..., :rows], plain(ids).logits, atol=1e-6)


def test_prompts_begin_with_bos_where_the_model_was_trained_so() -> None:
    tokenizer = opened(source(tiny_models.with_bos())).tokenizer
    assert encode_prompt(tokenizer, "Hi")[0] == tokenizer.bos_token_id
    assert tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(Precision.float32, torch.float32), (Precision.bfloat16, torch.bfloat16), (Precision.float16, torch.float16)],
)
def test_precision(dtype: Precision, expected: torch.dtype, tmp_path: Path) -> None:
    made = source(tiny_models.gpt2(), dtype=dtype)
    policy = opened(made)
    assert policy.model.dtype == expected
    save_checkpoint(policy.model, policy.tokenizer, tmp_path)
    assert made.load(tmp_path).dtype == expected
    assert made.load_scorer(tmp_path).dtype == torch.float32  # it is trained whole, which bfloat16 would round away
    assert source(tmp_path, dtype=Precision.auto).base(policy.tokenizer, 0).dtype == expected


def test_attention() -> None:
    for name in ("eager", "sdpa"):
        made = source(tiny_models.llama(), attention=name)
        assert opened(made).model.config._attn_implementation == name
        assert made.load_scorer(tiny_models.llama()).config._attn_implementation == name
    with pytest.raises(ModelError, match=r"model\.path=.*no_such_attention"):
        opened(source(tiny_models.llama(), attention="no_such_attention"))


def test_context_length_comes_from_the_config_alone() -> None:
    assert source(tiny_models.gpt2()).context_length() == 128
    assert source(tiny_models.llama()).context_length() == 128


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_starts_as_the_model_itself_and_trains_adapters_only(family: str) -> None:
    made = source(FAMILIES[family](), lora_rank=4)
    plain = logprobs(opened(made).model)
    policy = opened(made)
    model = made.adapt(policy.model)
    assert torch.allclose(logprobs(model), plain, atol=1e-6)
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    one_step(model)
    assert (logprobs(model) - plain).abs().max().item() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 4])
def test_the_result_is_an_ordinary_checkpoint(family: str, rank: int, tmp_path: Path) -> None:
    made = source(FAMILIES[family](), lora_rank=rank)
    policy = opened(made)
    model = made.adapt(policy.model)
    one_step(model)
    trained = logprobs(model)
    merged = made.merge(model)
    assert torch.allclose(logprobs(merged), trained, atol=1e-5)
    assert all(each.requires_grad for each in merged.parameters())
    save_checkpoint(merged, policy.tokenizer, tmp_path)
    assert not list(tmp_path.glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(logprobs(plain), trained, atol=1e-5)
    assert torch.allclose(logprobs(made.load(tmp_path)), trained, atol=1e-5)
    again = made.adapt(made.load(tmp_path))  # and the next stage starts adapters of its own on top
    assert torch.allclose(logprobs(again), trained, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 4])
def test_a_training_checkpoint_comes_back_in_a_new_process(family: str, rank: int, tmp_path: Path) -> None:
    made = source(FAMILIES[family](), lora_rank=rank)
    model = made.adapt(opened(made).model)
    optimizer = one_step(model)
    Checkpoints(tmp_path, ALONE).save(2, {"model": model}, {"optimizer": optimizer}, {})
    torch.manual_seed(99)  # another process has other global numbers
    other = made.adapt(opened(made).model)
    other_optimizer = torch.optim.AdamW([each for each in other.parameters() if each.requires_grad], lr=0.02)
    Checkpoints(tmp_path, ALONE).load({"model": other}, {"optimizer": other_optimizer})
    assert torch.equal(logprobs(other), logprobs(model))
    merged = made.merge(other)
    if family != "bos":
        assert merged.lm_head.weight is merged.get_input_embeddings().weight


def test_adapters_are_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        made = source(tiny_models.llama(), seed=seed, lora_rank=2)
        named = made.adapt(opened(made).model).named_parameters()
        return torch.cat([each.flatten() for name, each in named if "lora_A" in name])

    torch.manual_seed(1)
    first = drawn(0)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))


def gradient_of(model) -> tuple[list[torch.Tensor], int]:
    """The gradients of what is trained, and how often its first block was computed."""
    calls = []
    block = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    hook = block.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    response_logprobs(model.train(), BATCH)[0].sum().backward()
    hook.remove()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad], len(calls)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [0, 2])
def test_activations_may_be_computed_twice_in_place_of_being_kept(family: str, rank: int) -> None:
    def made(**options: bool) -> nn.Module:
        used = source(FAMILIES[family](), lora_rank=rank, **options)
        return used.adapt(opened(used).model)

    kept, once = gradient_of(made())
    again, twice = gradient_of(made(gradient_checkpointing=True))
    assert (once, twice) == (1, 2)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    saving, folder = source(FAMILIES[family](), gradient_checkpointing=True), FAMILIES[family]()
    for model, wanted in (
        (saving.load_scorer(folder), True),
        (saving.load(folder), False),
    ):  # what only scores needs none
        blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        assert {block.gradient_checkpointing for block in blocks} == {wanted}


@pytest.mark.parametrize("linear_dtype", [None, ModelLinearDtype.bfloat16])
def test_a_reference_is_run_as_the_policy_that_saves_activations(linear_dtype: ModelLinearDtype | None) -> None:
    """Or rounding would look like a KL between a policy and its own copy (D65)."""
    folder = tiny_models.llama()
    saving = source(folder, gradient_checkpointing=True, linear_dtype=linear_dtype)
    policy, reference = saving.adapt(saving.load(folder)), saving.load(folder)
    assert packable(reference, 8) is None
    with torch.no_grad():
        own, other = (response_logprobs(model.eval(), BATCH)[0] for model in (policy, reference))
    assert torch.equal(own, other)


def test_lora_options_reach_peft() -> None:
    made = source(tiny_models.llama(), lora_rank=3, lora_alpha=6.0, lora_dropout=0.25, lora_targets=["q_proj"])
    model = made.adapt(opened(made).model)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[1] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj"}
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert (layer.r["default"], layer.scaling["default"], layer.lora_dropout["default"].p) == (3, 2.0, 0.25)


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_adapters_on_weights_that_two_layers_share_are_refused(layer: str, tmp_path: Path) -> None:
    """Folded in they would move the other layer too: the checkpoint would not be the model that was trained."""
    config = AutoConfig.from_pretrained(tiny_models.llama())
    for tied in (True, False):
        config.tie_word_embeddings = tied
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / str(tied))
    made = source(tmp_path / "True", lora_rank=2, lora_targets=[layer, "q_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own word on it
        with pytest.raises(ConfigError, match=rf"model\.lora_targets: (model\.)?{layer} shares its weights with"):
            made.adapt(made.load(tmp_path / "True"))
    apart = source(tmp_path / "False", lora_rank=2, lora_targets=[layer, "q_proj"])
    apart.adapt(apart.load(tmp_path / "False"))


def test_wrong_lora_targets_name_the_key() -> None:
    made = source(tiny_models.llama(), lora_rank=2, lora_targets=["no_such_layer"])
    with pytest.raises(ConfigError, match=r"model\.lora_targets=\['no_such_layer'\]: .*not found"):
        made.adapt(opened(made).model)


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_peft(name, *arguments, **named):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *arguments, **named)

    made = source(tiny_models.llama(), lora_rank=2)
    model = opened(made).model
    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(ConfigError, match=r"pip install 'alignpipe\[lora\]'"):
        made.adapt(model)


def test_a_chat_template_of_ones_own_is_used_and_saved(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(tiny_models.CHAT_TEMPLATE)
    policy = opened(source(tiny_models.llama(), chat_template=str(template)))
    ids = encode_prompt(policy.tokenizer, "rendered", [{"role": "user", "content": "hi"}])
    assert policy.tokenizer.decode(ids) == "<user>hi<assistant>"
    save_checkpoint(policy.model, policy.tokenizer, tmp_path / "out")
    later = open_policy(source(tmp_path / "out"), None, list, 0).tokenizer
    assert later.chat_template == tiny_models.CHAT_TEMPLATE


def test_chat_templates_that_cannot_be(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for message in messages %}\n{% endif %}")
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*broken\.jinja, line 2: .*endif"):
        source(tiny_models.llama(), chat_template=str(broken)).tokenizer([])
    with pytest.raises(ConfigError, match=r"model\.chat_template=gone\.jinja cannot be read"):
        PretrainedConfig(path=str(tiny_models.llama()), chat_template="gone.jinja").revision()


def failing(config: PretrainedConfig) -> str:
    """The one sentence, the same when planning and when loading."""
    with pytest.raises(AlignpipeError) as planning:
        config.revision()
    with pytest.raises(AlignpipeError) as loading:
        PretrainedSource(config, 0).tokenizer([])
    assert str(planning.value) == str(loading.value)
    assert "\n" not in str(planning.value)
    return str(planning.value)


def test_folders_that_are_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert failing(PretrainedConfig(path="empty")) == (
        "model.path=empty is no checkpoint folder: it has no config.json"
    )
    assert failing(PretrainedConfig(path="file")).startswith("model.path=file is a file")
    message = failing(PretrainedConfig(path="./models/gone/x"))
    assert (
        message == f"model.path=./models/gone/x: there is no such folder (looked in {tmp_path}), and it is no hub name"
    )
    assert failing(PretrainedConfig(path="~nobody-here/x")).startswith("model.path=~nobody-here/x: there is no such")
    message = failing(PretrainedConfig(path=str(tiny_models.llama()), hub_revision="main"))
    assert message.startswith("model.hub_revision=main is for hub names")


def test_a_folder_with_a_config_alone(tmp_path: Path) -> None:
    shutil.copy(tiny_models.llama() / "config.json", tmp_path)
    made = source(tmp_path)
    with pytest.raises(ModelError, match=r"^model\.path=.*: no tokenizer can be loaded from"):
        made.tokenizer([])
    for file in tiny_models.llama().glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(ModelError, match=r"^model\.path=.*: no model can be loaded from"):
        made.base(made.tokenizer([]), 0)


def test_a_tokenizer_without_an_end() -> None:
    with pytest.raises(ModelError, match=r"^model\.path=.*no end-of-sequence token, so no response could ever end"):
        source(tiny_models.without_eos()).tokenizer([])


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub that knows acme/tiny at one commit, or raises; remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def model_info(self, name: str, *, revision: str, timeout: float) -> None:
        self.asked.append((name, revision))
        if self.error is not None:
            raise self.error

    def hf_hub_download(self, name: str, file: str, *, revision: str) -> str:
        return str(put_into_cache(self.folder, name, COMMIT) / file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The hub, beside an empty cache and an empty current folder."""
    made = Hub(tmp_path)
    location._commit_of.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield made
    location._commit_of.cache_clear()


def put_into_cache(folder: Path, name: str, commit: str) -> Path:
    """What huggingface_hub leaves behind after downloading a config."""
    repository = folder / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def test_a_hub_name_that_cannot_be_reached(hub: Hub) -> None:
    hub.error = OSError("no route\nto host")
    assert failing(PretrainedConfig(path="acme/tiny")) == (
        "model.path=acme/tiny: there is no such folder here, the cache does not hold acme/tiny at main, and the hub "
        "cannot be reached (no route); download the model where there is a network, or give a checkpoint folder"
    )


def test_offline_mode_is_no_traceback_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached (Cannot reach" in failing(PretrainedConfig(path="nobody/nothing-like-this"))


def test_a_hub_name_that_is_not_there(hub: Hub) -> None:
    response = SimpleNamespace(headers={}, request=None)
    hub.error = RepositoryNotFoundError("404", response=response)
    assert failing(PretrainedConfig(path="acme/tyni")).endswith("check the name, or log in with 'hf auth login'")
    hub.error = RevisionNotFoundError("404", response=response)
    message = failing(PretrainedConfig(path="acme/tiny", hub_revision="v9"))
    assert message == "model.hub_revision=v9: the hub has no such revision of acme/tiny"


def test_the_key_of_a_hub_name_is_its_commit(hub: Hub) -> None:
    assert PretrainedConfig(path="acme/tiny").revision() == {"model": f"hub:acme/tiny:{COMMIT}"}
    assert PretrainedConfig(path="acme/tiny").revision() == {"model": f"hub:acme/tiny:{COMMIT}"}
    assert hub.asked == [("acme/tiny", "main")]
    location._commit_of.cache_clear()  # the next process, without a network
    hub.error = OSError("no route to host")
    assert PretrainedConfig(path="acme/tiny").revision() == {"model": f"hub:acme/tiny:{COMMIT}"}
    assert location.resolve_model("acme/tiny", None).commit == COMMIT  # what is loaded is what was keyed


def test_a_cached_model_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    commit = COMMIT[::-1]
    put_into_cache(tmp_path, "acme/tiny", commit)
    assert PretrainedConfig(path="acme/tiny").revision() == {"model": f"hub:acme/tiny:{commit}"}
    assert hub.asked == []


def test_a_pinned_commit_asks_nobody(hub: Hub) -> None:
    assert PretrainedConfig(path="acme/tiny", hub_revision=COMMIT).revision() == {"model": f"hub:acme/tiny:{COMMIT}"}
    assert hub.asked == []


def test_the_key_of_a_folder_is_what_it_holds(tmp_path: Path) -> None:
    first = shutil.copytree(tiny_models.llama(), tmp_path / "first")
    second = shutil.copytree(tiny_models.llama(), tmp_path / "second")
    key = PretrainedConfig(path=str(first)).revision()
    assert key == PretrainedConfig(path=str(second)).revision()
    (second / ".cache").mkdir()
    (second / ".cache" / "lock").touch()
    assert key == PretrainedConfig(path=str(second)).revision()
    weights = bytearray((second / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (second / "model.safetensors").write_bytes(weights)
    assert key != PretrainedConfig(path=str(second)).revision()


def test_the_key_knows_the_chat_template(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    config = PretrainedConfig(path=str(tiny_models.llama()), chat_template=str(template))
    before = config.revision()
    template.write_text("two")
    assert before != config.revision()
    assert before["model"] == config.revision()["model"]


def test_relative_paths_start_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_models.llama(), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert opened(source("mine")).model.config.model_type == "llama"
    assert opened(source("./mine")).model.config.model_type == "llama"


def test_the_factory_passes_the_runs_seed(tmp_path: Path) -> None:
    made = build(PretrainedConfig(path=str(tiny_models.llama()), lora_rank=2), FakeContext(tmp_path, seed=7))
    same = source(tiny_models.llama(), seed=7, lora_rank=2)
    assert all(
        torch.equal(first, second)
        for first, second in zip(
            made.adapt(opened(made).model).parameters(), same.adapt(opened(same).model).parameters(), strict=True
        )
    )


def test_the_path_must_be_given() -> None:
    assert OmegaConf.is_missing(OmegaConf.structured(PretrainedConfig), "path")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": " "}, "path is empty"),
        ({"lora_rank": -1}, "lora_rank must be at least 0, got -1"),
        ({"lora_alpha": 0.0}, "lora_alpha must be a positive number, got 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout must lie in \[0, 1\), got 1"),
    ],
)
def test_values_that_cannot_be(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainedConfig(**options)


def test_how_it_is_run_is_chosen_for_every_model_it_opens() -> None:
    folder = tiny_models.llama()
    general = source(folder, forward=Forward.general)
    coarse = source(folder, linear_dtype=ModelLinearDtype.bfloat16)
    tokenizer = coarse.tokenizer([])
    for made, packed, dtype in ((general, False, torch.float32), (coarse, True, torch.bfloat16)):
        for model in (made.base(tokenizer, 0), made.load(folder), made.load_scorer(folder)):
            assert (packable(model, 9) is not None) == packed
            assert linear_dtype_of(model) == dtype
    with pytest.raises(ValueError, match="linear_dtype=bfloat16 is for float32 weights, but dtype=auto"):
        PretrainedConfig(path="x", dtype=Precision.auto, linear_dtype=ModelLinearDtype.bfloat16)
    with pytest.raises(ModelError, match=r"model\.linear_dtype=bfloat16: GPT2LMHeadModel has no layers"):
        source(tiny_models.gpt2(), linear_dtype=ModelLinearDtype.bfloat16).base(tokenizer, 0)
