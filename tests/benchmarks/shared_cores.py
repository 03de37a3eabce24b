"""What brief spinning of OpenMP threads costs alone, and what it saves when other work wants the cores.

    python tests/benchmarks/shared_cores.py [rounds]

Each round trains a small network for some steps in a process of its own, for every setting in turn, first alone, then
beside as many busy processes as there are cores. Printed: medians, and ratios to torch's default.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

SETTINGS = {"default": {}, "brief": {"GOMP_SPINCOUNT": "1000"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
STEP = """
import time, torch
torch.manual_seed(0)
net = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(128, 4, 256, 0.0, batch_first=True), 3)
data, seconds = torch.randn(32, 40, 128), []
for step in range(12):
    began = time.perf_counter()
    net(data).square().mean().backward()
    seconds.append(time.perf_counter() - began)
print(sorted(seconds[2:])[5])
"""


def main(rounds: int) -> None:
    """Run and print everything."""
    print(f"{os.cpu_count()} cores, {rounds} rounds, seconds a step (median of processes' medians)")
    for others in (0, os.cpu_count() or 1):
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        with busy(others):
            for _ in range(rounds):
                for name, variables in SETTINGS.items():
                    seconds[name].append(measure(variables))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        line = "  ".join(f"{name} {value:.3f} (x{value / medians['default']:.2f})" for name, value in medians.items())
        print(f"beside {others} busy processes: {line}")


def measure(variables: dict[str, str]) -> float:
    """Seconds a step in a fresh process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", STEP], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes that do nothing but compute."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
