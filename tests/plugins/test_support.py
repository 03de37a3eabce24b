"""data=support: seeded data without leaks, a gold reward that is right by hand, no answer that fits every prompt."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import pytest

from alignpipe.api import Sample
from alignpipe.dataset import Dataset
from alignpipe.errors import DataError, RewardError
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.support import world as world_module
from alignpipe_plugins.support.config import SupportConfig, SupportGoldConfig
from alignpipe_plugins.support.gold import WEIGHTS, build, judge
from alignpipe_plugins.support.stage import SupportStage, gold_score
from alignpipe_plugins.support.world import NAMES, PRODUCTS, REMEDY_WORDS, Case, Habits, sample_answer, sample_case
from support.context import FakeContext

GOLD = build(SupportGoldConfig(), None)
SIZES = {"demonstrations": 300, "preferences": 600, "prompts": 200, "heldout": 60}
FACTS = {"customer": "Maria", "product": "lamp", "problem": "broken"}


def generate(root: Path, seed: int = 0, **options) -> tuple[FakeContext, Dataset]:
    ctx = FakeContext(root, stage="data", seed=seed)
    SupportStage(SupportConfig(**{**SIZES, **options}), seed).run({}, ctx)
    return ctx, Dataset(ctx.payload)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return generate(tmp_path_factory.mktemp("support"))[1]


def gold_of(rows, column: str) -> list[float]:
    samples = [Sample(row["prompt"], row[column], row=Dataset.extras(row)) for row in rows]
    return Judge(GOLD, "gold").score(samples).total


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the data ---------------------------------------------------------------------------------------------------------


def test_the_sizes_are_those_asked_for(tmp_path: Path) -> None:
    ctx, data = generate(tmp_path)
    for table in ("demonstrations", "preferences", "prompts"):
        assert data.count(table, "train") == len(data.rows(table, "train")) == SIZES[table]
        assert data.count(table, "heldout") == 60
        assert ctx.metrics()[f"rows/{table}/train"] == SIZES[table]
    assert (data.gold.name, data.gold.config) == ("support_gold", {})


def test_no_prompt_comes_twice_so_none_is_on_both_sides(world: Dataset) -> None:
    prompts = [
        row["prompt"]
        for table, split in product(("demonstrations", "preferences", "prompts"), ("train", "heldout"))
        for row in world.rows(table, split)
    ]
    assert len(set(prompts)) == len(prompts)


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    first, same, other = (
        content(generate(tmp_path / name, seed)[0].payload) for name, seed in zip("abc", (3, 3, 4), strict=True)
    )
    assert first == same
    assert all(first[name] != other[name] for name in first if name.endswith(".arrow"))


def test_more_training_rows_leave_the_held_out_ones_as_they_are(tmp_path: Path) -> None:
    _, small = generate(tmp_path / "small")
    _, large = generate(tmp_path / "large", demonstrations=500, preferences=100)
    for table in ("demonstrations", "preferences", "prompts"):
        assert small.rows(table, "heldout") == large.rows(table, "heldout")


def test_answers_start_with_a_space_and_rows_carry_their_facts(world: Dataset) -> None:
    for table, columns in (("demonstrations", ["completion"]), ("preferences", ["chosen", "rejected"])):
        for row in world.rows(table, "train"):
            assert all(row[column].startswith(" ") and not row[column].startswith("  ") for column in columns)  # D05
            assert row["customer"] in row["prompt"]
            assert row["product"] in row["prompt"]
            assert row["prompt"].endswith("Agent:")


def test_no_prompt_gives_its_remedy_away(world: Dataset) -> None:
    for row in world.rows("prompts", "train"):
        words = {word.strip(".,?!").lower() for word in row["prompt"].split()}
        assert not words & set(REMEDY_WORDS.values())


def test_label_noise_is_in_the_training_pairs_only(tmp_path: Path) -> None:
    def flipped(rows) -> float:
        return mean(
            better < worse for better, worse in zip(gold_of(rows, "chosen"), gold_of(rows, "rejected"), strict=True)
        )

    _, noisy = generate(tmp_path / "noisy", preferences=2000, label_noise=0.2)
    assert flipped(noisy.rows("preferences", "train")) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 2000) ** 0.5)
    assert flipped(noisy.rows("preferences", "heldout")) == 0
    _, clean = generate(tmp_path / "clean", label_noise=0.0)
    assert flipped(clean.rows("preferences", "train")) == 0


def test_no_pair_is_a_tie(world: Dataset) -> None:
    rows = world.rows("preferences", "train")
    assert all(a != b for a, b in zip(gold_of(rows, "chosen"), gold_of(rows, "rejected"), strict=True))


def test_a_world_that_is_used_up_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("NAMES", "PRODUCTS", "COLOURS"):
        monkeypatch.setattr(world_module, kind, getattr(world_module, kind)[:2])
    with pytest.raises(DataError, match=r"no more than about \d+ prompts: lower data\.demonstrations"):
        generate(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": 0}, "heldout must be at least 1, got 0"),
        ({"label_noise": 0.5}, r"label_noise must lie in \[0, 0\.5\), got 0\.5"),
    ],
)
def test_values_that_cannot_be(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SupportConfig(**options)


# --- the gold reward --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (" Hello Maria. Sorry about the lamp. A replacement is on its way.", (1, 1, 1, 1, 1)),
        (" Hello. I am sorry. We will look into it.", (0, 0, 0, 1, 1)),
        (" Hello Peter. Thanks for asking about the kettle. Here is the manual.", (-1, -1, -1, -1, 1)),
        (" Hello Maria and Peter. A replacement or a refund for lamp or kettle.", (-1, -1, -1, 0, 1)),
        (
            " Hello maria. Sorry about the LAMP.",
            (0, 1, 0, 1, 1),
        ),  # names are written with a capital, products as one likes
        (" Sorry. Sorry.", (0, 0, 0, 1, -1)),
        (" One. Two. Three. Four.", (0, 0, 0, 0, 0)),
        (" word" * 200, (0, 0, 0, 0, -1)),
        (" Sorry, and thank you.", (0, 0, 0, 0, 1)),
        ("", (0, 0, 0, 0, -1)),
    ],
)
def test_gold_by_hand(answer: str, parts: tuple[int, ...]) -> None:
    found = Judge(GOLD, "support_gold").score([Sample("p", answer, row=FACTS)])
    assert {name: values[0] for name, values in found.parts.items()} == dict(
        zip(("name", "product", "remedy", "tone", "focus"), parts, strict=True)
    )
    by_hand = sum(weight * part for weight, part in zip(WEIGHTS.values(), parts, strict=True))
    assert found.total == [pytest.approx(by_hand)]


def test_a_question_calls_for_thanks() -> None:
    facts = {**FACTS, "problem": "manual"}
    assert judge(" Thank you.", facts)["tone"] == 1
    assert judge(" I am sorry.", facts)["tone"] == -1


def test_an_answer_that_never_ends_has_no_focus() -> None:
    assert judge(" Hello Maria.", FACTS, ended=True)["focus"] == 1
    assert judge(" Hello Maria.", FACTS, ended=False)["focus"] == -1


def test_the_range_is_what_it_says() -> None:
    assert list(WEIGHTS) == ["name", "product", "remedy", "tone", "focus"]
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_other_peoples_rows_are_refused() -> None:
    with pytest.raises(RewardError, match="judges rows of data=support only"):
        GOLD.score([Sample("p", "r", row={"answer": 42})])


# --- a better answer really depends on the prompt ---------------------------------------------------------------------


def cases(count: int, seed: int = 11) -> list[Case]:
    random = Random(seed)
    return [sample_case(random) for _ in range(count)]


def constant(answer: str, against: list[Case]) -> float:
    return mean(gold_score(answer, case) for case in against)


def demonstrations_mean(against: list[Case]) -> float:
    random = Random(5)
    return mean(gold_score(sample_answer(case, Habits(), random), case) for case in against for _ in range(4))


def best_answers(against: list[Case]) -> list[str]:
    """The best of many drafts for every case: what a policy could learn to say in this world's own phrases."""
    random = Random(6)
    drafts = ([sample_answer(case, Habits(), random) for _ in range(150)] for case in against)
    return [max(own, key=lambda answer: gold_score(answer, case)) for own, case in zip(drafts, against, strict=True)]


