"""The product on the CPU by onnxruntime (MatMulNBits), where nothing could be compiled.

onnxruntime is no dependency: it is imported when a weight is packed. Each weight has a session of
its own: of 4096 x 4096 (8.6 MiB packed) one took about 0.2 s to make, held 12 MiB and left up to
30 MiB with the allocator (onnxruntime 1.31); with more threads than one, it has threads of its own.
Bytes moved per call: the packed weight, x and y once.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import pad

from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.formats.quantized import QuantizedWeight
from mindpress.kernels.matmul_w4a16.onnx_model import NbitsModel

GROUPS = (32, 64, 128, 256)
FLOAT32_NAME = "float32"
Accuracy = Literal[0, 4]


@dataclass(frozen=True, slots=True)
class OnnxWeight:
    """A session that holds the weight, packed as onnxruntime likes it."""

    session: Any
    outputs: int
    inputs: int
    group_size: int

    @property
    def nbytes(self) -> int:
        """Half a byte per weight, four and a half bytes per output and group; at least."""
        groups = self.outputs * (self.inputs // self.group_size)
        return self.outputs * self.inputs // 2 + 4 * groups + (groups + 1) // 2


def pack_onnx(weight: QuantizedWeight, accuracy: Accuracy = 4, threads: int = 0) -> OnnxWeight:
    """`weight` for `matmul_onnx`; `threads` 0: as many as torch uses.

    `accuracy` 4 makes int8 codes of x for each group, an error of about 0.7 % on Gaussian data; 0
    keeps x in float32. Peak memory: about four times the packed weight.
    Raises ConfigError for other bits or groups, ResourceError where onnxruntime is not installed.
    """
    runtime = _runtime()
    _check(weight)
    outputs, inputs = weight.codes.shape
    codes = weight.codes[:, 0::2] | weight.codes[:, 1::2] << 4
    zeros = pad(weight.zeros, (0, weight.zeros.shape[1] % 2))
    model = NbitsModel(
        outputs,
        inputs,
        weight.group_size,
        accuracy,
        codes.numpy().tobytes(),
        weight.scales.float().numpy().tobytes(),
        (zeros[:, 0::2] | zeros[:, 1::2] << 4).numpy().tobytes(),
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # one for each weight would keep its largest x and y
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # From a file: a session made of bytes keeps them beside what it packs.
    with TemporaryDirectory() as folder:
        file = Path(folder, "product.onnx")
        file.write_bytes(model.serialized())
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return OnnxWeight(session, outputs, inputs, weight.group_size)


@torch.no_grad()
def matmul_onnx(
    x: Float[Tensor, "*rows inputs"], packed: OnnxWeight
) -> Float32[Tensor, "*rows outputs"]:
    """x W^T in float32, written by onnxruntime into the result itself.

    Raises InputError for a wrong last dimension.
    """
    if x.shape[-1] != packed.inputs:
        raise InputError(f"the weight has {packed.inputs} inputs, x has {x.shape[-1]}")
    rows = x.float().reshape(-1, packed.inputs).contiguous()
    y = rows.new_empty(len(rows), packed.outputs)
    if len(rows) > 0:
        binding = packed.session.io_binding()
        where = "cpu", 0, FLOAT32_NAME
        binding.bind_input("x", *where, list(rows.shape), rows.data_ptr())
        binding.bind_output("y", *where, list(y.shape), y.data_ptr())
        packed.session.run_with_iobinding(binding)
    return y.view(*x.shape[:-1], packed.outputs)


def _runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ResourceError(
            f"onnxruntime cannot be imported: {error}", hint="pip install onnxruntime"
        ) from None


def _check(weight: QuantizedWeight) -> None:
    if weight.spec.bits != 4 or weight.group_size not in GROUPS:
        raise ConfigError(
            f"onnxruntime multiplies 4-bit codes in groups of {GROUPS}, not {weight.spec.bits}-bit "
            f"ones in groups of {weight.group_size}",
            hint="dequantize the weight instead",
        )
    if weight.codes.device.type != "cpu" or weight.codes.numel() == 0:
        raise ConfigError("onnxruntime needs at least one output, in the memory of the CPU")
