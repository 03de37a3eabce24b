"""How the cost of an update of PPO grows with model size, response length, episodes and vocabulary, one at a time.

    python tests/benchmarks/scaling.py [--factors size response episodes vocabulary]

The models are Llamas with random weights that hardly ever end a response, so responses are as long as they may be; a
larger vocabulary is rows that the tokenizer does not use. Reward training is one step. Every point is a fresh process
of the product; a round goes over all points. Printed: seconds per update and phase, and against the base point.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from figures import median_of, ratio, table
from phases import PHASES, figures_of
from running import alignpipe, arguments, begin, copied_store, once, say
from workloads import Recipe, Size

BASE = {"size": "128x4", "response": 48, "episodes": 64, "vocabulary": 1024}
POINTS: dict[str, list[Any]] = {
    "size": ["128x4", "256x4", "384x6", "512x8"],
    "response": [16, 48, 128, 256],
    "episodes": [16, 64, 256],
    "vocabulary": [1024, 8192, 32768],
}


def main(words: list[str]) -> None:
    """Measure every point and print a table per factor."""
    parser = arguments(__doc__, "scaling")
    parser.add_argument("--factors", nargs="+", choices=POINTS, default=list(POINTS), help="what to vary (all)")
    parser.add_argument("--updates", type=int, default=3, help="updates a process (3)")
    parser.add_argument("--smallest", action="store_true", help="only the base and the smallest other point")
    options = parser.parse_args(words)
    work = begin(options)
    values = {factor: POINTS[factor][: 2 if options.smallest else None] for factor in options.factors}
    points = {
        tuple({**BASE, factor: value}.values()): {**BASE, factor: value}
        for factor in values
        for value in values[factor]
    }
    records: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for round_number in range(options.rounds):
        for key, point in points.items():
            name = "-".join(map(str, key))
            record = once(
                work,
                f"{name}-{round_number}",
                {**point, "updates": options.updates, "ours": options.ours},
                lambda point=point, name=name: measure(work, name, point, options.updates, options.ours),
            )
            records.setdefault(key, []).append(record)
    for factor in options.factors:
        report(factor, values[factor], records)


def measure(work: Path, name: str, point: dict[str, Any], updates: int, more: list[str]) -> dict[str, Any]:
    """One process of ppo at a point."""
    hidden, layers = map(int, point["size"].split("x"))
    size = Size(hidden, layers, hidden // 64, 4 * hidden)
    recipe = Recipe(
        updates=updates, episodes=point["episodes"], response=point["response"], sft_steps=1, reward_steps=1
    )
    start = work / "start"
    first = alignpipe(start, ["sft.max_steps=1", "sft.eval_every=20"], ["data", "sft"])  # for data and tokenizer
    folder = work / f"model-{point['size']}-{point['vocabulary']}"
    random_model(folder, size, point["vocabulary"], first.artifact("sft"))
    overrides = ["experiment=small", "model=pretrained", f"model.path={folder}", *recipe.overrides(), *more]
    outputs = copied_store(start, work / "round", again=["reward", "ppo"])
    run = alignpipe(outputs, [*overrides, "ppo.eval_prompts=8"], ["data", "reward", "ppo"])
    return figures_of(run, size, str(folder), first.artifact("data"), recipe)


def random_model(folder: Path, size: Size, vocabulary: int, tokenizer: str) -> None:
    """A Llama with random weights and more embedding rows than the tokenizer has tokens."""
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    words.save_pretrained(folder)
    LlamaForCausalLM(config).save_pretrained(folder)


def report(factor: str, values: list[Any], records: dict[tuple[Any, ...], list[dict[str, Any]]]) -> None:
    """The table of one factor."""
    base = median_of(records[tuple(BASE.values())], "update")
    rows = []
    for value in values:
        rounds = records[tuple({**BASE, factor: value}.values())]
        update = median_of(rounds, "update")
        keys = (*PHASES, "parameters", "response", "gflop", "peak_share", "peak_mb")
        rows.append([value, update, ratio(update, base), *(median_of(rounds, key) for key in keys)])
    heads = [
        "update s",
        "against the base",
        *PHASES,
        "parameters",
        "response tokens",
        "GFLOP",
        "% of matmul",
        "peak MB",
    ]
    say(f"\n{factor} (else {', '.join(f'{key} {value}' for key, value in BASE.items() if key != factor)}):\n")
    say(table([factor, *heads], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
