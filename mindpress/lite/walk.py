"""A block's turn: watch it, quantize it, and carry the hidden states on to the next."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mindpress.calib.batches import Batches
from mindpress.calib.capture import Watcher, hold_inputs
from mindpress.calib.lent import as_they_are, empty_weights, lent, stored_weights
from mindpress.calib.statistics import InputStatistics
from mindpress.calib.stream import OVERFLOWS, LiveBlock
from mindpress.errors import NumericError
from mindpress.lite.choose import Choice, HeldOut, choose, load_result
from mindpress.lite.follow import FollowedInputs, OriginalInputs, SiteInputs
from mindpress.lite.hidden_states import HiddenStates, Which
from mindpress.lite.sites import sites_of
from mindpress.lite.task import BlockTask
from mindpress.memory import give_back

HELD_OUT_SHARE = 8
MOST_HELD_OUT_TOKENS = 16384
TOO_LONG = "use a smaller --calib-seqlen, or --device cpu"
OVERFLOWED = (
    "passes the largest float16 inside: calibrated in float32; run the model in bfloat16 or float32"
)
WIDENED = "its output passes the largest float16: hidden states are kept in bfloat16 from here on"

Hidden = Float[Tensor, "samples tokens hidden"]
Part = Float[Tensor, "_ tokens hidden"]


class Walk:
    """Takes blocks in their order. The last samples are held out of all statistics.

    `batch_size` samples run through a block at once, fewer when memory runs out.
    """

    def __init__(
        self, task: BlockTask, states: HiddenStates, batch_size: int, *, search: bool
    ) -> None:
        self.task, self.states, self.search = task, states, search
        self._notes: list[str] = []
        self.batches = Batches(batch_size, self._notes.append, hint=TOO_LONG)

    def repeat(self, block: LiveBlock) -> None:
        """Pass a block that an earlier run quantized; its output's `followed` is kept by that."""
        if self.states.original is not None:
            self._advance(block, "original")

    def quantize(self, block: LiveBlock) -> Choice:
        """The block as codes; the hidden states are those behind it."""
        self._notes.clear()
        choice = self._quantize(block)
        if block.stream.overflowed:
            self._notes.append(OVERFLOWED)
        notes = (*choice.result.notes, *self._notes)
        return replace(choice, result=replace(choice.result, notes=notes))

    def _quantize(self, block: LiveBlock) -> Choice:
        if self.states.followed is None:
            return self._quantize_alone(block)
        if self.states.original is None:
            return self._quantize_following(block)
        return self._quantize_beside(block)

    def _quantize_alone(self, block: LiveBlock) -> Choice:
        inputs = self._late("original").clone()
        seen = self._watch(block, "original", keep=True)
        held = self._held_and_put(block, inputs, "original")
        give_back()
        return self._choose(
            block, seen, held, OriginalInputs(seen) if self.task.compensation else None
        )

    def _quantize_following(self, block: LiveBlock) -> Choice:
        """The block's own output on these inputs is the aim."""
        stored = self._stored(block)
        with lent(block, as_they_are(stored)):
            seen, held = self._observe(block, "followed")
        early = self._early("followed")
        inputs = FollowedInputs(block, stored, early, None, None, self.batches, seen)
        choice = self._choose(block, seen, held, inputs)
        load_result(block.module, choice.result)
        self._advance(block, "followed")
        return choice

    def _quantize_beside(self, block: LiveBlock) -> Choice:
        """The original model's hidden states behind the block are the aim. A copy of the block is
        quantized, so that the original can be run beside it; its weights are in memory as they are
        stored, and only those that compute in the type of computation.
        """
        stored = self._stored(block)
        follower = block.copy()
        early, aims = self._early("followed"), self._early("original")
        with lent(block, as_they_are(stored)):
            seen, held = self._observe(block, "original")
            inputs = FollowedInputs(follower, stored, early, block, aims, self.batches, seen)
            choice = self._choose(follower, seen, held, inputs)
            self._advance(block, "original")
        load_result(follower.module, choice.result)
        self._advance(follower, "followed")
        return choice

    def _stored(self, block: LiveBlock) -> dict[str, Tensor]:
        """The weights of the block's linears as they are stored; the block loses its own."""
        names = [linear.name for linear in self.task.block.linears]
        empty_weights(block, names)
        return stored_weights(block, names)

    def _observe(
        self, block: LiveBlock, which: Which
    ) -> tuple[dict[str, InputStatistics], HeldOut]:
        """What the original block is fed, and what it makes of the samples held out."""
        seen = self._watch(block, which, keep=False, pairs=self.search)
        held = HeldOut(self._late("followed"), self._outputs(block, self._late(which)))
        give_back()
        return seen, held

    def _choose(
        self,
        block: LiveBlock,
        seen: dict[str, InputStatistics],
        held: HeldOut,
        inputs: SiteInputs | None,
    ) -> Choice:
        task = self.task.of(block.index)
        return choose(block, task, seen, held, search=self.search, inputs=inputs)

    def _watch(
        self, block: LiveBlock, which: Which, *, keep: bool, pairs: bool = True
    ) -> dict[str, InputStatistics]:
        """Run the block and record what its linears are fed, second moments only with `pairs`; its
        output replaces the hidden states when it is to be kept. NumericError when something is NaN
        or infinite.
        """
        seen, watched = {}, {}
        for site in sites_of(self.task.block):
            channels = self.task.shape.columns[site.linears[0].roles[0]]
            seen[site.name] = InputStatistics(channels, self.task.device, pairs=pairs)
            watched[site.linears[0].name] = seen[site.name]
        self._run_watched(block, which, watched, keep=keep)
        for name, statistics in seen.items():
            check_activations(block, name, finite=statistics.finite)
        return seen

    def _run_watched(
        self, block: LiveBlock, which: Which, watched: Mapping[str, Watcher], *, keep: bool
    ) -> None:
        """Over all samples but those held out. A batch is counted once it is complete."""
        with hold_inputs(block.module, watched) as held:

            def run(some: slice) -> Hidden:
                held.clear()
                return block.run(self.states.of(which)[some])

            for some, found in self.batches.run(len(self._early(which)), run):
                for name, statistics in watched.items():
                    statistics.add(held[name])
                held.clear()
                if keep:
                    self._put(which, some, found)

    def _outputs(
        self, block: LiveBlock, hidden: Hidden
    ) -> Float32[Tensor, "samples tokens hidden"]:
        outputs = torch.empty(hidden.shape, dtype=torch.float32)
        for into, batch in zip(outputs.split(1), hidden.split(1), strict=True):
            into.copy_(block.run(batch))
        return outputs

    def _held_and_put(self, block: LiveBlock, inputs: Hidden, which: Which) -> HeldOut:
        """What the block makes of the samples held out, which goes on to the next one too."""
        held = HeldOut(inputs, self._outputs(block, inputs))
        self._put(which, slice(len(self.states.of(which)) - len(inputs), None), held.outputs)
        return held

    def _advance(self, block: LiveBlock, which: Which) -> None:
        """In the batches of `_quantize_alone`, so that a resumed run computes the same bits."""
        before = self._late(which).clone()

        def run(some: slice) -> Hidden:
            return block.run(self.states.of(which)[some])

        for some, found in self.batches.run(len(self._early(which)), run):
            self._put(which, some, found)
        self._held_and_put(block, before, which)

    def _put(self, which: Which, some: slice, found: Hidden) -> None:
        if self.states.put(which, some, found):
            self._notes.append(WIDENED)

    def _early(self, which: Which) -> Part:
        """What statistics see; a single sample is held out as well."""
        hidden = self.states.of(which)
        count = held_out_samples(len(hidden), hidden.shape[1])
        return hidden if count == len(hidden) else hidden[: len(hidden) - count]

    def _late(self, which: Which) -> Part:
        """What is held out."""
        hidden = self.states.of(which)
        return hidden[-held_out_samples(len(hidden), hidden.shape[1]) :]


def check_activations(block: LiveBlock, site: str, *, finite: bool) -> None:
    """NumericError that names the layer and the site."""
    if not finite:
        raise NumericError(
            f"layer {block.index}, {site}: activations are NaN or infinite", hint=OVERFLOWS
        )


def observed_tokens(tokens: Int[Tensor, "samples tokens"]) -> int:
    """How many of the calibration tokens are in the statistics."""
    samples, length = tokens.shape
    return (samples - held_out_samples(samples, length)) * length or length


def held_out_samples(samples: int, length: int) -> int:
    """How many samples are kept out of the statistics to judge candidates by."""
    wanted = max(1, samples // HELD_OUT_SHARE)
    return min(wanted, max(1, MOST_HELD_OUT_TOKENS // length))
