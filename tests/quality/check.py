"""`make quality`: the default run with several seeds, its figures held against what the README promises.

    python tests/quality/check.py 0 1 2 [override ...]

Stages that are in the store are not computed again; the seconds are then those of reading them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import gt, lt
from pathlib import Path


@dataclass(frozen=True)
class Promise:
    """A final metric and the bound it has to keep."""

    metric: str
    keeps: Callable[[float, float], bool]
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {'>' if self.keeps is gt else '<'} {self.bound:g}"


PROMPT_SHARE = "share of the gold gain lost when prompts are swapped"
PROMISES = (
    Promise("eval/gold/win_rate", gt, 0.8),
    Promise("eval/kl", lt, 8.0),
    Promise("reward/heldout/accuracy", gt, 0.8),
    Promise(PROMPT_SHARE, gt, 0.4),
)


def main(words: list[str]) -> int:
    """Run every seed, print a line each; the exit status is 1 if a promise was broken."""
    seeds = [int(word) for word in words if word.isdigit()]
    overrides = [word for word in words if not word.isdigit()]
    print(f"{'seed':>4} {'seconds':>8}" + "".join(f"  {promise.metric:>24}" for promise in PROMISES))
    broken = []
    for seed in seeds:
        metrics, seconds = run(seed, overrides)
        print(f"{seed:>4} {seconds:>8.1f}" + "".join(f"  {metrics[promise.metric]:>24.3f}" for promise in PROMISES))
        broken += [
            f"seed {seed}: {promise} is broken: {metrics[promise.metric]:.3f}"
            for promise in PROMISES
            if not promise.keeps(metrics[promise.metric], promise.bound)
        ]
    print("\n".join(broken) or f"kept by every seed: {', '.join(map(str, PROMISES))}")
    return 1 if broken else 0


def run(seed: int, overrides: list[str]) -> tuple[Mapping[str, float], float]:
    """One run; its final metrics and how long it took."""
    folder = Path("outputs") / "quality" / f"seed-{seed}"
    script = Path(sys.executable).with_name("alignpipe")
    command = [str(script), *overrides, f"seed={seed}", f"hydra.run.dir={folder}"]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    gain = metrics["eval/gold/mean"] - metrics["eval/gold/baseline_mean"]
    lost = metrics["eval/gold/mean"] - metrics["eval/gold/mismatched_mean"]
    return {**metrics, PROMPT_SHARE: lost / gain}, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
