"""reward=bradley_terry: a reward model trained on preference pairs."""
