"""How much a model's predictions change when the linears of one site are rounded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mindpress.calib.predictions import Predictions
from mindpress.calib.stream import BlockStream, LiveBlock
from mindpress.errors import NumericError
from mindpress.events import Advanced, Listener, Started, ignore
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.mixture import ByWidth, Mixture, Place, assign
from mindpress.lite.rounding import rounded
from mindpress.lite.sites import Site
from mindpress.lite.sizes import LinearSizes
from mindpress.lite.task import IN_FLOATS, BlockTask

MEASURED_TOKENS = 512

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class Measuring:
    """A measurement behind `done` blocks: hidden states of the original model there, those where
    one site was rounded, and the squared changes of blocks so far. The next block's end takes over
    both dictionaries.
    """

    done: int
    original: Hidden
    states: dict[Place, Hidden]
    changes: dict[Place, ByWidth]


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a measurement goes on, and who is given what it takes to go on behind each block."""

    begun: Measuring | None = None
    keep: Callable[[Measuring], None] = lambda _: None


@torch.no_grad()
def measure_sensitivity(
    stream: BlockStream,
    task: BlockTask,
    tokens: Int[Tensor, "samples tokens"],
    widths: Sequence[int],
    listener: Listener = ignore,
    resumption: Resumption = Resumption(),
) -> dict[Place, ByWidth]:
    """Loss of every site for each of `widths`: mean KL divergence of next-token distributions from
    the original's over MEASURED_TOKENS of the calibration tokens, in nats.

    With the fewest bits it is measured at the model's output; with others it is in proportion to
    the squared change of the block's output, measured too. Peak memory: a block, and for every site
    of the model the hidden states of these tokens in float32.
    """
    now = resumption.begun or _first(stream, tokens)
    listener(Started("measure sensitivity", len(stream)))
    for index in range(now.done, len(stream)):
        with stream.block(index) as block:
            now = _behind(block, task, now, widths)
        resumption.keep(now)
        listener(Advanced(index + 1))
    measured = _divergences(stream, now.original, now.states)
    return {place: _losses(measured[place], now.changes[place]) for place in now.states}


def mixture_of(
    sizes: LinearSizes, widths: Sequence[int], losses: Mapping[Place, ByWidth], budget: int
) -> Mixture:
    """Bits for every site of the model, within `budget` bytes for all linears.

    A site in which nothing can be quantized stays in floats.
    """
    layers = 1 + max(layer for layer, _ in losses)
    possible, by_width = sizes.possible(widths), {bits: sizes.sites(bits) for bits in widths}
    places = [(layer, site) for layer in range(layers) for site in possible]
    choices = {place: {b: by_width[b][place[1]] for b in possible[place[1]]} for place in places}
    lost = {place: losses.get(place, {IN_FLOATS: 0.0}) for place in places}
    return Mixture.of(assign(choices, lost, budget), lost)


def _first(stream: BlockStream, tokens: Int[Tensor, "samples tokens"]) -> Measuring:
    """Before the first block."""
    some = _some(tokens)
    first = torch.empty((*some.shape, stream.source.shape.hidden))
    stream.embed(some, first)
    return Measuring(0, first, {}, {})


def _behind(
    block: LiveBlock, task: BlockTask, before: Measuring, widths: Sequence[int]
) -> Measuring:
    """One block further, in the memory of `before`."""
    original, states, changes = _run(block, before.original), before.states, before.changes
    for place, hidden in states.items():
        states[place] = _run(block, hidden)
    for site in task.sites():
        found = _changes(block, task, site, before.original, original, widths)
        changes[block.index, site.name], states[block.index, site.name] = found
    return Measuring(block.index + 1, original, states, changes)


def _some(tokens: Int[Tensor, "samples tokens"]) -> Int[Tensor, "some length"]:
    length = min(tokens.shape[1], MEASURED_TOKENS)
    return tokens[: MEASURED_TOKENS // length, :length]


def _run(block: LiveBlock, hidden: Hidden) -> Hidden:
    return block.run(hidden).float().cpu()


def _changes(
    block: LiveBlock,
    task: BlockTask,
    site: Site,
    before: Hidden,
    after: Hidden,
    widths: Sequence[int],
) -> tuple[ByWidth, Hidden]:
    """Squared change of the block's output for each width, and its output with the fewest bits."""
    changes, rounded_most = {}, after
    for bits in sorted(widths, reverse=True):
        if bits != IN_FLOATS:
            with _rounded(block, task, site, replace(task.spec, bits=bits)):
                rounded_most = _run(block, before)
        changes[bits] = float((rounded_most - after).square().sum())
    return changes, rounded_most


@contextmanager
def _rounded(block: LiveBlock, task: BlockTask, site: Site, spec: QuantSpec) -> Iterator[None]:
    """The block with the linears of a site rounded to nearest."""
    names = [linear.name for linear in site.linears if linear.name in task.quantized]
    parameters = [block.module.get_submodule(name).get_parameter("weight") for name in names]
    stored = [parameter.data for parameter in parameters]
    try:
        for parameter, weight in zip(parameters, stored, strict=True):
            parameter.data = rounded(weight, spec).to(weight.dtype)
        yield
    finally:
        for parameter, weight in zip(parameters, stored, strict=True):
            parameter.data = weight


def _divergences(
    stream: BlockStream, original: Hidden, states: Mapping[Place, Hidden]
) -> dict[Place, float]:
    """Mean over all tokens."""
    predictions = Predictions(stream.source, stream.device, stream.dtype)
    aim = predictions.log_probabilities(original.flatten(0, 1))
    return {
        place: _divergence(place, predictions.log_probabilities(hidden.flatten(0, 1)), aim)
        for place, hidden in states.items()
    }


def _divergence(place: Place, found: Tensor, aim: Tensor) -> float:
    measured = functional.kl_div(found, aim, reduction="batchmean", log_target=True)
    if not measured.isfinite():
        raise NumericError(
            f"layer {place[0]}, {place[1]}: predictions are NaN or infinite once it is rounded",
            hint="try more --w-bits, or leave --target-bpw out",
        )
    return max(0.0, float(measured))


def _losses(measured: float, changes: ByWidth) -> ByWidth:
    """`measured` is with the fewest bits."""
    most = changes[min(changes)]
    return {bits: measured * change / most if most else 0.0 for bits, change in changes.items()}
