"""What tests of kernels run with: instruction sets of this processor, memory that is no number."""

import pytest
import torch

from mindpress.kernels.native import call, library


@pytest.fixture(params=library.INSTRUCTION_SETS[1:])
def instructions(request, native, monkeypatch):
    if request.param not in native.instruction_sets:
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(call, "INSTRUCTIONS", request.param)
    return request.param


@pytest.fixture
def new_memory_is_nan():
    """Outputs and workspaces: what is read before it is written shows."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)
