"""`alignpipe plan`: what a run would do, and why; nothing is written."""

from __future__ import annotations

import sys

from alignpipe.config.model import RunConfig
from alignpipe.plan import Planner, make_plan
from alignpipe.registry import Registry
from alignpipe.runner.decisions import headline
from alignpipe.runner.requirements import check_requirements
from alignpipe.store import Store

_WIDTH = 22


def show_plan(run: RunConfig, registry: Registry) -> None:
    """Print the plan on stdout: for each stage what is to be done, what feeds it, and why.

    Raises `ConfigError` for everything that would stop the run before any work.
    """
    planner = Planner(run, registry, Store(run.outputs / "store"))
    decisions = make_plan(planner)
    if any(decision.action != "hit" for decision in decisions):
        check_requirements(planner)
    width = max(len(decision.spec.name) for decision in decisions)
    lines = [f"run {planner.run_key[:12]}, store {run.outputs / 'store'}"]
    for decision in decisions:
        name = decision.spec.name
        fed = ", ".join(f"{port}={source}" for port, source in decision.spec.sources.items())
        lines.append(f"{name:<{width}}  {headline(decision):<{_WIDTH}}{fed}")
        lines += [f"{'':<{width}}    {line}" for line in decision.why]
        if decision.warning:
            lines.append(f"{'':<{width}}    warning: {decision.warning}")
    sys.stdout.write("\n".join(lines) + "\n")
