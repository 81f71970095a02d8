"""Weights that are in a block only while a linear computes with them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mindpress.calib.stream import LiveBlock

# Makes the weight, in any type and place.
Lender = Callable[[], Tensor]


@contextmanager
def lent(block: LiveBlock, lenders: Mapping[str, Lender]) -> Iterator[None]:
    """While inside, each linear named in `lenders` asks for its weight whenever it runs, and
    gives it back. A lender may be replaced meanwhile. Afterwards these weights are empty.

    Memory: one linear in the stream's type, where the lender's is another.
    """
    stream = block.stream

    def take(name: str) -> Any:
        def hook(module: nn.Module, _: tuple[Tensor, ...]) -> None:
            module.get_parameter("weight").data = lenders[name]().to(stream.device, stream.dtype)

        return hook

    with ExitStack() as hooks:
        for name in lenders:
            module = block.module.get_submodule(name)
            hooks.callback(_empty, module)
            _empty(module)
            hooks.enter_context(module.register_forward_pre_hook(take(name)))
            hooks.enter_context(module.register_forward_hook(_empty))
        yield


def as_they_are(weights: Mapping[str, Tensor]) -> dict[str, Lender]:
    """Lenders of these."""
    return {name: partial(_same, weight) for name, weight in weights.items()}


def empty_weights(block: LiveBlock, linears: Iterable[str]) -> None:
    """Let the weights of these linears go."""
    for name in linears:
        _empty(block.module.get_submodule(name))


def stored_weights(block: LiveBlock, linears: Iterable[str]) -> dict[str, Tensor]:
    """The weights of these linears as the checkpoint has them, on the stream's device."""
    tensors = block.stream.weights(block.index)
    return {name: tensors[f"{name}.weight"].to(block.stream.device) for name in linears}


def _same(weight: Tensor) -> Tensor:
    return weight


def _empty(module: nn.Module, *_: object) -> None:
    weight = module.get_parameter("weight")
    weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)
