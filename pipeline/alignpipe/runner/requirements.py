"""What the device setting and the chosen components need of the machine, checked before any work."""

from __future__ import annotations

from alignpipe.api import Selected
from alignpipe.choices import all_selected
from alignpipe.config.model import RunSettings
from alignpipe.errors import AlignpipeError, ConfigError
from alignpipe.plan import Planner
from alignpipe.processes import ALONE, Process
from alignpipe.runner.devices import prepare_device


def check_requirements(planner: Planner, process: Process = ALONE) -> None:
    """Raise `ConfigError` if a component needs something that this machine lacks.

    A GPU is looked for here, and torch imported only for that; an option checks whatever else it needs itself, in the
    method `check_machine` of its config.
    """
    settings = planner.run.settings
    found = {str(entry): entry for spec in planner.specs for entry in spec.components}
    wanting = [name for name, entry in found.items() if "gpu" in entry.component.requires]
    if wanting and (device := prepare_device(settings, process)) == "cpu":
        raise ConfigError(
            f"{', '.join(wanting)} needs a GPU, and this run computes on {device} (device={settings.device}); "
            "choose another option, or run where there is a GPU"
        )
    for spec in planner.specs:
        for choice in (spec.selected, *spec.keyed_slots.values()):
            check_machine(choice)


def check_device(settings: RunSettings, process: Process) -> None:
    """Raise `ConfigError` if the device that the config names is not there; torch is not imported if any will do.

    For a run, not for `alignpipe plan`, which may be asked on another machine than the run's and imports no torch.
    """
    if process.world_size > 1 or settings.device not in ("auto", "cpu"):
        prepare_device(settings, process)


def check_machine(selected: Selected) -> None:
    """Raise `ConfigError` if an option, or one in it (a member of a mix), says that it cannot run here."""
    for choice in all_selected(selected):
        check = getattr(choice.config, "check_machine", None)
        try:
            if callable(check):
                check()
        except AlignpipeError as error:
            raise ConfigError(f"{choice.group}={choice.name} cannot run on this machine: {error}") from error
