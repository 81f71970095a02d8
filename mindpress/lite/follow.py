"""What the linears of a block are fed while it is being quantized, from site to site."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mindpress.calib.batches import Batches
from mindpress.calib.lent import Lender, as_they_are, lent
from mindpress.calib.statistics import PairStatistics
from mindpress.calib.stream import OVERFLOWS, LiveBlock
from mindpress.errors import NumericError
from mindpress.formats.finite import is_finite
from mindpress.lite.moments import Moments
from mindpress.lite.sites import Site
from mindpress.lite.task import Statistics

Hidden = Float[Tensor, "samples tokens hidden"]


@runtime_checkable
class SiteInputs(Protocol):
    """Where the moments of each site come from. Sites are asked for in the order data passes."""

    def begun(self) -> AbstractContextManager[None]:
        """While inside, a block is quantized from its first site on."""
        ...

    def at(self, site: Site) -> Moments:
        """The moments of the inputs of a site, with what was replaced so far. The caller may
        change them: a site is asked for once.
        """
        ...

    def replace(self, linear: str, weight: Lender) -> None:
        """From now on `linear` computes with this weight."""
        ...


@dataclass(frozen=True, slots=True)
class OriginalInputs:
    """The inputs of the original block: known beforehand, whatever is replaced."""

    seen: Statistics

    def begun(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def at(self, site: Site) -> Moments:
        """What was observed."""
        return Moments(self.seen[site.name].hessian)

    def replace(self, linear: str, weight: Lender) -> None:
        """Nothing changes."""


@dataclass(frozen=True, slots=True)
class FollowedInputs:
    """The inputs as the quantized blocks and linears before a site make them.

    `follower` computes with the weights quantized so far, else with those `stored`, and is fed
    `hidden`; `original` is fed `aims`, the hidden states that the original model has there (both
    None: nothing to aim at). Other tensors of the follower than weights of linears are put back,
    and the second moments in `seen` are let go, when a block is begun.
    """

    follower: LiveBlock
    stored: Mapping[str, Tensor]
    hidden: Hidden
    original: LiveBlock | None
    aims: Hidden | None
    batches: Batches
    seen: Statistics = field(default_factory=dict)
    _lenders: dict[str, Lender] = field(default_factory=dict)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """The follower starts as the original."""
        self._lenders.update(as_they_are(self.stored))
        weights = {f"{name}.weight" for name in self.stored}
        tensors = {name for name, _ in self.follower.module.named_parameters()}
        self.follower.restore(tensors - weights)
        for statistics in self.seen.values():
            statistics.forget_pairs()
        with lent(self.follower, self._lenders):
            yield
        self._lenders.clear()

    def at(self, site: Site) -> Moments:
        """Run both blocks up to the site, over all samples; NumericError for NaN or infinity."""
        name, device = site.linears[0].name, self.follower.stream.device
        width = self.stored[name].shape[1]
        modules = (site.residual, name) if site.residual else (name,)
        gaps = self.hidden.shape[2] if len(modules) > 1 and self.original else 0
        found = PairStatistics(width, device, gaps)

        def run(some: slice) -> tuple[list[Tensor], list[Tensor] | None]:
            inputs = self.follower.inputs_of(modules, self.hidden[some])
            if self.original is None or self.aims is None:
                return inputs, None
            return inputs, self.original.inputs_of(modules, self.aims[some])

        for _, (inputs, targets) in self.batches.run(len(self.hidden), run):
            if targets is None:
                found.add(inputs[-1], inputs[-1])
                continue
            gap = targets[0] - inputs[0] if gaps else None
            found.add(inputs[-1], targets[-1], gap)
        if not is_finite(found.hessian.diagonal()):
            raise NumericError(
                f"layer {self.follower.index}, {site.name}: activations are NaN or infinite",
                hint=OVERFLOWS,
            )
        if self.original is None:
            return Moments(found.hessian)
        return Moments(found.hessian, found.drift, found.gap if gaps else None)

    def replace(self, linear: str, weight: Lender) -> None:
        """The follower computes with this weight."""
        self._lenders[linear] = weight
