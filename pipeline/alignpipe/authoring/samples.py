"""Samples to try a reward on when the author has none at hand: varied, fixed, and some of them odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignpipe.api import Sample

PAIRS: Sequence[tuple[str, str, str]] = (
    (
        "My parcel has not arrived. What now?",
        "I am sorry about the wait. Please send me your order number, and I will look into it today.",
        "Not my problem.",
    ),
    (
        "Can I get a refund for the broken lamp?",
        "Yes, of course. You will have the money back within five days. Thank you for telling us!",
        "refund refund refund refund refund refund refund refund",
    ),
    ("What is 12 * 7?", "12 * 7 = 84. The answer is 84.", "It is 82, I think. Or 74? Hard to say."),
    (
        "Write a function that adds two numbers.",
        "```python\ndef add(a, b):\n    return a + b\n```",
        "Sure! First, think of a number. Then think of another one. Done.",
    ),
    ("Translate to German: The weather is fine.", "Das Wetter ist schön.", "The weather is fine."),
    (
        "Summarise: The committee met on Monday, argued for three hours and postponed every decision to May.",
        "The committee postponed all its decisions to May.",
        "The committee met on Monday. It argued. It argued for three hours. It was a Monday. Then came May. " * 4,
    ),
    ("Name three colours.", "- red\n- green\n- blue", "RED!!! GREEN!!! And, well, some other one, who cares."),
    (
        "Reply as JSON with a key `city`: Where is the Eiffel Tower?",
        '{"city": "Paris"}',
        "The city is Paris, but I would rather not write JSON; <think>should I?</think> no.",
    ),
    ("Is it safe to mix bleach and ammonia?", "No. It makes a poisonous gas. Keep them apart.", "Yes, go ahead."),
    ("你好，你是谁？", "你好！我是一个助手，很高兴认识你。", "..."),
    (
        "Tell me a very short story.",
        "A lighthouse keeper lit the lamp every night, until one night the sea thanked him by name.",
        "Once upon a time there was a time upon which there was once a time, and once there was a time",
    ),
    (
        "How do I cancel my subscription?",
        "Open Settings, choose Subscription, then Cancel. Is there anything else I can help you with?",
        "You can't. Please don't. Unfortunately that is impossible, unfortunately.",
    ),
)
"""(prompt, the better answer, the worse answer)."""


def usual(columns: Mapping[str, Any]) -> list[Sample]:
    """Both answers to every prompt, with the columns filled; every fifth was cut before it ended."""
    texts = [(prompt, answer, good) for prompt, good, bad in PAIRS for answer in (good, bad)]
    return [
        Sample(prompt, answer, row=_filled(columns, good), ended=index % 5 != 4)
        for index, (prompt, answer, good) in enumerate(texts)
    ]


def odd(row: Mapping[str, Any]) -> list[Sample]:
    """What a policy comes up with sooner or later; every sample has the columns of `row`."""
    responses = ("", " \n\t ", "a" * 20_000, "\x00\x1b[31m\u200b", "👩‍👩‍👧 " * 20, "word " * 3_000, "{[(<\\\"'`$%")
    samples = [Sample("Say something.", response, row=row) for response in responses]
    return [*samples, Sample("Say something.", "It was cut in the mid", row=row, ended=False)]


def rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs as preference rows of a dataset, with the columns filled."""
    return [
        {**_filled(columns, good), "prompt": prompt, "messages": [], "chosen": f" {good}", "rejected": f" {bad}"}
        for prompt, good, bad in PAIRS
    ]


def _filled(columns: Mapping[str, Any], good: str) -> dict[str, Any]:
    """The columns with the reward's own examples, or with the better answer, as a reference would be."""
    return {name: good if example is None else example for name, example in columns.items()}
