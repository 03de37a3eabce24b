"""Against TRL: SFT, reward and PPO training (and GRPO) on the same data, models and hyperparameters, in turn.

    python -m venv trl112; trl112/bin/pip install torch==<ours> trl==1.12.0    # the last with a PPO
    python -m venv trlnow; trlnow/bin/pip install torch==<ours> trl            # the current one
    python tests/benchmarks/against_trl.py --trl-ppo-python trl112/bin/python --trl-python trlnow/bin/python

Use the same build of torch on all sides. Each engine runs in a process of its own, alignpipe and TRL in turn, so that a
machine that drifts drifts for both. Seconds per step or update leave loading out and count the first one; `process`
is everything, loading, tokenising (ours), reports and saving included. A task whose Python is not given is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engines import NOT_THE_SAME, ours, prepare, specs, trl
from figures import median_of, spread, table
from running import arguments, begin, once, say
from workloads import SIZES, Recipe

UNITS = {"sft": "steps/s", "reward": "steps/s", "ppo": "s/update", "grpo": "s/update"}


def main(words: list[str]) -> None:
    """Measure everything and print the table."""
    parser = arguments(__doc__, "against_trl")
    parser.add_argument("--trl-ppo-python", help="Python with trl==1.12.0: task ppo")
    parser.add_argument("--trl-python", help="Python with the current trl: tasks sft, reward, grpo")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models (all)")
    parser.add_argument("--tasks", nargs="+", choices=UNITS, default=list(UNITS), help="what to compare (all)")
    parser.add_argument("--updates", type=int, default=6, help="updates of ppo and grpo (6)")
    parser.add_argument("--sft-steps", type=int, default=400, help="steps of 16 demonstrations (400)")
    parser.add_argument("--reward-steps", type=int, default=320, help="steps of 16 pairs (320)")
    options = parser.parse_args(words)
    pythons = {task: options.trl_ppo_python if task == "ppo" else options.trl_python for task in UNITS}
    tasks = [task for task in options.tasks if pythons[task]]
    if not tasks:
        parser.error("none of the tasks has its Python: give --trl-ppo-python (ppo) or --trl-python (the others)")
    work = begin(options)
    recipe = Recipe(updates=options.updates, sft_steps=options.sft_steps, reward_steps=options.reward_steps)
    records: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for size in options.sizes:
        paths = prepare(work, size, SIZES[size], recipe, options.ours)
        for round_number in range(options.rounds):
            for task in tasks:
                pair = compare(work, paths, task, size, recipe, options.ours, pythons[task], round_number)
                found = records.setdefault((task, size), {"ours": [], "TRL": []})
                for engine, record in pair.items():
                    found[engine].append(record)
    report(records)


def compare(
    work: Path,
    paths: dict[str, str],
    task: str,
    size: str,
    recipe: Recipe,
    more: list[str],
    python: str,
    round_number: int,
) -> dict[str, dict[str, Any]]:
    """One round: ours, then TRL's; every other round the other way about."""
    overrides = [*SIZES[size].overrides(), *recipe.overrides("grpo" if task == "grpo" else "ppo"), *more]
    spec = specs(paths, recipe, judge=True)[task]
    name = f"{task}-{size}-{round_number}"
    runs = {
        "ours": lambda: once(
            work, f"{name}-ours", {"overrides": overrides}, lambda: ours(work, paths, task, recipe, overrides)
        ),
        "TRL": lambda: once(
            work, f"{name}-trl", {"spec": spec, "python": python}, lambda: trl(python, task, spec, work / "trl")
        ),
    }
    order = list(runs) if round_number % 2 == 0 else list(runs)[::-1]
    return {engine: runs[engine]() for engine in order}


def report(records: dict[tuple[str, str], dict[str, list[dict[str, Any]]]]) -> None:
    """The table, and what it compares."""
    lines = []
    for (task, size), engines in records.items():
        for rounds in engines.values():
            for record in rounds:
                record["mean"] = sum(record["steps"]) / len(record["steps"])
        ratios = [b["mean"] / a["mean"] for a, b in zip(engines["ours"], engines["TRL"], strict=True)]
        whole = [b["process_seconds"] / a["process_seconds"] for a, b in zip(*engines.values(), strict=True)]
        for engine, rounds in engines.items():
            mean = median_of(rounds, "mean")
            rate = mean if UNITS[task] == "s/update" or mean is None else 1 / mean
            faster = [spread(ratios), spread(whole)] if engine == "ours" else ["", ""]
            quality = [median_of(rounds, key) for key in ("loss", "accuracy", "score", "kl", "tokens")]
            used = [median_of(rounds, "process_seconds"), median_of(rounds, "peak_mb")]
            lines.append([task, size, engine, rate, UNITS[task], faster[0], used[0], faster[1], used[1], *quality])
    heads = ["task", "size", "engine", "rate", "unit", "TRL's time / ours", "process s", "TRL's / ours", "peak MB"]
    say("\nMedians of the rounds; ratios are per round, median (smallest to largest):\n")
    say(table([*heads, "held-out loss", "accuracy", "score", "KL", "response tokens"], lines))
    found = sorted({record["versions"] for engines in records.values() for record in engines["TRL"]})
    say("\nTRL's side: " + "; ".join(found) + "\n\n" + NOT_THE_SAME)


if __name__ == "__main__":
    main(sys.argv[1:])
