"""The memory that the weights of a model take, before any of them is read."""

from math import prod

import torch

from mindpress.device import choose_device
from mindpress.engine.config import EngineConfig
from mindpress.engine.linear import Placement
from mindpress.engine.loader import DTYPES, choose_dtype, needed_bytes
from mindpress.kernels.dispatch import choose_kernels
from mindpress.models.tensors import block_tensors
from mindpress.sources.source import ModelSource


def placement(source: ModelSource, engine: EngineConfig) -> Placement:
    """Where and in which type a model would compute; ConfigError when it cannot."""
    device = choose_device(engine.device)
    dtype = choose_dtype(engine.dtype, source.shape.dtype, device)
    kernels = choose_kernels(engine.kernels, device, dtype)
    return Placement(device, dtype, kernels, None, source.activations)


def weight_bytes(source: ModelSource, engine: EngineConfig) -> int:
    """Of a model's weights in memory."""
    return needed_bytes(source, placement(source, engine))


def loading_bytes(source: ModelSource) -> int:
    """Of what is read at a time: a layer, or the embedding, as it is stored (codes take less, with
    the byte for each weight that they are packed from).
    """
    shape = source.shape
    stored = DTYPES.get(shape.dtype, torch.float32).itemsize
    layer = sum(map(prod, block_tensors(source.architecture, shape).values()))
    return max(layer, shape.vocab * shape.hidden) * stored
