"""What the core does with rewards: score batches, keep a reward as an artifact, write its report card."""
