"""A stage's `linear_dtype`: the type in which the linear layers of its models multiply, the same in all processes."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from alignpipe.api import StageContext
from alignpipe.options import LinearDtype
from alignpipe.training.linears import linear_dtype_of, multiply_in_bfloat16, multiply_in_float32
from alignpipe.training.packed.models import faster_in_bfloat16
from alignpipe.training.parallel import Team


def tell_of_rounding(network: nn.Module, ctx: StageContext) -> None:
    """Say so if weights are trained in a type in which small steps are lost."""
    kinds = {weight.dtype for weight in network.parameters() if weight.requires_grad and weight.dtype.itemsize < 4}
    if kinds:
        names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        ctx.say(
            f"weights are trained in {names}: steps that are small beside a weight round to nothing, at usual learning "
            "rates most of them; model.dtype=float32 keeps them, model.lora_rank trains adapters in float32"
        )


def apply_linear_dtype(
    model: PreTrainedModel, wanted: LinearDtype, ctx: StageContext, team: Team, *, tell: bool = True
) -> None:
    """Make all linear layers of `model` but the head multiply in the type `wanted`, in place; say what `auto` came to.

    All processes of `team` call this and get the same type: what one samples, another may score.

    Raises `ModelError`, which names the stage's key, for a model that cannot.
    """
    key = f"{ctx.stage}.linear_dtype"
    faster = wanted is LinearDtype.auto and not team.any(not faster_in_bfloat16(model, ctx.device))
    if wanted is LinearDtype.float32:
        multiply_in_float32(model, key)
    elif wanted is LinearDtype.bfloat16 or faster:
        multiply_in_bfloat16(model, key)
    if wanted is LinearDtype.auto and tell:
        ctx.say(f"linear layers multiply in {str(linear_dtype_of(model)).removeprefix('torch.')}")
