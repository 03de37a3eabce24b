"""Bad input: one clear message with the value in it, a non-zero status, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.checkpoints import write_checkpoint
from support.commands import alignpipe, complaint, published, statuses, succeed, summaries, write_plugin

ROWS = [
    {"prompt": f"User: what is {n} and {n}?\nBot:", "chosen": f" It is {n + n}.", "rejected": " No."} for n in range(40)
]
FILES = ("experiment=smoke", "data=files", "data.preferences=pairs.jsonl")


def write_rows(folder: Path, *lines: str) -> None:
    """Write pairs.jsonl: good rows, then `lines` as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [json.dumps(row) for row in ROWS]
    (folder / "pairs.jsonl").write_text("\n".join([*good, *lines]) + "\n")


def assert_message(message: str, *words: str) -> None:
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward=bradly_terry"], ["bradly_terry", "did you mean 'bradley_terry'?"]),
        (["rewrd=rules"], ["rewrd"]),
        (["sft.lrate=1"], ["sft.lrate", "lr"]),
        (["~ppo"], ["~ppo", "ppo=<option>", "stages=[...]"]),
        (["sed=1"], ["sed", "did you mean 'seed'?"]),
        (["+sed=1"], ["sed", "did you mean 'seed'?"]),
        (["experiment=smok", "stages=[data]"], ["smok", "did you mean 'smoke'?"]),
        (["sft.lr=fast"], ["sft.lr", "fast"]),
        (["ppo.select=middle"], ["ppo.select", "middle", "best"]),
        (["ppo.clip_range=-1"], ["clip_range", "-1"]),
        (["seed=one"], ["seed", "one"]),
        (["stages=[data,sfft]"], ["sfft", "did you mean 'sft'?"]),
        (["model=pretrained"], ["model.path"]),
        (["inputs.ppo.policy=eval"], ["inputs.ppo.policy", "eval"]),
        (["stages=[data,ppo,sft]", "inputs.ppo.policy=sft"], ["inputs.ppo.policy", "'sft'"]),
        (["stages=[data,ppo]", "inputs.ppo.reward=reward"], ["inputs.ppo.reward", "reward"]),
        (["device=gpu"], ["device", "gpu"]),
        (["tracker=[wandbb]"], ["wandbb", "did you mean 'wandb'?"]),
    ],
    ids=" ".join,
)
def test_config_that_cannot_be_run(tmp_path, overrides, words):
    assert_message(complaint(alignpipe(tmp_path, *overrides)), *words)
    assert not (tmp_path / "outputs").exists(), "nothing may be begun"


def test_a_missing_data_file(tmp_path):
    assert_message(complaint(alignpipe(tmp_path, *FILES)), "data.preferences", "pairs.jsonl")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "User: hi", "chosen": "oh', ["pairs.jsonl:41"]),
        ('{"prompt": "User: hi", "chosen": "oh"}', ["pairs.jsonl:41", "rejected"]),
        ('["a", "list"]', ["pairs.jsonl:41"]),
    ],
    ids=["cut off", "column missing", "no object"],
)
def test_a_broken_line(tmp_path, line, words):
    write_rows(tmp_path, line)
    assert_message(complaint(alignpipe(tmp_path, *FILES)), *words)
    assert_failed(tmp_path, "data")


@pytest.mark.parametrize("content", ["", "\n\n"], ids=["empty file", "empty lines"])
def test_an_empty_data_set(tmp_path, content):
    (tmp_path / "pairs.jsonl").write_text(content)
    assert_message(complaint(alignpipe(tmp_path, *FILES)), "pairs.jsonl")
    assert_failed(tmp_path, "data")


def test_every_prompt_longer_than_the_context(tmp_path):
    write_rows(tmp_path)
    assert_message(complaint(alignpipe(tmp_path, *FILES, "model.context=4")), "40", "prompt", "4")
    assert_failed(tmp_path, "data")


