"""Configuration: `source` gives plugins to Hydra, `run` turns what Hydra composed into a `RunConfig` (`model`)."""
