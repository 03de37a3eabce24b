"""The runner: takes the plan's decisions to their end, stage by stage, and says at every step what goes on."""

from alignpipe.runner.execute import execute
from alignpipe.runner.planning import show_plan

__all__ = ["execute", "show_plan"]
