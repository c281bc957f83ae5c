"""Build a network no larger than the weights that are meant for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

__all__ = ["limited_to"]

SPARE_VALUES, SPARE_TENSORS = 150_000_000, 5000
"""What a builder may make and not use, for example the head of a trunk: 124 million in VGG19."""


@contextmanager
def limited_to(state: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Stop the building of a network that is far larger than `state`, in this thread.

    The options of a card decide how large a network is, and could ask for any memory and time.

    Raises
    ------
    RuntimeError
        the network has far more parameters than `state`
    """
    most_values = SPARE_VALUES + 2 * sum(tensor.numel() for tensor in state.values())
    most_tensors = SPARE_TENSORS + 2 * len(state)
    thread, values, tensors = threading.get_ident(), 0, 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal values, tensors
        if parameter is None or threading.get_ident() != thread:
            return
        values, tensors = values + parameter.numel(), tensors + 1
        if values > most_values or tensors > most_tensors:
            raise RuntimeError("the card's options make a network far larger than the weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
