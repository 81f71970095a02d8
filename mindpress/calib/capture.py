"""Watch what a block's linears are fed while it runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mindpress.calib.statistics import InputStatistics


@contextmanager
def capture_inputs(block: nn.Module, statistics: Mapping[str, InputStatistics]) -> Iterator[None]:
    """While inside, the input of each named linear is added to its statistics."""

    def watch(into: InputStatistics) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            into.add(inputs[0])

        return hook

    hooks = [
        block.get_submodule(name).register_forward_pre_hook(watch(into))
        for name, into in statistics.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
