"""The figures by which a sweeper that searches, such as Optuna's, judges a job."""

from __future__ import annotations

from hydra.conf import HydraConf
from omegaconf import OmegaConf

from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.store.files import read_json

_GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's own sweeper, which runs all combinations whatever comes of them."""


def searches(hydra: HydraConf) -> bool:
    """Whether the sweeper chooses the next jobs by what the ones before returned."""
    return bool(OmegaConf.select(hydra.sweeper, "_target_") != _GRID)


def objective_of(run: RunConfig) -> float | tuple[float, ...] | None:
    """The final metrics of a finished run that `objective` names: one, several, or None if it names none.

    Raises `ConfigError` if the run has no such metric, or it is no finite number.
    """
    names = run.settings.objective
    if not names:
        return None
    summary = read_json(run.folder / "summary.json")
    metrics = summary["metrics"] if summary else {}
    for name in names:
        if metrics.get(name) is None:  # JSON has no NaN: what was none is null there
            near = did_you_mean(name, metrics)
            why = "it is no finite number" if name in metrics else f"the run has no such metric{near}"
            raise ConfigError(
                f"objective=[{','.join(names)}]: {name}: {why}; all final metrics are in {run.folder / 'summary.json'}"
            )
    first, *others = (float(metrics[name]) for name in names)
    return (first, *others) if others else first
