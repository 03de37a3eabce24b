"""What installed plugins cost at start: `alignpipe plugins list` with none and with many light ones, in turns.

    python tests/benchmarks/many_plugins.py [--plugins 200] [--rounds 5]

Each is a distribution of its own with one reward of ten lines, as `alignpipe plugins new reward` starts one.
"""

from __future__ import annotations

import argparse
import compileall
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SOURCE = """
from dataclasses import dataclass, field
from alignpipe.rewards import reward

@dataclass(frozen=True)
class Options:
    word: str = field(default="please", metadata={{"help": "the polite word"}})

@reward("acme_{number}", Options)
def score(samples, options):
    \"\"\"Answers with a polite word.\"\"\"
    return [float(options.word in sample.response) for sample in samples]
"""


def install(site: Path, plugins: int) -> None:
    """What pip would write for so many packages."""
    for number in range(plugins):
        info = site / f"acme_{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[alignpipe.plugins]\nacme_{number} = acme_{number}:score\n")
        package = site / f"acme_{number}"
        package.mkdir()
        (package / "__init__.py").write_text(SOURCE.format(number=number))
    compileall.compile_dir(site, quiet=1)  # as pip does


def seconds(path: str) -> tuple[float, float]:
    """(wall clock, processor time) of the command with `path` in front; the second holds on a busy machine too."""
    environ = {**os.environ, "PYTHONPATH": path}
    begin, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "alignpipe", "plugins", "list"]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begin, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plugins", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        install(site, arguments.plugins)
        without, with_them = [], []
        for _ in range(arguments.rounds):
            without.append(seconds(""))
            with_them.append(seconds(str(site)))
    for place, what in enumerate(("wall clock", "processor")):
        least, loaded = (min(times[place] for times in measured) for measured in (without, with_them))
        middle = median(times[place] for times in with_them) - median(times[place] for times in without)
        print(f"{what:<10}  least: {least:.3f} s without, {loaded:.3f} s with {arguments.plugins}, cost "
              f"{loaded - least:.3f} s; median cost {middle:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
