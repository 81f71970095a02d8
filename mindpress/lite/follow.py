"""What the linears of a block are fed while it is being quantized, from site to site."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.calib.statistics import PairStatistics
from mindpress.calib.stream import LiveBlock
from mindpress.errors import NumericError
from mindpress.formats.finite import is_finite
from mindpress.lite.moments import Moments
from mindpress.lite.sites import Site
from mindpress.lite.task import Statistics

Hidden = Float[Tensor, "samples tokens hidden"]


@runtime_checkable
class SiteInputs(Protocol):
    """Where the moments of each site come from. Sites are asked for in the order data passes."""

    def begin(self) -> None:
        """A block is about to be quantized from its first site on."""
        ...

    def at(self, site: Site) -> Moments:
        """The moments of the inputs of a site, with what was replaced so far."""
        ...

    def replace(self, linear: str, weight: Float32[Tensor, "outputs inputs"]) -> None:
        """From now on `linear` computes with this weight."""
        ...


@dataclass(frozen=True, slots=True)
class OriginalInputs:
    """The inputs of the original block: known beforehand, whatever is replaced."""

    seen: Statistics

    def begin(self) -> None:
        """Nothing to do."""

    def at(self, site: Site) -> Moments:
        """What was observed."""
        return Moments(self.seen[site.name].hessian)

    def replace(self, linear: str, weight: Float32[Tensor, "outputs inputs"]) -> None:
        """Nothing changes."""


@dataclass(frozen=True, slots=True)
class FollowedInputs:
    """The inputs as the quantized blocks and linears before a site make them.

    `follower` holds the weights quantized so far and is fed `hidden`; `original` is fed
    `aims`, the hidden states that the original model has there (both None: nothing to aim at).
    """

    follower: LiveBlock
    hidden: Hidden
    original: LiveBlock | None
    aims: Hidden | None
    batch_size: int

    def begin(self) -> None:
        """The follower starts as the original."""
        self.follower.restore()

    def at(self, site: Site) -> Moments:
        """Run both blocks up to the site, over all samples; NumericError for NaN or infinity."""
        name, device = site.linears[0].name, self.follower.stream.device
        width = self.follower.module.get_submodule(name).get_parameter("weight").shape[1]
        modules = (site.residual, name) if site.residual else (name,)
        gaps = self.hidden.shape[2] if len(modules) > 1 and self.original else 0
        found = PairStatistics(width, device, gaps)
        for start in range(0, len(self.hidden), self.batch_size):
            some = slice(start, start + self.batch_size)
            inputs = self.follower.inputs_of(modules, self.hidden[some])
            if self.original is None or self.aims is None:
                found.add(inputs[-1], inputs[-1])
                continue
            targets = self.original.inputs_of(modules, self.aims[some])
            gap = targets[0] - inputs[0] if gaps else None
            found.add(inputs[-1], targets[-1], gap)
        if not is_finite(found.hessian.diagonal()):
            raise NumericError(
                f"layer {self.follower.index}, {site.name}: activations are NaN or infinite",
                hint="the model overflows; try --device cpu, which computes in 32 bits",
            )
        if self.original is None:
            return Moments(found.hessian)
        return Moments(found.hessian, found.drift, found.gap if gaps else None)

    def replace(self, linear: str, weight: Float32[Tensor, "outputs inputs"]) -> None:
        """The follower computes with this weight."""
        parameter = self.follower.module.get_submodule(linear).get_parameter("weight")
        parameter.data = weight.to(parameter.device, self.follower.stream.dtype)
