"""The plan: which stages run on which inputs, under which keys, and why. Pure data; nothing here writes."""

from alignpipe.plan.plan import Decision, Lookup, Planner, Stored, Unfinished, make_plan
from alignpipe.plan.ports import Source, StageSpec, resolve_ports, stage_specs

__all__ = [
    "Decision",
    "Lookup",
    "Planner",
    "Source",
    "StageSpec",
    "Stored",
    "Unfinished",
    "make_plan",
    "resolve_ports",
    "stage_specs",
]
