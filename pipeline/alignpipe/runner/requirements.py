"""What the device setting and the chosen components need of the machine, found out before any work."""

from __future__ import annotations

from alignpipe.api import Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunSettings
from alignpipe.errors import AlignpipeError, ConfigError
from alignpipe.plan import Planner, make_plan
from alignpipe.processes import Place
from alignpipe.runner.devices import prepare_device


def check_requirements(planner: Planner, settings: RunSettings, place: Place | None = None) -> None:
    """Raise `ConfigError` if a component needs what this machine has not; nothing is asked where all is stored.

    A GPU is looked for here, torch being imported only for that; whatever else an option needs it looks for itself, in
    the method `check_machine` of its config.
    """
    if not _works(planner):
        return
    found = {str(entry): entry for spec in planner.specs for entry in planner.components(spec)}
    wanting = [name for name, entry in found.items() if "gpu" in entry.component.requires]
    if wanting and (device := prepare_device(settings, place)) == "cpu":
        raise ConfigError(
            f"{', '.join(wanting)} needs a GPU, and this run computes on {device} (device={settings.device}); "
            "choose another option, or run where there is a GPU"
        )
    for spec in planner.specs:
        check_machine(spec.selected)


def check_device(planner: Planner, settings: RunSettings, place: Place) -> None:
    """Raise `ConfigError` if the device that the config names is not there, and something is to be computed on it.

    A run asks this, a plan does not: it may be made on another machine than the run, and imports no torch. Nor does a
    run import torch for this where everything is stored, or where any device will do.
    """
    any_device = settings.device in ("auto", "cpu") and place.world_size == 1
    if not any_device and _works(planner):
        prepare_device(settings, place)


def _works(planner: Planner) -> bool:
    """Whether some stage of a run is to be worked on."""
    return any(decision.action != "hit" for decision in make_plan(planner))


def check_machine(selected: Selected) -> None:
    """Raise `ConfigError` if an option, or one in it (a member of a mix), says that it cannot run here."""
    for choice in all_selected(selected):
        check = getattr(choice.config, "check_machine", None)
        try:
            if callable(check):
                check()
        except AlignpipeError as error:
            raise ConfigError(f"{choice.group}={choice.name} cannot run on this machine: {error}") from error
