"""The runner: carries out the plan stage by stage, and records and shows what happens."""

from alignpipe.runner.execute import execute
from alignpipe.runner.planning import show_plan

__all__ = ["execute", "show_plan"]
