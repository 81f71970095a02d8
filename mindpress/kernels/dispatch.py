"""Which implementation of the kernels runs, decided in one place."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w4a16 import int4_torch as torch_int4
from mindpress.kernels.matmul_w4a16 import onnx, packed
from mindpress.kernels.matmul_w4a16.products import (
    CpuProduct,
    OnnxProduct,
    Product,
    TorchInt4Product,
)
from mindpress.kernels.matmul_w8a8.products import (
    CpuInt8Product,
    Int8Product,
    ReferenceInt8Product,
)
from mindpress.kernels.matmul_w8a8.weight import Int8Weight
from mindpress.kernels.native.library import native

Name = Literal["triton", "cpu", "onnxruntime", "torch-int4", "reference"]
Wanted = Literal["auto", "triton", "cpu", "cpu-int8", "reference"]
BITS = 4
# Inputs of a group, and outputs, are multiples of these; None: of the groups a kernel knows.
SMALLEST_GROUP, OUTPUTS = packed.GROUPS[-1], 8
OLDEST_GPU = 8, 0


@dataclass(frozen=True, slots=True)
class Kernels:
    """`name` is what multiplies with 4-bit weights, `reason` why; for people.

    `exact` keeps activations as they are; else they become int8 codes, which is faster.
    """

    name: Name
    reason: str
    exact: bool = True

    def packs(self, spec: QuantSpec, outputs: int, inputs: int) -> bool:
        """Whether weights of this kind stay in 4 bits; others are dequantized when loaded."""
        if self.name == "reference" or spec.bits != BITS or not spec.fits(inputs):
            return False
        group = spec.group_of(inputs)
        if self.name in ("onnxruntime", "torch-int4"):
            multiple = torch_int4.OUTPUTS if self.name == "torch-int4" else OUTPUTS
            return group in onnx.GROUPS and outputs % multiple == 0
        return group % SMALLEST_GROUP == 0 and outputs % OUTPUTS == 0

    def pack(self, weight: QuantizedWeight, dtype: torch.dtype) -> Product:
        """`weight` as the chosen kernel reads it; `dtype` is that of activations."""
        if self.name == "triton":
            from mindpress.kernels.matmul_w4a16.gpu_product import TritonProduct
            from mindpress.kernels.matmul_w4a16.tiles import tile_weight

            return TritonProduct(tile_weight(weight, dtype))
        if self.name == "onnxruntime":
            return OnnxProduct(onnx.pack_onnx(weight, 0 if self.exact else 4), self.exact)
        if self.name == "torch-int4":
            return TorchInt4Product(torch_int4.pack_torch_int4(weight))
        return CpuProduct(packed.pack_weight(weight), self.exact)

    def pack_int8(self, weight: Int8Weight) -> Int8Product:
        """`weight` as it is multiplied with rounded activations: by the reference where the chosen
        kernel cannot, which the product says of itself.
        """
        if self.name == "cpu":
            return CpuInt8Product.of(weight)
        if self.name == "triton":
            from mindpress.kernels.matmul_w8a8.gpu import fits
            from mindpress.kernels.matmul_w8a8.gpu_product import TritonInt8Product

            if fits(weight.outputs, weight.inputs):
                return TritonInt8Product(weight)
        return ReferenceInt8Product(weight)


def choose_kernels(wanted: Wanted, device: torch.device, dtype: torch.dtype) -> Kernels:
    """`auto` takes the fastest exact ones that can run here.

    ConfigError when some are asked for and cannot: no others take their place silently.
    """
    if wanted not in get_args(Wanted):
        known = ", ".join(get_args(Wanted))
        raise ConfigError(f"--kernels {wanted}: not known", hint=f"known: {known}")
    if wanted == "reference":
        return Kernels("reference", "asked for")
    if wanted == "auto":
        return _gpu(dtype) if device.type == "cuda" else _cpu(device, dtype)
    obstacle = (gpu_obstacle if wanted == "triton" else _cpu_obstacle)(device, dtype)
    if obstacle:
        raise ConfigError(
            f"--kernels {wanted}: {obstacle}", hint="use --kernels reference, or leave it out"
        )
    if wanted == "triton":
        return Kernels("triton", "asked for")
    return Kernels("cpu", native().reason, exact=wanted != "cpu-int8")


def gpu_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the GPU kernels cannot run; None where they can, also in Triton's interpreter."""
    if find_spec("triton") is None:
        return "triton is not installed: pip install 'mindpress[gpu]'"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"the GPU kernels compute in float16 or bfloat16, not in {_named(dtype)}"
    if device.type != "cuda":
        from mindpress.kernels.interpreted import interpreted
        from mindpress.kernels.matmul_w4a16.kernel import matmul_codes

        return None if interpreted(matmul_codes) else f"they compute on a GPU, not on {device.type}"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST_GPU:
        return f"the GPU kernels need compute capability 8.0, this GPU has {found[0]}.{found[1]}"
    return None


def cpu_path() -> str:
    """What multiplies with 4-bit weights on this machine's CPU, and why; for people."""
    kernels = _cpu(torch.device("cpu"), torch.float32)
    return kernels.reason if kernels.name == "cpu" else f"{kernels.name}: {kernels.reason}"


def _gpu(dtype: torch.dtype) -> Kernels:
    obstacle = gpu_obstacle(torch.device("cuda"), dtype)
    return Kernels("reference", obstacle) if obstacle else Kernels("triton", "there is a GPU")


def _cpu(device: torch.device, dtype: torch.dtype) -> Kernels:
    obstacle = _cpu_obstacle(device, dtype)
    if obstacle is None:
        return Kernels("cpu", native().reason)
    if native().library is not None or device.type != "cpu" or dtype != torch.float32:
        return Kernels("reference", obstacle)
    name: Name = "onnxruntime" if find_spec("onnxruntime") else "torch-int4"
    return Kernels(name, obstacle)


def _cpu_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"the CPU kernels compute on the CPU, not on {device.type}"
    if dtype != torch.float32:
        return f"the CPU kernels compute in float32, not in {_named(dtype)}"
    return None if native().library else native().reason


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
