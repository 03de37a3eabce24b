"""Offers data=support and reward=support_gold."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.support.config import SupportConfig, SupportGoldConfig

GOLD_VERSION = 1


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """The generator and its judge."""
    yield Component(
        group="data",
        name="support",
        config=SupportConfig,
        factory="alignpipe_plugins.support.stage:build",
        summary="a seeded support-chat world with demonstrations, noisy preferences, prompts and a gold reward",
        makes="dataset",
    )
    yield Component(
        group="reward",
        name="support_gold",
        config=SupportGoldConfig,
        factory="alignpipe_plugins.support.gold:build",
        summary="the support world's perfect judge: name, product, remedy, tone, focus",
        version=GOLD_VERSION,
    )
