"""What is decided of a stage, in words: for the lines of a run and those of `alignpipe plan`."""

from __future__ import annotations

from alignpipe.plan import Decision


def headline(decision: Decision) -> str:
    """The action in words."""
    if decision.action == "resume":
        return "resume" if decision.step is None else f"resume at step {decision.step}"
    return decision.action


def on_one_line(why: tuple[str, ...]) -> str:
    """The reasons for a decision; a heading among them (`differs from the result of ...:`) goes with the next one."""
    return "; ".join(why).replace(":; ", ": ")
