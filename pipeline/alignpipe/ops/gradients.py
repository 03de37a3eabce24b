"""What backward passes by hand have in common."""

from __future__ import annotations

import torch


def refuse_second_order() -> None:
    """Called in a backward pass that autograd cannot differentiate, since it does not see all that is computed.

    Raises `RuntimeError` where gradients are recorded (`create_graph=True`). torch's `once_differentiable` does so only
    if the incoming gradient requires one itself; else it gives a constant, and a gradient penalty would have none.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: a backward pass by hand cannot be differentiated again; transformers' own forward "
            "(model.forward=general) and torch's log_softmax can"
        )
