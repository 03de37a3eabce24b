"""Models inside a wrapper of adapters (peft)."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from torch import nn

from alignpipe.training.lanes import with_weights_of


@runtime_checkable
class Adapted(Protocol):
    """A model inside a wrapper of adapters, whose own signature hides the model's."""

    def get_base_model(self) -> nn.Module:
        """The model inside."""
        ...


def without_adapters(network: nn.Module) -> nn.Module | None:
    """The model as it was before it got its adapters, on the very same weights; None if it has none to switch off.

    Training the adapters leaves those weights alone, so this stays what it is: a frozen reference that costs no memory.
    """
    if not (isinstance(network, Adapted) and hasattr(getattr(network, "base_model", None), "disable_adapter_layers")):
        return None
    copied = with_weights_of(network)
    cast(Any, copied).base_model.disable_adapter_layers()
    return copied
