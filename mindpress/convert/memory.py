"""How much memory a conversion takes, before it begins."""

from math import prod

from mindpress.formats.turbomind_config import WorkspaceConfig
from mindpress.models.tensors import linear_shape
from mindpress.sources.folder import ModelFolder

FLOAT_BYTES = 2
# Of a weight in codes while it is laid out anew: as stored, a byte for each code, moved and packed.
CODE_BYTES = 8
# A group of linears as it is written: converted, cut, and in the writers' buffers.
COPIES = 3


def conversion_bytes(folder: ModelFolder, config: WorkspaceConfig) -> int:
    """A bound on what a conversion adds to the bare process: a layer of the mapped file, and the
    copies of one group of its linears; or the embedding, the head, and a copy of each.
    """
    shape, block = folder.shape, folder.architecture.block
    groups = (block.attention_inputs, (block.attention_output,), block.mlp_inputs,
              (block.mlp_output,))  # fmt: skip
    weights = [sum(prod(linear_shape(linear, shape)) for linear in group) for group in groups]
    stored = max(info.dtype.itemsize for info in folder.checkpoint.tensors.values())
    each = CODE_BYTES if folder.spec else FLOAT_BYTES * COPIES
    layer = sum(weights) * (1 if folder.spec else stored)
    table = config.padded_vocab * shape.hidden
    return max(layer + max(weights) * each, 2 * table * (stored + FLOAT_BYTES))
