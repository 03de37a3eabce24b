"""The plan: which stages run on which inputs, under which keys, and why. Pure data; nothing here writes."""

from alignpipe.plan.plan import Decision, Planner, make_plan
from alignpipe.plan.specs import StageSpec

__all__ = ["Decision", "Planner", "StageSpec", "make_plan"]
