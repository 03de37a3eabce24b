"""What the training components share: models, token batches, checkpoints, the supervised loop."""
