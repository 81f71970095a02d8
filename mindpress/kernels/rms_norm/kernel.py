"""Root mean square norms in Triton: one program a row, the whole row in registers."""

from typing import no_type_check

import triton
import triton.language as tl

from mindpress.kernels.quantize_rows.kernel import codes_of, scale_and_inverse, size_bits


@triton.jit
@no_type_check
def rms_norm_kernel(  # noqa: PLR0913
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    scales_ptr,
    channels,
    eps,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    INT8: tl.constexpr,
):
    """ADD: of x + residual, which goes to `total_ptr`. INT8: y are codes with `scales_ptr`."""
    row = tl.program_id(0).to(tl.int64) * channels
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    x = tl.load(x_ptr + row + channel, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row + channel, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row + channel, rounded, mask=inside)
        x = rounded.to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, axis=0) / channels + eps) * weight
    if INT8:
        scale, inverse = scale_and_inverse(tl.max(size_bits(normed), axis=0))
        tl.store(y_ptr + row + channel, codes_of(normed, inverse), mask=inside)
        tl.store(scales_ptr + tl.program_id(0), scale)
    else:
        tl.store(y_ptr + row + channel, normed.to(y_ptr.dtype.element_ty), mask=inside)
