"""`alignpipe score`: what it prints and writes, which rewards it opens, and a run's rollouts."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alignpipe.api import Sample, Scores, Scoring
from alignpipe.authoring.opening import open_named
from alignpipe.authoring.rollouts import agreement, by_update
from alignpipe.authoring.rows import Data, of_pairs
from alignpipe.authoring.trying import histogram, try_on, writer_for
from alignpipe.cli.main import main
from alignpipe.errors import ConfigError, DataError, RewardError
from alignpipe.rewarding.judge import Judge


class Lengths:
    """Scores the length, has a part, and fails on responses that say so."""

    def score(self, samples):
        from alignpipe.api import Failure

        size = [float(len(sample.response)) for sample in samples]
        failed = {place: Failure("refused", "no\nmore") for place, s in enumerate(samples) if "fail" in s.response}
        return Scores(size, parts={"half": [value / 2 for value in size]}, failures=failed)


JUDGE = Judge(Lengths(), "reward lengths", Scoring(failure_budget=0.9))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"prompt": "p", "completion": text, "score": "of an earlier try"} for text in ("please", "thanks", "no")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": "p", "chosen": "please please", "rejected": "no"}] * 3
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_figures_and_table_by_hand() -> None:
    rows = [{"prompt": "p", "completion": text} for text in ("a", "abc", "fail")]
    tried = try_on(JUDGE, Data([Sample("p", row["completion"]) for row in rows], rows), "rows")
    assert tried.figures() == [("total", 2.0, 1.0, 1.0, 3.0), ("half", 1.0, 0.5, 0.5, 1.5)]
    assert tried.failure_kinds() == [("refused", 1, "no")]
    assert tried.table[1] == {"prompt": "p", "completion": "abc", "score": 3.0, "part/half": 1.5, "failure": None}
    assert tried.table[2]["score"] is None
    assert tried.table[2]["failure"] == "refused: no\nmore"
    assert tried.card == {}


def test_pairs_get_two_lines_each_and_the_report_card() -> None:
    raw = [
        {"prompt": "p", "chosen": "abc", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": "ab"},
        {"prompt": "p", "chosen": "fail", "rejected": "ab"},
        {"prompt": "p", "chosen": "abcd", "rejected": "fail"},
    ]
    tried = try_on(JUDGE, of_pairs(raw, [{**row, "messages": []} for row in raw]), "rows")
    assert [(row["side"], row["completion"], row["score"]) for row in tried.table[:4]] == [
        ("chosen", "abc", 3.0), ("rejected", "a", 1.0), ("chosen", "a", 1.0), ("rejected", "ab", 2.0),
    ]  # fmt: skip
    assert (tried.card["accuracy"], tried.card["pairs"], tried.card["failures"]) == (0.5, 2.0, 2.0)
    assert sorted(tried.scored.failures) == [4, 7]
    assert [tried.samples[place].response for place in (4, 7)] == ["fail", "fail"]
    assert tried.card["accuracy_by_part/half"] == 0.5
    assert tried.figures()[0][1] == pytest.approx((3 + 1 + 4 + 1 + 2 + 2) / 6)


def test_a_histogram_counts_everything_once() -> None:
    lines = histogram([0.0] * 3 + [0.95, 1.0])
    assert [line.split()[-1] for line in lines] == ["3", *["0"] * 8, "2"]
    assert lines[0].count("#") == 40
    assert histogram([2.0, 2.0]) == [f"{2:>10}              {'#' * 40} 2"]


def test_the_command_prints_and_writes(example_reward: None, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", "--reward", "example_reward", "--data", "answers.jsonl", "reward.word=please", "--out"]
    for name in ("deep/scores.parquet", "scores.jsonl", "scores.csv"):
        assert main([*command, name]) == 0
    said = capsys.readouterr().out
    assert said.startswith("reward example_reward (example-reward 0.1.0) on answers.jsonl: 3 samples\n")
    assert "total  0.1667  0.2357  0    0.5" in said
    assert "the scores of every sample: scores.csv" in said
    rows = pq.read_table(data / "deep" / "scores.parquet").to_pylist()
    assert [row["score"] for row in rows] == [0.5, 0.0, 0.0], "an earlier try's columns give way"
    assert [json.loads(line)["part/word"] for line in (data / "scores.jsonl").open()] == [0.5, 0.0, 0.0]
    with (data / "scores.csv").open(newline="") as file:
        assert [row["score"] for row in csv.DictReader(file)] == ["0.5", "0.0", "0.0"]


def test_a_part_of_any_name_has_a_row_of_its_own() -> None:
    class Named:
        def score(self, samples):
            return Scores([3.0] * len(samples), parts={"total": [1.0] * len(samples)})

    tried = try_on(Judge(Named(), "named"), Data([Sample("p", "r")], [{"prompt": "p", "completion": "r"}]), "rows")
    assert [(name, mean) for name, mean, *_ in tried.figures()] == [("total", 3.0), ("total", 1.0)]


def test_of_a_few_samples_all_is_shown_before_the_budget_for_failures_counts(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "rule.py").write_text("def score(samples):\n    return [1 / (s.response != 'no') for s in samples]\n")
    words = ["score", "--reward", "function", "reward.path=rule.py:score", "--data", "answers.jsonl", "--out", "a.csv"]
    assert main([*words, "scoring.retries=0"]) == 1
    said = capsys.readouterr()
    assert re.search(r"^total +1 +0 +1 +1$", said.out, re.MULTILINE)
    assert re.search(r"^exception +1 +ZeroDivisionError", said.out, re.MULTILINE)
    assert "failed on 1 of 3 samples (exception: 1), more than scoring.failure_budget=0.1 allows" in said.err
    assert (data / "a.csv").exists()
    many = "".join(json.dumps({"prompt": "p", "completion": "no"}) + "\n" for _ in range(101))
    (data / "many.jsonl").write_text(many)
    assert main([*words[:-4], "--data", "many.jsonl", "scoring.retries=0"]) == 1
    assert not capsys.readouterr().out


def test_a_parquet_table_holds_every_column_and_what_parquet_cannot_hold_as_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "a", "mixed": 1, "empty": {}, "list": [1]},
        {"prompt": "p", "completion": "b", "mixed": "x", "empty": {}, "late": 2.5},
    ]
    tried = try_on(JUDGE, Data([Sample("p", row["completion"]) for row in rows], rows), "rows")
    writer_for(tmp_path / "a.parquet")(tmp_path / "a.parquet", tried.table)
    first, second = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (first["mixed"], first["empty"], first["list"], first["late"], first["score"]) == ("1", "{}", [1], None, 1.0)
    assert (second["mixed"], second["list"], second["late"]) == ("x", None, 2.5)


def test_pairs_at_the_command(example_reward: None, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--reward", "example_reward", "--data", "pairs.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "6 samples" in said
    assert re.search(r"^accuracy +1$", said, re.MULTILINE)
    assert said.endswith("a tie as half; accuracy_low and accuracy_high are the ends of its 95% interval\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "bradley_terry"], "must be trained before it scores: run 'alignpipe reward=bradley_terry"),
        (["--reward", "store:ab12"], "--reward store:ab12: there is no such reward in"),
        (["--reward", "./nowhere"], "there is no such folder"),
        (["--reward", "rulse"], "did you mean 'rules'"),
        (["--reward", "rules"], "reward"),
        (["--reward", "rules", "reward=mix"], "name the reward with --reward"),
        (["--reward", "rules", "reward.max_wrods=3"], "reward.max_wrods: there is no such key"),
        (["--reward", "rules", "sft.lr=1"], "sft.lr=1: no run is made here, so this would change nothing"),
        (["--reward", "store:ab12", "++model.seed=1"], "++model.seed=1: no run is made here"),
        (["--reward", "rules", "--out", "scores.txt"], "--out scores.txt: the name must end in .parquet, .jsonl, .csv"),
        (["--reward", "exact_match"], "reads the column"),
    ],
)
def test_what_cannot_be_scored(words: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--data", "answers.jsonl", *words]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("alignpipe: error: ")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def stored_rule(folder: Path) -> None:
    folder.mkdir(parents=True)
    record = {"name": "example_reward", "version": 1, "offered_by": "x 1", "config": {"word": "no"}}
    (folder / "reward.json").write_text(json.dumps(record))


def test_a_stored_reward_brings_its_options(example_reward: None, data: Path) -> None:
    stored_rule(data / "kept")
    judge = open_named("./kept", ["scoring.retries=0"])
    assert judge.label == "reward example_reward (x 1)"
    assert judge.score([Sample("p", "no no")]).total == [1.0]
    with pytest.raises(ConfigError, match=r"reward\.word=x: a stored reward \(\./kept\) has its options already"):
        open_named("./kept", ["reward.word=x"])
    (data / "empty").mkdir()
    with pytest.raises(RewardError, match=r"is no reward artifact"):
        open_named("./empty", [])


def test_the_folder_of_a_stored_object_is_one_too(example_reward: None, data: Path) -> None:
    stored_rule(data / "store" / "objects" / "reward" / "abc" / "payload")
    assert open_named("store/objects/reward/abc", []).score([Sample("p", "no no")]).total == [1.0]


def test_a_digest_that_two_stages_have_names_one_reward(example_reward: None, data: Path) -> None:
    outputs = data / "outputs"
    for stage in ("reward", "reward_2"):
        obj = outputs / "store" / "objects" / stage / "abc"
        stored_rule(obj / "payload")
        manifest = {"kind": "reward", "stage": stage, "digest": "abc", "files": []}
        (obj / "manifest.json").write_text(json.dumps(manifest))
    assert open_named("store:ab", []).score([Sample("p", "no no")]).total == [1.0]
    with pytest.raises(ConfigError, match="there is no such folder"):
        open_named("~nobody-here/kept", [])


def test_rollouts_update_by_update() -> None:
    table = [
        {"update": update, "reward": float(update), "score": float(-update) if place else None}
        for update in range(1, 4)
        for place in range(2)
    ]
    first = by_update(table)[0]
    assert (first.first, first.last, first.samples, first.reward, first.score) == (1, 1, 2, 1.0, -1.0)
    assert agreement(table) == pytest.approx(-1.0)
    assert math.isnan(agreement(table[:1]))
    long = [{"update": update, "reward": 0.0, "score": float(update)} for update in range(45)]
    stretches = by_update(long)
    assert [(part.first, part.last) for part in stretches[:2]] == [(0, 2), (3, 5)]
    assert stretches[1].score == 4.0
    assert sum(part.samples for part in stretches) == 45
    with pytest.raises(DataError, match="the column update and reward is not there"):
        by_update([{"score": 1.0}])


def test_a_runs_rollouts_at_the_command(example_reward: None, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow as pa

    rows = [
        {"update": update, "prompt": "p", "completion": "please " * update, "reward": 1.0 - update, "ended": True}
        for update in (1, 2)
    ]
    (data / "payload").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), data / "payload" / "rollouts.parquet")
    run = data / "run"
    run.mkdir()
    assert main(["score", "--reward", "example_reward", "--run", "run"]) == 1
    assert "that is no run folder, it has no summary.json" in capsys.readouterr().err
    summary = {"stages": {"sft": {"artifact": None}, "ppo": {"artifact": str(data)}}}
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["score", "--reward", "example_reward", "--run", "run"]) == 1
    assert "none of its stages (sft, ppo) has kept rollouts" in capsys.readouterr().err
    summary["stages"]["ppo"]["artifact"] = str(data / "payload")
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["score", "--reward", "example_reward", "--run", "run"]) == 0
    said = capsys.readouterr().out
    assert (
        "update  samples  trained on  score\n1       1        0           0.5\n2       1        -1          1\n" in said
    )
    assert "rank correlation of the two over all samples: -1.000" in said
