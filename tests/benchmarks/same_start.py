"""Which side's PPO learns better? alignpipe and TRL 1.12.0 from the same SFT model against the same reward model.

    python tests/benchmarks/same_start.py --rounds 8 --trl-ppo-python trl112/bin/python    # see against_trl.py

SFT and reward model are alignpipe's, one pair a seed. Both policies, and the SFT model they start from, are judged by
alignpipe's eval stage, on the same held-out prompts with the same random stream: the reward that was trained on, the
gold reward, and the KL to the SFT model. Nothing is timed, so other work may run beside.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from engines import BEFORE, NOT_THE_SAME, prepare, specs, trl
from figures import table, with_error
from running import alignpipe, arguments, begin, copied_store, once, say
from time_to_quality import judge
from workloads import SIZES, Recipe

FIGURES = {"gold": "eval/gold/mean", "reward": "eval/reward/mean", "KL": "eval/kl", "length": "eval/length"}


def main(words: list[str]) -> None:
    """Measure everything and print the tables."""
    parser = arguments(__doc__, "same_start")
    parser.add_argument("--trl-ppo-python", required=True, help="Python with trl==1.12.0")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="model (tiny)")
    parser.add_argument("--updates", type=int, default=40, help="updates of ppo (40)")
    options = parser.parse_args(words)
    work, size = begin(options), SIZES[options.size]
    found: dict[str, list[dict[str, Any]]] = {"SFT": [], "ours": [], "TRL": []}
    for seed in range(options.rounds):
        recipe, name = Recipe(seed=seed, updates=options.updates), f"{options.size}-{seed}"
        base = [*size.overrides(), *recipe.overrides()]
        overrides = [*base, *options.ours]
        paths = prepare(work, name, size, recipe, [])
        spec = specs(paths, recipe, judge=False)["ppo"]
        keys = {"SFT": base, "ours": overrides, "TRL": {"spec": spec, "python": options.trl_ppo_python}}
        policies = {
            "SFT": lambda paths=paths: paths["sft"],
            "ours": lambda paths=paths, overrides=overrides: our_policy(work, paths, overrides),
            "TRL": lambda spec=spec: their_policy(work, spec, options.trl_ppo_python),
        }
        for side, policy in policies.items():
            found[side].append(
                once(
                    work,
                    f"{side}-{name}",
                    {"of": keys[side]},
                    lambda paths=paths, recipe=recipe, base=base, policy=policy: judged(
                        work, paths, recipe, base, policy()
                    ),
                )
            )
    report(found)


def judged(work: Path, paths: dict[str, str], recipe: Recipe, base: list[str], policy: str) -> dict[str, float]:
    """The figures of one policy."""
    reward = f"store:{Path(paths['reward']).parent.name}"  # objects/reward/<digest>/payload
    metrics = judge(work, paths, recipe, base, policy, paths["sft"], reward)
    return {title: metrics[key] for title, key in FIGURES.items()}


def our_policy(work: Path, paths: dict[str, str], overrides: list[str]) -> str:
    """The checkpoint that alignpipe's ppo ends with."""
    outputs = copied_store(Path(paths["store"]), work / "round", again=["ppo"])
    return alignpipe(outputs, overrides, [*BEFORE["ppo"], "ppo"]).artifact("ppo")


def their_policy(work: Path, spec: dict[str, Any], python: str) -> str:
    """The checkpoint that TRL's PPOTrainer ends with."""
    trl(python, "ppo", spec, work / "trl")
    return str(work / "trl" / "model")


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Every seed's figures, their means, and the difference of the two sides seed by seed."""
    lines = [
        [side, seed, *(record[title] for title in FIGURES)]
        for side, records in found.items()
        for seed, record in enumerate(records)
    ]
    lines += [
        [side, "mean", *(statistics.fmean(record[title] for record in records) for title in FIGURES)]
        for side, records in found.items()
    ]
    pairs = list(zip(found["ours"], found["TRL"], strict=True))
    apart = [[mine[title] - theirs[title] for mine, theirs in pairs] for title in FIGURES]
    lines.append(["ours - TRL", "standard error in brackets", *(with_error(values) for values in apart)])
    say("\nAt the end:\n")
    say(table(["side", "seed", *FIGURES], lines))
    say("\n" + NOT_THE_SAME)


if __name__ == "__main__":
    main(sys.argv[1:])
