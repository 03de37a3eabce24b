"""For authors of rewards: try one on a file (`score`), check that it keeps the contract (`check`), start a package."""
