"""rollout=local: sampling in this process."""
