"""The contract between alignpipe and its plugins: small, light to import, versioned by `API_VERSION`."""

from alignpipe.api.artifacts import Artifact
from alignpipe.api.components import API_VERSION, SLOTS, Component, Kind, Port, Selected, Split, Table
from alignpipe.api.hooks import ENTRY_POINT_GROUP, HookSpecs, hookimpl
from alignpipe.api.rewards import Failure, Reward, Sample, Scores, TrainableReward
from alignpipe.api.scoring import Scoring
from alignpipe.api.stages import BuildContext, CheckContext, CheckedStage, Stage, StageContext
from alignpipe.api.tracking import AlertingTracker, RunInfo, Tracker

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "SLOTS",
    "AlertingTracker",
    "Artifact",
    "BuildContext",
    "CheckContext",
    "CheckedStage",
    "Component",
    "Failure",
    "HookSpecs",
    "Kind",
    "Port",
    "Reward",
    "RunInfo",
    "Sample",
    "Scores",
    "Scoring",
    "Selected",
    "Split",
    "Stage",
    "StageContext",
    "Table",
    "Tracker",
    "TrainableReward",
    "hookimpl",
]
