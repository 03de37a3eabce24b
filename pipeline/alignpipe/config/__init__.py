"""Configuration: `source` gives plugins to Hydra, `run` turns what Hydra composed into a `RunConfig` (`model`)."""

from alignpipe.config.model import CodeChange, RunConfig, RunSettings

__all__ = ["CodeChange", "RunConfig", "RunSettings"]
