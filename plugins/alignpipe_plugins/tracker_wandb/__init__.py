"""The W&B tracker: `plugin` declares it, `settings` finds out how to run it, `tracker` tells wandb through `sender`."""
