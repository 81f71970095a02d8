"""`gated` in Triton: one program for a block of channels of a row."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def gated_kernel(gate_up_ptr, y_ptr, channels, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """x times a sigmoid or a normal distribution function of x, times up."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    gate_row = gate_up_ptr + row * 2 * channels
    gate = tl.load(gate_row + channel, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_row + channels + channel, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        active = gate / (1.0 + tl.exp(-gate))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh(u)) / 2 is the sigmoid of 2 u; 2 sqrt(2 / pi) = 1.5957...
        inner = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
        active = gate / (1.0 + tl.exp(-inner))
    else:
        active = gate * (0.5 + 0.5 * tl.erf(gate * 0.7071067811865476))
    tl.store(
        y_ptr + row * channels + channel, (active * up).to(y_ptr.dtype.element_ty), mask=inside
    )
