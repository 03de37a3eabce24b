"""The plan: which stages run on which inputs, under which keys, and why. Pure data; nothing here writes."""

from alignpipe.plan.plan import Decision, Planner, make_plan
from alignpipe.plan.ports import resolve_ports
from alignpipe.plan.sources import Source
from alignpipe.plan.specs import StageSpec, stage_specs

__all__ = [
    "Decision",
    "Planner",
    "Source",
    "StageSpec",
    "make_plan",
    "resolve_ports",
    "stage_specs",
]
