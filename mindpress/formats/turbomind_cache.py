"""The `past_kv_scale` files of a workspace: four float32 of each layer and rank.

Engines of LMDeploy up to 0.3 read them: key scale, key zero point, value scale, value zero point.
Source: LMDeploy v0.3.0, lmdeploy/lite/apis/kv_qparams.py.
"""

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

SCALE_BYTES = 16
MARK = ".past_kv_scale."


def scale_names(layers: int, ranks: int) -> list[str]:
    """The names of all files, rank by rank within each layer."""
    return [
        f"layers.{layer}{MARK}{rank}.weight" for layer in range(layers) for rank in range(ranks)
    ]


def pack_scales(scales: Float32[Tensor, "layers ranks 4"]) -> list[bytes]:
    """The contents of the files of `scale_names`."""
    return [row.numpy().astype("<f4").tobytes() for row in scales.reshape(-1, 4)]


def unpack_scales(files: list[bytes], layers: int) -> Float32[Tensor, "layers ranks 4"]:
    """Inverse of `pack_scales`; every file has `SCALE_BYTES`."""
    values = np.frombuffer(b"".join(files), dtype="<f4").astype(np.float32)
    return torch.from_numpy(values).view(layers, -1, 4)
