"""A stage's `linear_dtype`: in which type the models that learn in it multiply, the same in all its processes."""

from __future__ import annotations

from transformers import PreTrainedModel

from alignpipe.api import StageContext
from alignpipe.options import Products
from alignpipe.training.linears import multiplied_in, multiply_in_bfloat16, multiply_in_float32
from alignpipe.training.packed.models import gains_by_bfloat16
from alignpipe.training.parallel import Team


def choose_products(
    model: PreTrainedModel, wanted: Products, ctx: StageContext, team: Team, *, tell: bool = True
) -> None:
    """Let the linear layers of `model` but the head multiply as `wanted`, in place; say what `auto` came to.

    All processes of `team` call this, and all multiply alike: what one samples, another may score.

    Raises `ModelError`, which names the stage's key, for a model that cannot.
    """
    key = f"{ctx.stage}.linear_dtype"
    gains = wanted is Products.auto and not team.any(not gains_by_bfloat16(model, ctx.device))
    if wanted is Products.float32:
        multiply_in_float32(model, key)
    elif wanted is Products.bfloat16 or gains:
        multiply_in_bfloat16(model, key)
    if wanted is Products.auto and tell:
        ctx.say(f"linear layers multiply in {str(multiplied_in(model)).removeprefix('torch.')}")
