"""reward=exact_match: 1 for the reference answer of the prompt's row, 0 for anything else."""
