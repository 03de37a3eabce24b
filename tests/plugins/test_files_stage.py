"""The whole stage of data=files: tables, splits, counts, policies, errors, the same bytes twice."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jinja2 import TemplateError

from alignpipe.dataset import Dataset
from alignpipe.errors import DataError, StageInterrupted
from alignpipe_plugins.files.config import OnMalformed, OnUnusable
from alignpipe_plugins.files.splitting import prompt_key
from support.context import FakeContext
from support.user_files import WordModel, WordTokenizer, both, run_files, write_jsonl

ALL = {"heldout_share": 0.0}
"""Holds nothing out."""


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + count)
    return [{"prompt": f"question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}", "id": n} for n in numbers]


def error(folder: Path, **options: Any) -> str:
    """The text of the error, after checking that nothing was written."""
    with pytest.raises(DataError) as caught:
        run_files(folder, **options)
    assert not list((folder / "run0" / "payload").iterdir())
    return str(caught.value)


def test_preferences_alone_fill_all_three_tables(tmp_path: Path) -> None:
    ctx, data = run_files(tmp_path, preferences=write_jsonl(tmp_path / "p.jsonl.gz", pairs(50)))
    assert data.counts == {
        "demonstrations": {"train": 45, "heldout": 5},
        "preferences": {"train": 45, "heldout": 5},
        "prompts": {"train": 45, "heldout": 5},
    }
    pair = data.rows("preferences", "train")[0]
    number = pair["id"]
    assert pair == {
        "prompt": f"question {number}?",
        "messages": [],
        "chosen": f" good {number}",
        "rejected": f" bad {number}",
        "id": number,
    }
    shown = data.rows("demonstrations", "train")[0]
    assert shown == {"prompt": pair["prompt"], "messages": [], "completion": pair["chosen"], "id": number}
    prompt = data.rows("prompts", "train")[0]
    assert Dataset.extras(prompt) == {"id": number}
    assert data.gold is None
    assert ctx.metrics()["rows/preferences/train"] == 45
    assert ctx.metrics()["rows/prompts/heldout"] == 5
    assert {step for step, _ in ctx.logged} == {0}
    assert ctx.said == ["demonstrations 45 + 5 held out; preferences 45 + 5 held out; prompts 45 + 5 held out"]


def test_renamed_columns_and_answers_that_reach_the_rewards(tmp_path: Path) -> None:
    rows = [{"question": f"what is {n} + 1?", "answer": f"{n + 1}", "level": n / 2} for n in range(10)]
    path = write_jsonl(tmp_path / "sums.jsonl", rows)
    columns = {"prompt": "question", "completion": "answer"}
    _, data = run_files(tmp_path, demonstrations=path, columns=columns, **ALL)
    assert data.rows("demonstrations", "train")[3] == {
        "prompt": "what is 3 + 1?",
        "messages": [],
        "completion": " 4",
        "level": 1.5,
    }
    derived = data.rows("prompts", "train")
    assert Dataset.extras(derived[3]) == {"answer": "4", "level": 1.5}
    assert "preferences" not in data.counts
    _, direct = run_files(tmp_path, prompts=path, columns=columns, **ALL)
    assert direct.rows("prompts", "train") == derived
    assert list(direct.counts) == ["prompts"]


def test_prompts_derived_from_demonstrations_carry_the_reference_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "completion": "B"}]
    _, data = run_files(tmp_path, demonstrations=write_jsonl(tmp_path / "d.jsonl", rows), **ALL)
    assert data.rows("prompts", "train") == [{"prompt": "Q", "messages": [], "reference": "A"}]


def test_each_table_from_its_own_file(tmp_path: Path) -> None:
    _, data = run_files(
        tmp_path,
        demonstrations=write_jsonl(tmp_path / "d.jsonl", [{"prompt": "D", "completion": "x"}]),
        preferences=write_jsonl(tmp_path / "p.jsonl", pairs(2)),
        prompts=[write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": name}]) for name in "ab"],
        **ALL,
    )
    assert [row["prompt"] for row in data.rows("demonstrations", "train")] == ["D"]
    assert [row["prompt"] for row in data.rows("prompts", "train")] == ["a", "b"]
    assert data.count("preferences", "train") == 2


def test_every_format_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"prompt": f"Où {n} ?", "completion": f'"{n}",\nja'} for n in range(8)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text("[" + ",\n".join((tmp_path / "a.jsonl").read_text().splitlines()) + "]")
    quoted = (",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in rows)
    (tmp_path / "a.csv").write_text("\n".join(["prompt,completion", *quoted]) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    digests = set()
    for ending in ("jsonl", "json", "csv", "parquet", "jsonl"):
        ctx, _ = run_files(tmp_path, demonstrations=str(tmp_path / f"a.{ending}"))
        files = sorted(path for path in ctx.payload.rglob("*") if path.is_file())
        content = b"".join(str(path.relative_to(ctx.payload)).encode() + path.read_bytes() for path in files)
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_one_split_seed_for_all_run_seeds(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", pairs(40))
    _, first = run_files(tmp_path, preferences=path)
    _, other = run_files(tmp_path, preferences=path, split_seed=1)
    assert first.rows("prompts", "heldout") != other.rows("prompts", "heldout")


def test_held_out_share_limit(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", pairs(40))
    _, data = run_files(tmp_path, preferences=path, heldout_share=0.5, heldout_max=7)
    assert data.counts["preferences"] == {"train": 33, "heldout": 7}


def test_held_out_files_and_what_leaks_into_them(tmp_path: Path) -> None:
    heldout = [{**row, "prompt": row["prompt"].upper() + " "} for row in pairs(5)] + pairs(5, start=100)
    options = {
        "preferences": write_jsonl(tmp_path / "p.jsonl", pairs(20)),
        "heldout_preferences": write_jsonl(tmp_path / "h.jsonl", heldout),
    }
    ctx, data = run_files(tmp_path, **options)
    for table in ("demonstrations", "preferences", "prompts"):
        assert data.counts[table] == {"train": 15, "heldout": 10}
    assert ctx.metrics()["dropped/leaked"] == 5
    assert "data.preferences: of 20 rows dropped 5 leaked" in ctx.said
    text = error(tmp_path / "e", leakage=OnUnusable.error, **options)
    assert text.startswith("5 training rows have a prompt that a held-out file has too (data.leakage=error)")
    assert f"{tmp_path}/p.jsonl:3" in text


def test_no_prompt_on_both_sides_with_mixed_sources(tmp_path: Path) -> None:
    demonstrations = [{"prompt": f"question {n}?", "completion": "x"} for n in range(10, 40)]
    ctx, data = run_files(
        tmp_path,
        demonstrations=write_jsonl(tmp_path / "d.jsonl", demonstrations),
        preferences=write_jsonl(tmp_path / "p.jsonl", pairs(30)),
        heldout_prompts=write_jsonl(tmp_path / "h.jsonl", [{"prompt": f"question {n}?"} for n in (12, 50, 51)]),
        heldout_share=0.3,
    )
    sides = {
        split: {prompt_key(row["prompt"]) for table in data.counts for row in data.rows(table, split)}  # type: ignore[arg-type]
        for split in ("train", "heldout")
    }
    assert not sides["train"] & sides["heldout"]
    assert data.count("prompts", "heldout") == 3
    assert data.counts["preferences"] == {"train": 20, "heldout": 9}
    assert data.count("prompts", "train") == 20
    assert ctx.metrics()["dropped/leaked"] == 2
    assert "9 held_out_elsewhere" not in " ".join(ctx.said), "derived rows are not the user's rows"


def test_training_prompts_held_out_by_another_table_are_counted(tmp_path: Path) -> None:
    ctx, data = run_files(
        tmp_path,
        preferences=write_jsonl(tmp_path / "p.jsonl", pairs(20)),
        prompts=write_jsonl(tmp_path / "q.jsonl", [{"prompt": row["prompt"]} for row in pairs(20)]),
        heldout_prompts=write_jsonl(tmp_path / "h.jsonl", [{"prompt": "other"}]),
    )
    assert data.counts["prompts"] == {"train": 18, "heldout": 1}
    assert ctx.metrics()["dropped/held_out_elsewhere"] == 2


def test_duplicates_are_dropped_and_counted_or_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [*pairs(4), *pairs(3)])
    ctx, data = run_files(tmp_path, preferences=path, **ALL)
    assert data.count("preferences", "train") == 4
    assert ctx.metrics()["dropped/duplicate"] == 3
    _, data = run_files(tmp_path, preferences=path, deduplicate=False, **ALL)
    assert data.count("preferences", "train") == 7
    assert data.count("prompts", "train") == 4


def test_transcripts_and_unusable_pairs_are_counted_by_reason(tmp_path: Path) -> None:
    talk = "\n\nHuman: Ça va ?\n\nAssistant:"
    rows = [
        {"chosen": talk + " Oui.", "rejected": talk + " Non."},
        {"chosen": talk + " Oui.", "rejected": talk + " Si.\n\nHuman: So?\n\nAssistant: Non."},
        {"chosen": talk, "rejected": talk + " Non."},
        {"chosen": talk + " Oui.", "rejected": talk + " Oui."},
        {"prompt": "one two three four five six", "chosen": "a", "rejected": "b"},
    ]
    path = write_jsonl(tmp_path / "hh.jsonl", rows)
    ctx, data = run_files(tmp_path, preferences=path, max_prompt_tokens=5)
    (row,) = both(data, "preferences")
    assert row == {"prompt": talk, "messages": [], "chosen": " Oui.", "rejected": " Non."}
    dropped = {name: value for name, value in ctx.metrics().items() if name.startswith("dropped/") and value}
    assert dropped == {
        "dropped/different_prompts": 1,
        "dropped/empty_answer": 1,
        "dropped/same_answers": 1,
        "dropped/prompt_too_long": 1,
    }
    assert ctx.said[1].endswith(
        "of 5 rows dropped 1 different_prompts, 1 empty_answer, 1 prompt_too_long, 1 same_answers"
    )
    text = error(tmp_path / "e", preferences=path, max_prompt_tokens=5, unusable=OnUnusable.error)
    assert text.startswith("4 unusable rows (data.unusable=error); mend them, or set data.unusable=drop")
    assert f"{path}:2: chosen and rejected answer different prompts" in text
    assert f"{path}:5: the prompt is too long" in text


def test_malformed_rows_are_all_listed_or_skipped(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", [pairs(1)[0], '{"prompt": ', {"prompt": "x"}])
    second = write_jsonl(tmp_path / "b.jsonl", ["nonsense"] * 30)
    text = error(tmp_path / "e", preferences=first, prompts=second)
    lines = text.splitlines()
    assert lines[0] == "32 malformed rows; mend them, or set data.malformed=skip"
    assert lines[1].startswith(f"  {first}:2: is no JSON")
    assert lines[2].startswith(f"  {first}:3: needs 'chosen' and 'rejected', with or without 'prompt'; it has 'prompt'")
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "  ... and 12 more"
    ctx, data = run_files(tmp_path, preferences=first, malformed=OnMalformed.skip)
    assert len(both(data, "preferences")) == 1
    assert ctx.metrics()["dropped/malformed"] == 2
    assert "data.preferences: of 3 rows dropped 2 malformed" in ctx.said


@pytest.mark.parametrize("columns", [{}, {"prompt": "quesion"}, {"completion": "answer"}])
def test_a_row_that_lacks_a_column_is_told_with_all_columns_of_its_file(
    tmp_path: Path, columns: dict[str, str]
) -> None:
    path = tmp_path / "q.csv"
    path.write_text("question,answer,id\nhi,yo,1\n")
    text = error(tmp_path / "e", demonstrations=str(path), columns=columns)
    wanted = "q.csv:2: needs 'prompt' and 'completion', or 'messages'"
    assert f"{wanted}; it has 'question', 'answer', 'id' (rename with data.columns)" in text


def test_nothing_left_says_what_was_dropped_and_why(tmp_path: Path) -> None:
    rows = [{"prompt": "", "completion": "x"}, {"prompt": "one two three", "completion": "x"}]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    text = error(tmp_path / "a", demonstrations=path, model=WordModel(context=3))
    assert text == (
        f"data.demonstrations: nothing is left of the 2 rows of {path}: 1 empty_prompt, 1 prompt_too_long "
        "(longer than 2 tokens, by the model's context of 3 tokens)"
    )
    text = error(tmp_path / "b", demonstrations=path, max_prompt_tokens=1, model=WordModel(context=9))
    assert text.endswith("(longer than 1 tokens, by data.max_prompt_tokens=1)")
    empty = write_jsonl(tmp_path / "e.jsonl", [])
    assert error(tmp_path / "c", prompts=empty) == f"data.prompts: {empty} holds no rows"
    same = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "Q"}])
    text = error(tmp_path / "d", prompts=same, heldout_prompts=write_jsonl(tmp_path / "h.jsonl", [{"prompt": "q"}]))
    assert text == f"data.prompts: nothing is left of the 1 rows of {same}: 1 leaked"


def test_the_limit_is_a_limit_and_null_counts_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "one two three"}, {"prompt": "one two three four"}])
    ctx, data = run_files(tmp_path, prompts=path, max_prompt_tokens=3, **ALL)
    assert [row["prompt"] for row in data.rows("prompts", "train")] == ["one two three"]
    assert len(ctx.built) == 1
    ctx, data = run_files(tmp_path, prompts=path, max_prompt_tokens=None, **ALL)
    assert data.count("prompts", "train") == 2
    assert ctx.built == []


def test_conversations_are_counted_as_the_chat_template_renders_them(tmp_path: Path) -> None:
    class Chat(WordTokenizer):
        chat_template = "yes"

        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            if messages[0]["role"] == "system":
                raise TemplateError("no system message, please")
            return "<user> " * 10 + messages[-1]["content"]

    user, system = {"role": "user", "content": "Hi there?"}, {"role": "system", "content": "S"}
    rows = [{"prompt": "Hi there?"}, {"prompt": [user]}, {"prompt": [system, user]}]
    path = write_jsonl(tmp_path / "q.jsonl", rows)
    ctx, data = run_files(tmp_path, prompts=path, max_prompt_tokens=12, model=WordModel(tokenizer=Chat()), **ALL)
    assert data.count("prompts", "train") == 2
    assert ctx.metrics()["dropped/refused_by_template"] == 1
    assert ctx.said[1].endswith("of 3 rows dropped 1 refused_by_template (TemplateError: no system message, please)")
    ctx, data = run_files(tmp_path, prompts=path, max_prompt_tokens=11, model=WordModel(tokenizer=Chat()), **ALL)
    assert [row["prompt"] for row in data.rows("prompts", "train")] == ["Hi there?"]


def test_a_chat_template_that_is_broken_or_writes_nothing(tmp_path: Path) -> None:
    class Chat(WordTokenizer):
        chat_template = "yes"

        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            return "" if messages[0]["content"] == "Hi" else messages[0] + 1  # type: ignore[operator]

    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("Hi", "Ho")]
    path = write_jsonl(tmp_path / "q.jsonl", rows)
    text = error(tmp_path / "e", prompts=path, model=WordModel(tokenizer=Chat()))
    assert "nothing is left of the 2 rows" in text
    assert "1 empty_prompt, 1 refused_by_template (TypeError: unsupported operand" in text


def test_the_tokenizer_is_trained_on_prompts_and_answers(tmp_path: Path) -> None:
    model = WordModel()
    run_files(tmp_path, preferences=write_jsonl(tmp_path / "p.jsonl", pairs(2)), model=model)
    assert model.texts == ["question 0?", "good 0", "bad 0", "question 1?", "good 1", "bad 1"]


def test_extra_columns_of_all_json_types_survive(tmp_path: Path) -> None:
    extras = {"tests": ["a", "b"], "meta": {"level": 2, "tags": ["x"]}, "ok": True, "none": None, "text": "T"}
    rows = [{"prompt": f"Q{n}", **extras, "number": n if n else 0.5} for n in range(3)] + [{"prompt": "bare"}]
    _, data = run_files(tmp_path, prompts=write_jsonl(tmp_path / "q.jsonl", rows))
    kept = {row["prompt"]: Dataset.extras(row) for row in both(data, "prompts")}
    assert kept["Q0"] == {**extras, "number": 0.5}
    assert kept["Q2"] == {**extras, "number": 2.0}
    assert kept["bare"] == dict.fromkeys([*extras, "number"])


def test_extra_columns_of_mixed_types_are_an_error_with_places(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "x": 1}, {"prompt": "b"}, {"prompt": "c", "x": "one"}])
    text = error(tmp_path / "e", prompts=path)
    assert f"data.prompts: the extra column 'x' has values of different types: int ({path}:1), str ({path}:3)" in text
    assert "add 'x' to data.drop_columns" in text
    _, data = run_files(tmp_path, prompts=path, drop_columns=["x"])
    assert [Dataset.extras(row) for row in both(data, "prompts")] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[1], ["a"]], "has values that do not fit together"),
        ([2**70, 1], "has values that do not fit together"),
    ],
)
def test_extra_columns_that_no_table_can_hold(tmp_path: Path, values: list[Any], text: str) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": str(n), "x": value} for n, value in enumerate(values)])
    assert text in error(tmp_path / "e", prompts=path)


def test_extra_columns_that_json_does_not_have(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["Q"], "when": pa.array([0], pa.timestamp("s"))}), tmp_path / "q.parquet")
    text = error(tmp_path / "e", prompts=str(tmp_path / "q.parquet"))
    assert "the extra column 'when' has values of the type timestamp" in text
    assert "q.parquet row 1" in text


def test_a_renamed_column_must_not_clash(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "old", "question": "new"}])
    text = error(tmp_path / "e", prompts=path, columns={"prompt": "question"})
    assert text.startswith(
        f"{path}:1: data.columns reads 'prompt' from the column 'question', but there is a column 'prompt'"
    )
    _, data = run_files(tmp_path, prompts=path, columns={"prompt": "question"}, drop_columns=["prompt"])
    assert [row["prompt"] for row in both(data, "prompts")] == ["new"]


def test_columns_may_be_swapped(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "A", "completion": "Q"}])
    _, data = run_files(tmp_path, demonstrations=path, columns={"prompt": "completion", "completion": "prompt"})
    assert both(data, "demonstrations") == [{"prompt": "Q", "messages": [], "completion": " A"}]


def test_a_stop_is_heeded_and_writes_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", pairs(1200))
    with pytest.raises(StageInterrupted, match="the same command starts this stage again"):
        run_files(tmp_path, preferences=path, stop_after=1)
    assert not list((tmp_path / "run0" / "payload").iterdir())


def test_the_fake_context_is_a_stage_context(tmp_path: Path) -> None:
    from alignpipe.api import StageContext

    ctx: StageContext = FakeContext(tmp_path)
    ctx.log({"a": 1.0}, step=1)
    ctx.log({"a": 2.0}, step=2)
    ctx.rewind(1)
    assert ctx.series("a") == [1.0]  # type: ignore[attr-defined]
