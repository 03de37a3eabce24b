"""What the chosen components need of the machine, found out before any work."""

from __future__ import annotations

from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError
from alignpipe.plan import Planner
from alignpipe.processes import Place
from alignpipe.runner.devices import prepare_device


def check_needs(planner: Planner, settings: RunSettings, place: Place | None = None) -> None:
    """Raise `ConfigError` if a component needs a GPU and the run has none; torch is imported only to find that out.

    A network and a sandbox cannot be judged from here: the components that need them say so themselves when they start.
    """
    found = {str(entry): entry for spec in planner.specs for entry in planner.components(spec)}
    wanting = [name for name, entry in found.items() if "gpu" in entry.component.requires]
    if wanting and (device := prepare_device(settings, place)) == "cpu":
        raise ConfigError(
            f"{', '.join(wanting)} needs a GPU, and this run computes on {device} (device={settings.device}); "
            "choose another option, or run where there is a GPU"
        )
