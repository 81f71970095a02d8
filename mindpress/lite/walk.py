"""A block's turn: watch it, quantize it, and carry the hidden states on to the next."""

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mindpress.calib.capture import capture_inputs
from mindpress.calib.lent import as_they_are, empty_weights, lent, stored_weights
from mindpress.calib.statistics import InputStatistics
from mindpress.calib.stream import OVERFLOWS, LiveBlock
from mindpress.errors import ConfigError, NumericError
from mindpress.lite.choose import Choice, HeldOut, choose, load_result
from mindpress.lite.follow import FollowedInputs, OriginalInputs, SiteInputs
from mindpress.lite.hidden_states import HiddenStates
from mindpress.lite.sites import sites_of
from mindpress.lite.task import BlockTask
from mindpress.memory import give_back

HELD_OUT_SHARE = 8
MOST_HELD_OUT_TOKENS = 16384

Hidden = Float[Tensor, "samples tokens hidden"]
Part = Float[Tensor, "_ tokens hidden"]


class Walk:
    """Takes blocks in their order. The last samples are held out of all statistics."""

    def __init__(
        self, task: BlockTask, states: HiddenStates, batch_size: int, *, search: bool
    ) -> None:
        self.task, self.states, self.search = task, states, search
        self.batch_size = batch_size

    def repeat(self, block: LiveBlock) -> None:
        """Pass a block that an earlier run quantized; its output's `followed` is kept by that."""
        if self.states.original is not None:
            self._advance(block, self.states.original)

    def quantize(self, block: LiveBlock) -> Choice:
        """The block as codes; the hidden states are those behind it."""
        original, followed = self.states.original, self.states.followed
        if followed is not None and original is not None:
            return self._quantize_beside(block, followed, original)
        if followed is not None:
            return self._quantize_following(block, followed)
        if original is not None:
            return self._quantize_alone(block, original)
        raise ConfigError("a walk needs the hidden states of a path")

    def _quantize_alone(self, block: LiveBlock, hidden: Hidden) -> Choice:
        early, late = self._parted(hidden)
        inputs = late.clone()
        seen = self._watch(block, early, keep=True)
        held = HeldOut(inputs, self._outputs(block, inputs))
        late.copy_(held.outputs)
        give_back()
        return self._choose(
            block, seen, held, OriginalInputs(seen) if self.task.compensation else None
        )

    def _quantize_following(self, block: LiveBlock, followed: Hidden) -> Choice:
        """The block's own output on these inputs is the aim."""
        stored = self._stored(block)
        with lent(block, as_they_are(stored)):
            seen, held = self._observe(block, followed, followed)
        early = self._parted(followed)[0]
        inputs = FollowedInputs(block, stored, early, None, None, self.batch_size, seen)
        choice = self._choose(block, seen, held, inputs)
        load_result(block.module, choice.result)
        self._advance(block, followed)
        return choice

    def _quantize_beside(self, block: LiveBlock, followed: Hidden, original: Hidden) -> Choice:
        """The original model's hidden states behind the block are the aim. A copy of the block is
        quantized, so that the original can be run beside it; its weights are in memory as they are
        stored, and only those that compute in the type of computation.
        """
        stored = self._stored(block)
        follower = block.copy()
        early, aims = self._parted(followed)[0], self._parted(original)[0]
        with lent(block, as_they_are(stored)):
            seen, held = self._observe(block, original, followed)
            inputs = FollowedInputs(follower, stored, early, block, aims, self.batch_size, seen)
            choice = self._choose(follower, seen, held, inputs)
            self._advance(block, original)
        load_result(follower.module, choice.result)
        self._advance(follower, followed)
        return choice

    def _stored(self, block: LiveBlock) -> dict[str, Tensor]:
        """The weights of the block's linears as they are stored; the block loses its own."""
        names = [linear.name for linear in self.task.block.linears]
        empty_weights(block, names)
        return stored_weights(block, names)

    def _observe(
        self, block: LiveBlock, hidden: Hidden, followed: Hidden
    ) -> tuple[dict[str, InputStatistics], HeldOut]:
        """What the original block is fed, and what it makes of the samples held out."""
        early, late = self._parted(hidden)
        seen = self._watch(block, early, keep=False, pairs=self.search)
        held = HeldOut(self._parted(followed)[1], self._outputs(block, late))
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
        self, block: LiveBlock, hidden: Hidden, *, keep: bool, pairs: bool = True
    ) -> dict[str, InputStatistics]:
        """Run the block and record what its linears are fed, second moments only with `pairs`; its
        output goes to `hidden` when it is to be kept. NumericError when something is NaN or
        infinite.
        """
        seen, watched = {}, {}
        for site in sites_of(self.task.block):
            channels = self.task.shape.columns[site.linears[0].roles[0]]
            seen[site.name] = InputStatistics(channels, self.task.device, pairs=pairs)
            watched[site.linears[0].name] = seen[site.name]
        with capture_inputs(block.module, watched):
            for batch in hidden.split(self.batch_size):
                found = block.run(batch)
                if keep:
                    batch.copy_(found)
        for name, statistics in seen.items():
            if not statistics.finite:
                raise NumericError(
                    f"layer {block.index}, {name}: activations are NaN or infinite",
                    hint=OVERFLOWS,
                )
        return seen

    def _outputs(
        self, block: LiveBlock, hidden: Hidden
    ) -> Float32[Tensor, "samples tokens hidden"]:
        outputs = torch.empty(hidden.shape, dtype=torch.float32)
        for into, batch in zip(outputs.split(1), hidden.split(1), strict=True):
            into.copy_(block.run(batch))
        return outputs

    def _advance(self, block: LiveBlock, hidden: Hidden) -> None:
        """In the batches of `_quantize_alone`, so that a resumed run computes the same bits."""
        early, late = self._parted(hidden)
        before = late.clone()
        for batch in early.split(self.batch_size):
            batch.copy_(block.run(batch))
        late.copy_(self._outputs(block, before))

    def _parted(self, hidden: Hidden) -> tuple[Part, Part]:
        """What statistics see and what is held out; a single sample is both."""
        samples = len(hidden)
        count = held_out_samples(samples, hidden.shape[1])
        return (hidden if count == samples else hidden[: samples - count]), hidden[-count:]


def observed_tokens(tokens: Int[Tensor, "samples tokens"]) -> int:
    """How many of the calibration tokens are in the statistics."""
    samples, length = tokens.shape
    return (samples - held_out_samples(samples, length)) * length or length


def held_out_samples(samples: int, length: int) -> int:
    """How many samples are kept out of the statistics to judge candidates by."""
    wanted = max(1, samples // HELD_OUT_SHARE)
    return min(wanted, max(1, MOST_HELD_OUT_TOKENS // length))
