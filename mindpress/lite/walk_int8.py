"""A block's turn when it becomes int8 weights for int8 activations."""

from mindpress.calib.stream import LiveBlock
from mindpress.lite.choose import Choice
from mindpress.lite.choose_int8 import choose_int8
from mindpress.lite.hidden_states import HiddenStates
from mindpress.lite.row_sample import RowSample
from mindpress.lite.task import BlockTask
from mindpress.lite.walk import Walk, check_activations
from mindpress.memory import give_back


class Int8Walk(Walk):
    """Takes blocks in their order, each fed what the original model has there."""

    def __init__(self, task: BlockTask, states: HiddenStates, batch_size: int) -> None:
        super().__init__(task, states, batch_size, search=True)

    def _quantize(self, block: LiveBlock) -> Choice:
        """The block as codes; the hidden states are those behind the original block."""
        inputs = self._late("original").clone()
        seen = self._sample(block)
        held = self._held_and_put(block, inputs, "original")
        give_back()
        return choose_int8(block, self.task, seen, held)

    def _sample(self, block: LiveBlock) -> dict[str, RowSample]:
        """Run the block, whose output replaces the hidden states, and keep some of what its
        linears read. NumericError when something is NaN or infinite.
        """
        early, device = self._early("original"), self.task.device
        tokens = early.shape[0] * early.shape[1]
        seen, watched = {}, {}
        for site in self.task.sites():
            channels = self.task.shape.columns[site.linears[0].roles[0]]
            seen[site.name] = RowSample(channels, tokens, device)
            watched[site.linears[0].name] = seen[site.name]
        self._run_watched(block, "original", watched, keep=True)
        for name, rows in seen.items():
            check_activations(block, name, finite=rows.finite)
        return seen
