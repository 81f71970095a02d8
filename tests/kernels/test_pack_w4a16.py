"""Packed weights of 4 bits: how many bytes they are, what cannot be packed, memory on the way."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from w4_weights import weight_of

from mindpress.errors import ConfigError
from mindpress.kernels.matmul_w4a16 import pack_weight
from mindpress.kernels.matmul_w4a16 import packed as packed_module


def test_a_packed_weight_is_half_a_byte_each_and_its_scales():
    packed = pack_weight(weight_of(64, 1024))
    assert packed.nbytes == 64 * 1024 // 2 + 5 * 64 * 8
    assert (packed.outputs, packed.inputs, packed.group_size) == (64, 1024, 128)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ConfigError, match="not 12"):
        pack_weight(weight_of(12, 128))
    with pytest.raises(ConfigError, match="not 48"):
        pack_weight(weight_of(16, 96, 48))
    with pytest.raises(ConfigError, match="have 8"):
        pack_weight(weight_of(16, 128, bits=8))
    with pytest.raises(ConfigError, match="at least 8, not 0"):
        pack_weight(weight_of(0, 128))


class Allocations(TorchDispatchMode):
    """Bytes of the memory that operations take, by its address."""

    def __init__(self, known):
        super().__init__()
        self.known = {part.untyped_storage().data_ptr() for part in known}
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(part, torch.Tensor):
                memory = part.untyped_storage()
                if memory.data_ptr() not in self.known:
                    self.seen.setdefault(memory.data_ptr(), []).append(memory.nbytes())
        return made


def test_packing_needs_little_memory_beside_the_result():
    """A slice of outputs at a time: nothing of the size of the weight is made but the codes."""
    weight = weight_of(2048, 4096)
    with Allocations([weight.codes, weight.scales, weight.zeros]) as allocations:
        packed = pack_weight(weight)
    codes = allocations.seen.pop(packed.codes.data_ptr())
    assert set(codes) == {2048 * 4096 // 2}
    assert 0 < max(max(sizes) for sizes in allocations.seen.values()) <= 2**20


def test_packing_in_slices(monkeypatch):
    weight = weight_of(72, 192, 96)
    whole = pack_weight(weight)
    monkeypatch.setattr(packed_module, "SLICE", 1)
    sliced = pack_weight(weight)
    for name in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(sliced, name), getattr(whole, name))
