"""The mathematics: pure functions from tensors to tensors, without config, logging or state.

Notation in every docstring: B sequences, T response positions, V vocabulary, N items of a flat list. A mask is boolean
and True where a position counts; nothing is read from a masked position. D-numbers are those of the plugin's README.

In reading order: `masking` (masked sums, means, whitening), `logprobs` (log-probabilities and entropy),
`vocabulary` (the same from hidden states, block by block), `sampling` (one draw per uniform), `kl` (the three
estimators), `shaping` (scores and KL to per-token rewards), `advantages` (gae, grpo, rloo, reinforce_pp), `losses`
(clipped policy and value losses), `control` (adaptive KL coefficient), `pairs` (preference pairs), `intervals`
(bootstrap and Wilson), `correlation` and `calibration` (reward report card), `classification` (a label against the
others), `text` (distinct-n, folding), `shapes` and `gradients` (the checks the others share).
Import from the modules: this file imports no torch.
"""
