"""Run a block as a model with int8 activations runs it."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from mindpress.kernels.quantize_rows.reference import quantize_rows_reference


@contextmanager
def rounded_inputs(block: nn.Module, linears: Collection[str]) -> Iterator[None]:
    """While inside, each of these linears reads its input rounded to int8, token by token.

    Its product is then that of the codes, within the rounding of the type the block computes in.
    """

    def rounded(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return (quantize_rows_reference(x.flatten(0, -2)).dequantize(x.dtype).view(x.shape),)

    with ExitStack() as hooks:
        for name in linears:
            hooks.enter_context(block.get_submodule(name).register_forward_pre_hook(rounded))
        yield