@pytest.mark.parametrize(
    ("table", "reward", "words"),
    [
        ("preferences", "exact_match", ["'reward'", "exact_match", "reads the column 'answer'"]),
        ("demonstrations", "bradley_terry", ["'reward'", "bradley_terry", "no preferences", "data.preferences"]),
    ],
)
def test_data_that_only_a_later_stage_cannot_use(tmp_path, table, reward, words):
    """Known as soon as the data is there, so not only after the hours that sft may take."""
    write_rows(tmp_path)
    columns = ["data.columns={completion: chosen}"] if table == "demonstrations" else []
    given = ["experiment=smoke", "data=files", f"data.{table}=pairs.jsonl", *columns, f"reward={reward}"]
    assert_message(complaint(alignpipe(tmp_path, *given)), *words)
    (summary,) = summaries(tmp_path)
    skipped = dict.fromkeys(("sft", "ppo", "eval"), "skipped")
    assert statuses(summary) == {"data": "ran", "reward": "failed", **skipped}
    assert_message(summary["stages"]["reward"]["error"], *words)


@pytest.mark.parametrize(
    ("overrides", "stage", "words"),
    [
        (["ppo.max_response_tokens=64"], "ppo", ["'ppo'", "ppo.max_response_tokens=64", "64 tokens"]),
        (["eval.max_response_tokens=70"], "eval", ["'eval'", "eval.max_response_tokens=70", "64 tokens"]),
        ([*FILES[1:], "data.heldout_share=0", "ppo.select=best"], "ppo", ["ppo.select=best needs held-out prompts"]),
    ],
)
def test_options_of_a_later_stage_that_the_data_or_the_model_forbid(tmp_path, overrides, stage, words):
    write_rows(tmp_path)
    assert_message(complaint(alignpipe(tmp_path, "experiment=smoke", "model.context=64", *overrides)), *words)
    (summary,) = summaries(tmp_path)
    assert statuses(summary)["sft"] == "skipped"
    assert statuses(summary)[stage] == "failed"


def test_a_tokenizer_without_eos(tmp_path):
    write_rows(tmp_path)
    write_checkpoint(tmp_path / "mine", [row["prompt"] for row in ROWS], eos=False)
    message = complaint(alignpipe(tmp_path, *FILES, "model=pretrained", "model.path=mine"))
    assert_message(message, "mine", "end-of-sequence")
    assert_failed(tmp_path, "data")


@pytest.mark.parametrize("where", ["model.path", "inputs.sft.policy"])
@pytest.mark.parametrize("what", ["a folder", "a file", "missing"])
def test_a_checkpoint_that_is_none(tmp_path, where, what):
    write_rows(tmp_path)
    place = tmp_path / "no-model"
    if what == "a folder":
        place.mkdir()
        (place / "notes.txt").write_text("weights are elsewhere")
    elif what == "a file":
        place.write_text("weights are elsewhere")
    model = ["model=pretrained"] if where == "model.path" else []
    message = complaint(alignpipe(tmp_path, *FILES, *model, f"{where}=./no-model"))
    assert_message(message, "no-model")
    assert not published(tmp_path)


def test_a_checkpoint_with_damaged_weights(tmp_path):
    write_rows(tmp_path)
    write_checkpoint(tmp_path / "mine", [row["prompt"] for row in ROWS])
    weights = tmp_path / "mine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = complaint(alignpipe(tmp_path, *FILES, "model=pretrained", "model.path=mine"))
    assert_message(message, "mine")
    assert_failed(tmp_path, "data", "sft")


SCORES = {
    "nan": ("[float('nan')] * len(samples)", ["nan"]),
    "too few": ("[1.0] * (len(samples) - 1)", ["scores", "samples"]),
    "text": ("['good'] * len(samples)", ["good"]),
    "nothing": ("None", ["None"]),
    "exception": ("1 / 0", ["ZeroDivisionError"]),
}


