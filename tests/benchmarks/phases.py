"""Where an update of PPO spends its time: seconds per phase, tokens/s, memory, and FLOP/s against a matrix product.

    python tests/benchmarks/phases.py [--sizes tiny small] [--variant NAME=OVERRIDES ...]

Runs the product: data, sft and reward once per size, then ppo in a fresh process per round, sizes and variants in turn.
Printed per size and variant, as medians over the rounds: mean seconds per update and phase (the first update included,
evaluation left out), sampled tokens per second, the process's peak memory, the operations an update needs
(`flops.py`) and their rate as a share of the float32 matrix-product peak measured in the same process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from figures import median_of, spread, table
from flops import ppo_flops
from running import Run, add_variants, alignpipe, arguments, begin, copied_store, once, say, variants
from workloads import SIZES, Recipe, Size

BEFORE = ["data", "sft", "reward"]
PHASES = ("generate", "forward", "score", "train", "rest")


def main(words: list[str]) -> None:
    """Measure everything and print the tables."""
    parser = arguments(__doc__, "phases")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models (all)")
    parser.add_argument("--updates", type=int, default=6, help="updates a round (6)")
    parser.add_argument("--train-steps", type=int, default=400, help="steps of sft and reward before (400)")
    add_variants(parser)
    options = parser.parse_args(words)
    work = begin(options)
    steps = options.train_steps
    recipe = Recipe(updates=options.updates, sft_steps=steps, reward_steps=steps)
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for round_number in range(options.rounds):
        for size in options.sizes:
            for name, extra in variants(options.variant).items():
                overrides = [*SIZES[size].overrides(), *recipe.overrides(), *options.ours, *extra]
                prepared = work / f"prepared-{size}"  # one store for all variants: what they share is made once
                record = once(
                    work,
                    f"{size}-{name}-{round_number}",
                    {"overrides": overrides},
                    lambda prepared=prepared, overrides=overrides, size=size: measure(
                        work, prepared, overrides, SIZES[size], recipe
                    ),
                )
                records.setdefault((size, name), []).append(record)
    report(records)


def measure(work: Path, prepared: Path, overrides: list[str], size: Size, recipe: Recipe) -> dict[str, Any]:
    """One process of ppo on a prepared store."""
    before = alignpipe(prepared, overrides, BEFORE)
    outputs = copied_store(prepared, work / "round", again=["ppo"])
    run = alignpipe(outputs, overrides, [*BEFORE, "ppo"])
    return figures_of(run, size, before.artifact("sft"), before.artifact("data"), recipe)


def figures_of(run: Run, size: Size, checkpoint: str, data: str, recipe: Recipe) -> dict[str, Any]:
    """Means over the updates of one run."""
    updates = run.phases()
    mean = {key: sum(update[key] for update in updates) / len(updates) for key in (*PHASES, "update", "tokens")}
    prompt, vocabulary = prompt_figures(checkpoint, data)
    shape = size.shape(vocabulary)
    response = mean["tokens"] / recipe.episodes
    gflop = ppo_flops(shape, prompt, response, recipe.episodes, recipe.epochs) / 1e9
    return {
        **mean,
        **run.used,
        "parameters": shape.parameters,
        "prompt": prompt,
        "response": response,
        "gflop": gflop,
        "gflops": gflop / mean["update"],
        "peak_share": 100 * gflop / mean["update"] / run.used["matmul_gflops"],
        "tokens_per_second": mean["tokens"] / mean["update"],
    }


def prompt_figures(checkpoint: str, data: str) -> tuple[float, int]:
    """Mean tokens of a training prompt, and how many rows the checkpoint's embedding has."""
    from transformers import AutoConfig, AutoTokenizer

    from alignpipe.dataset import Dataset
    from alignpipe.training.tokens import encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = Dataset(Path(data)).rows("prompts", "train")
    lengths = [len(encode_prompt(tokenizer, row["prompt"])) for row in rows]
    return sum(lengths) / len(lengths), int(AutoConfig.from_pretrained(checkpoint).vocab_size)


def report(records: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """The two tables."""
    times, rates = [], []
    for (size, name), rounds in records.items():
        first = next(other for (same, _), other in records.items() if same == size)
        ratios = [mine["update"] / theirs["update"] for mine, theirs in zip(rounds, first, strict=True)]
        laps = [median_of(rounds, phase) or 0.0 for phase in PHASES]
        shares = [f"{lap:.3g} ({lap / sum(laps):.0%})" for lap in laps]
        times.append([size, name, median_of(rounds, "update"), spread(ratios), *shares])
        keys = ("response", "tokens_per_second", "peak_mb", "gflop", "gflops", "matmul_gflops", "peak_share")
        rates.append([size, name, rounds[0]["parameters"], *(median_of(rounds, key) for key in keys)])
    say("\nSeconds per update, and each phase's share:\n")
    say(table(["size", "variant", "update", "against the first variant", *PHASES], times))
    say("\nWork:\n")
    heads = ["parameters", "response tokens", "tokens/s", "peak MB", "GFLOP/update", "GFLOP/s", "matmul GFLOP/s", "%"]
    say(table(["size", "variant", *heads], rates))


if __name__ == "__main__":
    main(sys.argv[1:])
