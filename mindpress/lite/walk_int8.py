"""A block's turn when it becomes int8 weights for int8 activations."""

from mindpress.calib.capture import capture_inputs
from mindpress.calib.stream import OVERFLOWS, LiveBlock
from mindpress.errors import ConfigError, NumericError
from mindpress.lite.choose import Choice, HeldOut
from mindpress.lite.choose_int8 import choose_int8
from mindpress.lite.hidden_states import HiddenStates
from mindpress.lite.row_sample import RowSample
from mindpress.lite.task import BlockTask
from mindpress.lite.walk import Hidden, Walk
from mindpress.memory import give_back


class Int8Walk(Walk):
    """Takes blocks in their order, each fed what the original model has there."""

    def __init__(self, task: BlockTask, states: HiddenStates, batch_size: int) -> None:
        super().__init__(task, states, batch_size, search=True)

    def quantize(self, block: LiveBlock) -> Choice:
        """The block as codes; the hidden states are those behind the original block."""
        hidden = self.states.original
        if hidden is None:
            raise ConfigError("int8 activations are calibrated on those of the original model")
        early, late = self._parted(hidden)
        inputs = late.clone()
        seen = self._sample(block, early)
        held = HeldOut(inputs, self._outputs(block, inputs))
        late.copy_(held.outputs)
        give_back()
        return choose_int8(block, self.task, seen, held)

    def _sample(self, block: LiveBlock, hidden: Hidden) -> dict[str, RowSample]:
        """Run the block, whose output replaces `hidden`, and keep some of what its linears read.

        NumericError when something is NaN or infinite.
        """
        tokens, device = hidden.shape[0] * hidden.shape[1], self.task.device
        seen, watched = {}, {}
        for site in self.task.sites():
            channels = self.task.shape.columns[site.linears[0].roles[0]]
            seen[site.name] = RowSample(channels, tokens, device)
            watched[site.linears[0].name] = seen[site.name]
        with capture_inputs(block.module, watched):
            for batch in hidden.split(self.batch_size):
                batch.copy_(block.run(batch))
        for name, rows in seen.items():
            if not rows.finite:
                raise NumericError(
                    f"layer {block.index}, {name}: activations are NaN or infinite",
                    hint=OVERFLOWS,
                )
        return seen
