"""Watch what a block's linears are fed, and what they give, while it runs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mindpress.calib.statistics import ChannelStatistics


@runtime_checkable
class Watcher(Protocol):
    """Takes in tensors [..., channels] as they pass."""

    def add(self, inputs: Tensor, /) -> None: ...


@contextmanager
def hold_inputs(block: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """While inside, what each named linear was fed in the last run, for whoever counts it once
    that run has ended well. Memory: these inputs, until the dictionary is cleared.
    """
    held: dict[str, Tensor] = {}

    def hold(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            held[name] = inputs[0]

        return hook

    with ExitStack() as hooks:
        for name in names:
            module = block.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(hold(name)))
        yield held


@contextmanager
def capture_inputs(block: nn.Module, statistics: Mapping[str, Watcher]) -> Iterator[None]:
    """While inside, the input of each named linear is added to its statistics."""

    def watch(into: Watcher) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            into.add(inputs[0])

        return hook

    with ExitStack() as hooks:
        for name, into in statistics.items():
            module = block.get_submodule(name)
            hooks.enter_context(module.register_forward_pre_hook(watch(into)))
        yield


@contextmanager
def capture_outputs(
    block: nn.Module, statistics: Mapping[str, ChannelStatistics]
) -> Iterator[None]:
    """While inside, the output of each named linear, bias included, is added to its statistics."""

    def watch(into: ChannelStatistics) -> Any:
        def hook(_: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            into.add(output)

        return hook

    with ExitStack() as hooks:
        for name, into in statistics.items():
            module = block.get_submodule(name)
            hooks.enter_context(module.register_forward_hook(watch(into)))
        yield
