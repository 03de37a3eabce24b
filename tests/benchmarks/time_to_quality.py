"""Time to quality: the whole chain (sft, reward, ppo) by alignpipe and by TRL 1.12.0, until a given gold reward.

    python tests/benchmarks/time_to_quality.py --trl-ppo-python trl112/bin/python    # see against_trl.py

Data, tokenizer and initial weights are the same; each side trains its own SFT model and its own reward model on them,
then its own policy, alignpipe in one process, TRL in three. Both are judged by alignpipe's gold reward on held-out
prompts, with the KL per response to the side's own SFT model: ours as it trains (its evaluations are taken off its
time), TRL's from checkpoints saved on the way (saving is taken off), by the eval stage. Seconds are those of processes,
imports and loading included, up to an update. Rounds differ by seed.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines import NOT_THE_SAME, prepare, trl
from figures import at_level, cost_at, ratio, table, with_error
from running import alignpipe, arguments, begin, copied_store, once, say
from workloads import SIZES, Recipe

PROMPTS = 256


def main(words: list[str]) -> None:
    """Measure everything and print the tables."""
    parser = arguments(__doc__, "time_to_quality")
    parser.add_argument("--trl-ppo-python", required=True, help="Python with trl==1.12.0")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="model (tiny)")
    parser.add_argument("--updates", type=int, default=40, help="updates of ppo (40)")
    parser.add_argument("--every", type=int, default=5, help="updates between looks at the policy (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first round (0)")
    parser.add_argument("--sft-steps", type=int, default=400, help="steps of 16 demonstrations (400)")
    parser.add_argument("--reward-steps", type=int, default=320, help="steps of 16 pairs (320)")
    parser.add_argument("--gold", type=float, nargs="*", help="gold rewards to reach (by themselves: see the table)")
    options = parser.parse_args(words)
    if options.updates % options.every:
        parser.error("--updates must be a multiple of --every")
    work = begin(options)
    size, python, every = SIZES[options.size], options.trl_ppo_python, options.every
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "TRL": []}
    seeds = range(options.first_seed, options.first_seed + options.rounds)
    for seed in seeds:
        recipe = Recipe(
            seed=seed, updates=options.updates, sft_steps=options.sft_steps, reward_steps=options.reward_steps
        )
        base = [*size.overrides(), *recipe.overrides()]
        overrides = [*base, *options.ours]
        # Only for data, tokenizer and initial weights: each side trains all of its models itself.
        paths = prepare(
            work, f"{options.size}-{seed}", size, replace(recipe, sft_steps=1, reward_steps=1), options.ours
        )
        name, spec = f"{options.size}-{seed}", {**recipe.spec(), "every": every}
        runs = {
            "ours": lambda paths=paths, overrides=overrides: our_chain(work, paths, overrides, every),
            "TRL": lambda paths=paths, recipe=recipe, base=base: their_chain(work, paths, recipe, base, every, python),
        }
        for engine in list(runs) if seed % 2 == 0 else list(runs)[::-1]:
            keyed = {**spec, "overrides": overrides} if engine == "ours" else {**spec, **vars(size), "python": python}
            found[engine].append(once(work, f"{engine}-{name}", keyed, runs[engine]))
    report(seeds, found, options.gold)


def our_chain(work: Path, paths: dict[str, str], overrides: list[str], every: int) -> dict[str, Any]:
    """One process of alignpipe from the stored data on; looks at the policy every `every` updates."""
    outputs = copied_store(Path(paths["store"]), work / "round", again=["sft", "reward", "ppo"])
    looks = [f"ppo.eval_every={every}", f"ppo.eval_prompts={PROMPTS}"]
    run = alignpipe(outputs, [*overrides, *looks], ["data", "sft", "reward", "ppo"])
    phases = run.phases()
    steps, apart = [line["update"] for line in phases], sum(line["evaluate"] for line in phases)
    process = run.used["process_seconds"]
    points = [
        {
            "update": int(line["step"]),
            "seconds": cost_at(process, steps, apart, int(line["step"])),
            "gold": line["ppo/heldout/gold"],
            "kl": line["ppo/heldout/kl"],
        }
        for line in run.lines("metrics.jsonl", "ppo")
        if "ppo/heldout/gold" in line
    ]
    return {"process_seconds": process - apart, "points": points}


def their_chain(
    work: Path, paths: dict[str, str], recipe: Recipe, base: list[str], every: int, python: str
) -> dict[str, Any]:
    """Three processes of TRL, then alignpipe's judgement of every checkpoint."""
    chain = work / "trl-chain"
    common = {**recipe.spec(), "data": paths["export"], "judge": False, "save_every": every}
    sft = trl(python, "sft", {**common, "model": paths["base"]}, chain / "sft")
    policy, scorer = str(chain / "sft" / "model"), str(chain / "reward" / "model")
    reward = trl(python, "reward", {**common, "model": policy}, chain / "reward")
    ppo = trl(python, "ppo", {**common, "model": policy, "reward_model": scorer}, chain / "ppo")
    process = sum(part["process_seconds"] for part in (sft, reward, ppo))
    points = []
    for update in range(every, recipe.updates + 1, every):
        checkpoint = chain / "ppo" / "trainer" / f"checkpoint-{update}"
        metrics = judge(work, paths, recipe, base, str(checkpoint), policy)
        points.append({"update": update, "seconds": cost_at(process, ppo["steps"], ppo["apart"], update)})
        points[-1] |= {"gold": metrics["eval/gold/mean"], "kl": metrics["eval/kl"]}
    shutil.rmtree(chain)
    return {"process_seconds": process - ppo["apart"], "points": points, "versions": ppo["versions"]}