def test_the_best_constant_answer_is_not_good() -> None:
    """Searched: the best answers to other prompts, and every answer that could be better, put together part by part."""
    against = cases(240)
    limit = demonstrations_mean(against) + 0.25 * 2.0  # totals lie in [-1, 1]
    assert max(constant(answer, against) for answer in best_answers(cases(150, seed=12))) < limit
    # Names, products, remedies and tones are scored apart, so the best of each kind (or none) makes the best answer.
    kinds = [("", *NAMES), ("", *PRODUCTS), ("", *REMEDY_WORDS.values()), ("", "sorry", "thanks")]
    words = [max(kind, key=lambda word: constant(f" Well {word}.", against)) for kind in kinds]
    together = f" Well {' '.join(words)}."
    assert judge(together, against[0].facts())["focus"] == 1
    assert constant(" Well.", against) <= constant(together, against) < limit


def test_best_answers_on_other_prompts_lose_most_of_what_they_gained() -> None:
    against = cases(240)
    answers = best_answers(against)
    start = demonstrations_mean(against)
    own = mean(gold_score(answer, case) for answer, case in zip(answers, against, strict=True))
    moved = mean(gold_score(answers[index - 1], case) for index, case in enumerate(against))
    assert own > 0.9
    assert own - moved > 0.4 * (own - start)
    assert moved < start  # worse than what everybody starts from


def test_demonstrations_leave_room_above_and_below(world: Dataset) -> None:
    scores = gold_of(world.rows("demonstrations", "train"), "completion")
    assert -0.2 < mean(scores) < 0.7
    assert min(scores) < 0 < 0.9 < max(scores)
    assert len(set(scores)) > 10
