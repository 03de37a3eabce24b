"""eval=standard: the policy against the first policy of the run, on held-out prompts."""