def judge(
    work: Path, paths: dict[str, str], recipe: Recipe, base: list[str], policy: str, baseline: str, reward: str = "none"
) -> dict[str, float]:
    """The figures of alignpipe's eval stage for a policy on held-out prompts, compared with the baseline.

    The gold reward judges; so does `reward`, a source of that port, where it is given.
    """
    outputs = copied_store(Path(paths["store"]), work / "judge", again=["eval"])
    inputs = [f"inputs.eval.policy={policy}", f"inputs.eval.baseline={baseline}", f"inputs.eval.reward={reward}"]
    sampling = [f"eval.temperature={recipe.temperature}", f"eval.max_response_tokens={recipe.response}"]
    small = [f"eval.prompts={PROMPTS}", "eval.resamples=100", "eval.perplexity_rows=1"]
    run = alignpipe(outputs, [*base, *inputs, *sampling, *small], ["data", "eval"])
    return dict(run.summary["metrics"])


def report(seeds: Sequence[int], found: dict[str, list[dict[str, Any]]], wanted: list[float] | None) -> None:
    """The curves, the time to reach gold rewards, where both end, and the whole chains."""
    curves = []
    for engine, rounds in found.items():
        for points in zip(*(record["points"] for record in rounds), strict=True):
            means = [statistics.fmean(point[key] for point in points) for key in ("seconds", "gold", "kl")]
            curves.append([engine, points[0]["update"], *means])
    say("\nAlong training, means over the seeds (seconds of processes since the start of sft):\n")
    say(table(["engine", "update", "seconds", "gold", "KL"], curves))
    lines = []
    pairs = list(zip(found["ours"], found["TRL"], strict=True))
    for seed, pair in zip(seeds, pairs, strict=True):
        for level in wanted or levels(pair):
            times = [reach(record["points"], level) for record in pair]
            both = all(time is not None for time, _ in times)
            faster = ratio(times[1][0], times[0][0]) if both else "-"
            lines.append([seed, level, times[0][0], times[1][0], faster, times[0][1], times[1][1]])
    say("\nSeconds until the gold reward is first reached, interpolated, and the KL there:\n")
    say(table(["seed", "gold", "ours s", "TRL s", "TRL's / ours", "our KL", "TRL's KL"], lines))
    rows = []
    for seed, pair in zip(seeds, pairs, strict=True):
        (mine, theirs), last = (record["process_seconds"] for record in pair), [record["points"][-1] for record in pair]
        rows.append([seed, mine, theirs, ratio(theirs, mine), *(end[key] for key in ("gold", "kl") for end in last)])
    say("\nThe whole chain, seconds of processes, and where it ends:\n")
    say(table(["seed", "ours", "TRL", "TRL's / ours", "our gold", "TRL's gold", "our KL", "TRL's KL"], rows))
    apart = {key: [pair[0]["points"][-1][key] - pair[1]["points"][-1][key] for pair in pairs] for key in ("gold", "kl")}
    differences = ", ".join(f"{key} {with_error(values)}" for key, values in apart.items())
    say(f"\nThe last policies, ours - TRL's, seed by seed (standard error): {differences}")
    say("\nTRL's side: " + json.dumps(sorted({record["versions"] for record in found["TRL"]})) + "\n\n" + NOT_THE_SAME)


def levels(pair: tuple[dict[str, Any], dict[str, Any]]) -> list[float]:
    """Gold rewards that both reach: from the higher first look half and nine tenths of the way to the lesser best."""
    curves = [[point["gold"] for point in record["points"]] for record in pair]
    low, high = max(curve[0] for curve in curves), min(max(curve) for curve in curves)
    return [low + share * (high - low) for share in (0.5, 0.9, 1.0)] if high > low else [high]


def reach(points: list[dict[str, float]], level: float) -> tuple[float | None, float | None]:
    """Seconds until a gold reward is first reached, and the KL there."""
    gold = [point["gold"] for point in points]
    seconds, kl = ([point[key] for point in points] for key in ("seconds", "kl"))
    return at_level(gold, seconds, level), at_level(gold, kl, level)


if __name__ == "__main__":
    main(sys.argv[1:])
