"""Shape and mask checks that raise before torch would broadcast silently."""

from __future__ import annotations

import torch
from torch import Tensor


def require_same_shape(**tensors: Tensor) -> None:
    """Raise unless all the named tensors have one shape.

    Raises:
        ValueError: two shapes differ; the message lists every name with its shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be equal, got {listed}")


def require_dims(dims: int, **tensors: Tensor) -> None:
    """Raise unless every named tensor has `dims` dimensions.

    Raises:
        ValueError: a tensor has another number of dimensions.
    """
    for name, tensor in tensors.items():
        if tensor.dim() != dims:
            raise ValueError(f"{name} must have {dims} dimension(s), got shape {tuple(tensor.shape)}")


def require_mask(mask: Tensor) -> None:
    """Raise unless `mask` is boolean, so that nobody passes 0/1 numbers or an inverted float mask by accident.

    Raises:
        ValueError: the dtype is not torch.bool.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean (True = counts), got dtype {mask.dtype}")


def require_positive(**numbers: float) -> None:
    """Raise unless every named number is greater than 0.

    Raises:
        ValueError: a number is zero, negative or NaN.
    """
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be greater than 0, got {number}")
