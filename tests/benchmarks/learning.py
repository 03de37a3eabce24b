"""Does a variant learn as well? Gold reward, KL and seconds over seeds, for override sets given on the command line.

    python tests/benchmarks/learning.py --seeds 0 1 2 --variant plain= --variant 'other=<key>=<value> <key>=<value>'

Runs `alignpipe seed=<n> <overrides>` for every variant and seed, seeds outermost, in one store: what the variants share
is computed once. With `--ppo-only` data, sft and reward are made without the variant's overrides, so that only ppo and
eval differ. Whatever has been run is not run again. Tables: the final figures of the eval stage; and the held-out
gold reward at equal KL, where a run's curve of held-out evaluations first reaches that KL.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from figures import at_level, ratio, table
from running import Run, add_variants, alignpipe, arguments, begin, once, say, variants

BEFORE = ["data", "sft", "reward"]
STAGES = [*BEFORE, "ppo", "eval"]
FINAL = {"gold": "eval/gold/mean", "win rate": "eval/gold/win_rate", "KL": "eval/kl", "length": "eval/length"}


def main(words: list[str]) -> None:
    """Run everything and print the tables."""
    parser = arguments(__doc__, "learning", rounds=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--kl", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="KLs to compare gold at (1 2 4)")
    parser.add_argument("--every", type=int, default=5, help="updates between held-out evaluations (5)")
    parser.add_argument("--ppo-only", action="store_true", help="let variants share data, sft and reward")
    add_variants(parser)
    options = parser.parse_args(words)
    work = begin(options)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name, extra in variants(options.variant).items():
            looks = [f"ppo.eval_every={options.every}", "ppo.eval_prompts=256"]
            plain = [f"seed={seed}", *looks, *options.ours]
            overrides, common = [*plain, *extra], plain if options.ppo_only else None
            record = once(
                work,
                f"{name}-{seed}",
                {"overrides": overrides, "common": common},
                lambda overrides=overrides, common=common, name=name, seed=seed: measure(
                    work, overrides, f"{name}-seed-{seed}", common
                ),
            )
            found.setdefault(name, []).append(record)
    report(found, options.seeds, options.kl)


def measure(work: Path, overrides: list[str], name: str, common: list[str] | None) -> dict[str, Any]:
    """One run, or its stored stages; what comes before ppo by the overrides `common` if they are given.

    Seconds of ppo are the updates', held-out evaluation left out.
    """
    outputs = work / "outputs"
    stages = STAGES
    if common is not None:
        overrides = [*overrides, *fed_by(alignpipe(outputs, common, BEFORE, f"{name}-before"))]
        stages = ["ppo", "eval"]
    run = alignpipe(outputs, overrides, stages, name)
    metrics = run.summary["metrics"]
    looks = [line for line in run.lines("metrics.jsonl", "ppo") if "ppo/heldout/gold" in line]
    return {
        **{title: metrics[key] for title, key in FINAL.items()},
        "seconds": sum(line["update"] for line in run.phases()),
        "curve": [[line["ppo/heldout/kl"], line["ppo/heldout/gold"]] for line in looks],
    }


def fed_by(before: Run) -> list[str]:
    """The overrides that feed ppo and eval with the stages of another run."""
    data, policy, reward = (f"store:{before.summary['stages'][stage]['digest']}" for stage in BEFORE)
    ports = {"ppo.dataset": data, "ppo.policy": policy, "ppo.reward": reward}
    ports |= {"eval.dataset": data, "eval.baseline": policy, "eval.reward": reward}
    return [f"inputs.{port}={source}" for port, source in ports.items()]


def report(found: dict[str, list[dict[str, Any]]], seeds: list[int], levels: list[float]) -> None:
    """The two tables."""
    first = next(iter(found.values()))
    lines = []
    for name, records in found.items():
        for seed, record, base in zip(seeds, records, first, strict=True):
            lines.append([name, seed, *(record[title] for title in FINAL), record["seconds"]])
            lines[-1].append(ratio(record["seconds"], base["seconds"]))
        if len(records) > 1:
            figures = [mean_and_deviation([record[title] for record in records]) for title in (*FINAL, "seconds")]
            lines.append([name, "all", *figures, ""])
    say("\nAt the end (means are followed by the standard deviation over the seeds):\n")
    say(table(["variant", "seed", *FINAL, "ppo seconds", "against the first variant"], lines))
    rows = []
    for name, records in found.items():
        for level in levels:
            curves = [record["curve"] for record in records]
            golds = [at_level([kl for kl, _ in curve], [gold for _, gold in curve], level) for curve in curves]
            reached = [gold for gold in golds if gold is not None]
            rows.append([name, level, *golds, mean_and_deviation(reached) if reached else None])
    say("\nHeld-out gold reward at equal KL:\n")
    say(table(["variant", "KL", *(f"seed {seed}" for seed in seeds), "all"], rows))


def mean_and_deviation(values: list[float]) -> str:
    """`1.23 ± 0.04`."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
