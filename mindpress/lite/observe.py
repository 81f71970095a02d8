"""What calibration records of one block while it runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from mindpress.calib.capture import capture_inputs, capture_outputs
from mindpress.calib.key_values import KeyValueStatistics
from mindpress.calib.statistics import ChannelStatistics, Extremes
from mindpress.lite.sites import sites_of
from mindpress.models.description import Block
from mindpress.models.shape import ModelShape
from mindpress.models.tensors import linear_shape


class BlockStatistics:
    """Keys and values of one block and, unless `cache_only`, inputs and outputs of its linears.

    What several linears read is counted once.
    """

    def __init__(
        self,
        block: Block,
        shape: ModelShape,
        device: torch.device,
        *,
        cache_only: bool = False,
        clamp: bool = False,
    ) -> None:
        self.key_values = KeyValueStatistics(shape.kv_heads, shape.head_dim, device, clamp=clamp)
        self._sites = () if cache_only else sites_of(block)
        self._inputs: dict[str, ChannelStatistics] = {}
        self._outputs: dict[str, ChannelStatistics] = {}
        for site in self._sites:
            for linear in site.linears:
                outputs, _ = linear_shape(linear, shape)
                self._outputs[linear.name] = ChannelStatistics(outputs, device, clamp=clamp)
            first = site.linears[0]
            inputs = shape.columns[first.roles[0]]
            self._inputs[first.name] = ChannelStatistics(inputs, device, clamp=clamp)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """While inside, the linears of `module` are watched; keys and values are given to
        `key_values` by whoever runs it.
        """
        with ExitStack() as watches:
            watches.enter_context(capture_inputs(module, self._inputs))
            watches.enter_context(capture_outputs(module, self._outputs))
            yield

    def join(self, other: "BlockStatistics") -> None:
        """Take in what another of the same block has seen: a batch that is complete."""
        self.key_values.join(other.key_values)
        for mine, theirs in ((self._inputs, other._inputs), (self._outputs, other._outputs)):
            for name, seen in mine.items():
                seen.join(theirs[name])

    @property
    def fault(self) -> str | None:
        """The first tensor, as data passes, that had NaN or infinite values."""
        return next((name for name, seen in self._parts() if not seen.finite), None)

    @property
    def clamped(self) -> bool:
        """Whether such values were replaced."""
        return any(seen.clamped for _, seen in self._parts())

    def tensors(self) -> dict[str, Tensor]:
        """Every statistic, named as in the file."""
        named: dict[str, Tensor] = {}
        for site in self._sites:
            shared = self._inputs[site.linears[0].name].tensors()
            for linear in site.linears:
                own = self._outputs[linear.name].tensors()
                named |= {f"{linear.name}.input.{part}": t for part, t in shared.items()}
                named |= {f"{linear.name}.output.{part}": t for part, t in own.items()}
        return named | self.key_values.tensors()

    def _parts(self) -> Iterator[tuple[str, Extremes]]:
        """Everything that is recorded, in the order data passes through it."""
        cache = (("keys", self.key_values.keys), ("values", self.key_values.values))
        if not self._sites:
            yield from cache
        for number, site in enumerate(self._sites):
            names = [linear.name for linear in site.linears]
            yield f"the input of {names[0]}", self._inputs[names[0]].extremes
            yield from ((f"the output of {n}", self._outputs[n].extremes) for n in names)
            if number == 0:
                yield from cache