@pytest.fixture(scope="module")
def after_sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds what comes before the reward."""
    folder = tmp_path_factory.mktemp("after-sft")
    succeed(alignpipe(folder, "experiment=smoke", "stages=[data,sft]"))
    return folder


def install_reward(site: Path, source: str, good_when: str) -> dict[str, str]:
    """reward=broken: gives `source` for the scores of `samples`, but 0 for all of them where `good_when` is true."""
    body = f"""
        class Reward:
            def score(self, samples):
                return [0.0] * len(samples) if {good_when} else {source}
        def build(config, context):
            return Reward()
    """
    return write_plugin(site, "reward", "broken", body)


@pytest.mark.parametrize("answer", SCORES)
def test_a_reward_that_returns_what_is_no_score(tmp_path, after_sft, answer):
    folder = shutil.copytree(after_sft, tmp_path / "run")
    source, words = SCORES[answer]
    found = install_reward(tmp_path / "site", source, "False")
    message = complaint(alignpipe(folder, "experiment=smoke", "reward=broken", **found), shown=answer == "exception")
    assert_message(message, "reward broken (broken 1.0)", *words)
    assert_failed(folder, "data", "sft", "reward")


@pytest.mark.parametrize("answer", ["nan", "too few"])
def test_a_reward_that_breaks_only_in_ppo(tmp_path, after_sft, answer):
    folder = shutil.copytree(after_sft, tmp_path / "run")
    source, words = SCORES[answer]
    found = install_reward(tmp_path / "site", source, "all(sample.response_ids is None for sample in samples)")
    message = complaint(alignpipe(folder, "experiment=smoke", "reward=broken", **found))
    assert_message(message, "reward broken", *words)
    assert_failed(folder, "data", "sft", "reward", "ppo")


def test_a_full_disk(tmp_path):
    """Every fsync after the n-th says the disk is full, which is where file systems that write late say it."""
    hook = """
        import errno, os
        fsync, calls = os.fsync, 0
        def full(handle):
            global calls
            calls += 1
            if calls > int(os.environ["DISK_FULL_AFTER"]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)
        os.fsync = full
        def build(config, context): ...
    """
    found = write_plugin(tmp_path / "site", "reward", "hungry", hook)
    command = ("experiment=smoke", "stages=[data,sft]")
    for calls in (0, 12, 30, 12):  # at the start, publishing data, in sft, and in sft once more
        done = alignpipe(tmp_path, *command, DISK_FULL_AFTER=str(calls), **found)
        assert_message(complaint(done), "no space left on the disk")
        assert done.stderr.count("alignpipe store gc") == 1, "what to do is said once"
        assert "0 damaged" in verify(tmp_path)
    succeed(alignpipe(tmp_path, *command))
    assert "0 damaged" in verify(tmp_path)


@pytest.mark.parametrize("place", ["a-file", "a-file/deeper", "/sys/alignpipe", "/dev/null/alignpipe"])
def test_an_output_folder_that_cannot_be_written(tmp_path, place):
    """Not by permissions: who runs the tests as root may write anywhere but here."""
    (tmp_path / "a-file").write_text("in the way")
    assert_message(complaint(alignpipe(tmp_path, "experiment=smoke", f"outputs={place}")), place.partition("/alig")[0])
    assert {path.name for path in tmp_path.iterdir()} == {"a-file"}


def assert_failed(folder: Path, *reached: str) -> None:
    """The last run failed in the last of the stages `reached`, published those before it, and left no debris."""
    *before, failed = reached
    summary = summaries(folder)[-1]
    assert summary["status"] == "failed"
    ended = {name: status for name, status in statuses(summary).items() if status != "skipped"}
    assert set(ended) == set(reached)
    assert ended[failed] == "failed"
    assert summary["stages"][failed]["error"]
    assert failed not in published(folder)
    assert published(folder) >= set(before)
    assert "0 damaged" in verify(folder)


def verify(folder: Path) -> str:
    if not (folder / "outputs" / "store").exists():
        return "0 damaged: no store"
    return succeed(alignpipe(folder, "store", "verify")).stdout
