"""All blocks of a decoder in one call of the compiled library.

Between the products of a block stand a dozen small operations. Called one by one from Python they
take a good part of the time that a small model needs for a token; here they take none of it.
"""

import ctypes

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.engine.decoder import Decoder
from mindpress.engine.layer import Layer
from mindpress.engine.linear import Linear, PackedLinear
from mindpress.engine.paged import LayerPages, Places
from mindpress.kernels.matmul_w4a16.cpu import PANEL_ROWS, structure_of_weight
from mindpress.kernels.matmul_w4a16.products import CpuProduct
from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.native.library import native
from mindpress.kernels.native.pages import structure_of
from mindpress.kernels.native.structures import StepLayer, StepLinear, StepRows, StepShape

ACTIVATIONS = {"silu": 0, "swish": 0, "gelu_pytorch_tanh": 1, "gelu_new": 1}


class FusedBlocks:
    """The blocks of `decoder`, with their keys and values in `pages`."""

    def __init__(self, decoder: Decoder, pages: list[LayerPages]) -> None:
        shape = decoder.shape
        self._library = library_for("a step of the decoder")
        # Their memory is what the structures point to.
        self._decoder, self._pages = decoder, pages
        made = [_layer(layer, own) for layer, own in zip(decoder.layers, pages, strict=True)]
        self._layers = (StepLayer * len(made))(*made)
        self._final_norm = decoder.final_norm
        self._shape = StepShape(
            len(made),
            shape.hidden,
            shape.inner,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.rotary_dim,
            ACTIVATIONS[shape.activation],
            shape.norm_eps,
            shape.query_scale,
            shape.attention_cap or 0.0,
        )
        exact = decoder.kernels.exact
        self._most_rows = PANEL_ROWS[native().instruction_sets[-1]] if exact else None

    def takes(self, rows: int) -> bool:
        """More rows are faster block by block, where torch multiplies dequantized weights."""
        return self._most_rows is None or rows < self._most_rows

    def __call__(
        self, x: Float32[Tensor, "rows hidden"], places: Places
    ) -> Float32[Tensor, "rows hidden"]:
        """`Decoder.forward` from embeddings on, within float32 rounding; overwrites `x`.

        Peak memory beside the result: rows * (the widest projection, queries, keys, values, and
        the inner channels) floats.
        """
        batch = places.batch
        tensors = [
            places.cosines,
            places.sines,
            *(part.to(torch.int64) for part in (places.slots, batch.starts, batch.lengths)),
            batch.table.to(torch.int64),
        ]
        tensors = [tensor.contiguous() for tensor in tensors]
        addresses = (tensor.data_ptr() for tensor in tensors)
        rows = StepRows(*addresses, len(x), len(batch.lengths), batch.table.shape[1])
        normed = torch.empty_like(x)
        set_number, threads = how(0)
        done = self._library.decoder_step(
            ctypes.byref(self._shape),
            self._layers,
            self._final_norm.data_ptr(),
            ctypes.byref(rows),
            x.data_ptr(),
            normed.data_ptr(),
            set_number,
            threads,
        )
        check(done, "a step of the decoder", set_number)
        return normed


def fused_blocks(decoder: Decoder, pages: list[LayerPages]) -> FusedBlocks | None:
    """None where some block needs what only torch computes: floats, or another activation."""
    if decoder.kernels.name != "cpu" or decoder.shape.activation not in ACTIVATIONS:
        return None
    linears = decoder.linears
    if not all(isinstance(linear, PackedLinear) for linear in linears):
        return None
    return FusedBlocks(decoder, pages)


def _layer(layer: Layer, pages: LayerPages) -> StepLayer:
    return StepLayer(
        _linear(layer.query_key_value),
        _linear(layer.attention_output),
        _linear(layer.gate_up),
        _linear(layer.down),
        _address(layer.attention_norm),
        _address(layer.mlp_norm),
        _address(layer.head_norm),
        _address(layer.attention_output_norm),
        _address(layer.mlp_output_norm),
        structure_of(pages.keys),
        structure_of(pages.values),
        layer.window or 0,
    )


def _linear(linear: Linear) -> StepLinear:
    if not isinstance(linear, PackedLinear) or not isinstance(linear.weight, CpuProduct):
        raise TypeError("the compiled step multiplies with packed weights")
    product = linear.weight
    weight = structure_of_weight(product.weight)
    return StepLinear(weight, _address(linear.bias), product.exact)


def _address(tensor: Float[Tensor, "..."] | None) -> int | None:
    if tensor is None:
        return None
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise TypeError(f"the compiled step reads contiguous float32, not {tensor.dtype}")
    return tensor.data_ptr()
