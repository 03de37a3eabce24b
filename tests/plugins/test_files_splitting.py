"""No prompt on both sides, whatever the tables hold."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from alignpipe_plugins.files.formats import Row
from alignpipe_plugins.files.splitting import choose_heldout, deduplicate, part, prompt_key

KEYS = st.sets(st.text("abcdé ", min_size=1, max_size=3), min_size=1, max_size=40)


def row(prompt: str, **answers: str) -> Row:
    return Row("here", prompt, [], answers)


def test_keys_ignore_case_spacing_and_unicode_forms_only() -> None:
    assert prompt_key(" Caf\u00e9\n\tSTRASSE ") == prompt_key("cafe\u0301 stra\u00dfe")
    assert prompt_key("a b") != prompt_key("ab")
    assert prompt_key("why?") != prompt_key("why!")


def test_duplicates_have_the_same_prompt_and_the_same_answers() -> None:
    rows = [row("Q", completion="A"), row("q ", completion=" A"), row("Q", completion="B"), row("R", completion="A")]
    assert deduplicate(rows) == [rows[0], rows[2], rows[3]]


@given(
    demonstrations=KEYS,
    preferences=KEYS,
    prompts=KEYS,
    share=st.floats(0, 0.99),
    most=st.none() | st.integers(1, 5),
    sharing=st.sets(st.sampled_from(["demonstrations", "preferences", "prompts"])),
    seed=st.integers(0, 3),
)
def test_split_by_prompt(demonstrations, preferences, prompts, share, most, sharing, seed) -> None:
    tables = {"demonstrations": demonstrations, "preferences": preferences, "prompts": prompts}
    keys = {table: {prompt_key(text) for text in texts} for table, texts in tables.items()}
    heldout = choose_heldout(keys, sorted(sharing), share, most, seed)
    parts = {table: part([row(text) for text in texts], heldout) for table, texts in tables.items()}

    train = {prompt_key(each.prompt) for kept, _ in parts.values() for each in kept}
    held = {prompt_key(each.prompt) for _, out in parts.values() for each in out}
    assert not train & held
    for table, (kept, out) in parts.items():
        assert len(kept) + len(out) == len(tables[table])
        assert kept, "every table keeps something to train on"
    if not sharing or not share:
        assert not heldout
    if len(sharing) == 1:
        (table,) = sharing
        wanted = min(max(1, round(share * len(keys[table]))), most or len(keys[table])) if share else 0
        assert len(heldout) <= wanted
        assert heldout <= keys[table]
        if len(set(map(frozenset, keys.values()))) == 1:  # nobody else's last prompt is in the way
            assert len(heldout) == min(wanted, len(keys[table]) - 1)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(rng: random.Random) -> None:
    names = [f"prompt {number}" for number in range(200)]
    shuffled = rng.sample(names, len(names))
    one = choose_heldout({"prompts": set(names)}, ["prompts"], 0.2, None, 0)
    assert one == choose_heldout({"prompts": set(shuffled)}, ["prompts"], 0.2, None, 0)
    assert len(one) == 40
    assert one != choose_heldout({"prompts": set(names)}, ["prompts"], 0.2, None, 1)


def test_tables_with_the_same_prompts_hold_out_the_same_ones() -> None:
    names = {f"prompt {number}" for number in range(100)}
    tables = {"demonstrations": names, "preferences": names}
    assert len(choose_heldout(tables, list(tables), 0.1, None, 0)) == 10
