"""The product on the CPU, by the compiled library.

Bytes moved per call: the packed weight (about inputs * outputs / 2) once per block of rows that
fits the second-level cache, x and y once. With one row it aims at the bandwidth of memory, with
many at the int8 dot products of the processor (W4A8) or its float32 products (exact).
"""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.errors import InputError
from mindpress.kernels.matmul_w4a16.packed import BLOCK, PackedWeight
from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.native.library import InstructionSet, native
from mindpress.kernels.native.structures import W4Weight

# From about this many rows on, dequantizing a panel of outputs and torch's product are faster than
# the exact kernel, which unpacks codes again for every eight rows, or four without AVX-512.
PANEL_ROWS: dict[InstructionSet, int] = {"portable": 12, "avx2": 64, "avx512vnni": 96}
PANEL_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """Threads (0: as many as torch uses; its own products always do) and instructions.

    The number of threads changes no bit of the result.
    """

    threads: int = 0
    instructions: InstructionSet = "best"


@torch.no_grad()
def matmul(
    x: Float[Tensor, "*rows inputs"],
    packed: PackedWeight,
    *,
    exact: bool,
    options: CpuOptions | None = None,
) -> Float32[Tensor, "*rows outputs"]:
    """x W^T in float32.

    `exact` keeps x in float32; otherwise x becomes int8 codes with a scale for each row and group,
    an error of about 0.7 % on Gaussian data. Peak memory beside x and y: about 4 MiB.
    Raises InputError for a wrong last dimension, ResourceError where nothing was compiled.
    """
    if x.shape[-1] != packed.inputs:
        raise InputError(f"the weight has {packed.inputs} inputs, x has {x.shape[-1]}")
    if x.device.type != "cpu":
        raise InputError(f"the CPU kernel multiplies what is in the CPU's memory, not {x.device}")
    rows = x.float().reshape(-1, packed.inputs).contiguous()
    y = rows.new_empty(len(rows), packed.outputs)
    call = _Call(packed, options or CpuOptions())
    if exact and len(rows) >= call.panel_rows:
        call.by_panels(rows, y)
    else:
        call.multiply(rows, y, exact=exact)
    return y.view(*x.shape[:-1], packed.outputs)


class _Call:
    """The library's functions for one weight."""

    def __init__(self, packed: PackedWeight, options: CpuOptions) -> None:
        found = native()
        self._library = library_for("4-bit weights", found)
        self._packed = packed  # its memory is what the structure points to
        self._weight = ctypes.byref(structure_of_weight(packed))
        self._how = how(options.threads, options.instructions)
        best = options.instructions == "best"
        used = found.instruction_sets[-1] if best else options.instructions
        self.panel_rows = PANEL_ROWS[used]

    def multiply(self, x: Tensor, y: Tensor, *, exact: bool) -> None:
        done = self._library.w4_matmul(
            self._weight, x.data_ptr(), len(x), y.data_ptr(), exact, *self._how
        )
        self._check(done)

    def by_panels(self, x: Tensor, y: Tensor) -> None:
        """Weights as floats, a few outputs at a time, and torch's product with them."""
        blocks = len(self._packed.codes)
        step = max(1, min(blocks, PANEL_BYTES // (4 * BLOCK * self._packed.inputs)))
        room = x.new_empty(self._packed.inputs * step * BLOCK)
        for first in range(0, blocks, step):
            count = min(step, blocks - first)
            done = self._library.w4_dequantize(
                self._weight, first, count, room.data_ptr(), *self._how
            )
            self._check(done)
            panel = room[: self._packed.inputs * count * BLOCK].view(self._packed.inputs, -1)
            target = y[:, first * BLOCK : (first + count) * BLOCK]
            torch.mm(x, panel[:, : target.shape[1]], out=target)

    def _check(self, status: int) -> None:
        check(status, "the product with a 4-bit weight", self._how[0])


def structure_of_weight(packed: PackedWeight) -> W4Weight:
    addresses = (part.data_ptr() for part in (packed.codes, packed.scales, packed.zeros))
    return W4Weight(*addresses, packed.outputs, packed.inputs, packed.group_size)
