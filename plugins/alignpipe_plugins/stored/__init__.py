"""reward=stored: a reward that an earlier run made."""
